"""What answers to the same examples are worth: intervals of one model's metrics, and two models side by side.

Intervals and tests are over examples: they say what other examples of the same kind would have given for these very
models. How much another seed changes a model is no part of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hpsearch.state.measured import Interval, Paired
from hpsearch.tasks.metrics import OBJECTIVES, Objective, OfSums, wilson

SHARES = ("accuracy", "exact_match")  # metrics that are shares of the examples
RESAMPLES = 10_000
AT_ONCE = 500  # resamples, to bound the memory
SEED = 0
FEW = 10  # with fewer answers that differ, a resample of them says little

Tallies = NDArray[np.float64]


def compare(champion: Tallies, challenger: Tallies, of_sums: OfSums, objective: Objective) -> Paired:
    """Compare answers to the same examples.

    The p-value is that of the exact McNemar test (McNemar 1947) for accuracy, else of the paired bootstrap (Efron and
    Tibshirani 1993, chapter 16): the share of resamples in which the challenger gains nothing. Where few answers
    differ, four in favour of one would be enough for that; then it is no less than the exact sign test's.

    Args:
        champion: (n, k), by `Kind.tallies`.
        challenger: the same of the other's answers, example by example.
        of_sums: `Kind.of_sums`.
        objective: one of its keys, and which way it is better.
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
    """What the challenger gains at the least, at the one-sided level `alpha`: the paired bootstrap's.

    Where few answers differ, it is no more than what the share of answers that got worse may be (Clopper and Pearson
    1934): of 100 examples without a difference, 3 or 4 in a hundred others may well get worse. That says something
    where an example counts between 0 and 1.
    """
    bound = float(np.quantile(gains([champion], [challenger], of_sums, objective), alpha))
    gained, lost = _differing(champion, challenger, of_sums, objective)
    if objective.share and gained + lost < FEW and lost < len(champion):
        bound = min(bound, -float(stats.beta.ppf(1 - alpha, lost + 1, len(champion) - lost)))
    return bound


def _differing(champion: Tallies, challenger: Tallies, of_sums: OfSums, objective: Objective) -> tuple[int, int]:
    """On how many examples, each taken alone, the challenger is better, and on how many worse."""
    before, now = (objective.worth(of_sums(one)[objective.name]) for one in (champion, challenger))
    return int((now > before).sum()), int((now < before).sum())


def gains(
    champions: Sequence[Tallies], challengers: Sequence[Tallies], of_sums: OfSums, objective: Objective
) -> NDArray[np.float64]:
    """(RESAMPLES,): what the challengers gain over the champions, in the mean over pairs, on resampled examples.

    Args:
        champions: tallies of some models, on the same examples.
        challengers: of as many others.
        of_sums: `Kind.of_sums`.
        objective: one of its keys, and which way it is better.
    """
    models, k = len(champions), champions[0].shape[1]
    means = []
    for sums in _resampled(np.hstack([*champions, *challengers])):
        values = objective.worth(of_sums(sums.reshape(len(sums), 2 * models, k))[objective.name])
        means.append(values[:, models:].mean(1) - values[:, :models].mean(1))
    return np.concatenate(means)


def mcnemar(challenger_alone: int, champion_alone: int) -> float:
    """One-sided p-value of the exact McNemar test: of the examples that one alone has right, how many are whose."""
    differing = challenger_alone + champion_alone
    return float(stats.binom.sf(challenger_alone - 1, differing, 0.5)) if differing else 1.0


def intervals(tallies: Tallies, of_sums: OfSums) -> dict[str, Interval]:
    """95 % interval of each metric: Wilson's of shares of the examples, else the percentiles of resamples.

    Where no resample differs, as where every answer is right, Wilson's stands in: a mean of what lies between 0 and 1
    varies no more than a share.
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
    """Sums over n examples drawn with replacement, (up to AT_ONCE, k) a time, RESAMPLES in all; seeded.

    Equal rows are drawn together: how often each of the few different ones comes up is multinomial.
    """
    different, counts = np.unique(tallies, axis=0, return_counts=True)
    generator = np.random.default_rng(SEED)
    for start in range(0, RESAMPLES, AT_ONCE):
        draws = generator.multinomial(len(tallies), counts / len(tallies), size=min(AT_ONCE, RESAMPLES - start))
        yield draws @ different
