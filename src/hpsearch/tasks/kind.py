"""What a task kind declares: all that differs from one kind to the next, and nothing else does."""

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
from hpsearch.tasks.metrics import LOG_LOSS, Objective, OfSums
from hpsearch.tasks.product import Product

Tensors = Mapping[str, torch.Tensor]  # by name
Fitted = dict[str, Any]  # thresholds, JSON-able; empty where a kind has none


@dataclass(frozen=True)
class Scores:
    """How good predictions are."""

    metrics: dict[str, float]
    predictions: tuple[Any, ...]
    """Of each example, JSON-able."""
    confidences: tuple[float, ...]
    """Of each prediction, the probability that the model gives it."""
    likelihoods: tuple[float, ...] | None
    """Of each example, the probability that the model gives to what is right; None where the kind has no log loss."""
    fitted: Fitted
    """What was fitted on these examples, or given."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts: a row for each true class, a column for each predicted one."""


class Kind(ABC):
    """A kind of task. An example becomes one piece of tokens, or several where it is longer than the model takes."""

    name: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]
    """Keys that `task.columns` must have; it may also have `group`, and `inputs`."""
    inputs: ClassVar[tuple[str, ...]]
    """The roles that a served model takes."""
    head: ClassVar[str]
    """Class of transformers that loads a pretrained model with the head."""
    reads_first_token: ClassVar[bool] = False
    """Whether the head of an encoder reads its first token alone."""
    padding: ClassVar[Padding] = {}
    """Arrays by token that batches have for the loss beside the model's inputs, and what fills them; `labels` is one
    where each token has a label, and is filled with -100 then, which Trainer does not count."""
    folds: ClassVar[bool] = False
    """Whether few examples can be cross-validated: each is one text, and nothing of it is in an array of the kind."""
    has_classes: ClassVar[bool] = False
    """Whether `by_class` has anything to say."""
    weighs_classes: ClassVar[bool] = False
    """Whether `train.class_weights` has a meaning."""
    features: ClassVar[datasets.Features]
    """Of stored rows."""
    headings: ClassVar[dict[str, str]]
    """Metrics that tables show, with their headings; each may be searched for."""
    details: ClassVar[dict[str, str]] = {}
    """Further metrics that tables show where they are known, with their headings."""
    wrong_at_zero: ClassVar[str]
    """The metric whose 0 on an example says that nothing of its answer is right."""
    answer: ClassVar[str]
    """Column of a served model's output that is its answer, in the form of `truths`."""
    product: ClassVar[Product]
    """What a served model gives, and the script that does it."""
    floors: ClassVar[tuple[Floor, ...]]
    """Simple models that a study's winner is seen beside, in the order in which they are fitted."""
    demo: ClassVar[str | None] = None
    """A shipped task of this kind that needs neither network nor files."""

    def check(self, settings: Settings) -> None:
        """Raise RequestError for settings that mean nothing to this kind."""
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
        """Raise RequestError unless columns and metric are those of this kind."""
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
        """Clean and check rows. Raises RequestError naming the rows that are wrong."""

    def asked(self, task: TaskSettings) -> dict[str, str]:
        """For each input role, the column of a file that is to be predicted: named, or called like the role."""
        return {role: task.columns.get(role, role) for role in self.inputs}

    def shown(self, answer: Any) -> str:
        """An answer, or a truth, for people."""
        return answer if isinstance(answer, str) and answer else ", ".join(answer) or "(none)"

    def served(self, task: TaskSettings) -> dict[str, Any]:
        """What a served model of this kind must know beside what all must, JSON-able."""
        return {}

    def merge(self, one: Example, other: Example) -> Example | None:
        """What two train rows with the same inputs say together; None where they contradict each other."""
        return one if one.values == other.values else None

    @abstractmethod
    def labels(
        self, given: Mapping[str, list[Example]], rows: Mapping[str, Rows], task: TaskSettings
    ) -> tuple[str, ...]:
        """The classes in their order; none where the kind has none. Raises RequestError."""

    @abstractmethod
    def columns(self, examples: list[Example], labels: tuple[str, ...]) -> dict[str, list[Any]]:
        """Columns of `features` except id."""

    @abstractmethod
    def head_config(self, labels: Sequence[str]) -> dict[str, Any]:
        """What the config of the model's head must say."""

    @abstractmethod
    def encode(self, rows: dict[str, list[Any]], tokenizer: Any, task: TaskSettings) -> Arrays:
        """Rows to token arrays, as `Tokens` describes them.

        Args:
            rows: columns of `features`.
            tokenizer: a fast one.
            task: says length, truncation, stride.
        """

    def remarks(self, tokens: Tokens, split: str, task: TaskSettings) -> Iterator[str]:
        """What people should know of the tokens of a split before anything is trained."""
        if tokens.truncated:
            yield (
                f"{tokens.truncated / tokens.examples:.0%} of {split} are longer than task.max_length="
                f"{task.max_length} tokens and truncated ({task.truncation})"
            )

    def class_weights(self, labels: NDArray[Any], classes: int) -> NDArray[np.float32] | None:
        """Weight of each class so that all count alike, with mean 1 over the examples; None where a kind has none."""
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
        """This micro-batch's share of the mean loss over the batch's items, which are elements of `labels` but padding.

        Args:
            outputs: of the model.
            batch: as `collate` makes it; `labels` (B, ...) and what `padding` names.
            num_items_in_batch: items in all micro-batches of the update.
            label_smoothing: share of the target that is spread out.
            class_weights: (C,), or None.
        """

    @abstractmethod
    def log_probabilities(self, outputs: Tensors, batch: Tensors) -> torch.Tensor:
        """(items, outcomes): what the model says of each item of `labels` but padding; finite, in nats."""

    @abstractmethod
    def outputs(self, outputs: Tensors) -> torch.Tensor:
        """(B, C), or (B, L, C) where a piece's output has a row for each token."""

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
            outputs: of each piece of these examples, (C,) or (its tokens, C).
            tokens: of the split.
            rows: columns of `features` of these examples.
            task: names the metric.
            fitted: thresholds from the validation split; None to fit them on these examples.
        """

    @abstractmethod
    def judge(self, said: Any, rows: dict[str, list[Any]], fitted: Fitted | None) -> Scores:
        """Score what any model says of each example, however it came to that; `score` and floors end here.

        Args:
            said: of each example, in the form that the kind gives here.
            rows: as for `score`.
            fitted: as for `score`.
        """

    # ---- answers as people read them, for what is compared after training

    @abstractmethod
    def truths(self, rows: dict[str, list[Any]], labels: Sequence[str]) -> list[Any]:
        """The right answer to each row, JSON-able: names of classes, or the texts that are right."""

    @abstractmethod
    def answers(self, predictions: Sequence[Any], labels: Sequence[str]) -> list[Any]:
        """`Scores.predictions` in the form that a served model gives."""

    @abstractmethod
    def constant(self, truths: Sequence[Any]) -> Any:
        """The one answer that is right most often."""

    @abstractmethod
    def tallies(self, truths: Sequence[Any], answers: Sequence[Any], labels: Sequence[str]) -> NDArray[np.float64]:
        """(examples, k): what each example adds to the sums that metrics of answers are made of.

        Args:
            truths: by `truths`.
            answers: as many, by `answers` or of a served model.
            labels: the classes; an answer that is none of them counts as wrong.
        """

    @abstractmethod
    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The metrics of `headings` that answers alone decide, (...), from sums of tallies (..., k) of some examples.

        A class that none of them has is left out of averages over classes: with 0 it would say that rare classes are
        never recognised.
        """

    def likelihoods(
        self, truths: Sequence[Any], probabilities: Sequence[Mapping[str, float]], labels: Sequence[str]
    ) -> list[float]:
        """As `Scores.likelihoods`, from the probabilities that a served model gives; of kinds with a log loss."""
        raise NotImplementedError(f"{self.name} has no log loss")

    def shares(self, truths: Sequence[Any], labels: Sequence[str]) -> dict[str, float]:
        """How often each class is true: of all that says the same of every example, what has the best log loss."""
        raise NotImplementedError(f"{self.name} has no log loss")

    # ---- the same, for one metric

    def evidence(
        self, objective: Objective, truths: Sequence[Any], replies: Replies, labels: Sequence[str]
    ) -> NDArray[np.float64]:
        """(examples, k): what each example adds to the sums that `sums_to` takes."""
        if objective != LOG_LOSS:
            return self.tallies(truths, replies.answers, labels)
        assert replies.likelihoods is not None, "without them there is no log loss"
        losses = metrics.losses(replies.likelihoods)
        return np.column_stack([losses, np.ones(len(losses))])

    def sums_to(self, objective: Objective) -> OfSums:
        """What makes the metric of sums of `evidence`, as `of_sums` does."""
        return metrics.mean_loss if objective == LOG_LOSS else self.of_sums

    def by_class(self, sums: NDArray[np.float64], labels: Sequence[str]) -> dict[str, ClassScores]:
        """Of each class, from sums of tallies (k,); without classes that have no example."""
        return {}
