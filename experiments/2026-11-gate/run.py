"""How often the gate errs, what it can see, and whether intervals cover: simulated test sets. Writes table.md.

python run.py [--repeats 4000]; about eight minutes on one core. Two models are a population of examples of which both,
one or none has each right; a test set is drawn from it, and the project's own functions judge it.
"""

import argparse
import functools
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpsearch.decisions import paired
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.metrics import wilson
from hpsearch.tasks.objectives import OBJECTIVES

HERE = Path(__file__).parent
ALPHA = 0.025
SIZES = (500, 1_000, 2_500, 5_000, 10_000, 25_000)
GAINS = (0.005, 0.01, 0.02, 0.03)
OVER_FLOOR = (-0.02, -0.01, 0.0, 0.01, 0.02, 0.04)
DIFFER = (0.06, 0.12)  # share of examples that one alone has right
ACCURACY = 0.87
SPREAD = 0.004  # of one recipe's true accuracy over seeds
LABELS = ("no", "yes")
KIND = KINDS["text_classification"]

MARGIN = 0.01  # that the rule `cheaper` allows
CLASSES, RARE = 20, 10  # of the intervals of macro F1, and how many of them may have two examples

mcnemar = functools.cache(paired.mcnemar)


@functools.cache
def least_gain(n: int, ours: int, theirs: int) -> float:
    """Of the challenger, by what each alone has right; the rest is right in both."""
    champion = ["no"] * ours + ["yes"] * (n - ours)
    challenger = ["yes"] * (n - theirs) + ["no"] * theirs
    before, after = (KIND.tallies(["yes"] * n, said, LABELS) for said in (champion, challenger))
    return paired.least_gain(before, after, KIND.of_sums, OBJECTIVES["accuracy"], ALPHA)


def not_worse(rng: np.random.Generator, repeats: int, n: int, differ: float) -> float:
    """Share of test sets on which a challenger that is worse by just the margin counts as not worse by it."""
    counts = rng.multinomial(n, [(differ - MARGIN) / 2, (differ + MARGIN) / 2, 1 - differ], size=repeats)
    return float(np.mean([least_gain(n, int(ours), int(theirs)) > -MARGIN for ours, theirs, _ in counts]))


def covered_f1(rng: np.random.Generator, repeats: int, n: int, rare: int) -> float:
    """Share of test sets whose interval holds the population's macro F1; each class has its share of every one."""
    labels = tuple(f"class {i}" for i in range(CLASSES))
    counts = np.full(CLASSES, (n - 2 * rare) // (CLASSES - rare))
    counts[:rare] = 2
    said = np.where(np.eye(CLASSES) > 0, ACCURACY, (1 - ACCURACY) / (CLASSES - 1))  # (truth, answer)
    expected = counts[:, None] * said
    true = float(np.mean(2 * np.diag(expected) / (expected.sum(0) + counts)))
    of_cells = KIND.tallies(np.repeat(labels, CLASSES).tolist(), labels * CLASSES, labels)
    held = 0
    for _ in range(repeats):
        drawn = rng.multinomial(counts, said).ravel()
        low, high = paired.intervals(np.repeat(of_cells, drawn, axis=0), KIND.of_sums)["f1"]
        held += low <= true <= high
    return held / repeats


def passes(rng: np.random.Generator, repeats: int, n: int, differ: float, gain: NDArray[np.float64]) -> float:
    """Share of test sets on which the challenger passes; `gain` is the true one, of each repeat."""
    alone = np.clip((differ + gain) / 2, 0, 1), np.clip((differ - gain) / 2, 0, 1)
    rest = 1 - alone[0] - alone[1]
    counts = rng.multinomial(n, np.column_stack([*alone, rest]))
    return float(np.mean([mcnemar(int(ours), int(theirs)) <= ALPHA for ours, theirs, _ in counts]))


def refused(rng: np.random.Generator, repeats: int, n: int, gain: float) -> float:
    """Share of test sets on which a first champion does worse than a floor to which it gains so much in truth."""
    differ = DIFFER[1]
    counts = rng.multinomial(n, [(differ + gain) / 2, (differ - gain) / 2, 1 - differ], size=repeats)
    return float(np.mean(counts[:, 0] < counts[:, 1]))


def passes_by_f1(rng: np.random.Generator, repeats: int, n: int, differ: float) -> float:
    """The same for macro F1 of equal models: (truth, champion, challenger) of two classes, errors alike in both."""
    both_wrong = 1 - ACCURACY - differ / 2
    cells, chances = [], []
    for truth, other in (LABELS, LABELS[::-1]):
        for champion, challenger, chance in (
            (truth, truth, ACCURACY - differ / 2),
            (truth, other, differ / 2),
            (other, truth, differ / 2),
            (other, other, both_wrong),
        ):
            cells.append((truth, champion, challenger))
            chances.append(chance / 2)
    passed = 0
    truths, *models = zip(*cells, strict=True)
    of_cells = [KIND.tallies(truths, said, LABELS) for said in models]
    for counts in rng.multinomial(n, chances, size=repeats):
        before, after = (np.repeat(one, counts, axis=0) for one in of_cells)
        passed += paired.compare(before, after, KIND.of_sums, OBJECTIVES["f1"]).p <= ALPHA
    return passed / repeats


def covered(rng: np.random.Generator, repeats: int, n: int, accuracy: float) -> float:
    """Share of test sets whose interval holds the population's accuracy."""
    bounds = [wilson(int(right), n) for right in rng.binomial(n, accuracy, size=repeats)]
    return float(np.mean([low <= accuracy <= high for low, high in bounds]))


def share(found: float, repeats: int) -> str:
    """With its Monte-Carlo standard error."""
    return f"{100 * found:.1f} ± {100 * np.sqrt(found * (1 - found) / repeats):.1f}"


def main(repeats: int) -> None:
    rng = np.random.default_rng(0)
    lines = [
        f"{repeats:,} repeats a cell; one-sided alpha {ALPHA}; in per cent ± Monte-Carlo standard error",
        "",
        "Two models that are equal on the population: how often the challenger is promoted",
        "",
        "| test examples | accuracy, 6 % of answers differ | accuracy, 12 % differ | F1, 6 % differ "
        "| two runs of one recipe, seed spread 0.4 points, 6 % differ |",
        "| --- | --- | --- | --- | --- |",
    ]
    for n in SIZES:
        equal = [share(passes(rng, repeats, n, differ, np.zeros(repeats)), repeats) for differ in DIFFER]
        f1 = share(passes_by_f1(rng, repeats, n, DIFFER[0]), repeats) if n <= 5_000 else ""
        seeds = rng.normal(0, SPREAD * np.sqrt(2), size=repeats)
        spread = share(passes(rng, repeats, n, DIFFER[0], seeds), repeats)
        lines.append(f"| {n:,} | {' | '.join(equal)} | {f1} | {spread} |")
    for differ in DIFFER:
        lines += [
            "",
            f"A challenger that is better on the population, {differ:.0%} of answers differ: how often it is promoted",
            "",
            f"| test examples | {' | '.join(f'by {100 * gain:g} points' for gain in GAINS)} |",
            f"| --- |{' --- |' * len(GAINS)}",
        ]
        for n in SIZES:
            found = [share(passes(rng, repeats, n, differ, np.full(repeats, gain)), repeats) for gain in GAINS]
            lines.append(f"| {n:,} | {' | '.join(found)} |")
    lines += [
        "",
        "95 % intervals over examples: how often they hold the population's accuracy",
        "",
        "| test examples | accuracy 0.80 | 0.87 | 0.95 |",
        "| --- | --- | --- | --- |",
    ]
    for n in (500, 2_500):
        found = [share(covered(rng, repeats, n, accuracy), repeats) for accuracy in (0.80, 0.87, 0.95)]
        lines.append(f"| {n:,} | {' | '.join(found)} |")
    few = repeats // 10
    lines += [
        "",
        f"95 % intervals over 500 examples of {CLASSES} classes: how often they hold the macro F1; {few:,} repeats",
        "",
        f"| classes alike | {RARE} of them with 2 examples each |",
        "| --- | --- |",
        f"| {' | '.join(share(covered_f1(rng, few, 500, rare), few) for rare in (0, RARE))} |",
        "",
        f"The rule `cheaper`: how often a challenger passes that is worse by its margin, {100 * MARGIN:g} point",
        "",
        "| test examples | it only loses | 6 % of answers differ |",
        "| --- | --- | --- |",
    ]
    for n in (100, 300, 500, 1_000, 2_500):
        found = [share(not_worse(rng, repeats, n, differ), repeats) for differ in (MARGIN, DIFFER[0])]
        lines.append(f"| {n:,} | {' | '.join(found)} |")
    lines += [
        "",
        f"A task's first champion and the best floor, {DIFFER[1]:.0%} of answers differ: how often it is refused",
        "",
        f"| test examples | {' | '.join(f'it gains {100 * gain:+g} points' for gain in OVER_FLOOR)} |",
        f"| --- |{' --- |' * len(OVER_FLOOR)}",
    ]
    for n in SIZES:
        found = [share(refused(rng, repeats, n, gain), repeats) for gain in OVER_FLOOR]
        lines.append(f"| {n:,} | {' | '.join(found)} |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=4000)
    main(parser.parse_args().repeats)
