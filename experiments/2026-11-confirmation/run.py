"""Fresh seeds against the best of N, replayed on 300 real fine-tunes of BERT-large. Writes table.md.

python run.py [--repeats 4000]; seconds. The runs: two tasks, three recipes, 50 seeds each (revisit-bert-finetuning,
`../shared/data`). A search draws runs; best of N reports the best validation score and keeps that run. Confirmation
spends part of the same number of runs on fresh seeds of the best recipes and of the reference, as the project does,
with the project's own functions but for one: predictions are not in the data, so nobody is out early.
"""

import argparse
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd

from hpsearch.racing import Run, crossfitted, entrants, winner
from hpsearch.records import Status, TrialRecord

HERE = Path(__file__).parent
DATA = HERE.parents[1] / ".." / "shared" / "data" / "bert-large-glue-curves.csv.gz"
REFERENCE = "standard_debiased"
BUDGETS = ((14, 2, 2), (18, 2, 3), (20, 1, 4), (20, 2, 4), (30, 2, 6))  # runs in total, finalists, seeds
HEADINGS = (
    *("task", "runs in total", "finalists beside the reference", "fresh seeds each"),
    *("error of best of N's validation score", "of the confirmed choice's mean", "of its crossfitted score"),
    *("test of best of N", "of the confirmed choice", "difference"),
)
NOTHING = np.zeros((1, 1))


def load() -> pd.DataFrame:
    """The last validation and test score of each run."""
    with gzip.open(DATA, "rt") as file:
        curves = pd.read_csv(file).sort_values("step")
    return curves.groupby(["task", "method", "seed"])[["val_metric", "test_last"]].last().reset_index()


def replay(runs: pd.DataFrame, rng: np.random.Generator, total: int, finalists: int, seeds: int) -> dict[str, float]:
    """One search, ended in both ways: errors of what each reports, and test scores of what each keeps."""
    order = rng.permutation(len(runs))
    drawn = runs.iloc[order]
    methods = {method: {"method": method} for method in sorted(runs.method.unique())}
    best = drawn.iloc[:total].sort_values("val_metric", ascending=False).iloc[0]
    unused = drawn.iloc[total:]
    found = {
        "best error": best.val_metric - unused[unused.method == best.method].val_metric.mean(),
        "best test": best.test_last,
    }
    # The number of entrants, and so of runs, depends on who is found: the search has what is left.
    search = total - seeds * (finalists + 1)
    by_recipe = drawn.iloc[:search].groupby("method").val_metric.max().sort_values(ascending=False)
    trials = [
        TrialRecord(i, methods[method], Status.COMPLETE, score=score)
        for i, (method, score) in enumerate(by_recipe.items())
    ]
    entering = entrants(trials, methods[REFERENCE], finalists)
    rest = drawn.iloc[search:]
    fresh: dict[str, list[Run]] = {}
    rows = {}
    for entrant in entering:
        rows[entrant.name] = rest[rest.method == entrant.params["method"]].iloc[:seeds]
        fresh[entrant.name] = [
            Run(i, row.val_metric, NOTHING, 1.0) for i, row in enumerate(rows[entrant.name].itertuples())
        ]
    name = winner(fresh, range(seeds), {})
    assert name is not None
    chosen = rows[name]
    recipe = chosen.iloc[0].method
    left = rest[(rest.method == recipe) & ~rest.index.isin(chosen.index)]
    kept = chosen.sort_values("val_metric", ascending=False).iloc[0]
    found["mean's error"] = chosen.val_metric.mean() - left.val_metric.mean()
    worth = crossfitted(fresh, range(seeds), {})
    assert worth is not None
    found["crossfitted error"] = worth - left.val_metric.mean()
    found["confirmed test"] = kept.test_last
    return found


def main(repeats: int) -> None:
    everything = load()
    lines = [
        f"{repeats:,} repeats; in points ± Monte-Carlo standard error",
        "",
        f"| {' | '.join(HEADINGS)} |",
        f"|{' --- |' * len(HEADINGS)}",
    ]
    for task, runs in everything.groupby("task"):
        runs = runs.reset_index(drop=True)
        for total, finalists, seeds in BUDGETS:
            rng = np.random.default_rng(0)
            found = defaultdict(list)
            for _ in range(repeats):
                for name, value in replay(runs, rng, total, finalists, seeds).items():
                    found[name].append(100 * value)
            found["difference"] = list(np.subtract(found["confirmed test"], found["best test"]))

            def cell(name: str, sign: str = "", found: dict[str, list[float]] = found) -> str:
                values = np.array(found[name])
                return f"{values.mean():{sign}.2f} ± {values.std() / np.sqrt(len(values)):.2f}"

            shown = [*(cell(f"{name} error", "+") for name in ("best", "mean's", "crossfitted"))]
            shown += [cell("best test"), cell("confirmed test")]
            row = [str(task), str(total), str(finalists), str(seeds), *shown, cell("difference", "+")]
            lines.append(f"| {' | '.join(row)} |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    main(parser.parse_args().repeats)
