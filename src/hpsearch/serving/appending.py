"""Files whose rows get more columns. What a file holds is copied unchanged, whether it is read or not."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from hpsearch.data.text_files import Layout, names_of, parse
from hpsearch.errors import RequestError

Columns = Mapping[str, str]  # role of the task: column of the file


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of a file."""

    first: int
    """Number of the first row, counted from 1."""
    read: dict[str, list[Any]]
    """The values of each column that was asked for."""
    raw: Any
    """The rows as the file holds them; only the same file's `writer` can read this."""


Write = Callable[[Chunk, Mapping[str, Sequence[Any]]], None]
"""Function that writes a chunk, with one value a row for each added column."""


class RowFile(Protocol):
    """A file of one format. Every method raises RequestError if the file is not valid."""

    def names(self, wanted: Columns) -> list[str]:
        """Return its column names, a name several times if the file has it several times.

        Each wanted column must be in every row, once.
        """

    def chunks(self, wanted: Columns, size: int) -> Iterator[Chunk]:
        """Yield its rows, at most `size` at a time."""

    def writer(self, destination: Path, added: Mapping[str, pa.DataType]) -> AbstractContextManager[Write]:
        """Open a file of the same format for writing, with these columns after those of this file."""


def row_file(path: Path, quoting: str) -> RowFile:
    """Return the file of a path, which must end in one of `SUFFIXES`; `quoting` is `task.quoting`."""
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _JsonLines(path)
    if suffix == ".parquet":
        return _Parquet(path)
    return _Separated(path, Layout(str(path), SEPARATED[suffix], quoting))


SEPARATED = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATED, ".jsonl", ".parquet")


def _check(where: Path | str, wanted: Columns, found: Sequence[str]) -> None:
    for role, column in wanted.items():
        if column not in found:
            raise RequestError(
                f"{where}: there is no column {column}; it has {', '.join(found)}; name it with task.columns.{role}"
            )
        if (times := found.count(column)) > 1:
            raise RequestError(f"{where}: there are {times} columns {column}; rename all but one")


def is_unicode(text: str) -> bool:
    """Return whether a text holds neither halves of surrogate pairs nor bytes that were not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open(path: Path, newline: str) -> IO[str]:
    """Open a file for reading; bytes that are not UTF-8 are kept, as their column may not be read."""
    return open(path, newline=newline, encoding="utf-8-sig", errors="surrogateescape")


def _create(path: Path) -> IO[str]:
    return open(path, "w", newline="", encoding="utf-8", errors="surrogateescape")


def _chunked(rows: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    """Yield (number of the first row, rows), at most `size` rows at a time."""
    first, following = 1, iter(rows)
    while chunk := list(islice(following, size)):
        yield first, chunk
        first += len(chunk)


class _Separated:
    """A CSV or TSV file."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._path, self._layout = path, layout

    def names(self, wanted: Columns) -> list[str]:
        with _open(self._path, "") as file:
            names = self._header(file)
            if not all(map(is_unicode, names)):
                raise RequestError(f"{self._path}: is not UTF-8; convert it")
            _check(self._path, wanted, names)
            file.seek(0)
            self._layout.check_quotes(file)
        return names

    def _header(self, file: IO[str]) -> list[str]:
        return next(self._layout.records(file), (1, []))[1]

    def chunks(self, wanted: Columns, size: int) -> Iterator[Chunk]:
        with _open(self._path, "") as file:
            records = self._layout.records(file)
            _, names = next(records)
            place = {column: names.index(column) for column in wanted.values()}
            for first, rows in _chunked(self._whole(records, len(names)), size):
                yield Chunk(first, {column: [row[i] for row in rows] for column, i in place.items()}, rows)

    def _whole(self, records: Iterator[tuple[int, list[str]]], width: int) -> Iterator[list[str]]:
        for line, fields in records:
            if len(fields) != width:
                raise RequestError(
                    f"{self._path}, line {line}: {len(fields)} fields, but the header has {width}; "
                    + self._layout.remedy()
                )
            yield fields

    @contextmanager
    def writer(self, destination: Path, added: Mapping[str, pa.DataType]) -> Iterator[Write]:
        with _open(self._path, "") as file:
            end = "\r\n" if file.readline().endswith("\r\n") else "\n"
            file.seek(0)
            names = self._header(file)
        plain = self._layout.quoting == "none"
        options: dict[str, Any] = {"quoting": csv.QUOTE_NONE, "quotechar": None, "lineterminator": end} if plain else {}
        with _create(destination) as file:
            out = csv.writer(file, delimiter=self._layout.delimiter, **options)
            out.writerow([*names, *added])

            def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
                for number, (row, more) in enumerate(
                    zip(chunk.raw, zip(*values.values(), strict=True), strict=True), chunk.first
                ):
                    shown = [json.dumps(value) if isinstance(value, list) else value for value in more]
                    if plain and any(set(str(value)) & {self._layout.delimiter, "\r", "\n"} for value in shown):
                        raise RequestError(
                            f"{self._path}, row {number}: one of {shown} holds {self._layout.delimiter!r} or a line "
                            "end and can't be written with task.quoting=none; give the rows as JSONL"
                        )
                    out.writerow([*row, *shown])

            yield write


class _JsonLines:
    """A JSONL file. Its lines are copied, and new columns are written before the closing brace of each."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self, wanted: Columns) -> list[str]:
        names: dict[str, None] = {}
        odd: list[tuple[str, list[str]]] = []
        with _open(self._path, "\n") as file:
            for number, (_, row) in enumerate(self._rows(file), 1):
                there = names_of(row)
                names |= dict.fromkeys(there)
                if not odd and any(there.count(column) != 1 for column in wanted.values()):
                    odd.append((f"{self._path}, row {number}", there))
        if names:
            _check(self._path, wanted, list(names))
        for where, there in odd:
            _check(where, wanted, there)
        return list(names)

    def _rows(self, lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{self._path}, line {number}"
            try:
                row = parse(line)
            except (ValueError, RecursionError) as error:
                said = f"JSON ({error}); correct or remove it" if is_unicode(line) else "UTF-8; convert the file"
                raise RequestError(f"{where}: is not {said}") from None
            if not isinstance(row, dict):
                raise RequestError(f'{where}: is not an object like {{"text": "..."}}; correct or remove it')
            yield line, row

    def chunks(self, wanted: Columns, size: int) -> Iterator[Chunk]:
        with _open(self._path, "\n") as file:
            for first, rows in _chunked(self._rows(file), size):
                read = {column: [row[column] for _, row in rows] for column in wanted.values()}
                yield Chunk(first, read, [line for line, _ in rows])

    @contextmanager
    def writer(self, destination: Path, added: Mapping[str, pa.DataType]) -> Iterator[Write]:
        with _create(destination) as file:

            def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
                for line, more in zip(chunk.raw, zip(*values.values(), strict=True), strict=True):
                    inside = json.dumps(dict(zip(added, more, strict=True)), ensure_ascii=False)[1:]
                    file.write(f"{line.strip()[:-1]}, {inside}\n")

            yield write


class _Parquet:
    """A Parquet file. Its batches are copied unchanged."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self, wanted: Columns) -> list[str]:
        names: list[str] = pq.read_schema(self._path).names
        _check(self._path, wanted, names)
        return names

    def chunks(self, wanted: Columns, size: int) -> Iterator[Chunk]:
        first = 1
        with pq.ParquetFile(self._path) as file:
            place = {column: file.schema_arrow.names.index(column) for column in wanted.values()}
            for batch in file.iter_batches(size):
                yield Chunk(first, {column: batch.column(i).to_pylist() for column, i in place.items()}, batch)
                first += batch.num_rows

    @contextmanager
    def writer(self, destination: Path, added: Mapping[str, pa.DataType]) -> Iterator[Write]:
        schema = pq.read_schema(self._path)
        for name, kind in added.items():
            schema = schema.append(pa.field(name, kind))
        with pq.ParquetWriter(destination, schema) as out:

            def write(chunk: Chunk, values: Mapping[str, Sequence[Any]]) -> None:
                more = [pa.array(values[name], kind) for name, kind in added.items()]
                out.write_batch(pa.RecordBatch.from_arrays([*chunk.raw.columns, *more], schema=schema))

            yield write


def check_paths(source: Path, destination: Path) -> None:
    """Check that rows can be read from one file and written to the other. Raises RequestError."""
    for path in (source, destination):
        if path.suffix.lower() not in SUFFIXES:
            raise RequestError(f"{path}: its name must end in one of {', '.join(SUFFIXES)}")
    if source.suffix.lower() != destination.suffix.lower():
        raise RequestError(f"{destination}: must have the format of {source}; let its name end in {source.suffix}")
    if destination.exists() and source.exists() and destination.samefile(source):
        raise RequestError(f"{destination}: is the file to label, and would be overwritten; give another name")
    if not destination.parent.is_dir():
        raise RequestError(f"{destination}: there is no folder {destination.parent}; make it")
    if not source.exists():
        raise RequestError(f"{source}: there is no such file")
