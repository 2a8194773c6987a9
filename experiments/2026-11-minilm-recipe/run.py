"""MiniLM on IMDb: rate and warm-up, for fine-tunes of few and of more steps. Writes table.md beside this file.

python run.py; an hour on two cores with bf16. One trial each, everything else as the reference recipe has it. A cell
that is in cells.json is not run again.
"""

import itertools
import json
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from hydra import compose, initialize_config_dir

from hpsearch.config import loading
from hpsearch.state.messages import Decision, Hardware
from hpsearch.training import data, hardware
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

HERE = Path(__file__).parent
SIZES = ((400, 512), (1000, 192), (2000, 192))  # reviews, tokens
RATES = (2e-4, 1e-4)
WARMUPS = (0.1, 0.0)
SEEDS = (1, 2, 3)
COMMON = (
    "train.epochs=2",
    "model.pooling=first",
    "budget.validation_examples=1000",
    "budget.rung_examples=null",
    "search.rungs=[]",
)


def trained(train: int, length: int, rate: float, warmup: float, seed: int) -> tuple[Hardware, int, float]:
    """Where it ran, steps, validation accuracy."""
    line = Line(
        point=lambda _: None,
        rung=lambda _: Decision.CONTINUE,
        heard=lambda: None,
        alive=lambda: None,
        retimed=lambda _: None,
    )
    given = (
        f"budget.train_examples={train}",
        f"task.max_length={length}",
        f"train.learning_rate={rate}",
        f"train.warmup={warmup}",
        f"seed={seed}",
    )
    with tempfile.TemporaryDirectory() as scratch:
        with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
            chosen = loading.load(compose("config", overrides=[*COMMON, *given]))
        ref = data.prepare(data.read(chosen), chosen, Path(scratch))
        where = hardware.resolve(chosen.hardware)
        result = run_trial(TrialSpec(0, chosen, ref, Path(scratch) / "trial"), Warm(where), line)
    return where, result.step, result.metrics["validation_accuracy"]


def cell(train: int, length: int, rate: float, warmup: float) -> dict[str, Any]:
    found = [trained(train, length, rate, warmup, seed) for seed in SEEDS]
    where, steps, _ = found[0]
    return {
        "reviews": train,
        "tokens": length,
        "steps": steps,
        "rate": rate,
        "warmup": warmup,
        "hardware": f"{where.name}, {where.threads} threads, {where.precision}",
        "accuracies": [accuracy for _, _, accuracy in found],
    }


def main() -> None:
    kept = HERE / "cells.json"
    cells = json.loads(kept.read_text()) if kept.exists() else []
    there = {(one["reviews"], one["tokens"], one["rate"], one["warmup"]) for one in cells}
    for (train, length), rate, warmup in itertools.product(SIZES, RATES, WARMUPS):
        if (train, length, rate, warmup) not in there:
            cells.append(cell(train, length, rate, warmup))
            print(cells[-1], file=sys.stderr)
            kept.write_text(json.dumps(cells, indent=1) + "\n")
            write(cells)


def write(cells: list[dict[str, Any]]) -> None:
    head = "| reviews | tokens | steps | rate | warm-up | validation accuracy by seed | mean |"
    rows = [
        f"| {one['reviews']:,} | {one['tokens']} | {one['steps']} | {one['rate']:.0e} | {one['warmup']:g} "
        f"| {', '.join(f'{accuracy:.3f}' for accuracy in one['accuracies'])} | {fmean(one['accuracies']):.3f} |"
        for one in sorted(cells, key=lambda one: (one["reviews"], -one["rate"], -one["warmup"]))
    ]
    machines = "; ".join(sorted({one["hardware"] for one in cells}))
    about = f"{machines}; seeds {', '.join(map(str, SEEDS))}; 1,000 validation reviews"
    (HERE / "table.md").write_text("\n".join([about, "", head, "| --- " * 7 + "|", *rows]) + "\n")


if __name__ == "__main__":
    main()
