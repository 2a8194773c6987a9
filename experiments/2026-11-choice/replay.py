"""What rules of choice among a few runs are worth. Reads runs/, writes table.md beside this file.

python replay.py [--draws 2000]

Half of the test examples is drawn as a pool. From it comes a validation set of some size; the other half is the test.
Of a few runs that are drawn each rule keeps one. A figure is what the kept one has on the other half, beside the mean
of these runs, in points, with the standard error over draws.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import f1_score

HERE = Path(__file__).parent
SIZES = (30, 100, 300)
AMONG = 3  # runs, as the hours of the race hold them
Scores = NDArray[np.float64]  # of the runs
Rule = Callable[[Scores, Scores, Scores], int]


def by_score(score: Scores, loss: Scores, error: Scores) -> int:
    """The best score; of equal ones the first, as hpsearch had it."""
    return int(np.argmax(score))


def by_score_then_loss(score: Scores, loss: Scores, error: Scores) -> int:
    """The best score; of equal ones the least loss."""
    return int(np.lexsort((loss, -score))[0])


def by_loss(score: Scores, loss: Scores, error: Scores) -> int:
    """The least log loss."""
    return int(np.argmin(loss))


def near_by_loss(score: Scores, loss: Scores, error: Scores) -> int:
    """The least log loss among those within one standard error of the best score."""
    near = score >= score.max() - error[int(np.argmax(score))]
    return int(np.argmin(np.where(near, loss, np.inf)))


RULES: dict[str, Rule] = {
    "the best score, then the first": by_score,
    "the best score, then the least log loss": by_score_then_loss,
    "the least log loss within one standard error of the best score": near_by_loss,
    "the least log loss": by_loss,
}


def macro_f1(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> float:
    return float(f1_score(truth, predicted, average="macro", labels=np.unique(truth), zero_division=0.0))


def accuracy(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> float:
    return float((truth == predicted).mean())


METRICS = {"r8": macro_f1}


def replayed(
    runs: list[dict[str, NDArray[Any]]], metric: Callable[..., float], size: int, draws: int
) -> dict[str, list[float]]:
    """Points above the mean of the runs, of each rule, by draw."""
    rng, found = np.random.default_rng(0), defaultdict(list)
    truth = runs[0]["truth"]
    for _ in range(draws):
        order = rng.permutation(len(truth))
        pool, test = order[: len(order) // 2][:size], order[len(order) // 2 :]
        chosen = [runs[i] for i in rng.permutation(len(runs))[:AMONG]]
        score = np.array([metric(truth[pool], run["predicted"][pool]) for run in chosen])
        loss = np.array([-np.log(np.maximum(run["likelihood"][pool], 1e-7)).mean() for run in chosen])
        error = np.sqrt(np.maximum(score * (1 - score), 0) / size)
        on_test = np.array([metric(truth[test], run["predicted"][test]) for run in chosen])
        for name, rule in RULES.items():
            found[name].append(100 * (on_test[rule(score, loss, error)] - on_test.mean()))
        found["the best there is"].append(100 * (on_test.max() - on_test.mean()))
    return found


def main() -> None:
    """Replay, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    by_data = defaultdict(list)
    for path in sorted((HERE / "runs").glob("*.npz")):
        by_data[path.name.split("-rate-")[0]].append(dict(np.load(path)))
    lines = [
        f"Points on test above the mean of {AMONG} runs, {given.draws:,} draws; in brackets the standard error.",
        "",
    ]
    for name, runs in by_data.items():
        metric = METRICS.get(name.split("_")[0], accuracy)
        scores = [metric(run["truth"], run["predicted"]) for run in runs]
        lines += [
            "",
            f"## {name}: {len(runs)} runs, {metric.__name__} {min(scores):.3f} to {max(scores):.3f} on test",
            "",
        ]
        lines += [f"| validation examples | {' | '.join(map(str, SIZES))} |", f"| --- |{' --- |' * len(SIZES)}"]
        columns = [replayed(runs, metric, size, given.draws) for size in SIZES]
        for rule in columns[0]:
            cells = [f"{np.mean(one[rule]):+.2f} ({np.std(one[rule]) / given.draws**0.5:.2f})" for one in columns]
            lines.append(f"| {rule} | {' | '.join(cells)} |")
    (HERE / "table.md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
