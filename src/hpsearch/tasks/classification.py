"""Texts with one label each, or with any number of labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from hpsearch.config.task import TaskSettings
from hpsearch.data.examples import SPLITS, Example, groups, refuse, text_fault
from hpsearch.data.reading import Rows
from hpsearch.data.text import clean
from hpsearch.data.tokens import Arrays, Tokens
from hpsearch.state.measured import ClassScores
from hpsearch.tasks import counts, metrics
from hpsearch.tasks.floor import FROZEN, WORDS
from hpsearch.tasks.kind import Fitted, Kind, Scores, Tensors
from hpsearch.tasks.labels import class_names, label_fault, labels_fault, labels_of_rows
from hpsearch.tasks.product import DOUBLE, STRING, ListOf, MapOf, Product
from hpsearch.tasks.texts import encoded, pooled

NO_LABEL = "(no label)"  # stratum of the rows that have none, if they are more than
FEW = 10
EXAMPLE = {"inputs": ["What a lovely film"]}


class _OfTexts(Kind):
    """What both kinds share."""

    inputs = ("text",)
    head = "AutoModelForSequenceClassification"
    reads_first_token = True
    folds = True
    has_classes = True
    floors: ClassVar = (WORDS, FROZEN)
    wrong_at_zero = "accuracy"
    problem_type: ClassVar[str]
    """As transformers calls it."""

    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """The classes by name."""
        return {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": self.problem_type,
        }

    def outputs(self, outputs: Tensors) -> torch.Tensor:
        """Logits (B, C)."""
        return outputs["logits"]

    def shares(self, truths: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Of the examples that have each class."""
        found = _among([truth if isinstance(truth, list) else [truth] for truth in truths], labels).mean(axis=0)
        return dict(zip(labels, found.tolist(), strict=True))

    def by_class(self, sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
        """Of each class."""
        return counts.by_class(sums, labels)


class TextClassification(_OfTexts):
    """One label for each text."""

    name = "text_classification"
    answer = "label"
    roles = ("text", "label")
    problem_type = "single_label_classification"
    product = Product(
        "served_classifier.py",
        outputs={"label": STRING, "score": DOUBLE, "probabilities": MapOf(DOUBLE)},
        example=EXAMPLE,
        added=("label", "score"),
    )
    weighs_classes = True
    features = datasets.Features(
        {"id": datasets.Value("string"), "text": datasets.Value("string"), "label": datasets.Value("int64")}
    )
    headings: ClassVar = {
        "accuracy": "accuracy",
        "precision": "precision (macro)",
        "recall": "recall (macro)",
        "f1": "F1 (macro)",
        "f1_weighted": "F1 (weighted)",
        "log_loss": "log loss (nats)",
    }

    def examples(self, rows: Rows, task: TaskSettings) -> list[Example]:
        """Cleaned texts with their labels."""
        texts, labels = _texts(rows, task), rows.columns[task.columns["label"]]
        refuse(rows, f"task.columns.label={task.columns['label']}", [label_fault(label) for label in labels])
        return [
            Example(number, text, group, (label,), label, {"text": text, "label": label})
            for number, text, group, label in zip(
                rows.numbers, texts, groups(rows, task), [str(label).strip() for label in labels], strict=True
            )
        ]

    def labels(
        self, given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings
    ) -> tuple[str, ...]:
        """`task.labels`, or as the train split has them, sorted."""
        return class_names(given, rows, task, "label", least=2)

    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Labels as indices."""
        return {
            "text": [e.values["text"] for e in examples],
            "label": [labels.index(e.values["label"]) for e in examples],
        }

    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """A piece of a long text has the label of the text."""
        return encoded(rows["text"], np.asarray(rows["label"], dtype=np.int64), tokenizer, task)

    def class_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32]:
        """n / (classes * n of the class)."""
        return (len(labels) / (classes * np.bincount(labels, minlength=classes))).astype(np.float32)

    def loss(
        self,
        outputs: Tensors,
        batch: Tensors,
        num_items_in_batch: torch.Tensor | int,
        label_smoothing: float,
        class_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Cross-entropy."""
        summed = functional.cross_entropy(
            outputs["logits"].float(),
            batch["labels"],
            weight=class_weights,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return summed / num_items_in_batch

    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """(B, C)."""
        return outputs["logits"].float().log_softmax(dim=-1)

    def score(
        self,
        outputs: list[NDArray[np.float32]],
        tokens: Tokens,
        rows: dict[str, list[Any]],
        task: TaskSettings,
        fitted: Fitted | None,
    ) -> Scores:
        """By the mean logits over a text's pieces."""
        return self.judge(pooled(outputs, tokens, len(rows["label"])), rows, fitted)

    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """The class with the largest logit, of (examples, classes); no threshold is fitted."""
        logits, truth = said, np.asarray(rows["label"], dtype=np.int64)
        predicted, probabilities = logits.argmax(axis=1), metrics.softmax(logits)
        return Scores(
            metrics=metrics.classification(logits, truth),
            predictions=tuple(int(i) for i in predicted),
            confidences=tuple(probabilities.max(axis=1).tolist()),
            likelihoods=tuple(metrics.likelihoods(probabilities, truth).tolist()),
            fitted={},
            confusion=metrics.confusion(predicted, truth, logits.shape[1]),
        )

    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """Names of classes."""
        return self.answers(rows["label"], labels)

    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Names of classes."""
        return [labels[i] for i in predictions]

    def constant(self, truths: Sequence[Any]) -> Any:
        """The most frequent class."""
        return Counter(sorted(truths)).most_common(1)[0][0]

    def likelihoods(
        self, truths: Sequence[Any], probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]
    ) -> list[float]:
        """Of the true class; 0 where the model does not know it."""
        found = metrics.short(given.get(truth, 0.0) for given, truth in zip(probabilities, truths, strict=True))
        return list(found)

    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """For each class: both say it, the answer alone does, the truth alone does."""
        return _tallies(_among([[t] for t in truths], labels), _among([[a] for a in answers], labels))

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each truth is one class, so they count the examples."""
        found, _, missed = counts.parts(sums)
        of_class = found + missed
        precision, recall, f1 = counts.rates(sums)
        counted = of_class > 0
        return {
            "accuracy": found.sum(-1) / of_class.sum(-1),
            "precision": _macro(precision, counted),
            "recall": _macro(recall, counted),
            "f1": _macro(f1, counted),
            "f1_weighted": (f1 * of_class).sum(-1) / of_class.sum(-1),
        }


class MultilabelClassification(_OfTexts):
    """Any number of labels for each text. The labels of a row are a list, or a string with separators between them."""

    name = "multilabel_classification"
    answer = "labels"
    roles = ("text", "labels")
    problem_type = "multi_label_classification"
    product = Product(
        "served_classifier.py",
        outputs={"labels": ListOf(STRING), "scores": ListOf(DOUBLE), "probabilities": MapOf(DOUBLE)},
        example=EXAMPLE,
        added=("labels", "scores"),
    )
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.Value("int64")),
        }
    )
    headings: ClassVar = {
        "f1": "F1 (macro)",
        "f1_micro": "F1 (micro)",
        "precision": "precision (macro)",
        "recall": "recall (macro)",
        "accuracy": "all labels right",
        "log_loss": "log loss (nats)",
    }

    def examples(self, rows: Rows, task: TaskSettings) -> list[Example]:
        """Cleaned texts with their labels. A row belongs to the stratum of the rarest of its labels.

        Strata that cannot have a row in every split are one with the largest: a label whose rows nearly all have a
        rarer one, too, may have plenty of rows and next to none in its stratum.
        """
        texts, cells = _texts(rows, task), rows.columns[task.columns["labels"]]
        refuse(rows, f"task.columns.labels={task.columns['labels']}", [labels_fault(cell) for cell in cells])
        of_rows = labels_of_rows(rows, task)
        counts = Counter(label for labels in of_rows for label in labels)
        strata = [min(labels, key=lambda label: (counts[label], label), default=NO_LABEL) for labels in of_rows]
        sizes = Counter(strata)
        (largest, _), *_ = sizes.most_common(1)
        least = {NO_LABEL: FEW}  # a handful of rows without a label need not be in every split
        return [
            Example(
                number,
                text,
                group,
                labels,
                stratum if sizes[stratum] >= least.get(stratum, len(SPLITS)) else largest,
                {"text": text, "labels": labels},
            )
            for number, text, group, labels, stratum in zip(
                rows.numbers, texts, groups(rows, task), of_rows, strata, strict=True
            )
        ]

    def labels(
        self, given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings
    ) -> tuple[str, ...]:
        """`task.labels`, or as the train split has them, sorted."""
        return class_names(given, rows, task, "labels", least=1)

    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Labels as indices, ascending."""
        return {
            "text": [e.values["text"] for e in examples],
            "labels": [sorted(map(labels.index, e.values["labels"])) for e in examples],
        }

    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Labels are (pieces, C), 1 for those that the text has."""
        classes = 1 + max((max(labels) for labels in rows["labels"] if labels), default=0)
        return encoded(rows["text"], _one_hot(rows["labels"], classes).astype(np.float32), tokenizer, task)

    def loss(
        self,
        outputs: Tensors,
        batch: Tensors,
        num_items_in_batch: torch.Tensor | int,
        label_smoothing: float,
        class_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Binary cross-entropy of each label; smoothing draws the targets towards one half."""
        targets = batch["labels"] * (1 - label_smoothing) + label_smoothing / 2
        summed = functional.binary_cross_entropy_with_logits(outputs["logits"].float(), targets, reduction="sum")
        return summed / num_items_in_batch

    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """(B * C, 2): whether a text has the label, or not."""
        logits = outputs["logits"].float().flatten()
        return functional.logsigmoid(torch.stack([logits, -logits], dim=1))

    def score(
        self,
        outputs: list[NDArray[np.float32]],
        tokens: Tokens,
        rows: dict[str, list[Any]],
        task: TaskSettings,
        fitted: Fitted | None,
    ) -> Scores:
        """By the mean logits over a text's pieces."""
        return self.judge(pooled(outputs, tokens, len(rows["labels"])), rows, fitted)

    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """A text has the labels whose probability reaches the label's threshold, which makes its F1 highest.

        What is said are logits, (examples, labels).
        """
        probabilities = metrics.sigmoid(said)
        truth = _one_hot(rows["labels"], probabilities.shape[1])
        if fitted is None:
            fitted = {"thresholds": metrics.f1_thresholds(probabilities, truth)}
        predicted = probabilities >= np.array(fitted["thresholds"])
        return Scores(
            metrics=metrics.multilabel(probabilities, predicted, truth),
            predictions=tuple([int(i) for i in np.flatnonzero(row)] for row in predicted),
            # Of just these labels and no others, each taken by itself as in the loss.
            confidences=tuple(np.where(predicted, probabilities, 1 - probabilities).prod(axis=1).tolist()),
            likelihoods=tuple(metrics.likelihoods_of_sets(probabilities, truth).tolist()),
            fitted=fitted,
            confusion=None,
        )

    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """Lists of labels."""
        return self.answers(rows["labels"], labels)

    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Lists of labels, in the order of the classes."""
        return [[labels[i] for i in sorted(row)] for row in predictions]

    def constant(self, truths: Sequence[Any]) -> Any:
        """The most frequent set of labels."""
        return list(Counter(sorted(map(tuple, truths))).most_common(1)[0][0])

    def likelihoods(
        self, truths: Sequence[Any], probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]
    ) -> list[float]:
        """The geometric mean over the labels; what a model does not know it does not say."""
        said = np.array([[given.get(label, 0.0) for label in labels] for given in probabilities])
        return list(metrics.likelihoods_of_sets(said, _among(truths, labels)))

    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """For each label: both say it, the answer alone does, the truth alone does; all are right; one example."""
        right = [set(truth) == set(answer) for truth, answer in zip(truths, answers, strict=True)]
        of_labels = _tallies(_among(truths, labels), _among(answers, labels))
        return np.column_stack([of_labels, right, np.ones(len(right))])

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Macro averages over the labels, and F1 of all of them together."""
        found, excess, missed = counts.parts(sums[..., :-2])
        precision, recall, f1 = counts.rates(sums[..., :-2])
        counted = found + missed > 0
        return {
            "f1": _macro(f1, counted),
            "f1_micro": counts.ratio(2 * found.sum(-1), (2 * found + excess + missed).sum(-1)),
            "precision": _macro(precision, counted),
            "recall": _macro(recall, counted),
            "accuracy": sums[..., -2] / sums[..., -1],
        }

    def by_class(self, sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
        """Of each label."""
        return super().by_class(sums[:-2], labels)


def _among(names: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.bool_]:
    """(examples, classes): which classes are named; a name that is no class is left out."""
    place = {label: i for i, label in enumerate(labels)}
    return _one_hot([[place[name] for name in row if name in place] for row in names], len(labels))


def _tallies(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(examples, 3 * classes): found, excess and missed of each class."""
    return np.concatenate([truth & said, said & ~truth, truth & ~said], axis=1).astype(np.float64)


def _macro(rates: NDArray[np.float64], counted: NDArray[np.bool_]) -> NDArray[np.float64]:
    return counts.ratio((rates * counted).sum(-1), counted.sum(-1).astype(np.float64))


def _one_hot(labels: Sequence[Sequence[int]], classes: int) -> NDArray[np.bool_]:
    result = np.zeros((len(labels), classes), dtype=bool)
    for row, indices in enumerate(labels):
        result[row, list(indices)] = True
    return result


def _texts(rows: Rows, task: TaskSettings) -> list[str]:
    texts = rows.columns[task.columns["text"]]
    refuse(rows, f"task.columns.text={task.columns['text']}", [text_fault(text) for text in texts])
    return [clean(text, task.clean) for text in texts]
