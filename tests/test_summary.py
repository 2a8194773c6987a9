"""What a summary says of searches: expected best of so many trials, what the best score was worth, the model card."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.coordinator import race
from hpsearch.coordinator.race import Standing
from hpsearch.decisions import schedule
from hpsearch.decisions.racing import Entrant
from hpsearch.report import cards
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES, Objective
from test_report import Study

MOST, LEAST = OBJECTIVES["accuracy"], Objective("loss", "minimize", share=False)


def trial(number: int, score: float | None, **fields: object) -> TrialRecord:
    return TrialRecord(number, {"x": number}, Status.COMPLETE, score=score, **fields)  # type: ignore[arg-type]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_the_expected_best_is_that_of_all_draws_with_replacement(scores: list[float]) -> None:
    found = schedule.expected([trial(i, score) for i, score in enumerate(scores)], MOST)
    for k in range(1, len(scores) + 1):
        draws = list(itertools.product(scores, repeat=k))
        assert found[k - 1] == pytest.approx(sum(map(max, draws)) / len(draws))
    lowest = schedule.expected([trial(i, -score) for i, score in enumerate(scores)], LEAST)
    assert lowest == pytest.approx([-value for value in found])


def test_trials_without_a_score_are_no_part_of_it() -> None:
    assert schedule.expected([trial(0, None), trial(1, 0.5)], MOST) == [0.5]
    assert schedule.expected([trial(0, None)], MOST) == []


def test_optimism_is_of_the_search_s_best_point() -> None:
    best = trial(3, 0.9)
    runs = tuple(trial(i, score, entrant="trial 3", seed=i) for i, score in enumerate((0.8, 0.9)))
    standings = [
        Standing(Entrant("reference", {"x": 0}), runs, None),
        Standing(Entrant("trial 3", {"x": 3}), runs, None),
    ]
    found = race.optimism(best, standings, MOST)
    assert found is not None
    assert found.difference == pytest.approx(0.05)
    assert race.optimism(best, standings[:1], MOST) is None
    assert race.optimism(best, [Standing(Entrant("trial 3", {"x": 3}), (), 0)], MOST) is None, "it failed"


def test_the_card_says_how_good_how_sure_better_than_what_and_under_which_licences() -> None:
    study = Study()
    card = cards.model_card(study.settings, study.typed())
    for part in (
        "- accuracy: 0.860 (95 % interval over examples 0.844 to 0.875)",
        "confirmed with fresh seeds; test was scored by this study once, after the choice",
        "the winner gains +5.5 points (95 % interval +4.1 to +6.9)",
        "- training examples: 900",
        "- seed: 1",
        "- settings 0123456789abcdef, commit unknown",
        "- torch 2.13.0",
        "- weights: Apache-2.0",
        "- data: not stated by their source",
    ):
        assert part in card
