"""The few fine-tunes of hours that hold no search."""

from hypothesis import given
from hypothesis import strategies as st

from hpsearch.coordinator import few
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES

NEAR = [{"train.learning_rate": rate} for rate in (1e-4, 2e-4, 5e-5)]
REFERENCE = NEAR[0]
UP = OBJECTIVES["accuracy"]


def ran(scores: list[float | None]) -> list[TrialRecord]:
    """Trials as they come one after the other; without a score one failed."""
    there: list[TrialRecord] = []
    for number, score in enumerate(scores):
        point = few.next_point(NEAR, there, UP)
        assert point is not None
        status = Status.FAILED if score is None else Status.COMPLETE
        there.append(TrialRecord(number, point, status, score=score, epochs=2.0))
    return there


@given(st.lists(st.none() | st.floats(0, 1), min_size=4, max_size=9))
def test_each_point_is_run_once_and_then_the_best_so_far(scores: list[float | None]) -> None:
    there = ran(scores)
    assert [trial.params for trial in there[:3]] == NEAR
    for number, trial in enumerate(there[3:], 3):
        complete = [one for one in there[:number] if one.score is not None]
        best = max(complete, key=lambda one: (one.score, -one.number), default=there[0])
        assert trial.params == best.params


def test_a_point_that_was_cut_off_is_run_again() -> None:
    first, second, *_ = ran([0.8, 0.7, 0.6])
    cut = TrialRecord(1, second.params, Status.PRUNED, epochs=2.0)
    assert few.next_point(NEAR, [first, cut], UP) == NEAR[1]


def test_workers_begin_different_points_at_the_same_time() -> None:
    there: list[TrialRecord] = []
    for number in range(4):
        point = few.next_point(NEAR, there, UP)
        assert point is not None
        there.append(TrialRecord(number, point, Status.RUNNING, epochs=2.0))
    assert [trial.params for trial in there] == [*NEAR, REFERENCE]
    assert few.next_point([], there, UP) is None


def test_the_reference_recipe_is_compared_with_another_that_won_where_nothing_was_searched() -> None:
    first, *others = ran([0.7, 0.9, 0.8, 0.6])
    best_first = sorted([first, *others], key=lambda trial: -(trial.score or 0.0))
    assert few.reference_of(best_first, REFERENCE) == first
    assert few.reference_of(best_first, NEAR[1]) is None, "it has won"
    assert few.reference_of(others, REFERENCE) is None, "it is not there"
    assert few.reference_of([], REFERENCE) is None
    searched = [TrialRecord(one.number, one.params, one.status, score=one.score) for one in best_first]
    assert few.reference_of(searched, REFERENCE) is None
