"""What the coordinator and its workers say to each other, wherever workers run: all of it, and in one place.

Every message can be pickled and holds no path of any disk. Of what lies on a disk, a message has the name: the path
inside the state folder, with `/` between its parts. A worker has a state folder of its own, and finds it there.
"""

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hpsearch.config.settings import HardwareSettings, Settings
from hpsearch.state.records import DataRef, Status, StudyHardware, TrialRecord

# ---- names


def named(path: Path, home: Path) -> str:
    """The name of what lies at `path` in the state folder `home`."""
    return path.absolute().relative_to(home.absolute()).as_posix()


@dataclass(frozen=True)
class DataName:
    """Prepared data, wherever they are."""

    folder: str  # name
    labels: tuple[str, ...]
    digests: dict[str, str]  # split: digest of its rows
    sizes: dict[str, int]  # split: rows that this study uses

    @staticmethod
    def of(ref: DataRef, home: Path) -> "DataName":
        """The name of data in the state folder `home`."""
        return DataName(named(ref.folder, home), ref.labels, ref.digests, ref.sizes)

    def at(self, home: Path) -> DataRef:
        """The data in the state folder `home`."""
        return DataRef(home / self.folder, self.labels, self.digests, self.sizes)


# ---- to a worker


@dataclass(frozen=True)
class Begin:
    """The first message to a worker, by whoever has started it."""

    wish: HardwareSettings  # `workers`: those that share its GPU, or without one its memory; `threads`: a number
    home: Path  # its state folder: the one path, and of its own disk


@dataclass(frozen=True)
class Train:
    """Train a trial, or go on with it from its newest checkpoint; TrialResult is the answer."""

    number: int
    settings: Settings  # with the trial's parameters applied
    data: DataName
    folder: str  # name, of the trial's folder


@dataclass(frozen=True)
class Score:
    """Score a finished trial's model on one split; Scored is the answer."""

    number: int
    settings: Settings
    data: DataName
    folder: str  # name, of the trial's folder
    split: str
    fitted: dict[str, Any]  # thresholds from the validation split
    floor: str | None = None  # name, where it is no trial's model but a floor's, and its folder that
    words: str | None = None  # name, of the folder of the floor that a trial's model may be blended with


@dataclass(frozen=True)
class FitFloor:
    """Fit a floor, and score it on validation; FloorFitted is the answer."""

    number: int  # among the floors of the task kind
    name: str
    settings: Settings  # of the study
    data: DataName
    folder: str  # name, of the floor's folder
    seconds: float  # that it may take


@dataclass(frozen=True)
class Probe:
    """See whether one update of these settings fits in memory; Fits is the answer."""

    settings: Settings
    data: DataName
    micro: int  # examples a forward pass


@dataclass(frozen=True)
class Pace:
    """See what training and scoring take; Paced is the answer."""

    settings: Settings
    data: DataName
    seconds: float  # for the updates, about


class Decision(StrEnum):
    """What the coordinator answers to a rung's report. PAUSE is said at any time."""

    CONTINUE = "continue"
    PAUSE = "pause"  # save a checkpoint and stop
    STOP = "stop"  # nothing of the trial will be needed again


@dataclass(frozen=True)
class Retime:
    """Let the schedule of the trial in training have another length; Retimed is the answer, unless it has ended."""

    total_steps: int


# ---- from a worker


@dataclass(frozen=True)
class Hardware:
    """What a worker computes with."""

    device: str
    precision: str
    attention: str  # a name of transformers.AttentionInterface
    threads: int
    name: str  # of the processor or GPU
    memory: float  # GiB of it, or of the machine, that are this worker's, in tenths
    compile: bool = False  # the model, by torch.compile
    on_a_gpu: int = 1  # workers that share its GPU, each with its part of the memory

    def __str__(self) -> str:
        return f"{self.name}, {self.device}, {self.precision}, {self.attention} attention"

    def of_study(self, workers: int) -> StudyHardware:
        """That of a study which has so many workers like this one."""
        known = asdict(self)
        del known["memory"]
        return StudyHardware(workers=workers, **known)


@dataclass(frozen=True)
class Ready:
    """A worker's first message: it can begin, with this."""

    hardware: Hardware


@dataclass(frozen=True)
class Unfit:
    """Its first message instead: it can't have what it shall compute with, and ends."""

    reason: str  # setting, value, rule, remedy


@dataclass(frozen=True)
class Alive:
    """A worker is at work."""


@dataclass(frozen=True)
class Progress:
    """Points of a trial's curves at one step."""

    number: int
    step: int
    total_steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Retimed:
    """A trial's schedule has another length from `step` on."""

    number: int
    step: int
    total_steps: int
    former: int  # steps in all before


@dataclass(frozen=True)
class RungReport:
    """What a trial is worth at a rung; the worker waits for a Decision."""

    number: int
    rung: int
    step: int
    total_steps: int
    score: float  # in the direction of the task's metric
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialResult:
    """How a worker's part in a trial ended: PAUSED, COMPLETE or FAILED."""

    number: int
    status: Status
    step: int
    total_steps: int
    score: float | None
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] | None  # rows: true class, columns: predicted class
    fitted: dict[str, Any]  # thresholds, fitted on the validation split; {} before it is scored whole
    predictions: tuple[Any, ...]  # of each validation example, JSON-able; () before it is scored whole
    reason: str | None  # of a failure
    seconds: dict[str, float]  # setup, training, evaluation, checkpoint: of this part
    likelihoods: tuple[float, ...] | None = None  # of each validation example, where the kind has them

    def added_to(self, record: TrialRecord) -> TrialRecord:
        """The trial's record once this part has ended."""
        seconds = {key: record.seconds.get(key, 0.0) + value for key, value in self.seconds.items()}
        return replace(
            record,
            status=self.status,
            step=max(record.step, self.step),
            total_steps=self.total_steps or record.total_steps,
            score=self.score if self.score is not None else record.score,
            metrics=record.metrics | self.metrics,
            confusion=self.confusion,
            fitted=self.fitted,
            reason=self.reason,
            seconds=record.seconds | seconds,
        )


@dataclass(frozen=True)
class Scored:
    """Answer to a Score."""

    number: int
    split: str
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] | None
    predictions: tuple[Any, ...]  # of each example, JSON-able
    confidences: tuple[float, ...]  # of each prediction, the probability that the model gives it
    likelihoods: tuple[float, ...] | None  # the probability of what is right of each example, where the kind has it
    seconds: float  # of predicting, without loading
    blended: "Blended | None" = None  # with the words of the Score, where that is better on validation


@dataclass(frozen=True)
class Blended:
    """A trial's model and the words as one model."""

    weights: tuple[float, float]  # of the one and of the other
    fitted: dict[str, Any]  # thresholds, on the validation split
    validation: Scored
    scored: Scored  # on the split that was asked for


@dataclass(frozen=True)
class FloorFitted:
    """Answer to a FitFloor; with a fault there is no model, and nothing else is known."""

    number: int
    examples: int = 0  # training examples that it was fitted on
    chosen: dict[str, Any] = field(default_factory=dict)  # for it, JSON-able
    metrics: dict[str, float] = field(default_factory=dict)  # validation_<metric>: score
    confusion: tuple[tuple[int, ...], ...] | None = None
    fitted: dict[str, Any] = field(default_factory=dict)  # thresholds, on the validation split
    predictions: tuple[Any, ...] = ()  # of each validation example, JSON-able
    likelihoods: tuple[float, ...] | None = None  # of each, where the kind has them
    seconds: float = 0.0
    fault: str | None = None  # why there is no such floor


@dataclass(frozen=True)
class Fits:
    """Answer to a Probe."""

    fits: bool
    fault: str | None = None  # why the first update fails, where that is not for memory


@dataclass(frozen=True)
class Paced:
    """Answer to a Pace."""

    train: float  # seconds a token of a training batch
    score: float  # seconds a token that is scored
    trial: float  # seconds in which a model is loaded and saved


@dataclass(frozen=True)
class OutOfMemory:
    """A trial does not fit in memory as it was given; its worker keeps nothing of it but the checkpoints."""

    number: int
    examples: int  # of the forward pass that it ran out over
    reason: str


@dataclass(frozen=True)
class NoRoom:
    """The disk was too full for what a trial had to write; it can go on from its checkpoints."""

    number: int


@dataclass(frozen=True)
class Lost:
    """A worker ended without being told to; whoever started it says so."""

    number: int | None  # of the trial that it had, if any
    reason: str
    for_memory: bool = False  # its system ended it because memory ran out
    last_words: str = ""  # the end of what it wrote besides its messages


Request = Begin | Train | Score | FitFloor | Probe | Pace | Decision | Retime | None
"""All that a worker is told; None: to end."""

Message = (
    Ready
    | Alive
    | Progress
    | Retimed
    | RungReport
    | TrialResult
    | Scored
    | FloorFitted
    | Fits
    | Paced
    | OutOfMemory
    | NoRoom
    | Lost
)
"""All that the coordinator hears. Of an Unfit worker it hears by a RequestError."""
