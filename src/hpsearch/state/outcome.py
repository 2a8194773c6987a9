"""What a finished study has found, as `summary.json` keeps it. Users' scripts read that file: its keys stay."""

from dataclasses import dataclass
from typing import Any

from hpsearch.config.section import Scalar
from hpsearch.state import codec
from hpsearch.state.facts import Facts
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import ClassScores, Interval, Mistake, Paired
from hpsearch.state.plans import Outlook, PlanMade
from hpsearch.state.records import Status, StudyHardware

Params = dict[str, Scalar | None]
"""Searched path: value."""
TOTAL = "total"  # beside the phases in `Summary.seconds`
SETTINGS_TAG = "hpsearch.settings"  # in `Summary.lineage`: the digest of the settings


@dataclass(frozen=True)
class Counts:
    """Trials of the search by how they ended."""

    complete: int
    pruned: int
    failed: int

    @property
    def all(self) -> int:
        """However they ended."""
        return self.complete + self.pruned + self.failed


@dataclass(frozen=True)
class Best:
    """The search's best trial."""

    trial: int
    """Its number."""
    params: Params
    validation: float
    """Its score, in the direction of the metric."""


@dataclass(frozen=True)
class Winner:
    """Whose model is kept."""

    entrant: str
    """`trial 3`, or `reference`."""
    params: Params
    seed: int
    run_id: str
    """Of its MLflow run."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    digests: dict[str, str]
    """Split: digest of what it was trained on, chosen by and scored on."""
    folder: str
    """Inside the study's."""
    validation: dict[str, float]
    """`validation_accuracy`, ...: score."""
    corrected: float | None
    """What the choice is worth on a further seed; None without two seeds."""


@dataclass(frozen=True)
class Confirmed:
    """What one entrant of the confirmation came to; sequences have an item for each seed."""

    entrant: str
    reference: bool
    """Whether it is the reference recipe."""
    params: Params
    seeds: tuple[int, ...]
    """Of complete runs."""
    validation: tuple[float, ...]
    mean: float | None
    """None without a complete run."""
    interval: Interval | None
    """Of the mean, over validation examples."""
    spread: float | None
    """Standard deviation over seeds; None with fewer than two."""
    out_after: int | None
    """Seeds, where it was not run to the end."""
    seconds: tuple[float, ...]
    run_ids: tuple[str, ...]
    """Of MLflow."""


@dataclass(frozen=True)
class Optimism:
    """What the search's best score was worth with fresh seeds."""

    search: float
    confirmed: float
    """Mean of the fresh runs of the same point."""
    difference: float
    """Search minus confirmed."""


@dataclass(frozen=True)
class OnTest:
    """How the winner does on test."""

    metric: str
    """The task's."""
    value: float
    low: float
    """Of the 95 % interval over examples."""
    high: float
    n: int
    """Examples."""
    all: dict[str, float]
    """Every metric."""
    intervals: dict[str, Interval]
    """Of the metrics that tables show."""
    readings: int
    """How often this study has scored test, this time too."""
    classes: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts: a row for each true class, a column for each predicted one."""
    mistakes: tuple[Mistake, ...]
    digest: str
    """Of the examples that were scored."""
    megabytes: float
    """Of the weights, 10^6 bytes."""
    seconds_per_example: float
    """Of predicting, without loading."""
    split_digest: str
    """Of the whole test split."""


@dataclass(frozen=True)
class Reference:
    """How the reference recipe does on the same test examples."""

    params: Params
    seed: int
    run_id: str
    value: float
    low: float
    """Of the 95 % interval over examples."""
    high: float
    gain: Paired
    """Of the winner over it."""


@dataclass(frozen=True)
class FloorOutcome:
    """How a simple model does on the same examples as the winner."""

    name: str
    title: str
    """What people call it, with its article."""
    best: bool
    """Whether it is the best of them on validation, which is kept as a model."""
    examples: int
    """Training examples that it was fitted on; 0 where it needs none."""
    seconds: float
    """That fitting took."""
    chosen: dict[str, Any]
    """For it, for people."""
    run_id: str
    """Of its MLflow run."""
    folder: str
    """Inside the study's."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    validation: dict[str, float]
    """`validation_accuracy`, ...: score."""
    test: OnTest
    gain: Paired
    """Of the winner over it, on test."""


@dataclass(frozen=True)
class BlendOutcome:
    """The winner's fine-tune, which is kept together with the linear model of words: how it does alone."""

    weights: tuple[float, float]
    """Of the logits of the fine-tune and of the words, from the validation split."""
    words: str
    """Folder of the floor, inside the study's."""
    validation: dict[str, float]
    """`validation_accuracy`, ...: score of the fine-tune alone."""
    test: OnTest
    """Of the fine-tune alone."""
    gain: Paired
    """Of both together over the fine-tune alone, on test."""
    search: Paired | None
    """Of the fine-tune alone over the reference recipe; None as `Summary.reference`."""


@dataclass(frozen=True)
class Steps:
    """Updates."""

    trained: int
    """By the trials of the search."""
    all_to_the_end: int
    """That these would have taken without pruning."""
    confirmation: int
    """By the runs of all phases after it."""


@dataclass(frozen=True)
class StudyData(Facts):
    """What was read, and how much of it the study used. `source` is the setting, `digests` are of what was used."""

    digest: str
    """Of all splits."""
    train: int
    """Examples of a trial of the search."""
    validation: int
    test: int
    confirmation: int | None
    """Training examples of the winner; None in summaries of before where the search decided."""

    @property
    def used(self) -> dict[str, int]:
        """Split: examples that the search used."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def trained_on(self) -> int:
        """Training examples of the winner."""
        return self.confirmation if self.confirmation is not None else self.train


@dataclass(frozen=True)
class Licenses:
    """Of what the model is made of; None where their source states none."""

    weights: str | None
    data: str | None


@dataclass(frozen=True)
class StudyRun:
    """Where MLflow has the study."""

    experiment_id: str | None
    run_id: str


@dataclass(frozen=True)
class RunOutcome:
    """What one trial of a phase came to."""

    number: int
    entrant: str | None
    """Whose point it is, where it is a run of somebody's."""
    seed: int | None
    """None where it is the study's."""
    params: Params
    status: Status
    score: float | None
    """On validation, in the direction of the metric."""
    step: int
    """Updates done, of `total_steps`."""
    total_steps: int
    seconds: float
    reason: str | None
    """Of a failure."""
    at: float | None = None
    """Seconds of the study, all its phases, when it ended; None in summaries of before."""

    @property
    def named(self) -> str:
        """For people."""
        of = f"{self.entrant}, seed {self.seed}" if self.entrant is not None else str(self.number)
        return of


@dataclass(frozen=True)
class PhaseOutcome:
    """What one phase came to."""

    name: str
    noun: str
    """What one of its trials is called."""
    train_examples: int
    """Of each of its trials."""
    seconds: float
    """Over all runs of the command."""
    runs: tuple[RunOutcome, ...]
    """Its trials, by number; () where they are kept elsewhere: those of the search are in `trials.json`."""


@dataclass(frozen=True)
class Summary:
    """The whole result."""

    format: int
    study: str
    given: tuple[str, ...]
    """Settings and options of the command."""
    finished: str
    """UTC, ISO 8601, to the second."""
    task: str
    model: str
    metric: str
    direction: str
    """`maximize` or `minimize`."""
    trials: Counts
    best: Best
    winner: Winner
    confirmation: tuple[Confirmed, ...]
    """In the order in which they entered; () where there was none."""
    optimism: Optimism | None
    """None without fresh runs of the search's best point."""
    expected: tuple[float, ...]
    """Best validation score to expect of 1, 2, ... trials drawn from these."""
    importance: dict[str, float]
    """Searched path: share of the variance of scores that it explains, largest first; {} where nothing is known."""
    test: OnTest
    reference: Reference | None
    """None where the reference recipe is the winner, or was not run."""
    seconds: dict[str, float]
    """Of each phase, over all runs of the command; beside them TOTAL."""
    steps: Steps
    data: StudyData
    licenses: Licenses
    lineage: dict[str, str]
    """Tags: SETTINGS_TAG, and those of `tracking.lineage`."""
    labels: tuple[str, ...]
    """The classes; () where the kind has none."""
    hardware: StudyHardware
    mlflow: StudyRun
    phases: tuple[PhaseOutcome, ...] = ()
    """In their order; () in summaries from before there was this key, which have `trials` and `confirmation` alone."""
    hours: float | None = None
    """That the study was to take in all; None where it took as long as it took."""
    plans: tuple[PlanMade, ...] = ()
    """In their order; () without hours."""
    floors: tuple[FloorOutcome, ...] = ()
    """Simple models on the same data, in the order in which they were fitted; () where none was."""
    outlook: tuple[Outlook, ...] = ()
    """By hours, ascending; () without hours, and where the winner has all the data already."""
    blend: BlendOutcome | None = None
    """Where the winner is kept together with the linear model of words: then `winner` and `test` are of both."""
    steering: tuple[str, ...] = ()
    """What was asked for from another terminal and done, each with its time, in this order."""

    @property
    def floor(self) -> FloorOutcome | None:
        """The best of the floors on validation."""
        return next((floor for floor in self.floors if floor.best), None)

    @property
    def total_seconds(self) -> float:
        """Of all phases together."""
        return self.seconds[TOTAL]


def read_summary(folder: StudyFolder) -> Summary | None:
    """The result of the study in `folder`, or None. Raises RequestError if the file is damaged."""
    return codec.read_file(Summary, folder.summary, "delete it, and the sweep's command writes it anew")
