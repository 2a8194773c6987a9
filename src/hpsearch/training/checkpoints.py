"""Checkpoints of a trial: sealed with a manifest, verified before use, pruned."""

import fcntl
import hashlib
import json
import os
import shutil
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hpsearch.state.folder import TrialFolder

MANIFEST = "manifest.json"
FULL_BYTES = 2**20  # a disk with less free is full
_SEALERS = ThreadPoolExecutor(max_workers=1)  # at most one checkpoint is under way; the process ends after it


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint."""

    folder: Path
    step: int
    score: float | None  # on the rung examples, where the checkpoint was taken at a rung

    @property
    def weights(self) -> Path:
        """Of the model, as `Trainer` writes them."""
        return self.folder / "model.safetensors"


def seal(unsealed: Path, trial: Path, step: int, score: float | None) -> None:
    """Make files in `unsealed` a checkpoint of `trial`: hashed, fsynced, then renamed in place; older ones go.

    Returns at once: a thread seals, and the process ends after it. Whoever asks for the trial's checkpoints waits for
    it, in whatever process. The newest with a score stays too: its weights may turn out to be the trial's best. A crash
    at any point leaves the former checkpoints or the new one whole.

    Args:
        unsealed: folder on the file system of `trial`.
        trial: folder of the trial.
        step: updates so far.
        score: on the rung examples, at a rung.
    """
    lock = _lock(trial)

    def work() -> None:
        with lock:
            try:
                _seal(unsealed, trial, step, score)
            except OSError:  # the disk is full, say: the trial goes on, and has its former checkpoints
                traceback.print_exc()
                shutil.rmtree(unsealed, ignore_errors=True)

    _SEALERS.submit(work)


def settle() -> None:
    """Wait for what this process is sealing."""
    _SEALERS.submit(lambda: None).result()


def sync(folder: Path) -> None:
    """Have a folder's files on the disk, not only in memory on their way there."""
    for path in folder.iterdir():
        _sync(path)
    _sync(folder)


def _seal(unsealed: Path, trial: Path, step: int, score: float | None) -> None:
    files = {}
    for path in sorted(unsealed.iterdir()):
        with open(path, "rb") as file:
            files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    manifest = unsealed / MANIFEST
    with open(manifest, "w", encoding="utf-8") as file:
        json.dump({"step": step, "score": score, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    target = TrialFolder(trial).checkpoint(step)
    if target.exists():
        shutil.rmtree(target)
    os.replace(unsealed, target)
    _sync(trial)
    others = [folder for folder in TrialFolder(trial).checkpoints() if folder != target]
    scored = next((folder for folder in others if score is None and _score(folder) is not None), None)
    for folder in others:
        if folder != scored:
            shutil.rmtree(folder)


def newest(trial: Path, scored: bool = False) -> Checkpoint | None:
    """The checkpoint with the most steps whose files match its manifest; damaged ones are deleted.

    With `scored`, of those that were taken at a rung.
    """
    with _lock(trial):
        for folder in TrialFolder(trial).checkpoints():
            checkpoint = _verified(folder)
            if checkpoint is None:
                shutil.rmtree(folder)
            elif not scored or checkpoint.score is not None:
                return checkpoint
    return None


def whole(folder: Path) -> bool:
    """Whether a checkpoint's files match its manifest."""
    return _verified(folder) is not None


def discard(trial: Path) -> None:
    """Delete what only a trial that goes on would need."""
    with _lock(trial):
        for folder in TrialFolder(trial).checkpoints():
            shutil.rmtree(folder)
        shutil.rmtree(TrialFolder(trial).unsealed, ignore_errors=True)


def disk_full(folder: Path) -> bool:
    """Whether the disk of `folder` is full. A write that failed for that reason is told by each library in its way."""
    return shutil.disk_usage(folder).free < FULL_BYTES


def _lock(trial: Path) -> IO[bytes]:
    """Wait for the trial's checkpoints to be nobody else's: they are ours until the file is closed."""
    file = open(TrialFolder(trial).checkpoints_lock, "ab")  # noqa: SIM115  # the lock, until it is closed
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _verified(folder: Path) -> Checkpoint | None:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, digest in manifest["files"].items():
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return None
    except (OSError, ValueError, KeyError):
        return None
    return Checkpoint(folder, manifest["step"], manifest["score"])


def _score(folder: Path) -> float | None:
    try:
        score: float | None = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["score"]
    except (OSError, ValueError, KeyError):
        return None
    return score


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
