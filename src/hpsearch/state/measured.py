"""Scores on test, as stored in `test.json`: of one model, of each class, and of two models side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]
"""Low and high end of a 95 % interval over examples."""


@dataclass(frozen=True)
class ClassScores:
    """Scores of the predictions of one class."""

    n: int
    """Number of examples, or of places in them, that have the class."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Paired:
    """Comparison of two models on the same examples, by one metric."""

    metric: str
    n: int
    """Number of examples."""
    champion: float
    challenger: float
    low: float
    """Low end of the 95 % interval of the difference, by the paired bootstrap."""
    high: float
    p: float
    """One-sided p-value: the probability of this gain or more if the challenger were no better."""
    test: str
    """Name of the test that gave `p`."""
    challenger_alone: int | None
    """Examples that only the challenger has right; None if the metric is not accuracy."""
    champion_alone: int | None
    difference: float
    """Gain of the challenger; more is better, whatever the metric."""


@dataclass(frozen=True)
class Replies:
    """A model's replies to n examples."""

    answers: Sequence[Any]
    """(n,): the answers, as `Kind.answers` gives them."""
    likelihoods: Sequence[float] | None
    """(n,): the probability that the model gave to the right answer; None if it is unknown."""

    def of(self, ids: Sequence[str], wanted: Sequence[str]) -> "Replies":
        """Return the replies to the examples `wanted`, in that order; `ids` are those of all n."""
        place, likely = {name: i for i, name in enumerate(ids)}, self.likelihoods
        order = [place[name] for name in wanted]
        return Replies([self.answers[i] for i in order], [likely[i] for i in order] if likely is not None else None)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A model's answers to each example of a split, in the layout of MLflow's tables."""

    columns: tuple[str, ...] = ("id", "truth", "answer")
    data: tuple[tuple[Any, ...], ...]
    """(n, 3): id, right answer and the model's answer, as `Kind.truths` and `Kind.answers` give them.

    (n, 4) with a column `probability` for the likelihoods, if the kind has them. Older tables have no such column.
    """

    @staticmethod
    def of(ids: Sequence[str], truths: Sequence[Any], replies: Replies) -> "Answers":
        """Return the table of examples and a model's replies."""
        if replies.likelihoods is None:
            return Answers(data=tuple(zip(ids, truths, replies.answers, strict=True)))
        rows = zip(ids, truths, replies.answers, replies.likelihoods, strict=True)
        return Answers(columns=("id", "truth", "answer", "probability"), data=tuple(rows))

    @property
    def ids(self) -> list[str]:
        """(n,): the ids of the examples."""
        return [row[0] for row in self.data]

    @property
    def truths(self) -> list[Any]:
        """(n,): the right answers."""
        return [row[1] for row in self.data]

    @property
    def said(self) -> list[Any]:
        """(n,): the model's answers."""
        return [row[2] for row in self.data]

    @property
    def replies(self) -> Replies:
        """The model's answers, with likelihoods if the table has them."""
        return Replies(self.said, [row[3] for row in self.data] if "probability" in self.columns else None)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, with the input that the model read."""

    id: str
    confidence: float
    """The probability that the model gives its answer."""
    truth: Any
    answer: Any
    inputs: dict[str, str]
    """Role: text. A long text lacks its middle."""


@dataclass(frozen=True)
class Measured:
    """Scores of a model on test."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    """Intervals of the metrics that tables show."""
    classes: dict[str, ClassScores]
    """Scores of each class that has an example; {} if the kind has no classes."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts: a row for each true class, a column for each predicted class."""
    mistakes: tuple[Mistake, ...]
    """The mistakes that the model is most sure of, the surest first."""
    megabytes: float
    """Size of the weights in 10^6 bytes."""
    seconds_per_example: float
    """Time of predicting, without loading."""
    answers: Answers


@dataclass(frozen=True)
class FloorRead:
    """Scores of a floor on test."""

    name: str
    measured: Measured
    gain: Paired
    """Gain of the kept model over the floor."""


@dataclass(frozen=True)
class BlendRead:
    """Scores on test of the winner's fine-tune and the linear model of words, used as one model."""

    weights: tuple[float, float]
    """Weights of the fine-tune and of the words, from the validation split."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    metrics: dict[str, float]
    """`validation_accuracy`, ...: score."""
    validation: Answers
    measured: Measured
    gain: Paired
    """Gain of both together over the fine-tune alone."""
    search: Paired | None
    """Gain of the fine-tune alone over the reference; None if no reference was scored."""


@dataclass(frozen=True)
class Reading:
    """A study's scores on test. Each choice of winner and reference counts as one reading."""

    of: tuple[str, str | None]
    """Folders of winner and reference, inside the study's folder."""
    readings: int
    """Number of readings so far, with this one."""
    n: int
    """Number of examples."""
    digest: str
    """Digest of the test split that was scored."""
    winner: Measured
    """Scores of the winner's fine-tune."""
    reference: Measured | None
    """Scores of the reference recipe; None if it is the winner, or was not run."""
    gain: Paired | None
    """Gain of the kept model over the reference; None without a reference."""
    floors: tuple[FloorRead, ...] = ()
    """Scores of the floors, in the order in which they were fitted."""
    blend: BlendRead | None = None
    """Scores of the blend, if it is kept in place of the winner's fine-tune alone."""

    @property
    def kept(self) -> Measured:
        """Scores of the model that the study ends with."""
        return self.blend.measured if self.blend is not None else self.winner
