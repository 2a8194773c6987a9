"""Fine-tunes at many rates, lengths and sizes: what plans are made of. Adds rows to table.csv beside this file.

python run.py [--minutes M] [--data NAME ...] [--examples N ...] [--factors F ...] [--rates R ...]; a row that is there
is not run again, so the table grows. One row for each data set, number of training examples, multiple of the usual
number of passes, learning rate and seed: validation at each quarter of the schedule, test at its end.
"""

import argparse
import csv
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from hpsearch.config import loading
from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, Part, RungReport
from hpsearch.state.records import DataRef
from hpsearch.training import data, hardware
from hpsearch.training.saved import ScoreSpec, score
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "data"
RATES = (1e-4, 3e-5, 2e-4, 6e-5, 3.5e-4, 6e-4)
FACTORS = (1.0, 0.5, 2.0)
SEEDS = (1, 2, 3)
QUARTERS = (0.25, 0.5, 0.75)
COLUMNS = (
    *("data", "examples", "factor", "rate", "seed", "passes", "steps"),
    *("validation_25", "validation_50", "validation_75", "validation", "test", "seconds", "machine"),
)


@dataclass(frozen=True)
class Source:
    """A data set."""

    settings: tuple[str, ...]
    sizes: tuple[int, ...]
    """Training examples; the last is all, or more than there are."""


SOURCES = {
    "rotten_tomatoes": Source(("task=rotten_tomatoes",), (250, 1000, 2500, 6000)),
    "r8": Source(
        (
            *("task=csv", "task.name=r8", "task.max_length=128", "task.metric=f1"),
            *(f"task.files.train={SHARED / 'r8-train.csv'}", f"task.files.test={SHARED / 'r8-test.csv'}"),
        ),
        (300, 1000, 5000),
    ),
    "imdb": Source(("task=imdb", "budget.test_examples=1500"), (250, 1000, 4000, 20000)),
    "half_dev": Source(
        (
            *("task=qa_files", "task.name=half_dev", "task.split.test=0.2"),
            f"task.files.train={SHARED / 'squad-v2.0-half-dev.json'}",
        ),
        (400, 1500, 5000),
    ),
}


def settings_of(source: Source, examples: int, factor: float, rate: float, seed: int) -> Settings:
    """Of one row."""
    given = [
        *source.settings,
        *("budget=full", "budget.validation_examples=1000", "budget.rung_examples=null"),
        *(f"train.examples={examples}", f"train.epochs_factor={factor}", f"train.learning_rate={rate}"),
        *(f"seed={seed}", f"search.rungs=[{','.join(map(str, QUARTERS))}]", "hardware.checkpoint_seconds=100000"),
    ]
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        return loading.load(compose("config", overrides=given))


class Bench:
    """What one row leaves to the next."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.refs: dict[str, DataRef] = {}
        self.warm: Warm | None = None

    def row(self, name: str, examples: int, factor: float, rate: float, seed: int) -> dict[str, Any]:
        """Train and score."""
        settings = settings_of(SOURCES[name], examples, factor, rate, seed)
        if self.warm is None:
            where = hardware.resolve(settings.hardware)
            hardware.apply(where)
            self.warm = Warm(where)
        if name not in self.refs:
            self.refs[name] = data.prepare(data.read(settings), settings, self.home)
        reports: list[RungReport] = []

        def at_quarter(report: RungReport) -> Decision:
            reports.append(report)
            return Decision.CONTINUE

        line = Line(lambda _: None, at_quarter, lambda: None, lambda: None, lambda _: None)
        folder, ref, metric = self.home / "trial", self.refs[name], settings.task.metric
        started = time.perf_counter()
        result = run_trial(TrialSpec(0, settings, ref, folder), self.warm, line)
        seconds = time.perf_counter() - started
        model = TrialFolder(folder).model
        tested = score(ScoreSpec(0, settings, ref, model, Part("test"), result.fitted), self.warm, line)
        shutil.rmtree(folder)
        quarters = [f"{report.score:.4f}" for report in reports]
        key = (name, examples, factor, rate, seed)
        seen = result.step * settings.train.batch_size / min(examples, ref.sizes["train"])
        scores = (*quarters, f"{result.score:.4f}", f"{tested.metrics[metric]:.4f}")
        ran = (f"{seconds:.1f}", self.warm.hardware.name)
        return dict(zip(COLUMNS, (*key, f"{seen:.2f}", result.step, *scores, *ran), strict=True))


def wanted(given: argparse.Namespace) -> Iterator[tuple[str, int, float, float, int]]:
    """Rows, those that tell the most first: a whole grid for one seed, then the next."""
    for seed in SEEDS:
        for name in given.data:
            for rate, factor, examples in itertools.product(given.rates, given.factors, SOURCES[name].sizes):
                if not given.examples or examples in given.examples:
                    yield name, examples, factor, rate, seed


def main() -> None:
    """Run what is missing, as long as there is time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--data", nargs="*", default=list(SOURCES))
    parser.add_argument("--examples", nargs="*", type=int, help="of the sizes of the data set")
    parser.add_argument("--factors", nargs="*", type=float, default=FACTORS)
    parser.add_argument("--rates", nargs="*", type=float, default=RATES)
    given = parser.parse_args()
    kept, until = HERE / "table.csv", time.monotonic() + 60 * given.minutes
    there = set()
    if kept.exists():
        with open(kept, newline="") as file:
            there = {tuple(row[name] for name in COLUMNS[:5]) for row in csv.DictReader(file)}
    else:
        kept.write_text(",".join(COLUMNS) + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        for key in wanted(given):
            if tuple(map(str, key)) in there:
                continue
            if time.monotonic() > until:
                return
            row = bench.row(*key)
            with open(kept, "a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerow(row)
            print(row, flush=True)


if __name__ == "__main__":
    main()
