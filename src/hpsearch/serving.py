"""The winner as an MLflow model that takes raw text: logging it, labelling files with it, serving it."""

import csv
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from hpsearch import mlflow_process

# isort: split
import mlflow
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Map

from hpsearch.errors import RequestError
from hpsearch.settings import Settings

PACKAGE = Path(__file__).parent
SCRIPT = PACKAGE / "served_model.py"
CODE = ("__init__.py", "errors.py", "text.py")  # sent along with a model, for where hpsearch is not installed
REQUIREMENTS = ("mlflow", "torch", "transformers", "safetensors", "numpy", "pandas")  # all that script and CODE import
SIGNATURE = ModelSignature(
    # The input has no name: MLflow takes a plain list of texts then, as well as a column.
    inputs=Schema([ColSpec(DataType.string)]),
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "score"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
)
ADDED = ("label", "score")  # columns of a labelled file
ROWS = 1024  # labelled at once; bounds the memory

Row = dict[str, Any]
Write = Callable[[list[Row]], None]


def describe(settings: Settings, labels: tuple[str, ...]) -> dict[str, Any]:
    """What a served model must know beside its weights, JSON-able: the text must be made to tokens as in training."""
    task = settings.task
    return {
        "labels": list(labels),
        "clean": task.clean,
        "max_length": task.max_length,
        "truncation": task.truncation,
        "family": settings.model.family,
    }


def log_model(run_id: str, folder: Path, described: dict[str, Any], example_texts: list[str]) -> str:
    """Log a model folder (safetensors, config, tokenizer) as a model of an MLflow run; returns its `models:/` URI.

    It is logged from code, without pickle, and loads where its requirements are installed and hpsearch is not.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    # Made here because MLflow would put the model of a run that is not active into the default experiment.
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, params=run.data.params
    )
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / PACKAGE.name
        package.mkdir()
        for name in CODE:
            shutil.copy(PACKAGE / name, package)
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model.model_id,
            python_model=str(SCRIPT),
            artifacts={"model": str(folder)},
            model_config=described,
            code_paths=[str(package)],
            pip_requirements=[f"{name}=={_public_version(name)}" for name in REQUIREMENTS],
            signature=SIGNATURE,
            input_example=example_texts,
        )
    return f"models:/{model.model_id}"


def predict_file(model_uri: str, source: Path, destination: Path, text_column: str) -> int:
    """Label a CSV, TSV, JSONL or Parquet file; returns the number of its rows.

    `destination` gets the rows in the format of its own name, with the columns `label` and `score`; where the file has
    one of these already, they are called `predicted_label` and `predicted_score`. It appears when it is whole.
    Memory does not grow with the file.

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
        with read(source) as (columns, rows):
            if columns is not None:
                _check_column(source, text_column, columns)
            model = _load(model_uri)
            with write(beside, source, columns) as write_rows:
                while chunk := list(islice(rows, ROWS)):
                    write_rows(_labelled(chunk, model, source, text_column))
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


def serve(model_uri: str, port: int) -> None:
    """Become a server of the model on loopback; `POST /invocations` takes {"inputs": ["a text", ...]}."""
    address = f"http://{mlflow_process.HOST}:{port}"
    example = json.dumps({"inputs": ["What a lovely film"]})
    print(f"{model_uri} is served on {address}; ask it with")
    print(f"  curl {address}/invocations -H 'Content-Type: application/json' -d '{example}'")
    arguments = ["models", "serve", "--model-uri", model_uri, "--env-manager", "local"]
    mlflow_process.become(arguments, port, {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()})


def _public_version(package: str) -> str:
    """Without the local part: no index has `2.13.0+cpu`."""
    return importlib.metadata.version(package).partition("+")[0]


def _load(model_uri: str) -> Any:
    try:
        return mlflow.pyfunc.load_model(model_uri)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"{model_uri}: no model can be loaded from there ({reason}); give another") from None


def _check_column(source: Path, column: str, columns: Iterable[str]) -> None:
    if column not in columns:
        raise RequestError(f"{source}: there is no column {column}; it has {', '.join(columns)}")


def _labelled(chunk: list[Row], model: Any, source: Path, text_column: str) -> list[Row]:
    for row in chunk:
        _check_column(source, text_column, row)
        if not isinstance(row[text_column], str):
            raise RequestError(f"{source}: {row[text_column]!r} in column {text_column} is not a text; mend that row")
    predicted = model.predict([row[text_column] for row in chunk])
    added = _added(chunk[0])
    results = zip(predicted["label"], predicted["score"], strict=True)
    return [
        row | dict(zip(added, (label, float(score)), strict=True))
        for row, (label, score) in zip(chunk, results, strict=True)
    ]


def _added(columns: Iterable[str]) -> tuple[str, ...]:
    """Names for the new columns that cover nothing up."""
    taken = set(columns)
    if not taken & set(ADDED):
        return ADDED
    names = tuple(f"predicted_{name}" for name in ADDED)
    if clash := taken & set(names):
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
def _write_csv(beside: Path, source: Path, columns: list[str] | None) -> Iterator[Write]:
    assert columns is not None
    with open(beside, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*columns, *_added(columns)], delimiter=_delimiter(source))
        writer.writeheader()
        yield writer.writerows


def _delimiter(source: Path) -> str:
    return "\t" if source.suffix.lower() == ".tsv" else ","


@contextmanager
def _read_jsonl(source: Path) -> Iterator[tuple[list[str] | None, Iterator[Row]]]:
    with open(source, encoding="utf-8-sig") as file:
        yield None, _objects(file, source)


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
def _write_jsonl(beside: Path, source: Path, columns: list[str] | None) -> Iterator[Write]:
    with open(beside, "w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@contextmanager
def _read_parquet(source: Path) -> Iterator[tuple[list[str] | None, Iterator[Row]]]:
    with pq.ParquetFile(source) as file:
        yield file.schema_arrow.names, (row for batch in file.iter_batches(ROWS) for row in batch.to_pylist())


@contextmanager
def _write_parquet(beside: Path, source: Path, columns: list[str] | None) -> Iterator[Write]:
    schema = pq.read_schema(source)
    for name, kind in zip(_added(schema.names), (pa.string(), pa.float64()), strict=True):
        schema = schema.append(pa.field(name, kind))
    with pq.ParquetWriter(beside, schema) as writer:
        yield lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema=schema))


FORMATS = {
    ".csv": (_read_csv, _write_csv),
    ".tsv": (_read_csv, _write_csv),
    ".jsonl": (_read_jsonl, _write_jsonl),
    ".parquet": (_read_parquet, _write_parquet),
}
