"""Records that coordinator, tracking and report share; the messages of workers are in `messages`."""

import json
import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hpsearch.state import codec
from hpsearch.state.folder import TrialFolder

Points = list[tuple[int, dict[str, float]]]  # (step, metrics)


class Status(StrEnum):
    """Status of a trial. The last three are final and reported exactly once."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the trial has ended."""
        return self in (Status.COMPLETE, Status.PRUNED, Status.FAILED)


@dataclass(frozen=True)
class DataRef:
    """Prepared data on disk: cleaned, de-duplicated, split, with one digest for each split."""

    folder: Path
    labels: tuple[str, ...]
    digests: dict[str, str]  # split: digest of its rows
    sizes: dict[str, int]  # split: rows that this study uses


@dataclass(frozen=True)
class StudyHardware:
    """The hardware that computes the trials of a study."""

    device: str
    precision: str
    attention: str  # a name of transformers.AttentionInterface
    workers: int
    threads: int  # of each process of a worker
    name: str  # name of the processor or GPU
    compile: bool = False  # whether torch.compile compiles the model
    on_a_gpu: int = 1  # workers that share one GPU, each with its part of the memory
    processes: int = 1  # of each worker, which train one trial together


@dataclass(frozen=True)
class TrialRecord:
    """A trial as the coordinator remembers it. The state folder has it in `trials/<n>/trial.json`."""

    number: int
    params: dict[str, Any]  # search path: value
    status: Status
    run_id: str | None = None  # MLflow child run
    attempts: int = 0  # how often its worker was lost
    step: int = 0
    total_steps: int = 0
    rungs: dict[int, float] = field(default_factory=dict)  # rung: score there
    score: float | None = None  # newest score: at the last rung, or on the whole validation split once complete
    metrics: dict[str, float] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] | None = None
    fitted: dict[str, Any] = field(default_factory=dict)  # thresholds, stored with the model
    reason: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    told: bool = False  # whether tracking has the final status
    entrant: str | None = None  # name of the entrant whose point a later phase runs; None in the search
    seed: int | None = None  # its own seed; None: the study's seed
    examples: int | None = None  # number of training examples; None: all of the study's
    fold: tuple[int, int] | None = None  # in the form of `train.fold`
    epochs: float | None = None  # passes that a plan has fixed; None: the settings and parameters decide
    retimed: tuple[tuple[int, int], ...] = ()  # changes of its schedule's length, in the form of `train.retimed`
    validated: int | None = None  # number of validation examples of the last score, once the trial is complete
    command: str | None = None  # name of the command that asked for its point; None: no command did
    at: float | None = None  # seconds that the study's phases had taken in all when it ended
    node: str | None = None  # name of the machine that trained it last
    device: str | None = None  # name of the processor or GPU there

    @property
    def shown(self) -> dict[str, Any]:
        """What tells the trial from others, for people."""
        return self.params if self.entrant is None else {"of": self.entrant, "seed": self.seed} | self.params

    def save(self, folder: Path) -> None:
        """Write the record into `folder`, so that a crash leaves the old file or the new one, whole."""
        write_durably(TrialFolder(folder).record, codec.write(self, indent=1))

    @staticmethod
    def load(folder: Path) -> "TrialRecord":
        """Read the record that `save` wrote into `folder`. Raises ValueError if it is damaged."""
        return codec.parse(TrialRecord, TrialFolder(folder).record.read_text(encoding="utf-8"))


def add_points(folder: Path, step: int, values: dict[str, float]) -> None:
    """Append a step's metrics to a trial's curves."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"step": step, "metrics": values}) + "\n"
    with open(TrialFolder(folder).points, "ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a crash cut the last line off
                line = "\n" + line
        file.write(line.encode())


def read_points(folder: Path) -> Points:
    """Return a trial's curves, without a line that a crash cut off."""
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


def last_step(trial: TrialRecord, points: Points) -> int:
    """Return the last step that a trial has reported; its record knows rungs and ends alone."""
    return max([trial.step, *(step for step, _ in points)])


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
