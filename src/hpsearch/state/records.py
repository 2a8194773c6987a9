"""The nouns that travel between coordinator, tracking and report; what workers say is in `messages`."""

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


@dataclass(frozen=True)
class DataRef:
    """Prepared data on disk: cleaned, de-duplicated, split, with one digest for each split."""

    folder: Path
    labels: tuple[str, ...]
    digests: dict[str, str]  # split: digest of its rows
    sizes: dict[str, int]  # split: rows that this study uses


@dataclass(frozen=True)
class StudyHardware:
    """What the trials of a study are computed with."""

    device: str
    precision: str
    attention: str  # a name of transformers.AttentionInterface
    workers: int
    threads: int  # of each worker
    name: str  # of the processor or GPU
    compile: bool = False  # the model, by torch.compile
    on_a_gpu: int = 1  # workers that share one, each with its part of the memory


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
    seed: int | None = None  # its own; None: the study's, as a search trial has it
    examples: int | None = None  # that it is trained on; None: all of the study's
    fold: tuple[int, int] | None = None  # as `train.fold` has it
    epochs: float | None = None  # passes, where a plan has fixed them; None: as the settings and parameters have it
    retimed: tuple[tuple[int, int], ...] = ()  # changes of its schedule's length, as `train.retimed` has them
    command: str | None = None  # name of the one that asked for its point; None: nobody did
    at: float | None = None  # seconds of the study, all its phases, when it ended

    @property
    def shown(self) -> dict[str, Any]:
        """What tells it from others, for people."""
        return self.params if self.entrant is None else {"of": self.entrant, "seed": self.seed} | self.params

    def save(self, folder: Path) -> None:
        """Write beside, fsync, rename: the file is whole or the one before."""
        write_durably(TrialFolder(folder).record, codec.write(self, indent=1))

    @staticmethod
    def load(folder: Path) -> "TrialRecord":
        """The record that `save` wrote into `folder`. Raises ValueError if it is damaged."""
        return codec.parse(TrialRecord, TrialFolder(folder).record.read_text(encoding="utf-8"))


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
