"""Readers of the data sources: a packaged CSV file, the user's own files, the Hugging Face hub.

Values are taken unchanged: no type is guessed. Every error message names the line or row as the user sees it.
"""

import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.config.task import HubData, PackagedData, TaskSettings
from hpsearch.data import conll_layout, squad_layout
from hpsearch.data.text_files import Layout, names_of, parse, repeated
from hpsearch.errors import RequestError, first_line, nearest

HUB_TIMEOUT_SECONDS = 10.0
SMALL_BYTES = 10_000_000  # total size of files that are read in a moment
SHOWN = 5  # numbers or names that a message lists before "and N more"

DELIMITERS = {".csv": ",", ".tsv": "\t"}


# Maps the setting that names a column to the column.
Wanted = Mapping[str, str]


@dataclass(frozen=True)
class Rows:
    """Columns of one file or hub split."""

    name: str
    """Name of the file or split in messages."""
    unit: str
    """Unit of `numbers`: "line", "row" or "question"."""
    numbers: Sequence[int]
    """Number of the line, row or question where each row begins, counted from 1 as in an editor or viewer."""
    columns: dict[str, list[Any]]
    notes: tuple[str, ...] = ()
    """Remarks for the user on how the file was read."""

    def where(self, numbers: Sequence[int]) -> str:
        """Return some of `numbers` in words, for example "reviews.csv, lines 3, 7 and 12"."""
        return f"{self.name}, {self.unit}{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def read(task: TaskSettings, demo: str | None = None) -> dict[str, Rows]:
    """Read the splits of the source, train among them, with the columns that `task.columns` names.

    Args:
        task: Settings of the task.
        demo: Shipped task of the same kind that needs no network. The message names it if the hub cannot be reached.

    Raises:
        RequestError: The source is missing or unreadable, or lacks a column or rows.
    """
    wanted = {f"task.columns.{role}": column for role, column in task.columns.items()}
    if task.source == "hub":
        given = _hub(task, wanted, demo)
    else:
        given = {"packaged": _packaged, "files": _files}[task.source](task, wanted)
    for rows in given.values():
        if not rows.numbers:
            raise RequestError(f"{rows.name}: there is not a single row in it (a header is none); give it some")
    return given


def describe(task: TaskSettings) -> str:
    """Return a description of the source in one line, for records and reports."""
    if task.source == "packaged" and task.packaged is not None:
        matching = ", ".join(f"{column}={value}" for column, value in task.packaged.where.items())
        return f"packaged: {task.packaged.package}/{task.packaged.file}" + (f" ({matching})" if matching else "")
    if task.source == "hub" and task.hub is not None:
        return "hub: " + " ".join(filter(None, (task.hub.path, task.hub.config, task.hub.revision)))
    files = task.files.model_dump(include={"train", "validation", "test"}) if task.files is not None else {}
    return "files: " + ", ".join(path for path in files.values() if path)


def listed(values: Any) -> str:
    """Return the values as a list in words, at most `SHOWN` of them: "3, 7, 9, 12, 15 and 4 more"."""
    shown = [str(value) for value in values]
    if len(shown) > SHOWN:
        return ", ".join(shown[:SHOWN]) + f" and {len(shown) - SHOWN} more"
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:]))) or "none"


def _packaged(task: TaskSettings, wanted: Wanted) -> dict[str, Rows]:
    described = task.packaged
    assert described is not None  # TaskSettings checks that the source is described
    path = _packaged_path(described)
    content = _content(path, f"task.packaged.file={described.file}")
    found = hashlib.sha256(content).hexdigest()
    if found != described.sha256:
        raise RequestError(
            f"task.packaged.sha256={described.sha256}: {path} has {found}, so it is not the file that was pinned; "
            f"install the version of {described.package} that the requirements pin"
        )
    matched = {f"task.packaged.where.{column}": column for column in described.where}
    rows = _parse(content, path, {**wanted, **matched}, "utf-8", "double")
    conditions = [(rows.columns[column], value) for column, value in described.where.items()]
    keep = [i for i in range(len(rows.numbers)) if all(values[i] == value for values, value in conditions)]
    if not keep:
        raise RequestError(f"task.packaged.where={described.where}: no row of {path.name} matches")
    columns = {column: [values[i] for i in keep] for column, values in rows.columns.items()}
    if described.classes is not None:
        label = task.columns.get("label")
        if label is None:
            raise RequestError(f"task.packaged.classes: task.kind={task.kind} has no column label; set it to null")
        if unknown := sorted(set(columns[label]) - described.classes.keys()):
            raise RequestError(f"task.packaged.classes={described.classes}: no name for label {unknown[0]!r}; add it")
        columns[label] = [described.classes[value] for value in columns[label]]
    return {"train": Rows(rows.name, rows.unit, [rows.numbers[i] for i in keep], columns)}


def _packaged_path(described: PackagedData) -> Path:
    try:
        # find_spec finds a top-level package without importing it. An import may run any code, and may be slow.
        spec = None if "." in described.package else importlib.util.find_spec(described.package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise RequestError(
            f"task.packaged.package={described.package}: no such package is installed; "
            "install the pinned requirements, or choose task.source=hub or files where the task describes them"
        )
    return Path(spec.submodule_search_locations[0]) / described.file


def check_files(task: TaskSettings) -> None:
    """Check that the files of a task exist, before slow imports.

    Small files, `SMALL_BYTES` in all, are also read. Larger ones are read later, once.

    Raises:
        RequestError: A file is missing, or a small one is faulty.
    """
    if task.source != "files":
        return
    paths = _paths(task).values()
    for setting, path in paths:
        if not path.is_file():
            _content(path, setting)
    if sum(path.stat().st_size for _, path in paths) <= SMALL_BYTES:
        read(task)


def _files(task: TaskSettings, wanted: Wanted) -> dict[str, Rows]:
    assert task.files is not None
    encoding = task.files.encoding
    return {
        split: _parse(_content(path, setting), path, wanted, encoding, task.quoting)
        for split, (setting, path) in _paths(task).items()
    }


def _paths(task: TaskSettings) -> dict[str, tuple[str, Path]]:
    """Return for each split the setting with the value that names its file, and the path."""
    assert task.files is not None
    if task.files.train is None:
        raise RequestError("task.files.train: is required; give the path of the file with the training rows")
    given = {split: getattr(task.files, split) for split in ("train", "validation", "test")}
    return {
        split: (f"task.files.{split}={path}", Path(os.path.expanduser(path)))
        for split, path in given.items()
        if path is not None
    }


def _content(path: Path, setting: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise RequestError(
            f"{setting}: there is no such file ({path.absolute()}); correct the path"
            f"{nearest(path.name, (one.name for one in path.parent.glob('*')))}"
        ) from None
    except OSError as error:
        raise RequestError(f"{setting}: {error.strerror} ({path.absolute()}); give a file that can be read") from None
    if not content.strip(b" \t\r\n\xef\xbb\xbf"):
        raise RequestError(f"{setting}: the file is empty; it needs rows")
    return content


def _parse(content: bytes, path: Path, wanted: Wanted, encoding: str, quoting: str) -> Rows:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(content, path.name, wanted)
    if suffix == ".jsonl":
        return _jsonl(_decode(content, path.name, encoding), path.name, wanted)
    if suffix == ".json":
        columns = squad_layout.questions(_decode(content, path.name, encoding), path.name)
        check_columns(wanted, list(columns), path.name)
        return Rows(path.name, "question", range(1, len(columns[squad_layout.ARTICLE]) + 1), columns)
    if suffix in DELIMITERS:
        layout = Layout(path.name, DELIMITERS[suffix], quoting)
        return _csv(_decode(content, path.name, encoding), layout, wanted)
    if suffix in conll_layout.SUFFIXES:
        check_columns(wanted, conll_layout.COLUMNS, path.name)
        return Rows(path.name, "line", *conll_layout.sentences(_decode(content, path.name, encoding), path.name))
    raise RequestError(
        f"{path.name}: the suffix {suffix or '(none)'} is unknown; it tells the format and must be one of "
        ".csv, .tsv, .jsonl, .parquet, .json for questions in the layout of SQuAD, or "
        f"{', '.join(conll_layout.SUFFIXES)} for a token and its tag on each line"
    )


def _decode(content: bytes, name: str, encoding: str) -> str:
    try:
        return content.decode(encoding).removeprefix("\ufeff")  # byte-order mark that spreadsheet programs write
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        hint = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "cp1252"
        raise RequestError(
            f"{name}, line {line}: byte {error.start + 1} (0x{content[error.start]:02x}) is not {encoding}; "
            f"set task.files.encoding to the encoding of the file (perhaps {hint}), or convert it to UTF-8"
        ) from None
    except (LookupError, UnicodeError):
        raise RequestError(f"task.files.encoding={encoding}: Python knows no such text encoding; try utf-8") from None


def check_columns(wanted: Wanted, found: Sequence[str], name: str) -> None:
    """Raise RequestError unless each wanted column is present exactly once."""
    for setting, column in wanted.items():
        if column not in found:
            raise RequestError(
                f"{setting}={column}: {name} has no such column; it has {listed(map(repr, found))}"
                f"{nearest(column, found)}"
            )
        if found.count(column) > 1:
            raise RequestError(f"{setting}={column}: {name} has {found.count(column)} columns of that name; rename one")


def _csv(text: str, layout: Layout, wanted: Wanted) -> Rows:
    name, delimiter = layout.name, layout.delimiter
    records = layout.records(_lines(text))
    _, header = next(records, (1, [""]))
    if len(header) == 1:
        raise RequestError(
            f"{name}: the header has one column only, {header[0]!r}; columns must be separated by {delimiter!r}, "
            "and there must be one with the text and one with the label"
        )
    check_columns(wanted, header, name)
    doubt = layout.check_quotes(_lines(text))
    positions = {column: header.index(column) for column in wanted.values()}
    numbers: list[int] = []
    columns: dict[str, list[str]] = {column: [] for column in positions}
    for line, fields in records:
        if len(fields) != len(header):
            raise RequestError(
                f"{name}, line {line}: the number of fields is {len(fields)}, but the header has {len(header)}; "
                + layout.remedy()
            )
        numbers.append(line)
        for column, position in positions.items():
            columns[column].append(fields[position])
    return Rows(name, "line", numbers, columns, (doubt,) if doubt else ())


def _lines(text: str) -> io.StringIO:
    return io.StringIO(text, newline="")  # keeps line ends inside quotes as they are


def _jsonl(text: str, name: str, wanted: Wanted) -> Rows:
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {column: [] for column in wanted.values()}
    # splitlines() would also split at characters like U+2028, which a JSON string may contain.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{name}, line {number}: not JSON ({error}); write one JSON object a line") from None
        if not isinstance(row, dict):
            example = json.dumps(dict.fromkeys(wanted.values(), "..."))
            raise RequestError(f"{name}, line {number}: not a JSON object; write {example}")
        check_columns(wanted, names_of(row), f"{name}, line {number}")
        numbers.append(number)
        for column, values in columns.items():
            if (twice := repeated(row[column])) is not None:
                raise RequestError(f"{name}, line {number}: {column!r} holds an object with two {twice!r}; remove one")
            values.append(row[column])
    return Rows(name, "line", numbers, columns)


def _parquet(content: bytes, name: str, wanted: Wanted) -> Rows:
    import pyarrow  # the import takes 0.2 s, and only this format needs it
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(content))
        check_columns(wanted, file.schema_arrow.names, name)
        table = file.read(columns=sorted(set(wanted.values())))
    except (pyarrow.ArrowException, OSError) as error:
        raise RequestError(f"{name}: not a readable Parquet file ({error}); write it again") from None
    columns = {}
    for setting, column in wanted.items():
        try:
            columns[column] = table.column(column).to_pylist()
        except UnicodeDecodeError as error:
            raise RequestError(
                f"{setting}={column}: {name} has a text there that is no UTF-8 ({error}); write it again"
            ) from None
    return Rows(name, "row", range(1, table.num_rows + 1), columns)


def _hub(task: TaskSettings, wanted: Wanted, demo: str | None) -> dict[str, Rows]:
    described = task.hub
    assert described is not None
    loaded = _load_hub(described, _instead(task, demo))
    rows = {}
    for split in ("train", "validation", "test"):
        given: str | None = getattr(described, f"{split}_split")
        if given is None:
            continue
        if given not in loaded:
            raise RequestError(
                f"task.hub.{split}_split={given}: {described.path} has no such split; it has {listed(loaded)}"
                f"{nearest(given, list(loaded))}"
            )
        rows[split] = _hub_rows(loaded[given], f"{described.path}, split {given}", wanted)
    return rows


def _hub_rows(dataset: Any, name: str, wanted: Wanted) -> Rows:
    check_columns(wanted, dataset.column_names, name)
    columns = {}
    for column in wanted.values():
        feature = dataset.features[column]
        names = getattr(getattr(feature, "feature", feature), "names", None)  # for a ClassLabel or a list of them
        values = list(dataset[column])
        columns[column] = [_named(value, names) for value in values] if names else values
    return Rows(name, "row", range(1, len(dataset) + 1), columns)


def _named(value: Any, names: list[str]) -> Any:
    """Return the name of a ClassLabel's integer, or the names of a list of them; None for -1, "no label"."""
    if isinstance(value, list):
        return [_named(one, names) for one in value]
    return None if value is None or value < 0 else names[value]


def _load_hub(described: HubData, instead: str) -> Any:
    """Load a DatasetDict from the hub or from the local Hugging Face cache."""
    import datasets
    import huggingface_hub

    setting = f"task.hub.path={described.path}"
    try:
        if not huggingface_hub.is_offline_mode() and not Path(described.path).is_dir():
            # load_dataset retries an unknown host name for 23 s, and longer behind a firewall. This request asks once.
            api = huggingface_hub.HfApi()
            api.dataset_info(described.path, revision=described.revision, timeout=HUB_TIMEOUT_SECONDS)
        return datasets.load_dataset(described.path, name=described.config, revision=described.revision)
    # The hub, its HTTP client and the builders raise dozens of unrelated types. Each means: the data is not available.
    except Exception as error:
        reason = first_line(error)
        raise RequestError(f"{setting}: cannot be loaded from the Hugging Face hub: {reason}; {instead}") from error


def _instead(task: TaskSettings, demo: str | None) -> str:
    """Return what the user can do if the hub gives no data."""
    ways = []
    if task.packaged is not None:
        ways.append("choose task.source=packaged, which needs no network")
    if task.files is not None:
        ways.append("give the published files with task.source=files task.files.train=<path> task.files.test=<path>")
    else:
        ways.append("give your own files with TASK=csv task.files.train=<path>")
    if demo is not None:
        ways.append(f"see how it works with TASK={demo}, which needs neither")
    ways.append(
        "load the data set once where there is a network, copy the Hugging Face cache here, and set HF_HOME to it and "
        "HF_HUB_OFFLINE=1"
    )
    return "check task.hub.path, config and revision; " + "; or ".join(ways)
