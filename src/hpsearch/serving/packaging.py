"""The winner as an MLflow model that takes raw input: logging it, predicting files with it, serving it."""

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpsearch.serving import mlflow_process

# isort: split
import mlflow
import pandas as pd
import pyarrow as pa
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map, Object, Property

from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.serving import code
from hpsearch.serving.appending import SUFFIXES, Chunk, is_unicode, row_file
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


def predict_file(
    model_uri: str, source: Path, destination: Path, kind: str, columns: Mapping[str, str], quoting: str
) -> int:
    """Predict for each row of a CSV, TSV, JSONL or Parquet file; returns the number of its rows.

    `destination` gets the rows in the format of its own name, as they stand, with the columns that the task kind's
    product adds; where the file has one of these already, they are called `predicted_...`. It appears when it is whole.
    In CSV and TSV a list is written as JSON. Memory does not grow with the file.

    Args:
        model_uri: of the model.
        source: the file.
        destination: another file, of the same format.
        kind: of the task.
        columns: for each input role of the kind, the column of the file.
        quoting: `task.quoting`.

    Raises:
        RequestError: the file or the model can't be read, or a row has no text.
    """
    for path in (source, destination):
        if path.suffix.lower() not in SUFFIXES:
            raise RequestError(f"{path}: its name must end in one of {', '.join(SUFFIXES)}")
    if source.suffix.lower() != destination.suffix.lower():
        raise RequestError(f"{destination}: must have the format of {source}; let its name end in {source.suffix}")
    if destination.exists() and source.exists() and destination.samefile(source):
        raise RequestError(f"{destination}: is the file to label, and would be overwritten; give another name")
    if not destination.parent.is_dir():
        raise RequestError(f"{destination}: there is no folder {destination.parent}; make it")
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


def _predicted(
    chunk: Chunk, model: Any, source: Path, columns: Mapping[str, str], added: Sequence[str]
) -> dict[str, list[Any]]:
    """What the model says of the rows of a chunk: a list for each column that is added."""
    for column, values in chunk.read.items():
        for number, value in enumerate(values, chunk.first):
            where = f"{source}, row {number}"
            if not isinstance(value, str):
                raise RequestError(f"{where}: {value!r} in column {column} is not a text; mend that row")
            if not is_unicode(value):
                raise RequestError(
                    f"{where}: the text in column {column} is not UTF-8, or holds half a surrogate pair; mend that row"
                )
    inputs = {role: chunk.read[column] for role, column in columns.items()}
    try:
        predicted = model.predict(pd.DataFrame(inputs) if len(inputs) > 1 else inputs.popitem()[1])
        return {name: predicted[name].tolist() for name in added}
    except (MlflowException, KeyError) as error:
        last = chunk.first + len(next(iter(chunk.read.values()))) - 1
        raise RequestError(
            f"{source}, rows {chunk.first} to {last}: the model can't predict these rows: {error}"
        ) from None


def _added(columns: Iterable[str], added: Iterable[str]) -> dict[str, str]:
    """Names for the new columns that cover nothing up."""
    taken = set(columns)
    if not taken & set(added):
        return {name: name for name in added}
    names = {name: f"predicted_{name}" for name in added}
    if clash := taken & set(names.values()):
        raise RequestError(f"the file has a column {clash.pop()} already; rename it")
    return names
