"""Who is run again, who is out, who wins: without training anything."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.config.dimensions import Choice, Dimension, Interval
from hpsearch.decisions.racing import Entrant, Rule, Run, corrected, entrants, out, twins, winner
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES

KIND = KINDS["text_classification"]
RULE = Rule(KIND.of_sums, OBJECTIVES["accuracy"], 0.95)
N = 200
SEEDS = (1, 2, 3)


SPACE: dict[str, Dimension] = {"train.learning_rate": Interval(low=0.0, high=0.1)}


def names(best_first: list[TrialRecord], reference: dict[str, Any], finalists: int) -> list[str]:
    return [one.name for one in entrants(best_first, reference, finalists, SPACE)]


def trial(number: int, score: float) -> TrialRecord:
    return TrialRecord(number, {"train.learning_rate": number / 100}, Status.COMPLETE, score=score)


def run(seed: int, wrong: int, first: int = 0, cost: float = 1.0) -> Run:
    """One that has this many of 200 examples wrong, from this one on."""
    said = ["no" if first <= i < first + wrong else "yes" for i in range(N)]
    return Run(seed, 1 - wrong / N, KIND.tallies(["yes"] * N, said, ("no", "yes")), cost)


def test_the_best_enter_and_the_reference_always_does() -> None:
    best = [trial(4, 0.9), trial(0, 0.8), trial(2, 0.7)]
    reference = {"train.learning_rate": 0.0}
    assert names(best, reference, 1) == ["trial 4", "reference"]
    assert names(best, reference, 2) == ["trial 4", "reference"]  # trial 0 is the reference
    assert names(best, reference, 3) == ["trial 4", "reference", "trial 2"]
    assert entrants(best, {}, 1, SPACE)[-1] == Entrant("reference", {})
    assert names(best[:1], reference, 5) == ["trial 4", "reference"]


def test_a_point_that_was_drawn_twice_enters_once() -> None:
    best = [
        trial(4, 0.9),
        replace(trial(4, 0.9), number=6),
        replace(trial(0, 0.8), number=5),
        trial(0, 0.8),
        trial(2, 0.7),
    ]
    reference = {"train.learning_rate": 0.0}
    assert names(best, reference, 3) == ["trial 4", "reference", "trial 2"]
    assert names(best, {}, 2) == ["trial 4", "trial 5", "reference"]


POINT = {"train.learning_rate": 1e-4, "train.batch_size": 16, "train.warmup": 0.1}
WIDE: dict[str, Dimension] = {
    "train.learning_rate": Interval(low=1e-5, high=1e-3, log=True),
    "train.batch_size": Choice(choices=(16, 32)),
    "train.warmup": Interval(low=0.0, high=0.2),
}


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ({}, True),
        ({"train.learning_rate": 1.07e-4}, True),  # what ten minutes went into telling apart
        ({"train.learning_rate": 1.58e-4}, True),  # a tenth of two decades is a factor of 1.585
        ({"train.learning_rate": 1.59e-4}, False),
        ({"train.learning_rate": 0.63e-4}, False),
        ({"train.warmup": 0.12}, True),
        ({"train.warmup": 0.121}, False),
        ({"train.batch_size": 32}, False),
        ({"train.learning_rate": 1e-2}, False),  # the reference recipe may lie outside the space
    ],
)
def test_points_that_a_search_cannot_tell_apart_are_twins(other: dict[str, float], same: bool) -> None:
    assert twins(POINT, {**POINT, **other}, WIDE) is same
    assert twins({**POINT, **other}, POINT, WIDE) is same
    assert not twins(POINT, {**POINT, "train.weight_decay": 0.1}, WIDE), "one lacks what a condition gives the other"


def test_a_value_that_follows_from_the_data_is_near_none_of_the_space() -> None:
    searched: dict[str, Dimension] = {"train.epochs": Interval(low=1, high=3)}
    assert not twins({"train.epochs": 2.0}, {"train.epochs": None}, searched)
    assert twins({"train.epochs": None}, {"train.epochs": None}, searched)


def test_twins_enter_once_and_the_reference_stands_for_its_own() -> None:
    def point(number: int, **changed: float) -> TrialRecord:
        params = {**POINT, **{f"train.{name}": value for name, value in changed.items()}}
        return TrialRecord(number, params, Status.COMPLETE, score=1 - number / 10)

    best = [point(1, learning_rate=3e-4), point(2, learning_rate=1.1e-4), point(3, learning_rate=3.2e-4)]
    best += [point(4, learning_rate=3.2e-4, batch_size=32), point(5, warmup=0.05)]
    found = entrants(best, POINT, 4, WIDE)
    assert [one.name for one in found] == ["trial 1", "reference", "trial 4", "trial 5"]
    assert found[1].params == POINT, "the recipe itself is run, not its twin"


def test_a_clear_loser_is_out_after_a_round_that_is_over() -> None:
    runs = {"a": [run(1, 10)], "b": [run(1, 60, first=50)], "c": [run(1, 12, first=5)]}
    assert out(runs, SEEDS, RULE, {}) == {"b": 1}
    assert out({**runs, "c": []}, SEEDS, RULE, {}) == {}  # c has not run: the round is not over
    assert out({**runs, "c": []}, SEEDS, RULE, {"c": 0}) == {"b": 1, "c": 0}  # it never will
    assert out({"a": [run(1, 10)], "b": [run(1, 60)]}, SEEDS, RULE, {"a": 1}) == {"a": 1}  # a failed: b must go on
    runs = {"a": [run(1, 10), run(2, 10)], "b": [run(1, 60, first=50)], "c": [run(1, 12), run(2, 50)]}
    assert out(runs, SEEDS, RULE, {}) == {"b": 1, "c": 2}


def test_the_best_mean_is_weighed_against_what_each_seed_says_of_whom_the_others_choose() -> None:
    runs = {"a": [run(1, 10), run(2, 40)], "b": [run(1, 20), run(2, 22)], "c": [run(1, 90)]}
    # Seed 2 chooses b, which has 20 wrong on seed 1; seed 1 chooses a, which has 40 wrong on seed 2.
    # b wins, with 21 wrong.
    assert corrected(runs, SEEDS, {"c": 1}) == pytest.approx(1 - (0.632 * 30 + 0.368 * 21) / N)
    assert corrected(runs, SEEDS, {}) is None, "one round is all that they share"
    assert corrected({"a": []}, SEEDS, {}) is None
    assert corrected({"a": runs["a"]}, SEEDS, {}) == pytest.approx(1 - 25 / N), "who is alone has no luck"


@pytest.mark.parametrize(("seeds", "count"), [(2, 2), (2, 5), (4, 3)])
@pytest.mark.parametrize("better", [0.0, 0.01, 0.03])  # the first than the others; the standard deviation is 0.02
def test_the_corrected_mean_flatters_much_less(better: float, seeds: int, count: int) -> None:
    rng = np.random.default_rng(0)
    truth = np.where(np.arange(count) == 0, 0.8 + better, 0.8)
    flattered, honest = [], []
    for _ in range(1000):
        scores = rng.normal(truth[:, None], 0.02, size=(count, seeds))
        runs = {
            str(i): [Run(seed, score, np.zeros((1, 1)), 1.0) for seed, score in enumerate(row)]
            for i, row in enumerate(scores)
        }
        chosen = scores.mean(1).argmax()
        flattered.append(scores[chosen].mean() - truth[chosen])
        honest.append((corrected(runs, range(seeds), {}) or 0.0) - truth[chosen])
    error = 0.02 / np.sqrt(1000 * seeds)
    assert abs(np.mean(honest)) < 0.37 * np.mean(flattered) + 3 * error


def test_nobody_is_out_after_the_last_round() -> None:
    runs = {"a": [run(seed, 10) for seed in SEEDS], "b": [run(1, 10), run(2, 10), run(3, 190)]}
    assert out(runs, SEEDS, RULE, {}) == {}
    assert winner(runs, SEEDS, {}) == "a"


@pytest.mark.parametrize(
    ("runs", "won"),
    [
        ({"a": [run(1, 10), run(2, 30)], "b": [run(1, 12), run(2, 20)]}, "b"),  # the mean, not the best run
        ({"a": [run(1, 10), run(2, 30)], "b": [run(1, 20), run(2, 20)]}, "b"),  # of equal means the smaller spread
        ({"a": [run(1, 20)], "b": [run(1, 20, cost=0.5)]}, "b"),  # then the cheaper one
        ({"a": [run(1, 10)], "b": [run(1, 12), run(2, 0)]}, "a"),  # a round that was cut off does not count
        ({"a": [], "b": [run(1, 90)]}, "b"),
        ({"a": []}, None),
    ],
)
def test_the_winner(runs: Any, won: str | None) -> None:
    assert winner(runs, (1, 2), {}) == won


def test_who_is_out_does_not_win() -> None:
    assert winner({"a": [run(1, 1)], "b": [run(1, 90)]}, SEEDS, {"a": 1}) == "b"


RUNS = st.lists(st.integers(0, N), min_size=0, max_size=3).map(
    lambda wrongs: [run(seed, wrong) for seed, wrong in zip(SEEDS, wrongs, strict=False)]
)


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.sampled_from("abcd"), RUNS, min_size=1), st.sets(st.sampled_from("abcd")))
def test_somebody_who_did_not_fail_is_left(runs: dict[str, list[Run]], failed: set[str]) -> None:
    ended = {name: len(found) for name, found in runs.items() if name in failed and len(found) < len(SEEDS)}
    left = out(runs, SEEDS, RULE, ended)
    assert ended.items() <= left.items()
    assert left.keys() < runs.keys() or ended.keys() == runs.keys()


@settings(deadline=None, max_examples=30)
@given(st.dictionaries(st.sampled_from("abcd"), RUNS, min_size=1))
def test_the_best_is_never_out_and_the_order_does_not_matter(runs: dict[str, list[Run]]) -> None:
    left = out(runs, SEEDS, RULE, {})
    assert out(dict(reversed(runs.items())), SEEDS, RULE, {}) == left
    assert all(0 < after < len(SEEDS) and len(runs[name]) >= after for name, after in left.items())
    racing = [name for name in runs if name not in left]
    assert racing, "somebody is left"
    first = [name for name, found in runs.items() if found and len(runs) > 1]
    if len(first) == len(runs):
        best = max(runs, key=lambda name: runs[name][0].score)
        assert best not in [name for name, after in left.items() if after == 1]


def test_metrics_that_are_no_means_are_compared_too() -> None:
    rule = Rule(KIND.of_sums, OBJECTIVES["f1"], 0.95)
    assert out({"a": [run(1, 10)], "b": [run(1, 90)]}, SEEDS, rule, {}) == {"b": 1}
    assert np.isclose(KIND.of_sums(run(1, 10).tallies.sum(0))["accuracy"], 0.95)
