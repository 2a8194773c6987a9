"""Intervals of one model's metrics, and comparisons of two models on the same examples.

Intervals and tests are over examples. They say what other examples of the same kind would have given for the same
models. They do not cover how much another seed changes a model.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hpsearch.state.measured import Interval, Paired
from hpsearch.tasks.metrics import OfSums, wilson
from hpsearch.tasks.objectives import OBJECTIVES, Objective

SHARES = ("accuracy", "exact_match")  # metrics that are shares of the examples
RESAMPLES = 10_000
AT_ONCE = 500  # resamples at a time, to bound the memory
SEED = 0
FEW = 10  # answers that differ; with fewer, a resample says little

Tallies = NDArray[np.float64]


def compare(champion: Tallies, challenger: Tallies, of_sums: OfSums, objective: Objective) -> Paired:
    """Compare two models' answers to the same examples.

    For accuracy, the p-value is that of the exact McNemar test (McNemar 1947). For other metrics it is that of the
    paired bootstrap (Efron and Tibshirani 1993, chapter 16). That is the share of resamples in which the challenger
    gains nothing. If few answers differ, four in favour of one model would be enough for a small p-value. So p is then
    at least that of the exact sign test.

    Args:
        champion: (n, k), by `Kind.tallies`.
        challenger: (n, k), the same for the other model's answers, in the same order of examples.
        of_sums: `Kind.of_sums`.
        objective: one of the keys that `of_sums` returns, with its direction.
    """
    drawn = gains([champion], [challenger], of_sums, objective)
    low, high = np.percentile(drawn, [2.5, 97.5])
    gained, lost = _differing(champion, challenger, of_sums, objective)
    exact = objective.name == "accuracy"
    p = float((1 + (drawn <= 0).sum()) / (1 + len(drawn)))
    if exact:
        p = mcnemar(gained, lost)
    elif gained + lost < FEW:
        p = max(p, mcnemar(gained, lost))
    before, now = (float(of_sums(one.sum(0))[objective.name]) for one in (champion, challenger))
    return Paired(
        metric=objective.name,
        n=len(champion),
        champion=before,
        challenger=now,
        difference=objective.gain(now, before),
        low=float(low),
        high=float(high),
        p=p,
        test="exact McNemar" if exact else "paired bootstrap",
        challenger_alone=gained if exact else None,
        champion_alone=lost if exact else None,
    )


def least_gain(champion: Tallies, challenger: Tallies, of_sums: OfSums, objective: Objective, alpha: float) -> float:
    """Return the least gain of the challenger at the one-sided level `alpha`, by the paired bootstrap.

    If few answers differ, the share of answers that got worse also bounds the gain (Clopper and Pearson 1934). If none
    of 100 answers differs, 3 or 4 of a hundred others may well get worse. This bound holds only for metrics in which an
    example counts between 0 and 1.
    """
    bound = float(np.quantile(gains([champion], [challenger], of_sums, objective), alpha))
    gained, lost = _differing(champion, challenger, of_sums, objective)
    if objective.share and gained + lost < FEW and lost < len(champion):
        bound = min(bound, -float(stats.beta.ppf(1 - alpha, lost + 1, len(champion) - lost)))
    return bound


def _differing(champion: Tallies, challenger: Tallies, of_sums: OfSums, objective: Objective) -> tuple[int, int]:
    """Return on how many examples, each taken alone, the challenger is better, and on how many it is worse."""
    before, now = (objective.worth(of_sums(one)[objective.name]) for one in (champion, challenger))
    return int((now > before).sum()), int((now < before).sum())


def gains(
    champions: Sequence[Tallies], challengers: Sequence[Tallies], of_sums: OfSums, objective: Objective
) -> NDArray[np.float64]:
    """Return the challengers' gain over the champions on resampled examples, as a mean over pairs: (RESAMPLES,).

    Args:
        champions: tallies of some models, on the same examples.
        challengers: tallies of the same number of other models, on these examples.
        of_sums: `Kind.of_sums`.
        objective: one of the keys that `of_sums` returns, with its direction.
    """
    models, k = len(champions), champions[0].shape[1]
    means = []
    for sums in _resampled(np.hstack([*champions, *challengers])):
        values = objective.worth(of_sums(sums.reshape(len(sums), 2 * models, k))[objective.name])
        means.append(values[:, models:].mean(1) - values[:, :models].mean(1))
    return np.concatenate(means)


def mcnemar(challenger_alone: int, champion_alone: int) -> float:
    """Return the one-sided p-value of the exact McNemar test.

    It counts the examples that only one of the two models has right.
    """
    differing = challenger_alone + champion_alone
    return float(stats.binom.sf(challenger_alone - 1, differing, 0.5)) if differing else 1.0


def intervals(tallies: Tallies, of_sums: OfSums) -> dict[str, Interval]:
    """Return the 95 % interval of each metric.

    Metrics that are shares of the examples have Wilson's interval, others the percentiles of resamples. If no resample
    differs, as when every answer is right, Wilson's interval replaces the percentiles. This is safe because a mean of
    values between 0 and 1 varies no more than a share.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    for sums in _resampled(tallies):
        for name, values in of_sums(sums).items():
            found.setdefault(name, []).append(values)
    result, reached = {}, of_sums(tallies.sum(0))
    for name, parts in found.items():
        low, high = np.percentile(np.concatenate(parts), [2.5, 97.5])
        if name in SHARES or (low == high and OBJECTIVES[name].share):
            low, high = wilson(round(float(reached[name]) * len(tallies)), len(tallies))
        result[name] = float(low), float(high)
    return result


def _resampled(tallies: Tallies) -> Iterator[Tallies]:
    """Yield sums over n examples drawn with replacement, (up to AT_ONCE, k) at a time, RESAMPLES in all; seeded.

    Equal rows are drawn together. How often each of the few different rows is drawn is multinomial.
    """
    different, counts = np.unique(tallies, axis=0, return_counts=True)
    generator = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, AT_ONCE):
        draws = generator.multinomial(len(tallies), counts / len(tallies), size=min(AT_ONCE, RESAMPLES - start))
        yield draws @ different
