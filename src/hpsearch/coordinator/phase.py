"""A phase of a study: its numbered trials, which one is next, how each continues, and whose model is kept.

A phase decides and writes nothing. `books` writes the records and passes them on. `loop` feeds the workers. `phases`
lists all phases.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

from hpsearch.config.settings import Settings
from hpsearch.coordinator.clock import read_seconds
from hpsearch.coordinator.study import Study
from hpsearch.report import sections
from hpsearch.report.sections import Section, Told
from hpsearch.state.folder import StudyFolder, TrialFolder
from hpsearch.state.measured import Answers
from hpsearch.state.messages import Decision, Progress, TrialResult
from hpsearch.state.outcome import Best, Confirmed, Counts, Optimism, PhaseOutcome, RunOutcome
from hpsearch.state.records import DataRef, TrialRecord
from hpsearch.state.steering import Asked
from hpsearch.tasks.kinds import KINDS
from hpsearch.training.data import Corpus

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner


ENOUGH = 200  # validation examples; the standard error of an accuracy is then 3 points
FOLDS = 5


@dataclass
class StudyContext:
    """The parts of a study that each of its phases is opened with."""

    settings: Settings
    home: Path  # the state folder
    folder: StudyFolder
    corpus: Corpus
    ref: DataRef  # the data of the search
    optuna: Study
    workers: int  # number of workers that train at the same time, now
    finishing: bool = False  # whether the search begins no more trials
    most_workers: int = 0  # the largest number so far, in any run of the command

    def __post_init__(self) -> None:
        self.have(self.workers)

    def have(self, workers: int) -> None:
        """Note how many workers there are now."""
        self.workers, self.most_workers = workers, max(self.most_workers, workers)

    @property
    def folds(self) -> int:
        """Number of folds of the cross-validation that confirms points on few labels; 0: no cross-validation.

        It is 0 where the validation split has ENOUGH examples or was given. It is also 0 where the study uses only a
        part of train or validation, the task kind has no folds, or examples are grouped.
        """
        facts, kind = self.corpus.facts, KINDS[self.settings.task.kind]
        few = self.ref.sizes["validation"] < ENOUGH and facts.split_by["validation"] == "hpsearch"
        whole = all(self.ref.sizes[split] == facts.examples[split] for split in ("train", "validation"))
        grouped = any(facts.groups.values())
        return FOLDS if few and whole and kind.folds and not grouped else 0


@dataclass(frozen=True)
class Found:
    """The trial whose model is kept, and the model that it is compared with."""

    winner: TrialRecord
    folder: str  # path of the winner's folder inside the study's folder
    reference: TrialRecord | None  # trial of the reference recipe that is scored beside it, if any
    reference_folder: str | None
    corrected: float | None  # estimated score of the choice on a further seed; None: unknown


class Fields(TypedDict, total=False):
    """Fields of `Summary` that a single phase fills."""

    trials: Counts
    best: Best
    expected: tuple[float, ...]
    importance: dict[str, float]
    confirmation: tuple[Confirmed, ...]
    optimism: Optimism | None


@dataclass(frozen=True)
class Fault:
    """An inconsistency in a study."""

    text: str
    repair: Callable[[], object] | None = None  # repairs it; None: no automatic repair


@dataclass(frozen=True)
class Stored:
    """Stored state of a phase, for checks that do not run it."""

    folder: StudyFolder
    settings: Settings  # the study's
    records: Mapping[int, TrialRecord]
    optuna: Study
    later: bool  # a later phase has trials
    published: bool  # MLflow has the study's result


def as_recorded(settings: Settings, trial: TrialRecord) -> Settings:
    """Return the settings with the length and the part of the data that a trial's record gives."""
    length: dict[str, Any] = {"examples": trial.examples, "fold": trial.fold, "retimed": trial.retimed}
    if trial.epochs is not None:
        length |= {"epochs": trial.epochs, "epochs_factor": 1.0}
    train = settings.train.model_copy(update=length)
    if trial.epochs is None:
        return settings.model_copy(update={"train": train})
    return settings.model_copy(update={"train": train, "search": settings.search.model_copy(update={"rungs": ()})})


class Phase(ABC):
    """A phase of one study, with its trials so far."""

    name: ClassVar[str]
    """Name of the phase on the console, in `seconds.json` and in the summary."""
    noun: ClassVar[str]
    """Word for one of its trials in messages: trial or run."""
    place: ClassVar[str]
    """Name of the phase's folder inside the study's folder."""
    tag: ClassVar[str]
    """Name of the tag of an MLflow run that holds the number of its trial."""
    left_out: ClassVar[str] = ""
    """Setting by which a study leaves the phase out."""
    skips: ClassVar[bool] = False
    """Whether users may skip one of its trials."""
    falls_back: ClassVar[bool] = False
    """Whether the models of earlier phases are kept where this phase decides.

    A later model of this phase may be worse than they are.
    """

    def __init__(self, study: StudyContext, settings: Settings, ref: DataRef) -> None:
        """Load the phase's trials and hours from the state folder.

        Args:
            study: the study that the phase belongs to.
            settings: settings of its trials, except for their parameters.
            ref: data of its trials.
        """
        self.study, self.settings, self.ref = study, settings, ref
        self.clocked = read_seconds(study.folder).get(self.name, 0.0) / 3600  # hours
        records = (TrialRecord.load(trial.path) for trial in study.folder.trials(self.place))
        self.trials: dict[int, TrialRecord] = {record.number: record for record in records}

    # ---- answers that need no open phase

    @classmethod
    @abstractmethod
    def asked(cls, settings: Settings) -> bool:
        """Return whether a study with these settings has this phase."""

    @classmethod
    @abstractmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """Return the settings that a trial of this phase is trained with, in a study with these settings."""

    @classmethod
    @abstractmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the trials whose models are kept while no later phase has decided."""

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """Yield the faults of stored trials beyond those that `fsck` finds in every phase."""
        yield from ()

    # ---- how the phase runs

    @classmethod
    @abstractmethod
    def open(cls, study: StudyContext, before: Sequence["Phase"]) -> "Phase":
        """Open the phase with its trials so far.

        Args:
            study: the study that the phase belongs to; its settings ask for the phase.
            before: the phases before it, which are done.
        """

    def begin(self, planner: "Planner | None", before: Sequence["Phase"]) -> None:
        """Decide how much is run in the time that is left. Called once, before a worker gets the first trial.

        Args:
            planner: plans the time; None in a study without hours, where the settings decide.
            before: the phases before it.
        """
        return

    @property
    def introduction(self) -> str | None:
        """Text for people that says what the phase runs; None: nothing to say."""
        return None

    @property
    def total(self) -> int | None:
        """Number of trials that the phase will have; None: unknown."""
        return None

    @abstractmethod
    def next(self, hours: float) -> TrialRecord | None:
        """Return a new or paused trial for an idle worker after `hours` of the phase; None: no trial for now."""

    def over(self, hours: float) -> str | None:
        """Return why running trials must be paused for good; None while they may continue."""
        return None

    def decide(self, number: int) -> Decision:
        """Decide how a trial continues that has just paused at a rung; its score is in `trials`."""
        raise AssertionError(f"a {self.noun} of the {self.name} has no rungs")

    def take(self, asked: Asked) -> str | None:
        """Take a point that a user asks for, to run it next. Return None, or why the point is refused."""
        return f"the study is in its {self.name}, and points are tried in the search only"

    def extend(self, hours: float) -> str | None:
        """Plan again, now that the study has these hours in all. Return None, or why it is not done."""
        return f"the study is in its {self.name}; once it has its result, its command with more hours continues it"

    def retime(self, progress: Progress) -> int | None:
        """Return new total steps for the schedule of a trial that reports progress; None: no change."""
        return None

    def answered(self, result: TrialResult) -> None:
        """Keep the parts of a result that the trial's record does not hold.

        Called when a worker's part in a trial is over, before the record is written.
        """
        return

    def recorded(self, before: TrialRecord | None, trial: TrialRecord) -> None:
        """Report a trial's record, which is on disk, to systems other than MLflow."""
        return

    def beaten(self) -> list[TrialRecord]:
        """Return the final records of trials that can never continue."""
        return []

    def closing(self) -> list[TrialRecord]:
        """Return the final records of trials that end with the phase. Raises NoResultError if there is no result."""
        return []

    @abstractmethod
    def done(self) -> bool:
        """Return whether nothing is left to run within the budget."""

    @abstractmethod
    def planned(self) -> float:
        """Return how much training the phase plans in all, in units of whole trials; 0 where nothing is planned."""

    @abstractmethod
    def found(self) -> Found:
        """Return the trial whose model is kept if no phase follows. Raises NoResultError if there is none."""

    def said(self) -> Iterator[tuple[TrialRecord, Answers]]:
        """Yield the trials that keep their models' answers on validation, each with these answers."""
        yield from ()

    def fields(self) -> Fields:
        """Return the fields that the phase adds to the summary of the study."""
        return {}

    def outcome(self, seconds: float) -> PhaseOutcome:
        """Return the phase's result for the summary. `seconds` passed in it, over all runs of the command."""
        return PhaseOutcome(
            name=self.name,
            noun=self.noun,
            train_examples=self.examples,
            seconds=seconds,
            runs=tuple(
                RunOutcome(
                    number=run.number,
                    entrant=run.entrant,
                    seed=run.seed,
                    params=run.params,
                    status=run.status,
                    score=run.score,
                    step=run.step,
                    total_steps=run.total_steps,
                    seconds=sum(run.seconds.values()),
                    reason=run.reason,
                    at=run.at,
                )
                for run in self.trials.values()
            ),
        )

    @classmethod
    def section(cls, told: Told) -> Section | None:
        """Return the phase's section of the report; None where the phase was not run."""
        outcome = next((one for one in told.summary.phases if one.name == cls.name), None)
        return sections.of_runs(told, outcome) if outcome is not None else None

    # ---- what all phases share

    @property
    def hours(self) -> float:
        """Hours of the phase so far.

        The clock counts them. Where a command was killed before it wrote its time, the trials' own seconds tell how
        many there were at least.
        """
        trained = sum(sum(t.seconds.values()) for t in self.trials.values()) / 3600 / self.study.most_workers
        return max(trained, self.clocked)

    @property
    def examples(self) -> int:
        """Number of training examples of one of its trials."""
        return self.ref.sizes["train"]

    def settings_of(self, trial: TrialRecord) -> Settings:
        """Return the settings that a trial is trained with."""
        return as_recorded(self.trained_with(self.study.settings, trial), trial)

    def trained_on(self, trial: TrialRecord) -> int:
        """Return how many training examples a trial has seen at least once: not all, after less than one pass."""
        train = self.settings_of(trial).train
        given = train.examples if train.examples is not None else self.ref.sizes["train"]
        return max(1, min(given, trial.step * train.batch_size))

    def trial_folder(self, number: int) -> TrialFolder:
        """Return the folder with a trial's record, points, checkpoints and model."""
        return self.study.folder.trial(self.place, number)

    def kept_models(self) -> list[TrialRecord]:
        """Return the trials whose models are kept for now."""
        return self.keepers(self.study.settings, list(self.trials.values()))
