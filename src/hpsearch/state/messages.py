"""All messages between the coordinator and its workers, wherever workers run.

Every message can be pickled. A message holds no path of a disk, except `Begin`. It names a file or folder by its path
inside the state folder, with `/` between the parts. Each worker has its own state folder, and finds the file there.
"""

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from hpsearch.config.settings import HardwareSettings, Settings
from hpsearch.state.records import DataRef, Status, StudyHardware, TrialRecord

MEMORY_RAN_OUT = 12  # exit status of a worker; as the number of the system's error, ENOMEM

# ---- names


def named(path: Path, home: Path) -> str:
    """Return the name of the file or folder at `path` in the state folder `home`."""
    return path.absolute().relative_to(home.absolute()).as_posix()


@dataclass(frozen=True)
class DataName:
    """Name of prepared data, which holds on any machine."""

    folder: str  # name of the data's folder
    labels: tuple[str, ...]
    digests: dict[str, str]  # split: digest of its rows
    sizes: dict[str, int]  # split: rows that this study uses

    @staticmethod
    def of(ref: DataRef, home: Path) -> "DataName":
        """Return the name of data in the state folder `home`."""
        return DataName(named(ref.folder, home), ref.labels, ref.digests, ref.sizes)

    def at(self, home: Path) -> DataRef:
        """Return the data in the state folder `home`."""
        return DataRef(home / self.folder, self.labels, self.digests, self.sizes)


# ---- to a worker


@dataclass(frozen=True)
class Begin:
    """The first message to a worker, from the process that started it."""

    wish: HardwareSettings  # `workers`: those that share its GPU, or its memory if it has no GPU; `threads`: a number
    home: Path  # the worker's state folder: the only path in a message, on the worker's own disk
    processes: int = 1  # that train one trial


@dataclass(frozen=True)
class Train:
    """Request to train a trial, or to resume it from its newest checkpoint. TrialResult is the answer."""

    number: int
    settings: Settings  # with the trial's parameters applied
    data: DataName
    folder: str  # name of the trial's folder


@dataclass(frozen=True)
class Part:
    """The part of a split that models are scored on: as many examples, from the first on, as the time holds."""

    split: str
    examples: int | None = None  # that are scored in any case; None: all
    seconds: float = 0.0  # in which further examples are scored
    models: int = 1  # that are scored in these seconds


@dataclass(frozen=True)
class Score:
    """Request to score a finished trial's model on a part of one split. Scored is the answer."""

    number: int
    settings: Settings
    data: DataName
    folder: str  # name of the trial's folder
    part: Part
    fitted: dict[str, Any]  # thresholds from the validation split
    floor: str | None = None  # name of the floor that is scored instead of a trial; then `folder` is the floor's
    words: str | None = None  # name of the folder of the floor that the trial's model may be blended with


@dataclass(frozen=True)
class FitFloor:
    """Request to fit a floor, and to score it on validation. FloorFitted is the answer."""

    number: int  # position among the floors of the task kind
    name: str
    settings: Settings  # settings of the study
    data: DataName
    folder: str  # name of the floor's folder
    seconds: float  # seconds that it may take


@dataclass(frozen=True)
class Probe:
    """Request to check whether one update with these settings fits in memory. Fits is the answer."""

    settings: Settings
    data: DataName
    micro: int  # examples a forward pass


@dataclass(frozen=True)
class Pace:
    """Request to time training and scoring. Paced is the answer."""

    settings: Settings
    data: DataName
    seconds: float  # approximate time for the updates


class Decision(StrEnum):
    """The coordinator's answer to a rung's report. PAUSE may come at any time."""

    CONTINUE = "continue"
    PAUSE = "pause"  # save a checkpoint and stop
    STOP = "stop"  # nothing of the trial will be needed again


@dataclass(frozen=True)
class Retime:
    """Request to change the schedule length of the trial in training.

    Retimed is the answer, unless the trial has ended.
    """

    total_steps: int


# ---- from a worker


@dataclass(frozen=True)
class Hardware:
    """The hardware that a worker computes with."""

    device: str
    precision: str
    attention: str  # a name of transformers.AttentionInterface
    threads: int
    name: str  # name of the processor or GPU
    memory: float  # this worker's part of the memory of the GPU or machine: GiB, rounded to tenths
    compile: bool = False  # whether torch.compile compiles the model
    on_a_gpu: int = 1  # workers that share its GPU, each with its part of the memory
    processes: int = 1  # that train one trial; `threads` and `memory` are those of one

    def __str__(self) -> str:
        return f"{self.name}, {self.device}, {self.precision}, {self.attention} attention"

    def of_study(self, workers: int) -> StudyHardware:
        """Return the hardware of a study that has `workers` workers like this one."""
        known = asdict(self)
        del known["memory"]
        return StudyHardware(workers=workers, **known)


@dataclass(frozen=True)
class Ready:
    """A worker's first message: it can begin, with this hardware."""

    hardware: Hardware


@dataclass(frozen=True)
class Unfit:
    """A worker's first message instead of Ready: it can't use the hardware that was asked for, and ends."""

    reason: str  # setting, value, rule, remedy


@dataclass(frozen=True)
class Alive:
    """A sign that the worker is at work."""


@dataclass(frozen=True)
class Progress:
    """Points of a trial's curves at one step."""

    number: int
    step: int
    total_steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Retimed:
    """Report that a trial's schedule has another length from `step` on."""

    number: int
    step: int
    total_steps: int
    former: int  # total steps before the change


@dataclass(frozen=True)
class RungReport:
    """A trial's score at a rung. The worker waits for a Decision."""

    number: int
    rung: int
    step: int
    total_steps: int
    score: float  # in the direction of the task's metric
    metrics: dict[str, float]


@dataclass(frozen=True)
class TrialResult:
    """Result of a worker's part in a trial: PAUSED, COMPLETE or FAILED."""

    number: int
    status: Status
    step: int
    total_steps: int
    score: float | None
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] | None  # rows: true class, columns: predicted class
    fitted: dict[str, Any]  # thresholds, fitted on the validation split; {} before the whole split is scored
    predictions: tuple[Any, ...]  # of each validation example, JSON-able; () before the whole split is scored
    reason: str | None  # why the trial failed
    seconds: dict[str, float]  # of this part, by setup, training, evaluation, checkpoint
    likelihoods: tuple[float, ...] | None = None  # of each validation example, if the kind has them

    def added_to(self, record: TrialRecord) -> TrialRecord:
        """Return the trial's record after this part has ended."""
        seconds = {key: record.seconds.get(key, 0.0) + value for key, value in self.seconds.items()}
        return replace(
            record,
            status=self.status,
            step=max(record.step, self.step),
            total_steps=self.total_steps or record.total_steps,
            score=self.score if self.score is not None else record.score,
            metrics=record.metrics | self.metrics,
            confusion=self.confusion,
            validated=len(self.predictions) or record.validated,
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
    confidences: tuple[float, ...]  # the model's probability of each prediction
    likelihoods: tuple[float, ...] | None  # the model's probability of each right answer, if the kind has it
    seconds: float  # time of predicting, without loading
    blended: "Blended | None" = None  # the blend with `Score.words`, if it is better on validation


@dataclass(frozen=True)
class Blended:
    """Scores of a trial's model and the linear model of words, used as one model."""

    weights: tuple[float, float]  # of the trial's model and of the words
    fitted: dict[str, Any]  # thresholds, fitted on the validation split
    validation: Scored
    scored: Scored  # on the split that was asked for


@dataclass(frozen=True)
class FloorFitted:
    """Answer to a FitFloor. With a fault there is no model, and nothing else is known."""

    number: int
    examples: int = 0  # number of training examples that it was fitted on
    chosen: dict[str, Any] = field(default_factory=dict)  # values that fitting chose, JSON-able
    metrics: dict[str, float] = field(default_factory=dict)  # validation_<metric>: score
    confusion: tuple[tuple[int, ...], ...] | None = None
    fitted: dict[str, Any] = field(default_factory=dict)  # thresholds, fitted on the validation split
    predictions: tuple[Any, ...] = ()  # of each validation example, JSON-able
    likelihoods: tuple[float, ...] | None = None  # of each validation example, if the kind has them
    seconds: float = 0.0
    fault: str | None = None  # why the floor could not be fitted


@dataclass(frozen=True)
class Fits:
    """Answer to a Probe."""

    fits: bool
    fault: str | None = None  # why the first update fails, if the cause is not memory


BUSY = 0.8  # share of the wanted time on a processor


@dataclass(frozen=True)
class Paced:
    """Answer to a Pace."""

    train: float  # seconds for each token of a training batch
    score: float  # seconds for each token that is scored
    trial: float  # seconds to load and save a model
    # How much of the time the worker's main thread had a processor when it wanted one, while it trained; near 1 on an
    # idle machine. 1 where the kernel does not say it.
    running: float = 1.0

    @property
    def busy(self) -> bool:
        """Whether other programs or a limit had the processors meanwhile. Then this is not the pace of the machine."""
        return self.running < BUSY


@dataclass(frozen=True)
class OutOfMemory:
    """Report that a trial ran out of memory. Its worker keeps only the trial's checkpoints."""

    number: int
    examples: int  # number of examples in the forward pass that ran out of memory
    reason: str


@dataclass(frozen=True)
class NoRoom:
    """Report that the disk was too full for a trial's files. The trial can resume from its checkpoints."""

    number: int
    where: str = ""  # name of the node whose disk is full; empty: the coordinator's is


@dataclass(frozen=True)
class Lost:
    """Report that a worker ended without a request to end. It comes from the process that started the worker."""

    number: int | None  # number of the worker's trial; None if it had none
    reason: str
    for_memory: bool = False  # whether the system ended it because memory ran out
    last_words: str = ""  # the end of its output besides messages


Request = Begin | Train | Score | FitFloor | Probe | Pace | Decision | Retime | None
"""All that a worker receives. None tells it to end."""

LastOfWork = TrialResult | Scored | FloorFitted | OutOfMemory | NoRoom
"""The messages that end a work, if the worker has not ended."""

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
"""All that the coordinator receives. It learns of an Unfit worker by a RequestError."""
