"""Fresh seeds against the best of N, replayed on 300 real fine-tunes of BERT-large. Writes table.md.

python run.py [--repeats 4000]; a minute. The runs: two tasks, three recipes, 50 seeds each (revisit-bert-finetuning,
`../shared/data`). A search draws runs; best of N reports the best validation score and keeps that run. Confirmation
spends part of the same number of runs on fresh seeds of the best recipes and of the reference, as the project does,
with the project's own functions but for one: predictions are not in the data, so nobody is out early.
"""

import argparse
import gzip
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hpsearch.decisions.racing import Run, corrected, entrants, winner
from hpsearch.state.records import Status, TrialRecord

HERE = Path(__file__).parent
DATA = HERE.parents[1] / ".." / "shared" / "data" / "bert-large-glue-curves.csv.gz"
REFERENCE = "standard_debiased"
BUDGETS = ((10, 1, 1), (14, 1, 2), (14, 2, 2), (19, 2, 3), (20, 2, 4), (30, 2, 6), (35, 2, 5))
"""Runs in total, finalists, seeds."""
BEST = 2  # runs of each task that are left out of a second pool: the two to which best of N owes most of its score
HEADINGS = (
    *("runs of", "runs in total", "best points confirmed", "fresh seeds each"),
    *("error of best of N's validation score", "of the confirmed choice's mean", "of its corrected mean"),
    *("test of best of N", "of the confirmed choice", "difference"),
)
NOTHING = np.zeros((1, 1))


class Runs(NamedTuple):
    """Of one pool: the recipe of each run, and its last scores."""

    recipe: NDArray[np.str_]
    validation: NDArray[np.float64]
    test: NDArray[np.float64]


def load() -> dict[str, Runs]:
    """The runs of each task, and without those of the best validation scores."""
    with gzip.open(DATA, "rt") as file:
        curves = pd.read_csv(file).sort_values("step")
    last = curves.groupby(["task", "method", "seed"])[["val_metric", "test_last"]].last().reset_index()
    pools = {}
    for task, rows in last.groupby("task"):
        for name, pool in (
            (str(task), rows),
            (f"{task} but its {BEST} best", rows.drop(rows.val_metric.nlargest(BEST).index)),
        ):
            pools[name] = Runs(pool.method.to_numpy(dtype=str), pool.val_metric.to_numpy(), pool.test_last.to_numpy())
    return pools


def replay(runs: Runs, rng: np.random.Generator, total: int, finalists: int, seeds: int) -> dict[str, float]:
    """One search, ended in both ways: errors of what each reports, and test scores of what each keeps."""
    drawn = rng.permutation(len(runs.recipe))
    best = _best(runs, drawn[:total])
    unused = drawn[total:]
    found = {
        "best error": runs.validation[best] - runs.validation[unused[runs.recipe[unused] == runs.recipe[best]]].mean(),
        "best test": runs.test[best],
    }
    search, rest = np.split(drawn, [total - seeds * (finalists + 1)])
    trials = [
        TrialRecord(
            i, {"recipe": recipe}, Status.COMPLETE, score=max(runs.validation[search[runs.recipe[search] == recipe]])
        )
        for i, recipe in enumerate(np.unique(runs.recipe[search]))
    ]
    trials.sort(key=lambda trial: -(trial.score or 0.0))
    rows, fresh = {}, {}
    for entrant in entrants(trials, {"recipe": REFERENCE}, finalists, {}):
        rows[entrant.name] = rest[runs.recipe[rest] == entrant.params["recipe"]]
        fresh[entrant.name] = [
            Run(seed, runs.validation[row], NOTHING, 1.0) for seed, row in enumerate(rows[entrant.name][:seeds])
        ]
    name, worth = winner(fresh, range(seeds), {}), corrected(fresh, range(seeds), {})
    assert name is not None
    chosen, left = np.split(rows[name], [seeds])
    truth = runs.validation[left].mean()
    return found | {
        "mean's error": runs.validation[chosen].mean() - truth,
        "corrected error": worth - truth if worth is not None else np.nan,
        "confirmed test": runs.test[_best(runs, chosen)],
    }


def _best(runs: Runs, rows: NDArray[np.intp]) -> int:
    return int(rows[runs.validation[rows].argmax()])


def main(repeats: int) -> None:
    lines = [
        f"{repeats:,} repeats; in points ± Monte-Carlo standard error",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * len(HEADINGS)}",
    ]
    for task, runs in load().items():
        for total, finalists, seeds in BUDGETS:
            rng = np.random.default_rng(0)
            found = defaultdict(list)
            for _ in range(repeats):
                for name, value in replay(runs, rng, total, finalists, seeds).items():
                    found[name].append(100 * value)
            found["difference"] = list(np.subtract(found["confirmed test"], found["best test"]))

            def cell(name: str, sign: str = "", found: dict[str, list[float]] = found) -> str:
                values = np.array(found[name])
                if np.isnan(values).all():
                    return "-"  # one seed tells nothing of another
                return f"{values.mean():{sign}.2f} ± {values.std() / np.sqrt(len(values)):.2f}"

            shown = [*(cell(f"{name} error", "+") for name in ("best", "mean's", "corrected"))]
            shown += [cell("best test"), cell("confirmed test")]
            row = [task, str(total), str(finalists), str(seeds), *shown, cell("difference", "+")]
            lines.append(f"| {' | '.join(row)} |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    main(parser.parse_args().repeats)
