"""Checkpoints of a trial: sealed with a manifest, verified before use, pruned."""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hpsearch.state.folder import TrialFolder

MANIFEST = "manifest.json"
FULL_BYTES = 2**20  # a disk with less free space counts as full
_SEALERS = ThreadPoolExecutor(max_workers=1)  # seals one checkpoint at a time; the process ends after it


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint."""

    folder: Path
    step: int
    score: float | None  # on the rung examples, if the checkpoint was taken at a rung

    @property
    def weights(self) -> Path:
        """Path of the model's weights, as `Trainer` writes them."""
        return self.folder / "model.safetensors"


def seal(unsealed: Path, trial: Path, step: int, score: float | None) -> None:
    """Make the files in `unsealed` a checkpoint of `trial`, and delete older checkpoints.

    The files are hashed and synced to the disk, then the folder is renamed into place. This function returns at once: a
    thread does the work, and the process ends only after it. Any process that asks for the trial's checkpoints waits
    for it. The newest checkpoint with a score is kept too, because its weights may turn out to be the trial's best. A
    crash at any point leaves the former checkpoints or the new one whole.

    Args:
        unsealed: folder of the files, on the file system of `trial`.
        trial: folder of the trial.
        step: updates so far.
        score: score on the rung examples, if the checkpoint was taken at a rung.
    """
    lock = _lock(trial)

    def work() -> None:
        with lock:
            try:
                _seal(unsealed, trial, step, score)
            except OSError:  # such as a full disk: the trial goes on with its former checkpoints
                shutil.rmtree(unsealed, ignore_errors=True)
                print_fault()

    _SEALERS.submit(work)


def print_fault() -> None:
    """Print the traceback of the present exception to the log, unless the log's own disk is full."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def settle() -> None:
    """Wait until this process has sealed its checkpoints."""
    _SEALERS.submit(lambda: None).result()


def close() -> None:
    """Wait until this process has sealed its checkpoints, and seal no more. The process may be about to end."""
    _SEALERS.shutdown()


def sync(folder: Path) -> None:
    """Sync a folder and its files to the disk, so that they are not only in memory."""
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
    """Return the newest checkpoint whose files match its manifest, and delete newer ones that are damaged.

    With `scored`, return the newest of those that were taken at a rung. None means that the trial has none.
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
    """Return whether a checkpoint's files match its manifest."""
    return _verified(folder) is not None


def manifests(trial: Path, wait: bool = False) -> dict[str, str]:
    """Return the manifest of each sealed checkpoint of a trial, by the name of its folder, newest first.

    With `wait`, one that is being sealed is among them, and the newest is whole.
    """
    if not trial.is_dir():
        return {}
    if wait:
        newest(trial)
    found = {}
    for folder in TrialFolder(trial).checkpoints():
        with contextlib.suppress(OSError):  # it has just been deleted
            found[folder.name] = (folder / MANIFEST).read_text(encoding="utf-8")
    return found


def adopt(arrived: Path, trial: Path, name: str) -> bool:
    """Make a folder a checkpoint of the trial if it is whole; return whether it is. It comes from another disk."""
    if not whole(arrived):
        return False
    with _lock(trial):
        target = trial / name
        if target.exists():
            shutil.rmtree(target)
        os.replace(arrived, target)
        _sync(trial)
    return True


def keep_only(trial: Path, names: Collection[str]) -> None:
    """Delete a trial's sealed checkpoints but those with these names."""
    with _lock(trial):
        for folder in TrialFolder(trial).checkpoints():
            if folder.name not in names:
                shutil.rmtree(folder)


def discard(trial: Path) -> None:
    """Delete a trial's checkpoints, sealed or not, which are needed only to continue it."""
    with _lock(trial):
        for folder in TrialFolder(trial).checkpoints():
            shutil.rmtree(folder)
        shutil.rmtree(TrialFolder(trial).unsealed, ignore_errors=True)


def disk_full(folder: Path) -> bool:
    """Return whether the disk of `folder` is full.

    The free space tells, because each library reports a write to a full disk in its own way.
    """
    return shutil.disk_usage(folder).free < FULL_BYTES


def _lock(trial: Path) -> IO[bytes]:
    """Wait for the lock on the trial's checkpoints; this process holds it until the returned file is closed."""
    file = open(TrialFolder(trial).checkpoints_lock, "ab")  # noqa: SIM115  # closing it frees the lock
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _verified(folder: Path) -> Checkpoint | None:
    manifest = _manifest(folder)
    if manifest is None:
        return None
    try:
        for name, digest in manifest["files"].items():
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return None
    except OSError:
        return None
    return Checkpoint(folder, manifest["step"], manifest["score"])


def _score(folder: Path) -> float | None:
    manifest = _manifest(folder)
    return None if manifest is None else manifest["score"]


def _manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint; None if it is missing or damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return None
    return manifest if {"step", "score"} <= manifest.keys() else None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
