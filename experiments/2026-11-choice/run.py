"""Which of a few fine-tunes should be kept, where validation is small? Adds files to runs/ beside this file.

python run.py --data r8_300 rotten_tomatoes [--examples 300] [--seeds 3]

Each run is a fine-tune with R-Drop, at the reference learning rate, twice and half of it, as hours without a search run
them. What each says of every test example is kept: the predicted class, and the probability of the right one. A run
that is there is not run again. replay.py chooses among them.
"""

import argparse
import importlib
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from hpsearch.config import composition, loading
from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, Part
from hpsearch.training import data, hardware
from hpsearch.training.saved import ScoreSpec, score
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

HERE = Path(__file__).parent
RUNS = HERE / "runs"
sys.path.insert(0, str(HERE.parent / "budget_race"))
race: Any = importlib.import_module("tasks")  # data of the race


def settings_of(overrides: tuple[str, ...], examples: int | None, times: float, seed: int) -> Settings:
    """Of one run."""
    given = [*overrides, "budget=full", "budget.rung_examples=null", "train.rdrop=1", f"seed={seed}"]
    given += [f"train.examples={examples}"] if examples is not None else []
    settings = loading.load(composition.compose([*given, "search.rungs=[]", "hardware.checkpoint_seconds=100000"]))
    rate = times * settings.train.learning_rate
    return settings.model_copy(update={"train": settings.train.model_copy(update={"learning_rate": rate})})


def main() -> None:
    """Train and score what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", required=True, choices=list(race.TASKS))
    parser.add_argument("--examples", type=int, default=300, help="training examples where the data have more")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--times", type=float, nargs="+", default=[1.0, 2.0, 0.5])
    given = parser.parse_args()
    RUNS.mkdir(exist_ok=True)
    line = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)
    warm = None
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        for name, seed, times in itertools.product(given.data, range(1, given.seeds + 1), given.times):
            kept = RUNS / f"{name}-rate-{times:g}-seed-{seed}.npz"
            if kept.exists():
                continue
            of_data = race.prepared(name, home)
            settings = settings_of(of_data, None, times, seed)
            ref = data.prepare(data.read(settings), settings, home / name)
            if ref.sizes["train"] > given.examples:
                settings = settings_of(of_data, given.examples, times, seed)
            if warm is None:
                hardware.apply(where := hardware.resolve(settings.hardware))
                warm = Warm(where)
            folder, started = home / "trial", time.perf_counter()
            result = run_trial(TrialSpec(0, settings, ref, folder), warm, line)
            model = TrialFolder(folder).model
            tested = score(ScoreSpec(0, settings, ref, model, Part("test"), result.fitted), warm, line)
            shutil.rmtree(folder)
            assert tested.likelihoods is not None
            np.savez_compressed(
                kept,
                predicted=np.array(tested.predictions, dtype=np.uint8),
                truth=np.array(data.load(ref, "test")["label"], dtype=np.uint8),
                likelihood=np.array(tested.likelihoods, dtype=np.float32),
                validation=np.array([result.score, result.metrics["validation_loss"]]),
            )
            found = f"{settings.task.metric} {tested.metrics[settings.task.metric]:.4f}"
            print(f"{kept.stem}: test {found}, {time.perf_counter() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
