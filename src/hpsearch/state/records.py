"""The nouns that travel between coordinator, workers, tracking and report."""

import json
import os
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder

Points = list[tuple[int, dict[str, float]]]  # (step, metrics)


class Status(StrEnum):
    """Where a trial stands. The last three are final and told exactly once."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether nothing more can come of it."""
        return self in (Status.COMPLETE, Status.PRUNED, Status.FAILED)


class Decision(StrEnum):
    """What the coordinator answers to a rung's report."""

    CONTINUE = "continue"
    PAUSE = "pause"  # save a checkpoint and stop
    STOP = "stop"  # nothing of the trial will be needed again


@dataclass(frozen=True)
class DataRef:
    """Prepared data on disk: cleaned, de-duplicated, split, with one digest for each split."""

    folder: Path
    labels: tuple[str, ...]
    digests: dict[str, str]  # split: digest of its rows
    sizes: dict[str, int]  # split: rows that this study uses


@dataclass(frozen=True)
class Hardware:
    """Where trials run and in which precision, as it was resolved."""

    device: str
    precision: str
    attention: str  # a name of transformers.AttentionInterface
    workers: int
    threads: int  # of each worker
    name: str  # of the processor or GPU
    compile: bool = False  # the model, by torch.compile
    on_a_gpu: int = 1  # workers that share one, each with its part of the memory


@dataclass(frozen=True)
class TrialSpec:
    """All a worker needs to train a trial, or to go on with it from the newest checkpoint in `folder`."""

    number: int
    settings: Settings  # with the trial's parameters applied
    data: DataRef
    folder: Path


@dataclass(frozen=True)
class ScoreSpec:
    """Score a finished trial's model on one split."""

    number: int
    settings: Settings
    data: DataRef
    model: Path
    split: str
    fitted: dict[str, Any]  # thresholds from the validation split


@dataclass(frozen=True)
class FitSpec:
    """See whether one update of these settings fits in memory with micro-batches of this size."""

    settings: Settings
    data: DataRef
    micro: int  # examples a forward pass


@dataclass(frozen=True)
class Fits:
    """Answer to a FitSpec."""

    fits: bool
    fault: str | None = None  # why the first update fails, where that is not for memory


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


@dataclass(frozen=True)
class Scored:
    """Answer to a ScoreSpec."""

    number: int
    split: str
    metrics: dict[str, float]
    confusion: tuple[tuple[int, ...], ...] | None
    predictions: tuple[Any, ...]  # of each example, JSON-able
    confidences: tuple[float, ...]  # of each prediction, the probability that the model gives it
    seconds: float  # of predicting, without loading


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the coordinator remembers it; `trials/<n>/trial.json` is the state folder's word on it."""

    number: int
    params: dict[str, Any]  # search path: value
    status: Status
    run_id: str | None = None  # MLflow child run
    attempts: int = 0  # times given to a worker anew after a loss
    step: int = 0
    total_steps: int = 0
    rungs: dict[int, float] = field(default_factory=dict)  # rung: score there
    score: float | None = None  # newest: of the last rung, or of the whole validation split once complete
    metrics: dict[str, float] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] | None = None
    fitted: dict[str, Any] = field(default_factory=dict)  # thresholds, stored with the model
    reason: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    told: bool = False  # tracking has been told the final status
    entrant: str | None = None  # of a confirmation run: whose
    seed: int | None = None  # of a confirmation run; a search trial has the study's

    @property
    def shown(self) -> dict[str, Any]:
        """What tells it from others, for people."""
        return self.params if self.entrant is None else {"of": self.entrant, "seed": self.seed} | self.params

    def save(self, folder: Path) -> None:
        """Write beside, fsync, rename: the file is whole or the one before."""
        write_durably(TrialFolder(folder).record, json.dumps(asdict(self), indent=1))

    @staticmethod
    def load(folder: Path) -> "TrialRecord":
        """The record that `save` wrote into `folder`. Raises ValueError if it is damaged."""
        return TrialRecord.of(json.loads(TrialFolder(folder).record.read_text()))

    @staticmethod
    def of(raw: object) -> "TrialRecord":
        """The record whose fields were written as JSON, by this version or a former one. Raises ValueError.

        A field that came later has its default, which says that nothing is known of it; one that is gone is left out.
        """
        try:
            return _RECORD.validate_python(raw)
        except ValidationError as error:
            faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
            raise ValueError("; ".join(faults)) from None

    def after(self, result: TrialResult) -> "TrialRecord":
        """The record once a worker's part has ended."""
        seconds = {key: self.seconds.get(key, 0.0) + value for key, value in result.seconds.items()}
        return replace(
            self,
            status=result.status,
            step=max(self.step, result.step),
            total_steps=result.total_steps or self.total_steps,
            score=result.score if result.score is not None else self.score,
            metrics=self.metrics | result.metrics,
            confusion=result.confusion,
            fitted=result.fitted,
            reason=result.reason,
            seconds=self.seconds | seconds,
        )


_RECORD = TypeAdapter(TrialRecord)


def add_points(folder: Path, step: int, values: dict[str, float]) -> None:
    """Add a step's metrics to a trial's curves."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": step, "metrics": values}) + "\n"
    with open(TrialFolder(folder).points, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a crash cut the last line off
                line = "\n" + line
        file.write(line.encode())


def read_points(folder: Path) -> Points:
    """A trial's curves; a line that a crash cut off is left out."""
    points = []
    path = TrialFolder(folder).points
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                point = json.loads(line)
            except ValueError:
                continue
            points.append((point["step"], point["metrics"]))
    return points


def write_durably(path: Path, text: str) -> None:
    """Write `text` so that a crash leaves the old file or the new one, never a part of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    with open(beside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
