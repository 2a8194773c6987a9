import gc
import os
import random
import secrets
import time

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # of one process, so that none waits for a file

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import tiny

torch.set_num_threads(1)  # tiny models lose by more, and losses are compared bit for bit


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: the other processes do the rest meanwhile (xdist with --no-loadscope-reorder)."""
    longest = ("test_memory_does_not_grow_over_100_trials", "test_ray.py", "test_notebook.py")
    items.sort(key=lambda item: item.name not in longest and item.path.name not in longest)


def pytest_collection_finish() -> None:
    """As a worker does before its first trial."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Family name to a folder with a 2-layer model and its tokenizer; built once."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.exists() else tiny.write_model(family, path)

    return folder


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Of a seed that is printed. CHAOS_SEED repeats it."""
    seed = os.environ.get("CHAOS_SEED", str(time.time_ns()))
    print(f"CHAOS_SEED={seed}")
    return random.Random(seed + request.node.name)
