"""Logging a winner as an MLflow model that takes raw input and runs without hpsearch."""

import importlib.metadata
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hpsearch.serving import mlflow_process  # noqa: F401  # first, for MLflow's warnings

# isort: split
import mlflow
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema
from mlflow.types.schema import Array, Map, Object, Property

from hpsearch.serving import code
from hpsearch.serving.code import PACKAGE
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.product import ListOf, MapOf, Record, Type


def log_model(
    run_id: str,
    parts: dict[str, Path],
    script: str,
    described: dict[str, Any],
    examples: dict[str, list[str]],
    card: str,
) -> str:
    """Log a model in an MLflow run and return its `models:/` URI.

    It is logged from code, without pickle. It loads where its requirements are installed and hpsearch is not.

    Args:
        run_id: Id of the trial's or the floor's run.
        parts: Folder of each part, by the name that the script knows. `model` holds safetensors, and for a model of
            transformers also config and tokenizer.
        script: File in `serving/` that runs the model.
        described: What `packaging.describe` returned.
        examples: Some values of each input role, in the order of `Kind.inputs`.
        card: The model card, in Markdown.
    """
    client = mlflow.MlflowClient()
    run = client.get_run(run_id)
    # Created here because MLflow would put the model of an inactive run into the default experiment.
    model = client.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run_id, params=run.data.params
    )
    with tempfile.TemporaryDirectory() as scratch:
        kind = KINDS[described["kind"]]
        source, package = PACKAGE / "serving" / script, Path(scratch) / PACKAGE.name
        for name in code.needed(source):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACKAGE / name, package / name)
        readme = Path(scratch) / "README.md"
        readme.write_text(card, encoding="utf-8")
        named = {
            name: folder if folder.name == name else shutil.copytree(folder, Path(scratch) / name)
            for name, folder in parts.items()  # MLflow keeps a folder's own name, and two may have the same
        }
        records = [dict(zip(examples, values, strict=True)) for values in zip(*examples.values(), strict=True)]
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            model_id=model.model_id,
            python_model=str(source),
            artifacts={name: folder.absolute().as_uri() for name, folder in named.items()} | {"card": readme.as_uri()},
            model_config=described,
            code_paths=[str(package)],
            pip_requirements=[f"{name}=={_public_version(name)}" for name in code.libraries(source)],
            signature=signature(kind),
            input_example=records if len(examples) > 1 else next(iter(examples.values())),
        )
    return f"models:/{model.model_id}"


def signature(kind: Kind) -> ModelSignature:
    """Return a kind's inputs and outputs in MLflow's types.

    A single input has no name, because MLflow then also takes a plain list of texts.
    """
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


def _public_version(package: str) -> str:
    """Return a package's version without its local part: no package index has `2.13.0+cpu`."""
    return importlib.metadata.version(package).partition("+")[0]
