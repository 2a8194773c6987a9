"""How errors fall with training examples, by the rows of table.csv: what `decisions/curve.py` knows of other data.

python curves.py writes curves.md. Rows of the usual passes and rate: test error against examples, a line for each data
set and seed; and how often the 80 % interval that a data set's fewer examples give, by the slopes of the other data
sets, holds what more examples came to.
"""

import csv
import itertools
import math
from collections import defaultdict
from pathlib import Path
from statistics import fmean, median, pstdev, stdev

import numpy as np

from hpsearch.decisions import curve
from hpsearch.decisions.curve import Slope

HERE = Path(__file__).parent
FACTOR, RATE = "1.0", "0.0001"
Points = list[tuple[int, float]]
"""(training examples, test error), ascending."""


def lines() -> dict[tuple[str, str], Points]:
    """By data set and seed."""
    found = defaultdict[tuple[str, str], Points](list)
    with open(HERE / "table.csv", newline="") as file:
        for row in csv.DictReader(file):
            if (row["factor"], row["rate"]) == (FACTOR, RATE):
                seen = round(int(row["steps"]) * 16 / float(row["passes"]))  # 16 is the batch size; not more than all
                found[row["data"], row["seed"]].append((min(int(row["examples"]), seen), 1 - float(row["test"])))
    return {key: sorted(points) for key, points in sorted(found.items()) if len(points) > 1}


def slope(points: Points) -> float:
    """By which the log error falls."""
    x, y = np.log(np.array(points)).T
    return -float(np.polyfit(x, y, 1)[0])


def residuals(points: Points) -> float:
    """Standard deviation of the log error around its own line."""
    x, y = np.log(np.array(points)).T
    return math.sqrt(float(np.sum((y - np.polyval(np.polyfit(x, y, 1), x)) ** 2)) / max(1, len(points) - 2))


def covered(found: dict[tuple[str, str], Points], slopes: dict[str, float]) -> list[bool]:
    """Of each pair of sizes of a line, whether its interval held."""
    held = []
    for (data, _), points in found.items():
        others = [value for name, value in slopes.items() if name != data]
        known = Slope(fmean(others), stdev(others))
        for (few, before), (many, after) in itertools.combinations(points, 2):
            then = curve.expected(before, few, many, known)
            held.append(then.low <= after <= then.high)
    return held


def main() -> None:
    found = lines()
    by_data = {data: fmean(slope(points) for (name, _), points in found.items() if name == data) for data, _ in found}
    said = [
        "| data | seed | test error by training examples | slope | around its line |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (data, seed), points in found.items():
        errors = ", ".join(f"{examples:,}: {error:.3f}" for examples, error in points)
        around = f"{residuals(points):.3f}" if len(points) > 2 else ""
        said.append(f"| {data} | {seed} | {errors} | {slope(points):.3f} | {around} |")
    spreads = [residuals(points) for points in found.values() if len(points) > 2]
    said += [
        "",
        f"Slope over {len(by_data)} data sets: mean {fmean(by_data.values()):.3f}, standard deviation "
        f"{pstdev(by_data.values()):.3f}, median {median(by_data.values()):.3f}. Log errors lie around their lines "
        f"with {math.sqrt(fmean(one**2 for one in spreads)):.3f}.",
    ]
    if len(by_data) > 2:
        held = covered(found, by_data)
        said.append(
            f"80 % intervals by the slopes of the others hold {sum(held)} of {len(held)} errors of more examples."
        )
    (HERE / "curves.md").write_text("\n".join(said) + "\n")


if __name__ == "__main__":
    main()
