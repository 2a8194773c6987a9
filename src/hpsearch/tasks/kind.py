"""The interface of a task kind. All that differs between kinds is declared here, and nothing else differs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray

from hpsearch.config.settings import Settings, possible
from hpsearch.config.task import TaskSettings
from hpsearch.data.examples import Example
from hpsearch.data.reading import Rows, listed
from hpsearch.data.tokens import Arrays, Padding, Tokens
from hpsearch.errors import RequestError, nearest
from hpsearch.state.measured import ClassScores, Replies
from hpsearch.tasks import metrics
from hpsearch.tasks.floor import Floor
from hpsearch.tasks.metrics import OfSums
from hpsearch.tasks.objectives import LOG_LOSS, Objective
from hpsearch.tasks.product import Product

Tensors = Mapping[str, torch.Tensor]  # by name
IGNORED = -100  # label that is no item: the loss leaves it out
Fitted = dict[str, Any]  # thresholds, JSON-able; empty where a kind has none


@dataclass(frozen=True)
class Scores:
    """The predictions for some examples, and their metrics."""

    metrics: dict[str, float]
    predictions: tuple[Any, ...]
    """Prediction for each example, JSON-able."""
    confidences: tuple[float, ...]
    """Probability that the model gives to each prediction."""
    likelihoods: tuple[float, ...] | None
    """Probability that the model gives to the right answer of each example. None where the kind has no log loss."""
    fitted: Fitted
    """Thresholds that were fitted on these examples, or given."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts: a row for each true class, a column for each predicted class. None where an answer is not one class."""


class Kind(ABC):
    """A kind of task. An example becomes one piece of tokens, or several where it is longer than the model takes."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    """Keys that `task.columns` must have. It may also have `group`, and those of `inputs`."""
    inputs: ClassVar[tuple[str, ...]]
    """Roles of the texts that a served model takes."""
    head: ClassVar[str]
    """Name of the transformers class that loads a pretrained model with the head of this kind."""
    reads_first_token: ClassVar[bool] = False
    """Whether the head of an encoder reads only the first token."""
    padding: ClassVar[Padding] = {}
    """Names of arrays by token that batches have for the loss beside the model's inputs, each with its padding value.

    `labels` is one of them where each token has a label. Its padding value is -100, which Trainer does not count."""
    folds: ClassVar[bool] = False
    """Whether few examples can be cross-validated: each is one text, and the kind adds no arrays of its own."""
    has_classes: ClassVar[bool] = False
    """Whether `by_class` returns scores."""
    weighs_classes: ClassVar[bool] = False
    """Whether `train.class_weights` has a meaning for this kind."""
    features: ClassVar[datasets.Features]
    """Columns of stored rows, with their types."""
    headings: ClassVar[dict[str, str]]
    """Metrics that tables show, with their headings. Each may be the metric of a search."""
    details: ClassVar[dict[str, str]] = {}
    """Further metrics, with their headings. Tables show them where they are known."""
    wrong_at_zero: ClassVar[str]
    """Name of the metric whose 0 on an example counts its answer as a mistake."""
    answer: ClassVar[str]
    """Column of a served model's output that holds the answer, in the form of `truths`."""
    product: ClassVar[Product]
    """Outputs of a served model, and the script that computes them."""
    floors: ClassVar[tuple[Floor, ...]]
    """Simple models that the study compares with its winner, in the order in which they are fitted."""
    demo: ClassVar[str | None] = None
    """Name of a shipped task of this kind that needs neither network nor files; None for no such task."""

    def check(self, settings: Settings) -> None:
        """Raise RequestError for settings that have no meaning for this kind."""
        self.check_task(settings.task)
        if settings.promotion.class_margin is not None and not self.has_classes:
            raise RequestError(
                f"promotion.class_margin={settings.promotion.class_margin}: task.kind={self.name} has no classes; set "
                "it to null, or choose another promotion"
            )
        rdrop = max(possible(settings, "train.rdrop"))
        if rdrop and not any(max(possible(settings, path)) for path in ("model.dropout", "model.attention_dropout")):
            raise RequestError(
                f"train.rdrop={rdrop:g}: compares two passes that differ in their dropout, and model.dropout and "
                "model.attention_dropout are 0; set one of them, or train.rdrop to 0"
            )
        weights = set(possible(settings, "train.class_weights")) - {"none"}
        if weights and not self.weighs_classes:
            raise RequestError(
                f"train.class_weights={weights.pop()}: an example of task.kind={self.name} has no single class; "
                "set it to none"
            )
        shortest = min(possible(settings, "task.max_length"))
        if "windows" in possible(settings, "task.truncation") and 4 * settings.task.stride > shortest:
            raise RequestError(
                f"task.stride={settings.task.stride}: must be at most a quarter of task.max_length={shortest}; lower it"
            )

    def check_task(self, task: TaskSettings) -> None:
        """Raise RequestError unless this kind has the columns and the metric of the task."""
        for role in task.columns:
            known = dict.fromkeys((*self.roles, "group", *self.inputs))
            if role not in known:
                raise RequestError(
                    f"task.columns.{role}: task.kind={self.name} has no such role; it has {listed(self.roles)}, and "
                    f"may have group{nearest(role, known)}"
                )
        for role in self.roles:
            if role not in task.columns:
                raise RequestError(f"task.columns.{role}: is required; name the column that holds the {role} of a row")
        if task.metric not in self.headings:
            raise RequestError(
                f"task.metric={task.metric}: task.kind={self.name} has no such metric; it has {listed(self.headings)}"
            )

    @abstractmethod
    def examples(self, rows: Rows, task: TaskSettings) -> list[Example]:
        """Clean and check rows. Raises RequestError that names the wrong rows."""

    def asked(self, task: TaskSettings) -> dict[str, str]:
        """Return the column of each input role in a file to predict.

        It is the column that the task names for the role, or else the column called like the role.
        """
        return {role: task.columns.get(role, role) for role in self.inputs}

    def shown(self, answer: Any) -> str:
        """Return an answer or a truth as text for people."""
        return answer if isinstance(answer, str) and answer else ", ".join(answer) or "(none)"

    def served(self, task: TaskSettings) -> dict[str, Any]:
        """Return what a served model of this kind needs in addition to what all served models need, JSON-able."""
        return {}

    def merge(self, one: Example, other: Example) -> Example | None:
        """Return one example for two train rows with the same inputs; None where they contradict each other."""
        return one if one.values == other.values else None

    @abstractmethod
    def labels(
        self, given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings
    ) -> tuple[str, ...]:
        """Return the classes in their order; empty where the kind has no classes. Raises RequestError."""

    @abstractmethod
    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Return the columns of `features` except id."""

    @abstractmethod
    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """Return the values that the config of the model's head must have."""

    @abstractmethod
    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Return the token arrays of rows, as `Tokens` describes them.

        Args:
            rows: columns of `features`.
            tokenizer: a fast tokenizer.
            task: gives length, truncation and stride.
        """

    def remarks(self, tokens: Tokens, split: str, task: TaskSettings) -> Iterator[str]:
        """Yield what people should know about the tokens of a split before training."""
        if tokens.truncated:
            yield (
                f"{tokens.truncated / tokens.examples:.0%} of {split} are longer than task.max_length="
                f"{task.max_length} tokens and truncated ({task.truncation})"
            )

    def class_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32] | None:
        """Return the weight of each class that makes all classes count alike; None where the kind has no weights.

        The mean weight over `labels` is 1.
        """
        return None

    @abstractmethod
    def loss(
        self,
        outputs: Tensors,
        batch: Tensors,
        num_items_in_batch: torch.Tensor | int,
        label_smoothing: float,
        class_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return this micro-batch's share of the mean loss over the items of the batch.

        Items are the elements of `labels` that are not padding.

        Args:
            outputs: outputs of the model.
            batch: as `collate` makes it, with `labels` (B, ...) and the arrays that `padding` names.
            num_items_in_batch: number of items in all micro-batches of the update.
            label_smoothing: share of the target that is spread out.
            class_weights: (C,), or None.
        """

    @abstractmethod
    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """Return finite log probabilities in nats, (items, outcomes), of the items of `labels` that are not padding."""

    @abstractmethod
    def outputs(self, outputs: Tensors) -> torch.Tensor:
        """Return the outputs that are scored: (B, C), or (B, L, C) where a piece has a row for each token."""

    @abstractmethod
    def score(
        self,
        outputs: list[NDArray[np.float32]],
        tokens: Tokens,
        rows: dict[str, list[Any]],
        task: TaskSettings,
        fitted: Fitted | None,
    ) -> Scores:
        """Score predictions of the first examples of a split.

        Args:
            outputs: outputs for each piece of these examples, (C,) or (its tokens, C).
            tokens: tokens of the split.
            rows: columns of `features` of these examples.
            task: settings of the task.
            fitted: thresholds from the validation split; None to fit them on these examples.
        """

    @abstractmethod
    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """Score what any model says of each example. Both `score` and the floors call it.

        Args:
            said: what the model says of each example, in the form that each kind describes.
            rows: as for `score`.
            fitted: as for `score`.
        """

    # ---- answers as people read them, for comparisons after training

    @abstractmethod
    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """Return the right answer to each row, JSON-able: names of classes, right texts, or entities."""

    @abstractmethod
    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """Return `Scores.predictions` in the form that a served model gives."""

    @abstractmethod
    def constant(self, truths: Sequence[Any]) -> Any:
        """Return the one answer that is right most often."""

    @abstractmethod
    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """Return what each example adds to the sums from which metrics of answers are computed, (examples, k).

        Args:
            truths: right answers, by `truths`.
            answers: an answer for each truth, by `answers` or from a served model.
            labels: the classes; an answer that is none of them counts as wrong.
        """

    @abstractmethod
    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the metrics of `headings` that depend on answers alone, (...), from sums of tallies (..., k).

        Averages over classes leave out a class that none of the examples has. A 0 for it would say that rare classes
        are never recognised.
        """

    def likelihoods(
        self, truths: Sequence[Any], probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]
    ) -> list[float]:
        """Return `Scores.likelihoods` from the probabilities that a served model gives, for kinds with a log loss."""
        raise NotImplementedError(f"{self.name} has no log loss")

    def shares(self, truths: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """Return how often each class is true. Of all constant predictions, these shares have the best log loss."""
        raise NotImplementedError(f"{self.name} has no log loss")

    # ---- the same, for one metric

    def evidence(
        self, objective: Objective, truths: Sequence[Any], replies: Replies, labels: Sequence[str]
    ) -> NDArray[np.float64]:
        """Return what each example adds to the sums that the function of `sums_to` takes, (examples, k)."""
        if objective != LOG_LOSS:
            return self.tallies(truths, replies.answers, labels)
        assert replies.likelihoods is not None, "without them there is no log loss"
        losses = metrics.losses(replies.likelihoods)
        return np.column_stack([losses, np.ones(len(losses))])

    def sums_to(self, objective: Objective) -> OfSums:
        """Return the function that computes the metric from sums of `evidence`, as `of_sums` does from tallies."""
        return metrics.mean_loss if objective == LOG_LOSS else self.of_sums

    def by_class(self, sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
        """Return the scores of each class that has an example, from sums of tallies (k,)."""
        return {}
