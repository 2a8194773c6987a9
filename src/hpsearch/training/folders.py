"""Where a model lies on this machine, found without slow imports."""

import importlib.util
import os
from pathlib import Path

import huggingface_hub

from hpsearch.config.settings import ModelSettings
from hpsearch.errors import RequestError


def local_folder(model: ModelSettings) -> Path | None:
    """Return the folder that `model.path` names, or None if it is a hub id.

    Raises:
        RequestError: the folder or its package is missing.
    """
    if model.path.startswith("package://"):
        module, _, inside = model.path.removeprefix("package://").partition("/")
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.submodule_search_locations:
            raise RequestError(
                f"model.path={model.path}: the package {module.replace('_', '-')} is not installed; "
                "install it with pip, as `make setup` does, or give a local folder or a hub id"
            )
        return Path(next(iter(spec.submodule_search_locations))) / inside
    folder = Path(os.path.expanduser(model.path))
    if os.path.isdir(folder):  # also False for a name that no file can have
        return folder.resolve()
    if model.path.startswith(("/", ".", "~")) or model.path.count("/") > 1:
        raise RequestError(f"model.path={model.path}: there is no such folder; give an existing one or a hub id")
    return None


def cached_folder(model: ModelSettings) -> Path | None:
    """Return the folder of the hub's cache with a model's config and weights; None if they are not there."""
    config = huggingface_hub.try_to_load_from_cache(model.path, "config.json", revision=model.revision)
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and any(folder.glob("model*.safetensors")) else None
