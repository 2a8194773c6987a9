"""Rungs at which nothing can be seen yet are moved or left out, and who passes them."""

import pytest

import make
from hpsearch.coordinator.lengths import with_rungs_late_enough
from hpsearch.coordinator.search import make_plan
from hpsearch.decisions.schedule import quota


@pytest.mark.parametrize(
    ("train", "epochs", "moved"),
    [
        (2000, [2, 1], (0.2, 0.5)),
        (1000, [1, 2], (0.4, 0.5)),
        (999, [1, 2], (0.41, 0.5)),
        (500, [2, 4], (0.4, 0.5)),
        (820, [1, 2], (0.49, 0.5)),
        (800, [1, 2], ()),
        (9000, None, (0.2, 0.5)),
        (640, None, (0.2, 0.5)),  # ten passes, or seven
        (100, None, (0.29, 0.5)),  # 20 passes are the most
        (57, None, ()),
    ],
)
def test_the_first_rung_comes_when_the_shortest_schedule_has_seen_enough(
    train: int, epochs: list[int] | None, moved: tuple[float, ...]
) -> None:
    searched = ("~search.space.train.epochs_factor", f"+search.space.train.epochs.choices={epochs}")
    asked = make.compose_settings("search.rungs=[0.2,0.5]", *(searched if epochs else ()))
    assert asked.search.rungs_after == 400
    found = with_rungs_late_enough(asked, train)
    assert found.search.rungs == moved
    assert found.search.model_copy(update={"rungs": asked.search.rungs}) == asked.search


def test_the_standard_budget_keeps_its_rungs() -> None:
    for search in ("default", "wide", "qa"):
        asked = make.compose_settings(f"search={search}", "budget=standard")
        for train in (320, 2000, 100_000):
            assert with_rungs_late_enough(asked, train) == asked


def test_the_search_completes_as_many_trials_as_the_confirmation_has_places() -> None:
    for finalists, complete in ((0, 1), (1, 1), (2, 2), (3, 3), (9, 8), ("null", 2)):
        asked = make.compose_settings("search.keep=0.17", f"budget.confirmation.finalists={finalists}")
        assert quota(make_plan(asked, 8), rung=0, trials=8) == complete
