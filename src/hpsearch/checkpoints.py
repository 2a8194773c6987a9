"""Checkpoints of a trial: sealed with a manifest, verified before use, pruned."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A sealed checkpoint."""

    folder: Path
    step: int
    score: float | None  # on the rung examples, where the checkpoint was taken at a rung


def seal(unsealed: Path, trial: Path, step: int, score: float | None) -> Checkpoint:
    """Make files in `unsealed` a checkpoint of `trial`: hashed, fsynced, then renamed in place; older ones go.

    A crash at any point leaves the former checkpoint or the new one whole.
    """
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
    target = trial / f"checkpoint-{step}"
    if target.exists():
        shutil.rmtree(target)
    os.replace(unsealed, target)
    _sync_folder(trial)
    for folder in _folders(trial):
        if folder != target:
            shutil.rmtree(folder)
    return Checkpoint(target, step, score)


def newest(trial: Path) -> Checkpoint | None:
    """The checkpoint with the most steps whose files match its manifest; damaged ones are deleted."""
    for folder in _folders(trial):
        if checkpoint := _verified(folder):
            return checkpoint
        shutil.rmtree(folder)
    return None


def discard(trial: Path) -> None:
    """Delete what only a trial that goes on would need."""
    for folder in _folders(trial):
        shutil.rmtree(folder)
    shutil.rmtree(trial / "unsealed", ignore_errors=True)


def _folders(trial: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(trial.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]), reverse=True)


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


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
