"""How long a fine-tune is, whatever its length was changed to while it ran."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import make
from hpsearch.training import parts

Changes = tuple[tuple[int, int], ...]


@st.composite
def changed(draw: st.DrawFn) -> tuple[int, Changes]:
    """A schedule and changes of its length, each made while it ran."""
    planned = draw(st.integers(2, 500))
    changes, at, total = [], 0, planned
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(at + 1, max(at + 1, total - 1)))
        if at >= total:
            break
        total = draw(st.integers(at + 1, parts.LONGEST * planned + at))
        changes.append((at, total))
    return planned, tuple(changes)


@given(changed())
def test_the_place_in_a_schedule_goes_from_its_beginning_to_its_end(found: tuple[int, Changes]) -> None:
    planned, changes = found
    total = changes[-1][1] if changes else planned
    places = [parts.place(step, planned, changes) for step in range(total + 1)]
    assert places[0] == 0
    assert places[-1] == pytest.approx(planned)
    assert all(before <= after for before, after in pairwise(places))
    if not changes:
        assert places == list(range(planned + 1)), "exactly the step, so that nothing changes where nothing does"


@given(changed())
def test_a_change_leaves_what_is_trained_as_it_was(found: tuple[int, Changes]) -> None:
    planned, changes = found
    for i, (at, _) in enumerate(changes):
        for step in range(at + 1):
            assert parts.place(step, planned, changes[: i + 1]) == parts.place(step, planned, changes[:i])


def test_what_is_left_of_the_schedule_is_stretched_over_what_is_left_of_the_steps() -> None:
    assert parts.place(75, 100, ((50, 100),)) == 75
    assert parts.place(75, 100, ((50, 150),)) == 62.5
    assert parts.place(75, 100, ((50, 80),)) == pytest.approx(50 + 50 * 25 / 30)
    assert parts.place(99, 100, ((50, 80),)) == 100, "it does not leave the schedule"


@given(changed(), st.integers(0, 600), st.integers(1, 600))
def test_a_change_at_an_earlier_step_takes_the_place_of_those_after_it(
    found: tuple[int, Changes], step: int, more: int
) -> None:
    """After a crash a trial passes steps again, and another change may come before the step of the last one."""
    _, changes = found
    kept = parts.with_change(changes, step, step + more)
    assert kept[-1] == (step, step + more)
    assert [at for at, _ in kept] == sorted({at for at, _ in kept})
    assert set(kept[:-1]) == {change for change in changes if change[0] < step}


@pytest.mark.parametrize(
    ("examples", "factor", "steps"),
    [
        (20_000, 1.0, 2 * 1250),  # the reference recipe's two
        (3200, 1.0, 2 * 200),
        (1000, 1.0, round(6.4 * 63)),  # 6,400 examples are seen
        (1000, 0.5, round(3.2 * 63)),
        (320, 1.0, 20 * 20),
        (100, 1.0, 20 * 7),  # 20 passes are the most
        (1, 0.01, 1),
    ],
)
def test_few_examples_are_seen_more_often(examples: int, factor: float, steps: int) -> None:
    settings = make.compose_settings(f"train.epochs_factor={factor}")
    assert (settings.model.reference.epochs, settings.train.batch_size) == (2, 16)
    assert parts.planned_steps(settings, examples) == parts.total_steps(settings, examples) == steps
    assert parts.passes(settings, examples) == min(20, max(2, 6400 / examples))


def test_passes_that_are_said_are_taken() -> None:
    settings = make.compose_settings("train.epochs=3", "train.epochs_factor=2", "train.retimed=[[5,70],[9,50]]")
    assert parts.passes(settings, 100) == 3
    assert parts.planned_steps(settings, 160) == 60
    assert parts.total_steps(settings, 160) == 50, "as it was changed last"
