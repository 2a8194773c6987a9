"""A model that takes raw input: what it needs besides its weights, predictions, and a server."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpsearch.serving import mlflow_process

# isort: split
import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException

from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.serving.appending import Chunk, check_paths, is_unicode, row_file
from hpsearch.serving.loading import fetched, load
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.product import BOOLEAN, DOUBLE, LONG, STRING, ListOf, MapOf, Record, Type
from hpsearch.training.models import FAMILIES

ROWS = 1024  # rows predicted at once, to bound the memory
CLASSES = "probabilities"  # output column with the probability of each class
ARROW = {STRING: pa.string(), DOUBLE: pa.float64(), LONG: pa.int64(), BOOLEAN: pa.bool_()}


def describe(settings: Settings, labels: tuple[str, ...], fitted: dict[str, Any]) -> dict[str, Any]:
    """Return what a served model needs besides its weights, JSON-able.

    It must turn a text into tokens as in training.
    """
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


def arrow(given: Type) -> Any:
    """Return a column's type in Arrow."""
    if isinstance(given, ListOf):
        return pa.list_(arrow(given.of))
    if isinstance(given, MapOf):
        return pa.map_(pa.string(), arrow(given.of))
    if isinstance(given, Record):
        return pa.struct([(name, arrow(field)) for name, field in given.fields.items()])
    return ARROW[given]


def predict_file(
    model_uri: str, source: Path, destination: Path, kind: str, columns: Mapping[str, str], quoting: str
) -> int:
    """Predict for each row of a CSV, TSV, JSONL or Parquet file and return the number of its rows.

    `destination` gets the rows unchanged, with the columns that the task kind's product adds. If the file already has
    one of these columns, the new ones are called `predicted_...`. `destination` appears when it is complete.
    In CSV and TSV a list is written as JSON. Memory does not grow with the file.

    Args:
        model_uri: Address of the model.
        source: The file to read.
        destination: Another file, of the same format.
        kind: Name of the task's kind.
        columns: The file's column for each input role of the kind.
        quoting: `task.quoting`.

    Raises:
        RequestError: The file or the model can't be read, a row has no text, or the result can't be written.
    """
    check_paths(source, destination)
    beside = destination.with_name(destination.name + ".tmp")
    rows_read = 0
    try:
        file = row_file(source, quoting)
        found = file.names(columns)
        model, product = load(model_uri), KINDS[kind].product
        added = {name: arrow(product.outputs[name]) for name in product.added}
        names = _added(found, added)
        with file.writer(beside, {names[name]: added[name] for name in added}) as write:
            for chunk in file.chunks(columns, ROWS):
                values = _predicted(chunk, model, source, columns, list(added))
                write(chunk, {names[name]: values[name] for name in added})
                rows_read += len(next(iter(chunk.read.values())))
        os.replace(beside, destination)
    except FileNotFoundError as error:
        raise RequestError(f"{error.filename}: there is no such file") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{source}: is not UTF-8 ({error.reason} after row {rows_read}); convert it") from None
    except (OSError, pa.ArrowException) as error:
        raise RequestError(f"{source}: can't be read as {source.suffix[1:]}: {error}") from None
    finally:
        beside.unlink(missing_ok=True)
    return rows_read


def answers(
    model_uri: str, settings: Settings, inputs: Mapping[str, Sequence[str]]
) -> tuple[list[Any], list[dict[str, float]] | None]:
    """Return a model's answers to examples, in the form of `Kind.answers`, and the probability of each class.

    The probabilities are None if the model gives none. Raises RequestError if it can't be loaded or run.

    Args:
        model_uri: Address of the model.
        settings: Settings with the task.
        inputs: The texts of each input role.
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
        except (MlflowException, KeyError, IndexError) as error:  # IndexError: the model does not know a token
            raise RequestError(f"{model_uri}: the model can't predict these examples: {error}") from None
    return said, sure if len(sure) == len(said) else None


def serve(model_uri: str, port: int, kind: str) -> None:
    """Serve a model of this task kind on loopback, until a signal ends it.

    `POST /invocations` takes input like the example of the kind's product.
    """
    address = f"http://{mlflow_process.HOST}:{port}"
    example = json.dumps(KINDS[kind].product.example)
    print(f"{model_uri} is served on {address}; ask it with")
    print(f"  curl {address}/invocations -H 'Content-Type: application/json' -d '{example}'")
    arguments = ["models", "serve", "--model-uri", fetched(model_uri), "--env-manager", "local"]
    mlflow_process.serve(arguments, port, {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()})


def _predicted(
    chunk: Chunk, model: Any, source: Path, columns: Mapping[str, str], added: Sequence[str]
) -> dict[str, list[Any]]:
    """Return the model's predictions for the rows of a chunk: a list for each added column."""
    for column, values in chunk.read.items():
        for number, value in enumerate(values, chunk.first):
            where = f"{source}, row {number}"
            if not isinstance(value, str):
                raise RequestError(f"{where}: {value!r} in column {column} is not a text; correct that row")
            if not is_unicode(value):
                raise RequestError(
                    f"{where}: the text in column {column} is not UTF-8, or has half a surrogate pair; correct that row"
                )
    inputs = {role: chunk.read[column] for role, column in columns.items()}
    try:
        predicted = model.predict(pd.DataFrame(inputs) if len(inputs) > 1 else inputs.popitem()[1])
        return {name: predicted[name].tolist() for name in added}
    except (MlflowException, KeyError, IndexError) as error:  # IndexError: the model does not know a token
        last = chunk.first + len(next(iter(chunk.read.values()))) - 1
        raise RequestError(
            f"{source}, rows {chunk.first} to {last}: the model can't predict these rows: {error}"
        ) from None


def _added(columns: Iterable[str], added: Iterable[str]) -> dict[str, str]:
    """Return names for the new columns that differ from those of the file."""
    taken = set(columns)
    if not taken & set(added):
        return {name: name for name in added}
    names = {name: f"predicted_{name}" for name in added}
    if clash := taken & set(names.values()):
        raise RequestError(f"the file has a column {clash.pop()} already; rename it")
    return names
