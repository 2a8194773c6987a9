"""Text files as they stand: the fields of CSV and TSV, the objects of JSON. Training and `predict` read them alike."""

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
    """How the fields of a CSV or TSV file stand in it."""

    name: str
    """Of the file, as messages call it."""
    delimiter: str
    quoting: str
    """`task.quoting`."""

    def records(self, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
        """(line on which a record begins, from 1 on; its fields); blank lines are passed over.

        Args:
            lines: with their ends untranslated, so that those inside quotes stay.

        Raises:
            RequestError: a quote is not closed, or goes on behind its end.
        """
        csv.field_size_limit(2**31 - 1)  # the default refuses texts over 131,072 characters
        if self.quoting == "none":
            reader = csv.reader(lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE)
        else:  # strict refuses a quote that is not closed instead of swallowing the rest of the file
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
        """What to do where a record has more or fewer fields than the header."""
        if self.quoting == "none":
            return f"no text may hold {self.delimiter!r} with task.quoting=none"
        return f"put a text that holds {self.delimiter!r} into double quotes"

    def check_quotes(self, lines: Iterable[str]) -> str | None:
        """See whether quoted fields swallow rows: files in which quotes are plain characters are as common.

        A record is in doubt if it goes on over several lines, each of them has as many fields as the header, and no
        quote in it is doubled. In a TSV file, where texts hold no tabs, or if the whole file can be read so, nothing
        tells which is meant.

        Returns:
            What to say of a CSV file that can be read one way only, and has such records all the same.

        Raises:
            RequestError: it can be read both ways.
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
    """A JSON object in which a key stands twice; as everywhere, the last one counts for those who do not look."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def parse(text: str) -> Any:
    """JSON, with objects that have a key twice as `Repeated`. Raises ValueError, RecursionError."""
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def names_of(row: dict[str, Any]) -> list[str]:
    """The keys of an object, as often as they stand in it."""
    return row.names if isinstance(row, Repeated) else list(row)


def repeated(value: Any, among: Container[str] | None = None) -> str | None:
    """A key that stands twice in an object somewhere in `value`, one of `among` where that is given."""
    if isinstance(value, Repeated):
        for name in value.names:
            if value.names.count(name) > 1 and (among is None or name in among):
                return name
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, (repeated(one, among) for one in inner)), None)
