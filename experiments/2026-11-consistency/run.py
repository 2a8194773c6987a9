"""Is a fine-tune better whose two passes of dropout must agree? Adds rows to table.csv beside this file.

python run.py --data NAME ... [--weights 0 1] [--seeds 3] [--factors 1.5] [--rates 1e-4]; a weight is
`train.rdrop`. 0 is the fine-tune as it is, one pass of each batch. A row that is there is not run again.
"""

import argparse
import csv
import importlib
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hpsearch.config import composition, loading
from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, Part
from hpsearch.training import data, hardware
from hpsearch.training.saved import ScoreSpec, score
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "budget_race"))
race: Any = importlib.import_module("tasks")  # data of the race

COLUMNS = ("data", "weight", "factor", "rate", "seed", "passes", "validation", "test", "seconds", "machine")


def settings_of(overrides: tuple[str, ...], weight: float, factor: float, rate: float, seed: int) -> Settings:
    """Of one row."""
    given = [*overrides, "budget=full", "budget.validation_examples=1000", "budget.rung_examples=null"]
    given += [f"train.rdrop={weight}", f"train.epochs_factor={factor}", f"train.learning_rate={rate}", f"seed={seed}"]
    return loading.load(composition.compose([*given, "search.rungs=[]", "hardware.checkpoint_seconds=100000"]))


def main() -> None:
    """Train and score what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", required=True, choices=list(race.TASKS))
    parser.add_argument("--weights", nargs="+", type=float, default=[0.0, 1.0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--factors", nargs="+", type=float, default=[1.5])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4])
    given = parser.parse_args()
    kept, there = HERE / "table.csv", set()
    if kept.exists():
        with open(kept, newline="") as file:
            there = {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(file)}
    else:
        kept.write_text(",".join(COLUMNS) + "\n")
    line = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)
    warm = None
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        refs: dict[str, Any] = {}
        for key in itertools.product(given.data, given.weights, given.factors, given.rates, given.seeds):
            if tuple(map(str, key)) in there:
                continue
            name, weight, factor, rate, seed = key
            settings = settings_of(race.prepared(name, home), weight, factor, rate, seed)
            if warm is None:
                hardware.apply(where := hardware.resolve(settings.hardware))
                warm = Warm(where)
            if name not in refs:
                refs[name] = data.prepare(data.read(settings), settings, home / name)
            ref, metric, folder = refs[name], settings.task.metric, home / "trial"
            started = time.perf_counter()
            result = run_trial(TrialSpec(0, settings, ref, folder), warm, line)
            seconds = time.perf_counter() - started
            model = TrialFolder(folder).model
            tested = score(ScoreSpec(0, settings, ref, model, Part("test"), result.fitted), warm, line)
            shutil.rmtree(folder)
            seen = f"{result.step * settings.train.batch_size / ref.sizes['train']:.2f}"
            row = (*key, seen, f"{result.score:.4f}", f"{tested.metrics[metric]:.4f}", f"{seconds:.0f}", where.name)
            with open(kept, "a", newline="") as file:
                csv.writer(file).writerow(row)
            print(*row, flush=True)


if __name__ == "__main__":
    main()
