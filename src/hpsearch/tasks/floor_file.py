"""The file of a floor that is no transformers model: arrays, and JSON in its header. A served model carries this."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

WEIGHTS = "model.safetensors"  # the same name as for all models
HEADER = "json"

Arrays = dict[str, NDArray[Any]]


def save(folder: Path, described: dict[str, Any], arrays: Arrays) -> None:
    """Write the file that `load` reads into an existing folder; `described` is JSON-able."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, folder / WEIGHTS, metadata={HEADER: json.dumps(described)})


def load(folder: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the description and the arrays that `save` wrote."""
    with safe_open(folder / WEIGHTS, framework="np") as file:
        return json.loads(file.metadata()[HEADER]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
