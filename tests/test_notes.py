"""Messages before the first trial."""

import pytest

from hpsearch.coordinator.notes import LEAST, of_plan
from hpsearch.coordinator.planner import REPORT_SECONDS
from hpsearch.state.plans import PlanMade


def plan(minutes: float, scoring_seconds: float) -> PlanMade:
    return PlanMade("", "search", minutes / 60, 0.0, 0.0, scoring_seconds + REPORT_SECONDS, {}, ())


def test_scoring_that_takes_much_of_the_hours_is_said_with_what_takes_less() -> None:
    said = of_plan(plan(15, 760), 25_000)
    assert said is not None
    assert "scoring the 25,000 test examples takes about 12 min 40 s of the 15 min" in said
    assert "budget.test_examples=2900 " in said
    assert of_plan(plan(120, 760), 25_000) is None


@pytest.mark.parametrize(("test", "fewer"), [(1000, 500), (501, 500), (LEAST, None), (60, None)])
def test_no_fewer_examples_are_proposed_than_tell_anything(test: int, fewer: int | None) -> None:
    said = of_plan(plan(5, 280), test)
    assert (said is not None) == (fewer is not None)
    assert said is None or f"budget.test_examples={fewer} " in said
