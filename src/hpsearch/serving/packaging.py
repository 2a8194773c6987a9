"""The winner as an MLflow model that takes raw input: logging it, predicting files with it, serving it."""

import csv
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from hpsearch.serving import mlflow_process

# isort: split
import mlflow
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map, Object, Property

from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.serving import code
from hpsearch.serving.code import PACKAGE
from hpsearch.serving.loading import load
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.product import BOOLEAN, DOUBLE, LONG, STRING, ListOf, MapOf, Record, Type
from hpsearch.training.models import FAMILIES

REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")  # all that what is sent imports
ROWS = 1024  # predicted at once; bounds the memory
CLASSES = "probabilities"  # column with the probability of each class
ARROW = {STRING: pa.string(), DOUBLE: pa.float64(), LONG: pa.int64(), BOOLEAN: pa.bool_()}

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


def describe(settings: Settings, labels: tuple[str, ...], fitted: dict[str, Any]) -> dict[str, Any]:
    """What a served model must know beside its weights, JSON-able: the text must be made to tokens as in training."""
    task = settings.task
    return {
        "kind": task.kind,
        "head": KINDS[task.kind].head,
        "labels": list(labels),
        "clean": task.clean,
        "max_length": task.max_length,
        "truncation": task.truncation,
        "stride": task.stride,
        "family": settings.model.family,
        "types": FAMILIES[settings.model.family].types,
        "fitted": fitted,
        **KINDS[task.kind].served(task),
    }


def signature(kind: Kind) -> ModelSignature:
    """A kind's product in MLflow's types. A single input has no name: MLflow takes a plain list of texts then, too."""
    texts = [ColSpec(DataType.string, role if len(kind.inputs) > 1 else None) for role in kind.inputs]
    return ModelSignature(
        Schema(texts), Schema([ColSpec(_mlflow(given), name) for name, given in kind.product.outputs.items()])
    )


def _mlflow(given: Type) -> Any:
    if isinstance(given, ListOf):
        return Array(_mlflow(given.of))
    if isinstance(given, MapOf):
        return Map(_mlflow(given.of))
    if isinstance(given, Record):
        return Object([Property(name, _mlflow(field)) for name, field in given.fields.items()])
    return DataType[given]


def arrow(given: Type) -> Any:
    """A column's type in Arrow."""
    if isinstance(given, ListOf):
        return pa.list_(arrow(given.of))
    if isinstance(given, MapOf):
        return pa.map_(pa.string(), arrow(given.of))
    if isinstance(given, Record):
        return pa.struct([(name, arrow(field)) for name, field in given.fields.items()])
    return ARROW[given]


def log_model(run_id: str, folder: Path, described: dict[str, Any], examples: dict[str, list[str]], card: str) -> str:
    """Log a model folder (safetensors, config, tokenizer) as a model of an MLflow run; returns its `models:/` URI.

    Args:
        run_id: of the trial.
        folder: of the model.
        described: by `describe`.
        examples: some values of each input role, in the order of `Kind.inputs`.
        card: the model card, in Markdown.

    It is logged from code, without pickle, and loads where its requirements are installed and hpsearch is not.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    # Made here because MLflow would put the model of a run that is not active into the default experiment.
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, params=run.data.params
    )
    with tempfile.TemporaryDirectory() as scratch:
        kind = KINDS[described["kind"]]
        script, package = PACKAGE / "serving" / kind.product.script, Path(scratch) / PACKAGE.name
        for name in code.needed(script):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACKAGE / name, package / name)
        readme = Path(scratch) / "README.md"
        readme.write_text(card, encoding="utf-8")
        records = [dict(zip(examples, values, strict=True)) for values in zip(*examples.values(), strict=True)]
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model.model_id,
            python_model=str(script),
            artifacts={"model": str(folder), "card": str(readme)},
            model_config=described,
            code_paths=[str(package)],
            pip_requirements=[f"{name}=={_public_version(name)}" for name in REQUIREMENTS],
            signature=signature(kind),
            input_example=records if len(examples) > 1 else next(iter(examples.values())),
        )
    return f"models:/{model.model_id}"


def predict_file(model_uri: str, source: Path, destination: Path, kind: str, columns: Mapping[str, str]) -> int:
    """Predict for each row of a CSV, TSV, JSONL or Parquet file; returns the number of its rows.

    `destination` gets the rows in the format of its own name, with the columns that the task kind's product adds;
    where the file has one of these already, they are called `predicted_...`. It appears when it is whole. In CSV and
    TSV a list is written as JSON. Memory does not grow with the file.

    Args:
        model_uri: of the model.
        source: the file.
        destination: another file, of the same format.
        kind: of the task.
        columns: for each input role of the kind, the column of the file.

    Raises:
        RequestError: the file or the model can't be read, or a row has no text.
    """
    for path in (source, destination):
        if path.suffix.lower() not in FORMATS:
            raise RequestError(f"{path}: its name must end in one of {', '.join(FORMATS)}")
    if source.suffix.lower() != destination.suffix.lower():
        raise RequestError(f"{destination}: must have the format of {source}; let its name end in {source.suffix}")
    if destination.exists() and source.exists() and destination.samefile(source):
        raise RequestError(f"{destination}: is the file to label, and would be overwritten; give another name")
    if not destination.parent.is_dir():
        raise RequestError(f"{destination}: there is no folder {destination.parent}; make it")
    read, write = FORMATS[source.suffix.lower()]
    beside = destination.with_name(destination.name + ".tmp")
    rows_read = 0
    try:
        with read(source) as (found, rows):
            if found is not None:
                _check_columns(source, columns, found)
            model, product = load(model_uri), KINDS[kind].product
            added = {name: arrow(product.outputs[name]) for name in product.added}
            names = _added(found or (), added)
            with write(beside, source, found, names, added) as write_rows:
                while chunk := list(islice(rows, ROWS)):
                    write_rows(_predicted(chunk, model, source, rows_read + 1, columns, names))
                    rows_read += len(chunk)
        os.replace(beside, destination)
    except FileNotFoundError as error:
        raise RequestError(f"{error.filename}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{source}: is not UTF-8 ({error.reason} after row {rows_read}); convert it") from None
    except (OSError, csv.Error, pa.ArrowException) as error:
        raise RequestError(f"{source}: can't be read as {source.suffix[1:]}: {error}") from None
    finally:
        beside.unlink(missing_ok=True)
    return rows_read


def answers(
    model_uri: str, settings: Settings, inputs: Mapping[str, Sequence[str]]
) -> tuple[list[Any], list[dict[str, float]] | None]:
    """What a model says of examples, in the form of `Kind.answers`, and the probability of each class.

    The latter are None where it gives none. Raises RequestError if it can't be loaded or run.

    Args:
        model_uri: of the model.
        settings: of the task.
        inputs: for each input role, the texts.
    """
    column, model = KINDS[settings.task.kind].answer, load(model_uri)
    frame = pd.DataFrame(inputs)
    said: list[Any] = []
    sure: list[dict[str, float]] = []
    for start in range(0, len(frame), ROWS):
        part = frame.iloc[start : start + ROWS]
        try:
            given = model.predict(part if len(inputs) > 1 else part.iloc[:, 0].tolist())
            said += given[column].tolist()
            sure += given[CLASSES].tolist() if CLASSES in given else []
        except (MlflowException, KeyError) as error:
            raise RequestError(f"{model_uri}: the model can't predict these examples: {error}") from None
    return said, sure if len(sure) == len(said) else None


def serve(model_uri: str, port: int, kind: str) -> None:
    """Become a server of a model of this task kind on loopback; `POST /invocations` takes what its product shows."""
    address = f"http://{mlflow_process.HOST}:{port}"
    example = json.dumps(KINDS[kind].product.example)
    print(f"{model_uri} is served on {address}; ask it with")
    print(f"  curl {address}/invocations -H 'Content-Type: application/json' -d '{example}'")
    arguments = ["models", "serve", "--model-uri", model_uri, "--env-manager", "local"]
    mlflow_process.become(arguments, port, {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()})


def _public_version(package: str) -> str:
    """Without the local part: no index has `2.13.0+cpu`."""
    return importlib.metadata.version(package).partition("+")[0]


def _check_columns(where: Path | str, columns: Mapping[str, str], found: Iterable[str]) -> None:
    for role, column in columns.items():
        if column not in found:
            raise RequestError(
                f"{where}: there is no column {column}; it has {', '.join(found)}; name it with task.columns.{role}"
            )


def _predicted(
    chunk: list[Row], model: Any, source: Path, first: int, columns: Mapping[str, str], names: Mapping[str, str]
) -> list[Row]:
    """Rows of the file, of which `first` is the first here, counted from 1, with what the model says of them."""
    for number, row in enumerate(chunk, first):
        where = f"{source}, row {number}"
        _check_columns(where, columns, row)
        for column in columns.values():
            if not isinstance(row[column], str):
                raise RequestError(f"{where}: {row[column]!r} in column {column} is not a text; mend that row")
    inputs = {role: [row[column] for row in chunk] for role, column in columns.items()}
    try:
        predicted = model.predict(pd.DataFrame(inputs) if len(inputs) > 1 else inputs.popitem()[1])
        values = {name: predicted[name].tolist() for name in names}
    except (MlflowException, KeyError) as error:
        where = f"{source}, rows {first} to {first + len(chunk) - 1}"
        raise RequestError(f"{where}: the model can't predict these rows: {error}") from None
    return [
        row | {names[name]: value for name, value in zip(values, of_row, strict=True)}
        for row, of_row in zip(chunk, zip(*values.values(), strict=True), strict=True)
    ]


def _added(columns: Iterable[str], added: Iterable[str]) -> dict[str, str]:
    """Names for the new columns that cover nothing up."""
    taken = set(columns)
    if not taken & set(added):
        return {name: name for name in added}
    names = {name: f"predicted_{name}" for name in added}
    if clash := taken & set(names.values()):
        raise RequestError(f"the file has a column {clash.pop()} already; rename it")
    return names


@contextmanager
def _read_csv(source: Path) -> Iterator[tuple[list[str] | None, Iterator[Row]]]:
    csv.field_size_limit(sys.maxsize)  # the csv module's own limit is 128 KiB a field
    with open(source, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, delimiter=_delimiter(source), strict=True)
        yield list(reader.fieldnames or ()), _whole_rows(reader, source)


def _whole_rows(reader: "csv.DictReader[str]", source: Path) -> Iterator[Row]:
    for row in reader:
        if None in row or None in row.values():
            found = sum(value is not None for key, value in row.items() if key) + len(row.get(None) or ())
            raise RequestError(
                f"{source}, line {reader.line_num}: {found} fields, but the header has "
                f"{len(reader.fieldnames or ())}; quote fields that hold a separator"
            )
        yield row


@contextmanager
def _write_csv(
    beside: Path, source: Path, columns: list[str] | None, names: Mapping[str, str], added: Mapping[str, Any]
) -> Iterator[Write]:
    assert columns is not None
    with open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *names.values()], delimiter=_delimiter(source))
        writer.writeheader()

        def write(rows: list[Row]) -> None:
            writer.writerows(
                {key: json.dumps(v) if isinstance(v, list) else v for key, v in row.items()} for row in rows
            )

        yield write


def _delimiter(source: Path) -> str:
    return "\t" if source.suffix.lower() == ".tsv" else ","


@contextmanager
def _read_jsonl(source: Path) -> Iterator[tuple[list[str] | None, Iterator[Row]]]:
    with open(source, encoding="utf-8-sig") as file:
        keys = dict.fromkeys(key for row in _objects(file, source) for key in row)
        file.seek(0)
        yield list(keys) or None, _objects(file, source)


def _objects(lines: Iterable[str], source: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise RequestError(f"{source}, line {number}: is not JSON ({error}); mend or remove it") from None
        if not isinstance(row, dict):
            raise RequestError(f'{source}, line {number}: is not an object like {{"text": "..."}}; mend or remove it')
        yield row


@contextmanager
def _write_jsonl(
    beside: Path, source: Path, columns: list[str] | None, names: Mapping[str, str], added: Mapping[str, Any]
) -> Iterator[Write]:
    with open(beside, "w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def _read_parquet(source: Path) -> Iterator[tuple[list[str] | None, Iterator[Row]]]:
    with pq.ParquetFile(source) as file:
        yield file.schema_arrow.names, (row for batch in file.iter_batches(ROWS) for row in batch.to_pylist())


@contextmanager
def _write_parquet(
    beside: Path, source: Path, columns: list[str] | None, names: Mapping[str, str], added: Mapping[str, Any]
) -> Iterator[Write]:
    schema = pq.read_schema(source)
    for name, shown in names.items():
        schema = schema.append(pa.field(shown, added[name]))
    with pq.ParquetWriter(beside, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


FORMATS = {
    ".csv": (_read_csv, _write_csv),
    ".tsv": (_read_csv, _write_csv),
    ".jsonl": (_read_jsonl, _write_jsonl),
    ".parquet": (_read_parquet, _write_parquet),
}
