"""What answers on test are worth: of one model, of each class, of two models side by side, as `test.json` keeps it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]
"""Low and high end, 95 %, over examples."""


@dataclass(frozen=True)
class ClassScores:
    """How good predictions of one class are."""

    n: int
    """Examples, or places in them, that have it."""
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Paired:
    """Two models on the same examples, by one metric."""

    metric: str
    n: int
    """Examples."""
    champion: float
    challenger: float
    low: float
    """Of the 95 % interval of the difference, by the paired bootstrap."""
    high: float
    p: float
    """One-sided: as much or more of a gain if the challenger were no better."""
    test: str
    """Where `p` is from."""
    challenger_alone: int | None
    """Examples that only the challenger has right, where each is right or wrong."""
    champion_alone: int | None
    difference: float
    """What the challenger gains: more is better, whatever the metric."""


@dataclass(frozen=True)
class Replies:
    """What a model said of n examples."""

    answers: Sequence[Any]
    """(n,): as `Kind.answers` gives them."""
    likelihoods: Sequence[float] | None
    """(n,): the probability that it gave to what is right; None where nobody knows it."""

    def of(self, ids: Sequence[str], wanted: Sequence[str]) -> "Replies":
        """Those of some examples, in their order; `ids` are of all."""
        place, likely = {name: i for i, name in enumerate(ids)}, self.likelihoods
        order = [place[name] for name in wanted]
        return Replies([self.answers[i] for i in order], [likely[i] for i in order] if likely is not None else None)


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model said of each example of a split, in the layout of MLflow's tables."""

    columns: tuple[str, ...] = ("id", "truth", "answer")
    data: tuple[tuple[Any, ...], ...]
    """(n, 3): id, right answer and the model's, as `Kind.truths` and `Kind.answers` give them.

    (n, 4) with a column `probability`, the likelihoods, where the kind has them; older tables have none.
    """

    @staticmethod
    def of(ids: Sequence[str], truths: Sequence[Any], replies: Replies) -> "Answers":
        """A table of examples and what a model replied."""
        if replies.likelihoods is None:
            return Answers(data=tuple(zip(ids, truths, replies.answers, strict=True)))
        rows = zip(ids, truths, replies.answers, replies.likelihoods, strict=True)
        return Answers(columns=("id", "truth", "answer", "probability"), data=tuple(rows))

    @property
    def ids(self) -> list[str]:
        """(n,): of the examples."""
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
        """All that the model said."""
        return Replies(self.said, [row[3] for row in self.data] if "probability" in self.columns else None)


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, with what the model read."""

    id: str
    confidence: float
    """The probability that the model gives its answer."""
    truth: Any
    answer: Any
    inputs: dict[str, str]
    """Role: text, without its middle where it is long."""


@dataclass(frozen=True)
class Measured:
    """A model on test."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    """Of the metrics that tables show."""
    classes: dict[str, ClassScores]
    """Of each class that has an example; {} where the kind has none."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts: a row for each true class, a column for each predicted one."""
    mistakes: tuple[Mistake, ...]
    """Those that the model is most sure of, the surest first."""
    megabytes: float
    """Of the weights, 10^6 bytes."""
    seconds_per_example: float
    """Of predicting, without loading."""
    answers: Answers


@dataclass(frozen=True)
class FloorRead:
    """A floor on test."""

    name: str
    measured: Measured
    gain: Paired
    """What is kept against it."""


@dataclass(frozen=True)
class BlendRead:
    """The winner's fine-tune and the linear model of words as one model, on test."""

    weights: tuple[float, float]
    """Of the one and of the other, from the validation split."""
    fitted: dict[str, Any]
    """Thresholds from there, as the kind has them."""
    metrics: dict[str, float]
    """`validation_accuracy`, ...: score."""
    validation: Answers
    measured: Measured
    gain: Paired
    """Over the fine-tune alone."""
    search: Paired | None
    """The fine-tune alone against the reference."""


@dataclass(frozen=True)
class Reading:
    """A study's reading of test: counted once a choice."""

    of: tuple[str, str | None]
    """Folders of winner and reference, inside the study's."""
    readings: int
    """So far, this one too."""
    n: int
    """Examples."""
    digest: str
    """Of the test split that was scored."""
    winner: Measured
    """Its fine-tune."""
    reference: Measured | None
    """The reference recipe; None where it is the winner, or was not run."""
    gain: Paired | None
    """What is kept against the reference."""
    floors: tuple[FloorRead, ...] = ()
    """In their order."""
    blend: BlendRead | None = None
    """Where that is kept in place of the winner's fine-tune alone."""

    @property
    def kept(self) -> Measured:
        """The model that the study ends with."""
        return self.blend.measured if self.blend is not None else self.winner
