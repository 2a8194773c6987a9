"""Which points are run again with fresh seeds, how long each stays in the race, and which wins: pure functions of runs.

Scores of the search decide which points enter. Only the fresh runs decide which wins. All entrants share their seeds,
and are compared example by example, so that the difficulty of an example cancels out. An entrant that clearly loses to
the best is run no more, as in racing (Maron and Moore 1997).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from hpsearch.config.dimensions import Dimension, Interval
from hpsearch.decisions import paired
from hpsearch.decisions.paired import Tallies
from hpsearch.state.records import TrialRecord
from hpsearch.tasks.metrics import OfSums
from hpsearch.tasks.objectives import Objective

REFERENCE = "reference"
NEAR = 0.1  # share of a range; with three seeds a tenth of a decade of the learning rate can't be told from noise
LEFT_OUT = 0.632  # 1 - 1/e: the weight of the .632 estimator


@dataclass(frozen=True)
class Entrant:
    """A point that is run again."""

    name: str
    params: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A complete confirmation run."""

    seed: int
    score: float  # on validation, as `Objective.worth` has it: more is better
    tallies: Tallies  # (validation examples, k)
    cost: float  # training examples that it saw, with repeats


@dataclass(frozen=True)
class Rule:
    """What decides which entrants stay."""

    of_sums: OfSums
    objective: Objective
    confidence: float
    apart: bool = False  # whether each seed has its own validation examples, as in cross-validation


def entrants(
    best_first: Sequence[TrialRecord],
    reference: dict[str, Any],
    finalists: int,
    space: Mapping[str, Dimension],
) -> list[Entrant]:
    """Return the best points of the search and the reference recipe, which is one of them or comes last.

    Twins enter once, under the name of the better one, because a search can't tell them apart. The reference recipe
    takes the place of its twin.
    """
    points: list[TrialRecord] = []
    for trial in best_first:
        if not any(twins(trial.params, other.params, space) for other in points):
            points.append(trial)
    found = [
        Entrant(REFERENCE, reference)
        if twins(trial.params, reference, space)
        else Entrant(f"trial {trial.number}", trial.params)
        for trial in points[:finalists]
    ]
    if REFERENCE not in [entrant.name for entrant in found]:
        found.append(Entrant(REFERENCE, reference))
    return found


def twins(one: Mapping[str, Any], other: Mapping[str, Any], space: Mapping[str, Dimension]) -> bool:
    """Return whether two points differ by no more than NEAR of the range of each interval, and in no choice.

    Args:
        one: a point.
        other: another point; the reference recipe may lie outside the space.
        space: path: its dimension.
    """
    if one.keys() != other.keys():
        return False
    for path, value in one.items():
        dimension = space.get(path)
        if not isinstance(dimension, Interval) or value is None or other[path] is None:
            if value != other[path]:
                return False
            continue
        low, high, here, there = (float(number) for number in (dimension.low, dimension.high, value, other[path]))
        if dimension.log:
            low, high, here, there = map(math.log, (low, high, here, there))
        if abs(here - there) > NEAR * (high - low):
            return False
    return True


def out(
    runs: Mapping[str, Sequence[Run]], seeds: Sequence[int], rule: Rule, ended: Mapping[str, int]
) -> dict[str, int]:
    """Return the entrants that are out of the race, and after how many seeds each left.

    Args:
        runs: complete runs of each entrant so far; the order of entrants does not matter.
        seeds: seeds of the rounds, in their order.
        rule: decides when an entrant clearly loses.
        ended: entrants that failed, and after how many seeds.
    """
    left = dict(ended)
    for done in range(1, len(seeds)):  # the last round needs no decision: no round follows it
        # A failed entrant can't win, so no entrant is out for being worse than it.
        racing = {
            name: _first(found, seeds[:done])
            for name, found in runs.items()
            if name not in ended and left.get(name, done) >= done
        }
        if not racing or any(len(found) < done for found in racing.values()):
            break  # the round is not over
        best = _ranked(racing)[0]
        for name, found in racing.items():
            if name not in left and name != best and _loses(found, racing[best], rule):
                left[name] = done
    return left


def winner(runs: Mapping[str, Sequence[Run]], seeds: Sequence[int], out: Mapping[str, int]) -> str | None:
    """Return the entrant with the best mean; None without complete runs.

    Among equal means the smallest spread wins, then the least cost.
    """
    racing = _compared(runs, seeds, out)
    return _ranked(racing)[0] if racing else None


def corrected(runs: Mapping[str, Sequence[Run]], seeds: Sequence[int], out: Mapping[str, int]) -> float | None:
    """Return the score to expect of the choice on a seed that has no part in it; None with fewer than two seeds.

    The winner's mean is too good, because it is the best of several means. A second estimate lets each seed score the
    entrant that the other seeds choose. It is too low, because a choice by fewer seeds is worse. The two are weighted
    as Efron weights the errors on left-out examples and on used ones (1983, JASA 78, pages 316-331).
    """
    racing = _compared(runs, seeds, out)
    if not racing or len(next(iter(racing.values()))) < 2:
        return None
    own = fmean(run.score for run in racing[_ranked(racing)[0]])
    return LEFT_OUT * _crossfitted(racing) + (1 - LEFT_OUT) * own


def _crossfitted(racing: Mapping[str, Sequence[Run]]) -> float:
    """Return the mean score if each seed scores the entrant that the other seeds choose."""
    rounds = range(len(next(iter(racing.values()))))
    return fmean(
        racing[_ranked({name: [*found[:i], *found[i + 1 :]] for name, found in racing.items()})[0]][i].score
        for i in rounds
    )


def _compared(runs: Mapping[str, Sequence[Run]], seeds: Sequence[int], out: Mapping[str, int]) -> dict[str, list[Run]]:
    """Return the runs of all entrants that stayed, in the order of the seeds.

    Each has the same number of runs, because the last round may be cut off.
    """
    racing = {name: _first(found, seeds) for name, found in runs.items() if name not in out and found}
    shared = min((len(found) for found in racing.values()), default=0)
    return {name: found[:shared] for name, found in racing.items()}


def _first(runs: Sequence[Run], seeds: Sequence[int]) -> list[Run]:
    by_seed = {run.seed: run for run in runs}
    return [by_seed[seed] for seed in seeds if seed in by_seed]


def _ranked(racing: Mapping[str, Sequence[Run]]) -> list[str]:
    """Return the names of the entrants, best first."""

    def order(name: str) -> tuple[float, float, float, str]:
        scores = [run.score for run in racing[name]]
        return -fmean(scores), pstdev(scores), fmean(run.cost for run in racing[name]), name

    return sorted(racing, key=order)


def _loses(runs: Sequence[Run], best: Sequence[Run], rule: Rule) -> bool:
    theirs, ours = [run.tallies for run in best], [run.tallies for run in runs]
    if rule.apart:
        theirs, ours = [np.vstack(theirs)], [np.vstack(ours)]
    drawn = paired.gains(theirs, ours, rule.of_sums, rule.objective)
    return bool(np.quantile(drawn, (1 + rule.confidence) / 2) < 0)
