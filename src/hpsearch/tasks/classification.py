"""Text classification: each text has one label, or any number of labels."""

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

NO_LABEL = "(no label)"  # stratum of the rows without a label, if there are at least FEW
FEW = 10
EXAMPLE = {"inputs": ["What a lovely film"]}


class _OfTexts(Kind):
    """Base class of both kinds of text classification."""

    inputs = ("text",)
    head = "AutoModelForSequenceClassification"
    reads_first_token = True
    folds = True
    has_classes = True
    floors: ClassVar = (WORDS, FROZEN)
    wrong_at_zero = "accuracy"
    problem_type: ClassVar[str]
    """Name of the type of problem in transformers."""

    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the names of the classes and the type of problem."""
        return {
            "id2label": dict(enumerate(labels)),
            "label2id": {label: index for index, label in enumerate(labels)},
            "problem_type": self.problem_type,
        }

    def outputs(self, outputs: Tensors) -> torch.Tensor:
        """Return the logits, (B, C)."""
        return outputs["logits"]

    def shares(self, truths: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Return the share of the examples that have each class."""
        found = _among([truth if isinstance(truth, list) else [truth] for truth in truths], labels).mean(axis=0)
        return dict(zip(labels, found.tolist(), strict=True))

    def by_class(self, sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
        """Return the scores of each class."""
        return counts.by_class(sums, labels)


class TextClassification(_OfTexts):
    """Classification of texts with one label each."""

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
        """Return cleaned texts with their labels."""
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
        """Return `task.labels`, or the sorted labels of the train split."""
        return class_names(given, rows, task, "label", least=2)

    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Return texts, and labels as indices."""
        return {
            "text": [e.values["text"] for e in examples],
            "label": [labels.index(e.values["label"]) for e in examples],
        }

    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Return token arrays; a piece of a long text has the label of the text."""
        return encoded(rows["text"], np.asarray(rows["label"], dtype=np.int64), tokenizer, task)

    def class_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32]:
        """Return n / (classes * n of the class) for each class."""
        return (len(labels) / (classes * np.bincount(labels, minlength=classes))).astype(np.float32)

    def loss(
        self,
        outputs: Tensors,
        batch: Tensors,
        num_items_in_batch: torch.Tensor | int,
        label_smoothing: float,
        class_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the cross-entropy."""
        summed = functional.cross_entropy(
            outputs["logits"].float(),
            batch["labels"],
            weight=class_weights,
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return summed / num_items_in_batch

    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """Return the log probabilities of the classes, (B, C)."""
        return outputs["logits"].float().log_softmax(dim=-1)

    def score(
        self,
        outputs: list[NDArray[np.float32]],
        tokens: Tokens,
        rows: dict[str, list[Any]],
        task: TaskSettings,
        fitted: Fitted | None,
    ) -> Scores:
        """Score the mean logits over a text's pieces."""
        return self.judge(pooled(outputs, tokens, len(rows["label"])), rows, fitted)

    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """Score the class with the largest logit. `said` holds logits, (examples, classes); no threshold is fitted."""
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
        """Return the names of the true classes."""
        return self.answers(rows["label"], labels)

    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return the names of the predicted classes."""
        return [labels[i] for i in predictions]

    def constant(self, truths: Sequence[Any]) -> Any:
        """Return the most frequent class."""
        return Counter(sorted(truths)).most_common(1)[0][0]

    def likelihoods(
        self, truths: Sequence[Any], probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]
    ) -> list[float]:
        """Return the probability of the true class; 0 where the model does not know the class."""
        found = metrics.short(given.get(truth, 0.0) for given, truth in zip(probabilities, truths, strict=True))
        return list(found)

    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """Return flags for each class: in both, in the answer alone, in the truth alone."""
        return _tallies(_among([[t] for t in truths], labels), _among([[a] for a in answers], labels))

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the metrics. Each truth is one class, so the number of truths is the number of examples."""
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
    """Classification of texts with any number of labels. A row has a list of labels, or a string with separators."""

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
        """Return cleaned texts with their labels. A row belongs to the stratum of the rarest of its labels.

        A stratum that is too small for a row in every split joins the largest one. A frequent label can have such a
        stratum if nearly all of its rows also have a rarer label.
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
        """Return `task.labels`, or the sorted labels of the train split."""
        return class_names(given, rows, task, "labels", least=1)

    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Return texts, and labels as ascending indices."""
        return {
            "text": [e.values["text"] for e in examples],
            "labels": [sorted(map(labels.index, e.values["labels"])) for e in examples],
        }

    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Return token arrays; `labels` are (pieces, C), 1 for the labels that the text has."""
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
        """Return the binary cross-entropy of the labels; smoothing draws the targets towards one half."""
        targets = batch["labels"] * (1 - label_smoothing) + label_smoothing / 2
        summed = functional.binary_cross_entropy_with_logits(outputs["logits"].float(), targets, reduction="sum")
        return summed / num_items_in_batch

    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """Return the log probabilities that a text has a label and that it does not, (B * C, 2)."""
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
        """Score the mean logits over a text's pieces."""
        return self.judge(pooled(outputs, tokens, len(rows["labels"])), rows, fitted)

    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """Score the labels whose probability reaches the label's threshold, which makes the label's F1 highest.

        `said` holds logits, (examples, labels).
        """
        probabilities = metrics.sigmoid(said)
        truth = _one_hot(rows["labels"], probabilities.shape[1])
        if fitted is None:
            fitted = {"thresholds": metrics.f1_thresholds(probabilities, truth)}
        predicted = probabilities >= np.array(fitted["thresholds"])
        return Scores(
            metrics=metrics.multilabel(probabilities, predicted, truth),
            predictions=tuple([int(i) for i in np.flatnonzero(row)] for row in predicted),
            # The probability of exactly these labels, if labels are independent, as in the loss.
            confidences=tuple(np.where(predicted, probabilities, 1 - probabilities).prod(axis=1).tolist()),
            likelihoods=tuple(metrics.likelihoods_of_sets(probabilities, truth).tolist()),
            fitted=fitted,
            confusion=None,
        )

    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """Return lists of the true labels."""
        return self.answers(rows["labels"], labels)

    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return lists of predicted labels, in the order of the classes."""
        return [[labels[i] for i in sorted(row)] for row in predictions]

    def constant(self, truths: Sequence[Any]) -> Any:
        """Return the most frequent set of labels."""
        return list(Counter(sorted(map(tuple, truths))).most_common(1)[0][0])

    def likelihoods(
        self, truths: Sequence[Any], probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]
    ) -> list[float]:
        """Return the geometric mean over the labels; a label that the model does not know has probability 0."""
        said = np.array([[given.get(label, 0.0) for label in labels] for given in probabilities])
        return list(metrics.likelihoods_of_sets(said, _among(truths, labels)))

    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """Return flags for each label: in both, in the answer alone, in the truth alone; then all right, and 1."""
        right = [set(truth) == set(answer) for truth, answer in zip(truths, answers, strict=True)]
        of_labels = _tallies(_among(truths, labels), _among(answers, labels))
        return np.column_stack([of_labels, right, np.ones(len(right))])

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return macro averages over the labels, F1 of all labels together, and the share of texts with all right."""
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
        """Return the scores of each label."""
        return super().by_class(sums[:-2], labels)


def _among(names: Sequence[Sequence[str]], labels: Sequence[str]) -> NDArray[np.bool_]:
    """Return which classes are named, (examples, classes); a name that is no class is left out."""
    place = {label: i for i, label in enumerate(labels)}
    return _one_hot([[place[name] for name in row if name in place] for row in names], len(labels))


def _tallies(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return found, excess and missed of each class, (examples, 3 * classes)."""
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
