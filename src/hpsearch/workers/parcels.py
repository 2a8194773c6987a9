"""Folders on their way from one disk to another, in pieces. At the end a folder is there whole or not at all."""

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpsearch.training import checkpoints

PIECE = 2**25  # bytes that are in memory at once
UNFINISHED = (".tmp", ".lock")  # ends of names of what is no part of a folder's content


@dataclass(frozen=True)
class Content:
    """The files of a folder, listed once."""

    files: dict[str, tuple[int, str]]
    """Size in bytes and SHA-256 digest of each file, by its path in the folder, with `/` between parts."""

    @staticmethod
    def of(folder: Path, without: tuple[str, ...] = ()) -> "Content":
        """Return the content of a folder. Files may be added meanwhile.

        Args:
            folder: the folder.
            without: endings of files that are left out.

        Raises:
            OSError: a file goes away.
        """
        found = {}
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            unwanted = any(part.endswith(UNFINISHED) for part in inside.parts) or path.name.endswith(without)
            if path.is_file() and not unwanted:
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    found[inside.as_posix()] = (file.tell(), digest)
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
    """Return a piece of a file. Raises OSError if the file has gone or is shorter."""
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise OSError(f"{path} has changed on its way")
    return data


class Arrival:
    """A folder that arrives beside its place, in `arriving-<sender>-<unique>.tmp`."""

    def __init__(self, parent: Path, sender: str) -> None:
        self.folder = parent / f"arriving-{sender}-{uuid.uuid4().hex}.tmp"
        self.folder.mkdir(parents=True)

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece. The pieces of a file come in their order."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab" if offset else "wb") as file:
            file.write(data)

    def check(self, content: Content) -> None:
        """See that it is what was sent, and on the disk. Raises OSError if it is something else."""
        if Content.of(self.folder) != content:
            raise OSError(f"{self.folder}: what arrived is not what was sent")
        for inside in [self.folder, *(path for path in self.folder.rglob("*") if path.is_dir())]:
            checkpoints.sync(inside)

    def place_at(self, target: Path) -> None:
        """Put the folder at `target`, in place of what is there."""
        if target.exists():
            shutil.rmtree(target)
        os.replace(self.folder, target)

    def keep_at(self, target: Path) -> None:
        """Put the folder at `target`, unless the same is there already. Others may use that."""
        try:
            os.rename(self.folder, target)
        except OSError:
            if not target.is_dir():
                raise

    def drop(self) -> None:
        """Delete what has arrived, unless it is in its place."""
        shutil.rmtree(self.folder, ignore_errors=True)
