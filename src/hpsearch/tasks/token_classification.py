"""Token classification: named entities, which are spans of a text with a class."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hpsearch.config.settings import Settings, possible
from hpsearch.config.task import TaskSettings
from hpsearch.data.examples import SPLITS, Example, groups, refuse, text_fault
from hpsearch.data.reading import Rows
from hpsearch.data.tokens import Arrays, Tokens
from hpsearch.errors import RequestError
from hpsearch.state.measured import ClassScores
from hpsearch.tasks import counts, entities, metrics
from hpsearch.tasks.floor import TAGS
from hpsearch.tasks.kind import IGNORED, Fitted, Kind, Scores, Tensors
from hpsearch.tasks.labels import class_names
from hpsearch.tasks.product import DOUBLE, LONG, STRING, ListOf, Product, Record

TAG = re.compile(r"O|[BI]-.+")
NO_ENTITY = "(no entity)"  # stratum of the texts without an entity
BEYOND = 3  # number of tallies after those of the classes


class TokenClassification(Kind):
    """Named entities. A list of tokens with IOB2 tags becomes a text and its entities.

    The text has single spaces between the tokens. Training, scoring and serving all use entities by their place in a
    text. `entities` divides a text into words. An entity is right if its begin, end and class are.
    https://arxiv.org/abs/cs/0306050
    """

    name = "token_classification"
    answer = "entities"
    roles = ("tokens", "tags")
    inputs = ("text",)
    head = "AutoModelForTokenClassification"
    has_classes = True
    wrong_at_zero = "accuracy"
    padding: ClassVar = {"labels": IGNORED}  # and so is a token that is not the first of a word
    product = Product(
        "served_tagger.py",
        outputs={
            "entities": ListOf(Record({"label": STRING, "text": STRING, "begin": LONG, "end": LONG, "score": DOUBLE}))
        },
        example={"inputs": ["Ada Lovelace was born in London."]},
        added=("entities",),
    )
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "entities": datasets.List({name: datasets.Value("int64") for name in ("label", "begin", "end")}),
        }
    )
    floors: ClassVar = (TAGS,)
    headings: ClassVar = {
        "f1": "F1 (entities)",
        "precision": "precision (entities)",
        "recall": "recall (entities)",
        "accuracy": "all entities right",
    }

    def check(self, settings: Settings) -> None:
        """Raise RequestError for settings that have no meaning for entities.

        A text longer than the model takes is read in windows. It is not cleaned, because entities are spans of it.
        """
        super().check(settings)
        truncations = possible(settings, "task.truncation")
        for wrong, setting, value, rule in (
            (truncations != ("windows",), "truncation", " or ".join(truncations), "must be windows, and not searched"),
            (settings.task.clean != "none", "clean", settings.task.clean, "must be none: entities are spans of a text"),
        ):
            if wrong:
                raise RequestError(f"task.{setting}={value}: with task.kind={self.name} it {rule}")

    def examples(self, rows: Rows, task: TaskSettings) -> list[Example]:
        """Return texts with their entities. A text belongs to the stratum of the rarest of its classes.

        A stratum that is too small for a row in every split joins the largest one.
        """
        names = [task.columns[role] for role in self.roles]
        of_rows = list(zip(*(rows.columns[name] for name in names), strict=True))
        refuse(rows, f"task.columns.tokens={names[0]}", [tokens_fault(tokens) for tokens, _ in of_rows])
        refuse(rows, f"task.columns.tags={names[1]}", [tags_fault(tags, tokens) for tokens, tags in of_rows])
        found = [entities_of(*row) for row in of_rows]
        sizes = Counter(label for spans in found for label in {span["label"] for span in spans})
        classes = [tuple(sorted({span["label"] for span in spans})) for spans in found]
        strata = [min(each, key=lambda label: (sizes[label], label), default=NO_ENTITY) for each in classes]
        members = Counter(strata)
        (largest, _), *_ = members.most_common(1)
        strata = [stratum if members[stratum] >= len(SPLITS) else largest for stratum in strata]
        texts = [text_of(tokens) for tokens, _ in of_rows]
        return [
            Example(number, text, group, of_row, stratum, {"text": text, "entities": spans})
            for number, text, group, of_row, stratum, spans in zip(
                rows.numbers, texts, groups(rows, task), classes, strata, found, strict=True
            )
        ]

    def labels(
        self, given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings
    ) -> tuple[str, ...]:
        """Return `task.labels`, or the sorted classes of entities in the train split, without B- and I-."""
        return class_names(given, rows, task, "tags", least=1)

    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Return texts, and entities with their classes as indices."""
        return {
            "text": [e.values["text"] for e in examples],
            "entities": [
                [span | {"label": labels.index(span["label"])} for span in e.values["entities"]] for e in examples
            ],
        }

    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the names of the tags."""
        tags = entities.tags(labels)
        return {"id2label": dict(enumerate(tags)), "label2id": {tag: index for index, tag in enumerate(tags)}}

    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Return token arrays. A piece is a window of the text. A word's first token has the word's tag as its label.

        By token there is `places`. By example there is `lost`, the number of entities that tags of words cannot give.
        """
        pieces, labels, owners, lost = [], [], [], []
        of_texts = entities.pieces(rows["text"], tokenizer, task.max_length, task.stride)
        certain = np.eye(1 + 2 * (1 + max((span["label"] for spans in rows["entities"] for span in spans), default=-1)))
        for owner, (spans, of_text) in enumerate(zip(rows["entities"], of_texts, strict=True)):
            given = [(span["label"], span["begin"], span["end"]) for span in spans]
            place = np.concatenate([piece.places for piece in of_text])
            of_words = entities.chosen([piece.places for piece in of_text])
            tags = entities.targets(place[of_words], given)
            back = {entity[:3] for entity in entities.decode(place[of_words], certain[tags])}
            lost.append(len(set(given) - back))
            tag_at = dict(zip(place[of_words, 0].tolist(), tags.tolist(), strict=True))
            labels.append(np.array([tag_at[begin] if begin >= 0 else IGNORED for begin in place[:, 0].tolist()]))
            pieces += of_text
            owners += [owner] * len(of_text)
        return {
            "ids": np.concatenate([piece.ids for piece in pieces]),
            "places": np.concatenate([piece.places for piece in pieces]),
            "labels": np.concatenate(labels).astype(np.int64),
            "lengths": np.array([len(piece.ids) for piece in pieces], dtype=np.int64),
            "owners": np.array(owners, dtype=np.int64),
            "truncated": np.array(0),
            "lost": np.array(lost, dtype=np.int64),
        }

    def remarks(self, tokens: Tokens, split: str, task: TaskSettings) -> Iterator[str]:
        """Yield how many entities tags of words cannot give."""
        if count := int(tokens.by_example("lost").sum()):
            yield (
                f"{count:,} entities of {split} begin or end within a word, or in characters that the tokenizer drops; "
                "no tags give them exactly"
            )

    def loss(
        self,
        outputs: Tensors,
        batch: Tensors,
        num_items_in_batch: torch.Tensor | int,
        label_smoothing: float,
        class_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the cross-entropy of the tags of words; labels are (B, L)."""
        summed = functional.cross_entropy(
            outputs["logits"].float().flatten(0, 1),
            batch["labels"].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return summed / torch.as_tensor(num_items_in_batch).clamp(min=1)  # texts may have no word

    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """Return the log probabilities of the tags of words, (words, 1 + 2 * classes)."""
        return outputs["logits"].float()[batch["labels"] != IGNORED].log_softmax(dim=-1)

    def outputs(self, outputs: Tensors) -> torch.Tensor:
        """Return the logits of the tags, (B, L, 1 + 2 * classes)."""
        return outputs["logits"]

    def score(
        self,
        outputs: list[NDArray[np.float32]],
        tokens: Tokens,
        rows: dict[str, list[Any]],
        task: TaskSettings,
        fitted: Fitted | None,
    ) -> Scores:
        """Score the likeliest tag of each word; nothing is fitted. `loss` is the mean over all words, in nats."""
        ends = np.searchsorted(tokens.owners, np.arange(len(rows["text"]) + 1))
        classes = (outputs[0].shape[-1] - 1) // 2
        said, sure, losses = [], [], [np.zeros(0)]
        for i, text in enumerate(rows["text"]):
            pieces = range(ends[i], ends[i + 1])
            places = [tokens.of_piece("places", piece) for piece in pieces]
            of_words = entities.chosen(places)
            probabilities = metrics.softmax(np.concatenate([outputs[piece] for piece in pieces])[of_words])
            right = np.concatenate([tokens.of_piece("labels", piece) for piece in pieces])[of_words]
            tiny = np.finfo(np.float64).tiny
            losses.append(-np.log(probabilities[np.arange(len(right)), right].clip(tiny)))
            found = entities.decode(np.concatenate(places)[of_words], probabilities)
            said.append([entity._asdict() | {"text": text[entity.begin : entity.end]} for entity in found])
            sure.append(float(probabilities.max(axis=1).prod()))  # of exactly these tags, if words are independent
        every = np.concatenate(losses)
        scores = self.judge((said, sure, classes), rows, fitted)
        return replace(scores, metrics=scores.metrics | {"loss": float(every.mean()) if len(every) else 0.0})

    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """Score the entities of each text; nothing is fitted.

        Args:
            said: three values. First the entities of each text (label, text, begin, end, score). Second the
                probability of all tags of each text together. Third the number of classes.
            rows: as for `score`.
            fitted: as for `score`.
        """
        found, sure, classes = said
        sums = self.tallies(rows["entities"], found, range(classes)).sum(axis=0)
        return Scores(
            metrics={name: float(value) for name, value in self.of_sums(sums).items()},
            predictions=tuple(found),
            confidences=tuple(sure),
            likelihoods=None,
            fitted={},
            confusion=None,
        )

    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """Return lists of true entities: label, text, begin, end."""
        return [
            [
                {
                    "label": labels[span["label"]],
                    "text": text[span["begin"] : span["end"]],
                    "begin": span["begin"],
                    "end": span["end"],
                }
                for span in spans
            ]
            for text, spans in zip(rows["text"], rows["entities"], strict=True)
        ]

    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return lists of predicted entities, with their scores."""
        return [[span | {"label": labels[span["label"]]} for span in spans] for spans in predictions]

    def constant(self, truths: Sequence[Any]) -> Any:
        """Return no entities: no other answer fits two texts."""
        return []

    def shown(self, answer: Any) -> str:
        """Return entities with their classes as text for people."""
        return ", ".join(f"{span['text']} ({span['label']})" for span in answer) or NO_ENTITY

    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[Any]) -> NDArray[np.float64]:
        """Return numbers of entities for each class: in both, in the answer alone, in the truth alone.

        Three more columns follow: the number of entities of unknown classes, whether all entities are right, and 1.
        """
        place = {label: i for i, label in enumerate(labels)}
        table = np.zeros((len(truths), 3 * len(labels) + BEYOND))
        for row, truth, answer in zip(table, truths, answers, strict=True):
            right, said = ({(s["label"], s["begin"], s["end"]) for s in spans} for spans in (truth, answer))
            for part, spans in enumerate((right & said, said - right, right - said)):
                for label, *_ in spans:
                    row[part * len(labels) + place[label] if label in place else -BEYOND] += 1
            row[-2:] = right == said, 1
        return table

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return metrics over the entities of all classes together; nothing is averaged over classes."""
        found, excess, missed = (part.sum(-1) for part in counts.parts(sums[..., :-BEYOND]))
        excess = excess + sums[..., -BEYOND]
        return {
            "f1": counts.ratio(2 * found, 2 * found + excess + missed),
            "precision": counts.ratio(found, found + excess),
            "recall": counts.ratio(found, found + missed),
            "accuracy": sums[..., -2] / sums[..., -1],
        }

    def by_class(self, sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
        """Return the scores of the entities of each class."""
        return counts.by_class(sums[:-BEYOND], labels)


def tokens_fault(cell: Any) -> str | None:
    """Return what is wrong with a cell of tokens, in words that begin a sentence; None if nothing is."""
    if not isinstance(cell, list) or not cell:
        return 'there is no list of tokens (["Ada", "Lovelace"]; CSV and TSV have no lists)'
    for number, token in enumerate(cell, 1):
        if (fault := text_fault(token)) is not None or not token.strip():
            return f"token {number} is {token!r} ({fault or 'there is nothing to see'})"
    return None


def tags_fault(cell: Any, tokens: list[str]) -> str | None:
    """Return what is wrong with the tags of a row, in words that begin a sentence; None if nothing is."""
    if not isinstance(cell, list) or len(cell) != len(tokens):
        found = f"{len(cell)} tags" if isinstance(cell, list) else "no list of tags"
        return f"there are {len(tokens)} tokens and {found}: each token needs one"
    before = "O"
    for number, (token, tag) in enumerate(zip(tokens, cell, strict=True), 1):
        where = f"token {number} ({token!r}) has the tag {tag!r}, but"
        if not isinstance(tag, str) or not TAG.fullmatch(tag):
            return f"{where} tags are O, B-<class> and I-<class> (IOB2; convert BIOES and others)"
        if tag[0] == "I" and before[2:] != tag[2:]:
            return f"{where} the tag before it is {before!r}: an entity begins with B-{tag[2:]} (IOB2; convert IOB1)"
        before = tag
    return None


def text_of(tokens: Sequence[str]) -> str:
    """Return the text that a list of tokens becomes."""
    return " ".join(token.strip() for token in tokens)


def entities_of(tokens: Sequence[str], tags: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entities of checked tags, by their place in `text_of(tokens)`, in order."""
    found: list[dict[str, Any]] = []
    for (begin, end), tag in zip(_ranges(tokens), tags, strict=True):
        if tag[0] == "B":
            found.append({"label": tag[2:], "begin": begin, "end": end})
        elif tag[0] == "I":
            found[-1]["end"] = end
    return found


def _ranges(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    begin = 0
    for token in tokens:
        yield begin, begin + len(token.strip())
        begin += len(token.strip()) + 1
