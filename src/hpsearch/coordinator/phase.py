"""What a phase of a study is: numbered trials, and what decides which are next, how each goes on, and who is kept.

A phase decides and writes nothing: `books` writes and tells, `loop` feeds the workers, `phases` lists them all.
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


ENOUGH = 200  # validation examples: the standard error of an accuracy is 3 points then
FOLDS = 5


@dataclass(frozen=True)
class StudyContext:
    """What every phase of a study is opened with."""

    settings: Settings
    home: Path  # the state folder
    folder: StudyFolder
    corpus: Corpus
    ref: DataRef  # the data of the search
    optuna: Study
    workers: int  # that train at the same time
    finishing: bool = False  # begin no trial of the search any more

    @property
    def folds(self) -> int:
        """Of the cross-validation by which few labels are confirmed; 0 where validation has enough, or was given."""
        facts, kind = self.corpus.facts, KINDS[self.settings.task.kind]
        few = self.ref.sizes["validation"] < ENOUGH and facts.split_by["validation"] == "hpsearch"
        whole = all(self.ref.sizes[split] == facts.examples[split] for split in ("train", "validation"))
        grouped = any(facts.groups.values())
        return FOLDS if few and whole and kind.folds and not grouped else 0


@dataclass(frozen=True)
class Found:
    """Whose model is kept, and on what grounds."""

    winner: TrialRecord
    folder: str  # of the winner, inside the study's
    reference: TrialRecord | None  # the other model that is scored
    reference_folder: str | None
    corrected: float | None  # what the choice is worth on a further seed; None where nobody knows


class Fields(TypedDict, total=False):
    """Those of `Summary` that one phase alone can fill."""

    trials: Counts
    best: Best
    expected: tuple[float, ...]
    importance: dict[str, float]
    confirmation: tuple[Confirmed, ...]
    optimism: Optimism | None


@dataclass(frozen=True)
class Fault:
    """Something in a study that does not agree."""

    text: str
    mend: Callable[[], object] | None = None  # None: nothing here can put it right


@dataclass(frozen=True)
class Stored:
    """What the state folder keeps of a phase, for whoever checks it without running it."""

    folder: StudyFolder
    settings: Settings  # of the study
    records: Mapping[int, TrialRecord]
    optuna: Study
    later: bool  # a later phase has trials
    published: bool  # MLflow has the study's result


def as_recorded(settings: Settings, trial: TrialRecord) -> Settings:
    """Settings with what a trial's record says of its length and its part of the data."""
    length: dict[str, Any] = {"examples": trial.examples, "fold": trial.fold, "retimed": trial.retimed}
    if trial.epochs is not None:
        length |= {"epochs": trial.epochs, "epochs_factor": 1.0}
    train = settings.train.model_copy(update=length)
    if trial.epochs is None:
        return settings.model_copy(update={"train": train})
    return settings.model_copy(update={"train": train, "search": settings.search.model_copy(update={"rungs": ()})})


class Phase(ABC):
    """A phase of one study, as far as it has come."""

    name: ClassVar[str]
    """On the console, in `seconds.json`, in the summary."""
    noun: ClassVar[str]
    """What people are told of: a trial, or a run."""
    place: ClassVar[str]
    """Name of its folder inside the study's."""
    tag: ClassVar[str]
    """Tag of an MLflow run that holds the number of its trial."""
    left_out: ClassVar[str] = ""
    """The setting that has a study do without it."""
    skips: ClassVar[bool] = False
    """Whether people may have one of its trials skipped."""
    falls_back: ClassVar[bool] = False
    """Whether the models of the phases before it are kept where it decides, because a later one of its may be worse."""

    def __init__(self, study: StudyContext, settings: Settings, ref: DataRef) -> None:
        """Take up what the state folder has.

        Args:
            study: that it is a phase of.
            settings: of its trials, but for their parameters.
            ref: the data of its trials.
        """
        self.study, self.settings, self.ref = study, settings, ref
        self.clocked = read_seconds(study.folder).get(self.name, 0.0) / 3600  # hours
        records = (TrialRecord.load(trial.path) for trial in study.folder.trials(self.place))
        self.trials: dict[int, TrialRecord] = {record.number: record for record in records}

    # ---- what can be said without running it

    @classmethod
    @abstractmethod
    def asked(cls, settings: Settings) -> bool:
        """Whether a study with these settings has this phase."""

    @classmethod
    @abstractmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """What a trial of this phase is trained with, in a study with these settings."""

    @classmethod
    @abstractmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials whose models are kept while no later phase has decided."""

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """What is wrong with stored trials beyond what `fsck` sees in every phase."""
        yield from ()

    # ---- how it runs

    @classmethod
    @abstractmethod
    def open(cls, study: StudyContext, before: Sequence["Phase"]) -> "Phase":
        """The phase as far as it has come.

        Args:
            study: that it is a phase of; it has been asked for it.
            before: the phases before it, which are done.
        """

    def begin(self, planner: "Planner | None", before: Sequence["Phase"]) -> None:
        """Decide how much is run, by the time that is left; called once, before the first trial is given to a worker.

        Args:
            planner: says what the time is for; None in a study without hours, whose settings say all.
            before: the phases before it.
        """
        return

    @property
    def introduction(self) -> str | None:
        """What is run, for people."""
        return None

    @property
    def total(self) -> int | None:
        """How many trials there will be; None where nobody knows."""
        return None

    @abstractmethod
    def next(self, hours: float) -> TrialRecord | None:
        """What an idle worker is given after `hours` of the phase: a new trial or a paused one; None for now."""

    def over(self, hours: float) -> str | None:
        """Why running trials must be paused for good; None while they may go on."""
        return None

    def decide(self, number: int) -> Decision:
        """How a trial goes on that has just paused at a rung; its score is in `trials`."""
        raise AssertionError(f"a {self.noun} of the {self.name} has no rungs")

    def take(self, asked: Asked) -> str | None:
        """Take a point that somebody asks for, to be run next; None, or why it is not taken."""
        return f"the study is in its {self.name}, and points are tried in the search only"

    def retime(self, progress: Progress) -> int | None:
        """Another length for the schedule of a trial that says how far it is; None to leave it as it is."""
        return None

    def answered(self, result: TrialResult) -> None:
        """A worker's part in a trial is over: keep what the record will not hold, before it is written."""
        return

    def recorded(self, before: TrialRecord | None, trial: TrialRecord) -> None:
        """A trial's record is on disk: tell who must know of it besides MLflow."""
        return

    def beaten(self) -> list[TrialRecord]:
        """Trials that can never go on, as they end."""
        return []

    def closing(self) -> list[TrialRecord]:
        """Trials that end because the phase is over, as they end. Raises NoResultError if there is no result."""
        return []

    @abstractmethod
    def done(self) -> bool:
        """Whether nothing is left to be run, within the budget."""

    @abstractmethod
    def planned(self) -> float:
        """Trials that the phase plans in all, counted in whole ones."""

    @abstractmethod
    def found(self) -> Found:
        """Whose model is kept if no phase follows. Raises NoResultError if there is none."""

    def said(self) -> Iterator[tuple[TrialRecord, Answers]]:
        """Trials that keep what their models said of validation, each with that."""
        yield from ()

    def fields(self) -> Fields:
        """What it adds to the summary of the study."""
        return {}

    def outcome(self, seconds: float) -> PhaseOutcome:
        """What it came to, in the summary. `seconds` passed in it, over all runs of the command."""
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
        """Its part of the report; None where it was not run."""
        outcome = next((one for one in told.summary.phases if one.name == cls.name), None)
        return sections.of_runs(told, outcome) if outcome is not None else None

    # ---- what all phases share

    @property
    def hours(self) -> float:
        """Spent so far: by the clock, or by the trials where a command was killed before it could write that down."""
        trained = sum(sum(t.seconds.values()) for t in self.trials.values()) / 3600 / self.study.workers
        return max(trained, self.clocked)

    @property
    def examples(self) -> int:
        """That one of its trials is trained on."""
        return self.ref.sizes["train"]

    def settings_of(self, trial: TrialRecord) -> Settings:
        """What a trial is trained with."""
        return as_recorded(self.trained_with(self.study.settings, trial), trial)

    def trained_on(self, trial: TrialRecord) -> int:
        """Training examples that a trial has seen at least once: not all, where its time held less than a pass."""
        train = self.settings_of(trial).train
        given = train.examples if train.examples is not None else self.ref.sizes["train"]
        return max(1, min(given, trial.step * train.batch_size))

    def trial_folder(self, number: int) -> TrialFolder:
        """Where a trial keeps its record, points, checkpoints and model."""
        return self.study.folder.trial(self.place, number)

    def kept_models(self) -> list[TrialRecord]:
        """The trials whose models are kept for now."""
        return self.keepers(self.study.settings, list(self.trials.values()))
