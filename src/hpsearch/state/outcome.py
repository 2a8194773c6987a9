"""Result of a finished study, as stored in `summary.json`. Users' scripts read that file, so its keys stay."""

from dataclasses import dataclass
from typing import Any

from hpsearch.config.section import Scalar
from hpsearch.state import codec
from hpsearch.state.facts import Facts
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import ClassScores, Interval, Mistake, Paired
from hpsearch.state.plans import Outlook, PlanMade
from hpsearch.state.records import Status, StudyHardware
from hpsearch.state.roster import Staff

Params = dict[str, Scalar | None]
"""Searched path: value."""
TOTAL = "total"  # key in `Summary.seconds`, beside the phases
SETTINGS_TAG = "hpsearch.settings"  # key in `Summary.lineage`: the digest of the settings


@dataclass(frozen=True)
class Counts:
    """Numbers of search trials, by how they ended."""

    complete: int
    pruned: int
    failed: int

    @property
    def all(self) -> int:
        """Number of all these trials."""
        return self.complete + self.pruned + self.failed


@dataclass(frozen=True)
class Best:
    """The search's best trial."""

    trial: int
    """Number of the trial."""
    params: Params
    validation: float
    """Score of the trial on validation, in the direction of the metric."""


@dataclass(frozen=True)
class Winner:
    """The winner, whose model is kept."""

    entrant: str
    """Name of the entrant: `trial 3`, or `reference`."""
    params: Params
    seed: int
    run_id: str
    """Id of its MLflow run."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    digests: dict[str, str]
    """Split: digest of the examples that it was trained on, chosen by and scored on."""
    folder: str
    """Its folder, inside the study's folder."""
    validation: dict[str, float]
    """`validation_accuracy`, ...: score."""
    corrected: float | None
    """Score to expect of the choice on a further seed; None without two seeds."""
    length: float | None = None
    """Its updates as a share of those that its recipe has without limit of time; None in former versions."""


@dataclass(frozen=True)
class Confirmed:
    """Result of one entrant of the confirmation. Sequences have an item for each seed."""

    entrant: str
    reference: bool
    """Whether it is the reference recipe."""
    params: Params
    seeds: tuple[int, ...]
    """Seeds of the complete runs."""
    validation: tuple[float, ...]
    mean: float | None
    """Mean of the scores; None without a complete run."""
    interval: Interval | None
    """Interval of the mean, over validation examples."""
    spread: float | None
    """Standard deviation over seeds; None with fewer than two."""
    out_after: int | None
    """Number of seeds after which the entrant left the race; None if it was run to the end."""
    seconds: tuple[float, ...]
    run_ids: tuple[str, ...]
    """Ids of the MLflow runs."""


@dataclass(frozen=True)
class Optimism:
    """The search's best score, compared with fresh runs of the same point."""

    search: float
    confirmed: float
    """Mean score of the fresh runs."""
    difference: float
    """By how much `search` is better than `confirmed`."""


@dataclass(frozen=True)
class OnTest:
    """Scores of a model on test."""

    metric: str
    """The task's metric."""
    value: float
    low: float
    """Low end of the 95 % interval over examples."""
    high: float
    n: int
    """Number of examples."""
    all: dict[str, float]
    """Scores by every metric."""
    intervals: dict[str, Interval]
    """Intervals of the metrics that tables show."""
    readings: int
    """How often this study has scored test, with this time."""
    classes: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts: a row for each true class, a column for each predicted class."""
    mistakes: tuple[Mistake, ...]
    digest: str
    """Digest of the examples that were scored."""
    megabytes: float
    """Size of the weights in 10^6 bytes."""
    seconds_per_example: float
    """Time of predicting, without loading."""
    split_digest: str
    """Digest of the whole test split."""


@dataclass(frozen=True)
class Reference:
    """Score of the reference recipe on the same test examples."""

    params: Params
    seed: int
    run_id: str
    value: float
    low: float
    """Low end of the 95 % interval over examples."""
    high: float
    gain: Paired
    """Gain of the winner over the reference recipe."""


@dataclass(frozen=True)
class FloorOutcome:
    """Result of a floor on the same examples as the winner."""

    name: str
    title: str
    """Name for people, with its article."""
    best: bool
    """Whether it is the best floor on validation, whose model is kept."""
    examples: int
    """Number of training examples that it was fitted on; 0 if it needs none."""
    seconds: float
    """Seconds for fitting and for scoring on validation."""
    chosen: dict[str, Any]
    """Values that fitting chose, for people."""
    run_id: str
    """Id of its MLflow run."""
    folder: str
    """Its folder, inside the study's folder."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    validation: dict[str, float]
    """`validation_accuracy`, ...: score."""
    test: OnTest
    gain: Paired
    """Gain of the winner over the floor, on test."""


@dataclass(frozen=True)
class BlendOutcome:
    """Scores of the winner's fine-tune alone, where it is kept together with the linear model of words."""

    weights: tuple[float, float]
    """Weights of the logits of the fine-tune and of the words, from the validation split."""
    words: str
    """Folder of the floor `words`, inside the study's folder."""
    validation: dict[str, float]
    """`validation_accuracy`, ...: score of the fine-tune alone."""
    test: OnTest
    """Scores of the fine-tune alone."""
    gain: Paired
    """Gain of both together over the fine-tune alone, on test."""
    search: Paired | None
    """Gain of the fine-tune alone over the reference recipe; None if `Summary.reference` is None."""


@dataclass(frozen=True)
class Steps:
    """Numbers of updates."""

    trained: int
    """Updates by the trials of the search."""
    all_to_the_end: int
    """Updates that these trials would have taken without pruning."""
    confirmation: int
    """Updates by the runs of all later phases."""


@dataclass(frozen=True)
class StudyData(Facts):
    """What was read, and how much of it the study used.

    `source` is the setting. `digests` are those of the part that was used.
    """

    digest: str
    """Digest of all splits."""
    train: int
    """Number of training examples of a search trial."""
    validation: int
    test: int
    confirmation: int | None
    """Number of training examples of the winner; None in older summaries in which the search decided."""

    @property
    def used(self) -> dict[str, int]:
        """Split: number of examples that the search used."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def trained_on(self) -> int:
        """Number of training examples of the winner."""
        return self.confirmation if self.confirmation is not None else self.train


@dataclass(frozen=True)
class Licenses:
    """Licenses of what the model is made of; None where the source states none."""

    weights: str | None
    data: str | None


@dataclass(frozen=True)
class StudyRun:
    """The study's place in MLflow."""

    experiment_id: str | None
    run_id: str


@dataclass(frozen=True)
class RunOutcome:
    """Result of one trial of a phase."""

    number: int
    entrant: str | None
    """Name of the entrant whose point is run; None if the trial is no entrant's run."""
    seed: int | None
    """Seed of the trial; None if it is the study's seed."""
    params: Params
    status: Status
    score: float | None
    """Score on validation, in the direction of the metric."""
    step: int
    """Updates done, of `total_steps`."""
    total_steps: int
    seconds: float
    reason: str | None
    """Why the trial failed."""
    at: float | None = None
    """Seconds that the study's phases had taken in all when the trial ended; None in older summaries."""

    @property
    def named(self) -> str:
        """Name of the trial, for people."""
        of = f"{self.entrant}, seed {self.seed}" if self.entrant is not None else str(self.number)
        return of


@dataclass(frozen=True)
class PhaseOutcome:
    """Result of one phase."""

    name: str
    noun: str
    """Word for one of its trials."""
    train_examples: int
    """Number of training examples of each of its trials."""
    seconds: float
    """Seconds of the phase, over all runs of the command."""
    runs: tuple[RunOutcome, ...]
    """Trials of the phase, by number; () if they are stored elsewhere, as the search's are in `trials.json`."""


@dataclass(frozen=True)
class Steered:
    """A command from another terminal that was carried out."""

    name: str
    """Name of the command's file."""
    said: str
    """Time and command, for people."""


@dataclass(frozen=True)
class Summary:
    """The whole result of a study."""

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
    """Entrants, in the order in which they entered; () without a confirmation."""
    optimism: Optimism | None
    """None without fresh runs of the search's best point."""
    expected: tuple[float, ...]
    """Best validation score to expect of 1, 2, ... trials drawn from the search's trials."""
    importance: dict[str, float]
    """Searched path: share of the variance of scores that it explains, largest first; {} if this is unknown."""
    test: OnTest
    reference: Reference | None
    """None if the reference recipe is the winner, or was not run."""
    seconds: dict[str, float]
    """Phase: seconds over all runs of the command; also TOTAL: their sum."""
    steps: Steps
    data: StudyData
    licenses: Licenses
    lineage: dict[str, str]
    """Tags: SETTINGS_TAG, and those of `tracking.lineage`."""
    labels: tuple[str, ...]
    """The classes; () if the kind has none."""
    hardware: StudyHardware
    mlflow: StudyRun
    phases: tuple[PhaseOutcome, ...] = ()
    """Phases in their order; () in summaries older than this key, which have `trials` and `confirmation` alone."""
    hours: float | None = None
    """Hours that the study was to take in all; None without a limit."""
    plans: tuple[PlanMade, ...] = ()
    """Plans in their order; () without hours."""
    floors: tuple[FloorOutcome, ...] = ()
    """Simple models on the same data, in the order in which they were fitted; () without any."""
    outlook: tuple[Outlook, ...] = ()
    """Outlooks by hours, ascending; () without hours, and if the winner has all the data already."""
    blend: BlendOutcome | None = None
    """Not None if the winner is kept together with the linear model of words; then `winner` and `test` are of both."""
    steering: tuple[Steered, ...] = ()
    """Commands from another terminal that were carried out, in their order."""
    staff: Staff | None = None
    """What the workers did; None if it is not known."""

    @property
    def floor(self) -> FloorOutcome | None:
        """The best floor on validation; None without floors."""
        return next((floor for floor in self.floors if floor.best), None)

    @property
    def total_seconds(self) -> float:
        """Seconds of all phases together."""
        return self.seconds[TOTAL]


def read_summary(folder: StudyFolder) -> Summary | None:
    """Return the result of the study in `folder`; None if it has none. Raises RequestError if the file is damaged."""
    return codec.read_file(Summary, folder.summary, "delete it, and the sweep's command writes it again")
