"""Folders on their way from one disk to another, in pieces. At the end a folder is there whole or not at all."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PIECE = 2**25  # bytes that are in memory at once


@dataclass(frozen=True)
class Content:
    """The files of a folder."""

    files: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 digest of each file, by its path in the folder, with `/` between parts."""

    @staticmethod
    def of(folder: Path) -> "Content":
        """Return the content of a folder, which must not change meanwhile."""
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[path.relative_to(folder).as_posix()] = (path.stat().st_size, digest)
        return Content(found)

    @property
    def digest(self) -> str:
        """Digest of the whole content."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()[:16]

    def pieces(self) -> Iterator[tuple[str, int, int]]:
        """Yield file, offset and number of bytes of each piece."""
        for name, (size, _) in self.files.items():
            for offset in range(0, max(size, 1), PIECE):
                yield name, offset, min(PIECE, size - offset)


def read(path: Path, offset: int, size: int) -> bytes:
    """Return a piece of a file."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(size)


class Arrival:
    """A folder that arrives. Once it is whole, it replaces the target."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._beside = target.with_name(f"{target.name}.tmp")
        shutil.rmtree(self._beside, ignore_errors=True)
        self._beside.mkdir(parents=True)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece. The pieces of a file come in their order."""
        path = self._beside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab" if offset else "wb") as file:
            file.write(data)

    def settle(self, content: Content) -> None:
        """Put the folder in its place, synced. Raises OSError if it is not what was sent."""
        if Content.of(self._beside) != content:
            raise OSError(f"{self._target}: what arrived is not what was sent")
        for path in self._beside.rglob("*"):
            _sync(path)
        _sync(self._beside)
        if self._target.exists():
            shutil.rmtree(self._target)
        os.replace(self._beside, self._target)
        _sync(self._target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
