"""Rungs at which nothing can be seen yet are moved or left out."""

import pytest

import make
from hpsearch.search import with_rungs_late_enough


@pytest.mark.parametrize(
    ("train", "epochs", "moved"),
    [
        (2000, "[2,1]", (0.2, 0.5)),
        (1000, "[1,2]", (0.4, 0.5)),
        (999, "[1,2]", (0.41, 0.5)),
        (500, "[2,4]", (0.4, 0.5)),
        (820, "[1,2]", (0.49, 0.5)),
        (800, "[1,2]", ()),
    ],
)
def test_the_first_rung_comes_when_the_shortest_schedule_has_seen_enough(
    train: int, epochs: str, moved: tuple[float, ...]
) -> None:
    asked = make.compose_settings("search.rungs=[0.2,0.5]", f"search.space.train.epochs.choices={epochs}")
    assert asked.search.rungs_after == 400
    found = with_rungs_late_enough(asked, train)
    assert found.search.rungs == moved
    assert found.search.model_copy(update={"rungs": asked.search.rungs}) == asked.search


def test_the_standard_budget_keeps_its_rungs() -> None:
    for search in ("default", "wide", "qa"):
        asked = make.compose_settings(f"search={search}", "budget=standard")
        assert asked.budget.train_examples is not None
        assert with_rungs_late_enough(asked, asked.budget.train_examples) == asked
