"""Rungs at which nothing can be seen yet are left out."""

import pytest

import make
from hpsearch.search import without_early_rungs


@pytest.mark.parametrize(
    ("train", "epochs", "left"),
    [
        (499, "[1,2]", (0.5,)),  # 0.2 of one epoch is 99.8 examples
        (500, "[2,1]", (0.2, 0.5)),
        (250, "[2,4]", (0.2, 0.5)),
        (199, "[1,2]", ()),
    ],
)
def test_a_rung_counts_when_the_shortest_schedule_has_seen_enough(
    train: int, epochs: str, left: tuple[float, ...]
) -> None:
    asked = make.compose_settings("search.rungs=[0.2,0.5]", f"search.space.train.epochs.choices={epochs}")
    assert asked.search.rungs_after == 100
    found = without_early_rungs(asked, train)
    assert found.search.rungs == left
    assert found.search.model_copy(update={"rungs": asked.search.rungs}) == asked.search


def test_the_shipped_budgets_keep_their_rungs() -> None:
    for search in ("default", "wide", "qa"):
        asked = make.compose_settings(f"search={search}")
        assert without_early_rungs(asked, 1600) == asked
