"""Readers of text files: fields of CSV and TSV, objects of JSON. Training and `predict` use the same ones."""

import csv
import json
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hpsearch.errors import RequestError

BOTH_WAYS = (
    "if double quotes are characters like any other in this file, set task.quoting=none; "
    "if such a text is one field, set task.quoting=double"
)


@dataclass(frozen=True)
class Layout:
    """Layout of the fields in a CSV or TSV file."""

    name: str
    """Name of the file in messages."""
    delimiter: str
    quoting: str
    """Meaning of double quotes, as in `task.quoting`."""

    def records(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number on which each record begins, counted from 1, and its fields. Blank lines are skipped.

        Args:
            lines: Lines with their original line ends, so that line ends inside quotes are kept.

        Raises:
            RequestError: A quote is not closed, or text follows the closing quote.
        """
        csv.field_size_limit(2**31 - 1)  # the default limit is 131,072 characters
        if self.quoting == "none":
            reader = csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        else:  # strict raises an error for a quote that is not closed; otherwise it would take the rest of the file
            reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        line = 1
        try:
            for fields in reader:
                if fields:
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise RequestError(
                f"{self.name}, line {line}: {error}; a field that begins with a double quote must end with one, and a "
                "quote inside it is written twice; if double quotes are characters like any other in this file, set "
                "task.quoting=none"
            ) from None

    def remedy(self) -> str:
        """Return what the user can do if a record has more or fewer fields than the header."""
        if self.quoting == "none":
            return f"no text may hold {self.delimiter!r} with task.quoting=none"
        return f"put a text that holds {self.delimiter!r} into double quotes"

    def check_quotes(self, lines: Iterable[str]) -> str | None:
        """Check whether quoted fields hide rows, because in many files quotes are ordinary characters.

        A record is doubtful if it has several lines, each with as many fields as the header, and no doubled quote.
        Nothing tells which reading is right if every line of the file has as many fields as the header. The same holds
        for a doubtful TSV file, because its texts contain no tabs.

        Returns:
            A remark on a CSV file that can be read in one way only but has doubtful records, else None.

        Raises:
            RequestError: The file can be read in both ways.
        """
        if self.quoting != "auto":
            return None
        read: list[str] = []
        doubtful: list[int] = []
        width, plain = 0, True
        for line, fields in self.records(_kept(lines, read)):
            width = width or len(fields)
            rows = [text for text in read if text.strip("\r\n")]
            like_rows = all(text.count(self.delimiter) + 1 == width for text in rows)
            if len(rows) > 1 and like_rows and not any('""' in text for text in rows):
                doubtful.append(line)
            plain = plain and like_rows
            read.clear()
        if not doubtful:
            return None
        said = (
            f"{self.name}, line {doubtful[0]}: a text in double quotes goes on over several lines, and each of them "
            f"looks like a row ({len(doubtful):,} such in the file); {BOTH_WAYS}"
        )
        if plain or self.delimiter == "\t":
            raise RequestError(said)
        return said


def _kept(lines: Iterable[str], read: list[str]) -> Iterator[str]:
    for line in lines:
        read.append(line)
        yield line


class Repeated(dict[str, Any]):
    """A JSON object that has a key twice. As in other JSON readers, the last value of the key counts."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def parse(text: str) -> Any:
    """Parse JSON; an object that has a key twice becomes a `Repeated`.

    Raises:
        ValueError: The text is not JSON.
        RecursionError: Objects or lists are nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def names_of(row: dict[str, Any]) -> list[str]:
    """Return the keys of an object, each as often as the text has it."""
    return row.names if isinstance(row, Repeated) else list(row)


def repeated(value: Any, among: Container[str] | None = None) -> str | None:
    """Return a key that an object inside `value` has twice, or None. Only keys in `among` count, if it is given."""
    if isinstance(value, Repeated):
        for name in value.names:
            if value.names.count(name) > 1 and (among is None or name in among):
                return name
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (repeated(one, among) for one in inner)), None)
