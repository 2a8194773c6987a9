"""Extractive question answering: the answer is a span of the context, or there is no answer."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray

from hpsearch.config.settings import Settings, possible
from hpsearch.config.task import TaskSettings
from hpsearch.data.examples import Example, groups, missing, refuse, text_fault
from hpsearch.data.reading import Rows
from hpsearch.data.squad_layout import ARTICLE
from hpsearch.data.tokens import Arrays, Tokens
from hpsearch.errors import RequestError
from hpsearch.tasks import squad
from hpsearch.tasks.answers import answers_fault, answers_of
from hpsearch.tasks.floor import CONSTANT, SENTENCE
from hpsearch.tasks.kind import Fitted, Kind, Scores, Tensors
from hpsearch.tasks.product import BOOLEAN, DOUBLE, LONG, STRING, Product
from hpsearch.tasks.windows import N_BEST, Window, bare, decode, held, probabilities, target, windows

# `reach` of a question without a right span of tokens: no answer, no window holds it, or no span gives it exactly.
NO_ANSWER, LOST, INEXACT = -2, -1, 0
NEVER = -1e4  # logit of tokens that cannot be in an answer; finite, so that differences are finite
LEAST_LENGTH = 32  # fewest tokens of a window, so that there is room for question and context


class QuestionAnswering(Kind):
    """Questions with contexts. Right answers are spans of the context: one, several, or none."""

    name = "question_answering"
    answer = "answer"
    wrong_at_zero = "f1"
    roles = ("question", "context", "answers")
    inputs = ("question", "context")
    head = "AutoModelForQuestionAnswering"
    padding: ClassVar = {"candidates": False}
    demo = "qa_demo"
    product = Product(
        "served_reader.py",
        outputs={
            **{"answer": STRING, "score": DOUBLE, "begin": LONG, "end": LONG},
            **{"no_answer": BOOLEAN, "best_answer": STRING},
        },
        example={"dataframe_records": [{"question": "What is lovely?", "context": "The film is lovely."}]},
        added=("answer", "score", "begin", "end", "no_answer"),
    )
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "question": datasets.Value("string"),
            "context": datasets.Value("string"),
            "answers": datasets.List({"text": datasets.Value("string"), "begin": datasets.Value("int64")}),
        }
    )
    floors: ClassVar = (CONSTANT, SENTENCE)
    headings: ClassVar = {"f1": "F1", "exact_match": "exact match"}
    details: ClassVar = {
        "has_answer_f1": "F1 where there is an answer",
        "has_answer_exact_match": "exact match where there is one",
        "no_answer_accuracy": "accuracy where there is none",
    }

    def check(self, settings: Settings) -> None:
        """Raise RequestError for settings that have no meaning for questions.

        A context longer than the model takes is read in windows. It is not cleaned, because answers are spans of it.
        """
        super().check(settings)
        task, shortest = settings.task, min(possible(settings, "task.max_length"))
        truncations = possible(settings, "task.truncation")
        for wrong, setting, value, rule in (
            (truncations != ("windows",), "truncation", " or ".join(truncations), "must be windows, and not searched"),
            (task.clean != "none", "clean", task.clean, "must be none: answers are given by their place"),
            (task.labels is not None, "labels", task.labels, "must be null: there are no classes"),
            (task.longest_answer is None, "longest_answer", "null", "must be given: the most tokens of an answer"),
            (shortest < LEAST_LENGTH, "max_length", shortest, f"must be at least {LEAST_LENGTH} for a question"),
        ):
            if wrong:
                raise RequestError(f"task.{setting}={value}: with task.kind={self.name} it {rule}")

    def examples(self, rows: Rows, task: TaskSettings) -> list[Example]:
        """Return questions without cleaning. Those of one group, article or context stay in one split (`_groups`)."""
        read = {}
        for role in ("question", "context"):
            cells = rows.columns[task.columns[role]]
            refuse(rows, f"task.columns.{role}={task.columns[role]}", [_text_fault(cell) for cell in cells])
            read[role] = cells
        given = rows.columns[task.columns["answers"]]
        setting = f"task.columns.answers={task.columns['answers']}"
        pairs = list(zip(given, read["context"], strict=True))
        refuse(rows, setting, [answers_fault(cell, context) for cell, context in pairs])
        of_rows = [answers_of(cell, context) for cell, context in pairs]
        return [
            Example(
                number,
                f"{question.strip()}\n{context.strip()}",
                group,
                (),
                "answerable" if answers else "unanswerable",
                {
                    "question": question.strip(),
                    "context": context,
                    "answers": [{"text": text, "begin": begin} for text, begin in answers],
                },
            )
            for number, question, context, answers, group in zip(
                rows.numbers, read["question"], read["context"], of_rows, _groups(rows, task), strict=True
            )
        ]

    def merge(self, one: Example, other: Example) -> Example | None:
        """Return one example with all answers of both; None if only one of them has an answer.

        Files with a row for each annotator are common.
        """
        answers = [one.values["answers"], other.values["answers"]]
        if bool(answers[0]) != bool(answers[1]):
            return None
        union = answers[0] + [answer for answer in answers[1] if answer not in answers[0]]
        return one._replace(values=one.values | {"answers": union})

    def labels(
        self, given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings
    ) -> tuple[str, ...]:
        """Return no classes. Raises RequestError if no question of the train split has an answer."""
        if not any(e.values["answers"] for e in given["train"]):
            raise RequestError(
                f"{rows['train'].name}: not one of its {len(given['train'])} questions has an answer in the column of "
                f"task.columns.answers={task.columns['answers']}; there is nothing to learn"
            )
        return ()

    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Return question, context and answers."""
        return {name: [e.values[name] for e in examples] for name in ("question", "context", "answers")}

    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the number of outputs for each token, two: start and end."""
        return {"num_labels": 2}

    def served(self, task: TaskSettings) -> dict[str, Any]:
        """Return how many tokens an answer may have."""
        return {"longest_answer": task.longest_answer}

    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Return token arrays. A piece is the question and a window of the context.

        The labels of a piece are the first and last token of the answer. The answer to learn is the first one that a
        span of tokens gives, or else the first one. A window without all of it has the null token as both labels.

        Arrays by token are `characters` (begin and end in the context, -1 elsewhere) and `candidates` (whether an
        answer may begin or end with the token). By piece there is `nulls` (the token that means "no answer"). By
        example there is `reach` (tokens of its shortest right answer, or the reason why there is none).
        """
        of_questions = windows(rows["question"], rows["context"], tokenizer, task.max_length, task.stride)
        labels, reach = [], []
        for context, answers, pieces in zip(rows["context"], rows["answers"], of_questions, strict=True):
            targets, shortest = _taught(context, answers, pieces)
            labels += targets
            reach.append(shortest)
        pieces = [piece for of_one in of_questions for piece in of_one]
        lengths = np.array([len(piece.ids) for piece in pieces], dtype=np.int64)
        characters, nulls = np.concatenate([piece.characters for piece in pieces]), [piece.null for piece in pieces]
        candidates = characters[:, 0] >= 0
        candidates[lengths.cumsum() - lengths + nulls] = True
        return {
            "ids": np.concatenate([piece.ids for piece in pieces]),
            "types": np.concatenate([piece.types for piece in pieces]),
            "characters": characters,
            "candidates": candidates,
            "nulls": np.array(nulls, dtype=np.int64),
            "lengths": lengths,
            "owners": np.repeat(np.arange(len(of_questions)), [len(of_one) for of_one in of_questions]),
            "labels": np.array(labels, dtype=np.int64),
            "truncated": np.array(0),
            "reach": np.array(reach, dtype=np.int64),
        }

    def remarks(self, tokens: Tokens, split: str, task: TaskSettings) -> Iterator[str]:
        """Yield how many questions have answers that cannot be given, and why."""
        assert task.longest_answer is not None, "checked"
        reach, limit = tokens.by_example("reach"), task.longest_answer
        untaught = "they are trained as 'no answer'" if split == "train" else "none of them can be answered right"
        for found, what in (
            (reach == LOST, f"an answer that no window of task.max_length={task.max_length} tokens holds; {untaught}"),
            (reach == INEXACT, "an answer that no span of tokens gives exactly; they can be answered in part only"),
            (
                reach > limit,
                f"answers of more than task.longest_answer={limit} tokens only, none of which can be given",
            ),
        ):
            if count := int(found.sum()):
                yield f"{count:,} of {len(reach):,} {split} questions have {what}"

    def loss(
        self,
        outputs: Tensors,
        batch: Tensors,
        num_items_in_batch: torch.Tensor | int,
        label_smoothing: float,
        class_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the cross-entropy of the first and of the last token among the candidates. Labels are (B, 2).

        Candidates are tokens of the context and the null token. Question and padding cannot be answers, so they get no
        probability.
        """
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=1).float()  # (B, 2, L)
        allowed = batch["candidates"][:, None, :]
        logs = logits.masked_fill(~allowed, float("-inf")).log_softmax(dim=-1)
        loss = -logs.gather(2, batch["labels"][..., None]).squeeze(2)
        if label_smoothing:
            spread = -logs.masked_fill(~allowed, 0.0).sum(dim=-1) / allowed.sum(dim=-1)
            loss = (1 - label_smoothing) * loss + label_smoothing * spread
        return loss.sum() / num_items_in_batch

    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """Return the log probabilities of the first and of the last token among the candidates, (B * 2, L)."""
        logits = torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=1).float()
        return logits.masked_fill(~batch["candidates"][:, None, :], NEVER).log_softmax(dim=-1).flatten(0, 1)

    def outputs(self, outputs: Tensors) -> torch.Tensor:
        """Return the start and end logits, (B, L, 2)."""
        return torch.stack([outputs["start_logits"], outputs["end_logits"]], dim=-1)

    def score(
        self,
        outputs: list[NDArray[np.float32]],
        tokens: Tokens,
        rows: dict[str, list[Any]],
        task: TaskSettings,
        fitted: Fitted | None,
    ) -> Scores:
        """Score the best span of all windows of each question, by `judge`."""
        assert task.longest_answer is not None, "checked"
        count = len(rows["context"])
        ends, nulls = np.searchsorted(tokens.owners, np.arange(count + 1)), tokens.by_piece("nulls")
        answers, margins, sure = [], np.empty(count), np.empty((2, count))
        for i, context in enumerate(rows["context"]):
            pieces = range(ends[i], ends[i + 1])
            decoded = decode(
                [outputs[piece] for piece in pieces],
                [tokens.of_piece("characters", piece) for piece in pieces],
                [int(nulls[piece]) for piece in pieces],
                context,
                N_BEST,
                task.longest_answer,
            )
            best = decoded.spans[0] if decoded.spans else None
            answers.append(context[best.begin : best.end] if best else "")
            margins[i] = decoded.null_score - best.score if best else np.inf
            spans, sure[1, i] = probabilities(decoded)
            sure[0, i] = spans[0] if spans else 0.0
        return self.judge((answers, margins, sure), rows, fitted)

    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """Score answers by the published exact match and F1. The fitted threshold for "no answer" makes F1 highest.

        Where every question has an answer, as in SQuAD v1.1, none is left unanswered and the threshold is None.

        Args:
            said: three values. First the best answer to each question. Second, (n,), by how much "no answer" scores
                higher, inf where there is no other answer. Third, (2, n), the probability of each answer, and that of
                "no answer".
            rows: as for `score`.
            fitted: as for `score`.
        """
        answers, margins, sure = said
        golds = _golds(rows)
        answerable = np.array([bool(gold) for gold in golds])
        if fitted is None:
            fitted = {"no_answer_threshold": _threshold(answers, margins, golds, answerable)}
        threshold = fitted["no_answer_threshold"]
        silent = margins > threshold if threshold is not None else np.zeros(len(golds), dtype=bool)
        given = ["" if quiet else answer for answer, quiet in zip(answers, silent, strict=True)]
        exact, f1 = squad.scores(given, golds)
        return Scores(
            metrics={"exact_match": float(exact.mean()), "f1": float(f1.mean())} | _by_answer(exact, f1, answerable),
            predictions=tuple(given),
            confidences=tuple(np.where(silent, sure[1], sure[0]).tolist()),
            likelihoods=None,
            fitted=fitted,
            confusion=None,
        )

    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """Return lists of right texts; an empty list where there is no answer."""
        return _golds(rows)

    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return the predicted texts."""
        return list(predictions)

    def constant(self, truths: Sequence[Any]) -> Any:
        """Return the most frequent text; "" if no answer is more frequent."""
        said = Counter(text for texts in truths for text in sorted(set(texts) or {""}))
        return max(sorted(said), key=lambda text: said[text])

    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """Return exact match, F1 and 1 for each example."""
        exact, f1 = squad.scores(answers, truths)
        return np.column_stack([exact, f1, np.ones(len(exact))])

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return means over the examples."""
        return {"exact_match": sums[..., 0] / sums[..., 2], "f1": sums[..., 1] / sums[..., 2]}


def _groups(rows: Rows, task: TaskSettings) -> list[str | None]:
    """Return the group of each question, from `task.columns.group`.

    Without that column, the group is the title of the article, or the context of a question without a title.
    """
    if "group" in task.columns:
        return groups(rows, task)
    contexts = rows.columns[task.columns["context"]]
    known = ARTICLE in rows.columns and ARTICLE not in task.columns.values()  # a column of that name may have a role
    titles = rows.columns[ARTICLE] if known else [None] * len(contexts)
    return [
        str(context if missing(title) or title == "" else title)
        for title, context in zip(titles, contexts, strict=True)
    ]


def _golds(rows: dict[str, list[Any]]) -> list[list[str]]:
    """Return the right texts of each question, without invisible characters at their ends, like predicted spans."""
    return [[bare(answer["text"]) for answer in answers] for answers in rows["answers"]]


def _taught(
    context: str, answers: Sequence[Mapping[str, Any]], pieces: Sequence[Window]
) -> tuple[list[tuple[int, int]], int]:
    """Return the labels of each piece of a question, and its `reach`, as `encode` describes it."""
    found = []
    for answer in answers:
        begin, end = held(pieces, answer["begin"], answer["begin"] + len(answer["text"]))
        targets = [target(piece, begin, end) for piece in pieces]
        found.append((targets, _reach(context, answer["text"], targets, pieces)))
    if not found:
        return [(piece.null, piece.null) for piece in pieces], NO_ANSWER
    targets, reach = next((one for one in found if one[1] > INEXACT), found[0])
    return targets, min((one for _, one in found if one > INEXACT), default=reach)


def _reach(context: str, answer: str, targets: Sequence[tuple[int, int]], pieces: Sequence[Window]) -> int:
    for (first, last), piece in zip(targets, pieces, strict=True):
        if (first, last) != (piece.null, piece.null):
            said = context[piece.characters[first, 0] : piece.characters[last, 1]]
            return last - first + 1 if squad.exact_match(said, [bare(answer)]) else INEXACT
    return LOST


def _text_fault(cell: object) -> str | None:
    return "there is no text" if isinstance(cell, str) and not cell.strip() else text_fault(cell)


def _threshold(
    answers: list[str], margins: NDArray[np.float64], golds: list[list[str]], answerable: NDArray[np.bool_]
) -> float | None:
    if answerable.all():
        return None
    answered, silent = squad.scores(answers, golds)[1], squad.scores([""] * len(golds), golds)[1]
    return squad.no_answer_threshold(margins, answered, silent)


def _by_answer(exact: NDArray[np.float64], f1: NDArray[np.float64], answerable: NDArray[np.bool_]) -> dict[str, float]:
    """Return the metrics separately for questions with and without an answer, where there are both."""
    if answerable.all() or not answerable.any():
        return {}
    return {
        "has_answer_exact_match": float(exact[answerable].mean()),
        "has_answer_f1": float(f1[answerable].mean()),
        "no_answer_accuracy": float(f1[~answerable].mean()),
    }
