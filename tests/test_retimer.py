"""A long fine-tune ends with the hours, whatever the machine does meanwhile: with a clock that is set by hand."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpsearch.coordinator.retimer import Retimer
from hpsearch.decisions.plan import Asked, Known, Pace, Recipe, Sizes
from hpsearch.state.messages import Progress
from hpsearch.training.parts import LONGEST

SAID_EVERY = 10  # steps
BATCH = 16
# Reviews on two cores; test takes half a minute, the report as long.
KNOWN = Known(
    Pace(train=1 / 20, score=1 / 70, trial=4.0),
    Sizes(20_000, 1000, 1000),
    Recipe(6400, 2, 20, 1, 1, 1),
    Asked(None, None, None, None, None, final=True),
    workers=1,
    end=35.0,
)
REPORT = 20.0  # seconds of the end, which no pace changes
USUAL = BATCH * KNOWN.pace.train  # seconds a step, as planned


@dataclass
class Ride:
    """A fine-tune that was given all that is left of the hours; `planner` of its own retimer."""

    seconds: float  # of the hours
    slowness: Callable[[float], float]  # times the planned seconds, at a time
    times: float = 4.0  # that the schedule may become longer
    clock: float = 0.0
    step: int = 0
    changes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def left(self) -> float:
        return self.seconds - self.clock

    @property
    def hours(self) -> float:
        return self.seconds / 3600

    def run(self) -> float:
        """Train to the end, score and save; returns the share of the hours at which test and report are done too."""
        spare = self.seconds - KNOWN.end - KNOWN.scoring - KNOWN.pace.trial
        planned = total = max(1, int(spare / USUAL))
        planner: Any = self
        retimer = Retimer(planner, KNOWN, self.times, BATCH, lambda: self.clock)
        self.clock += KNOWN.pace.trial / 2
        while self.step < total:
            self.clock += USUAL * self.slowness(self.clock)
            self.step += 1
            if self.step % SAID_EVERY == 0:
                changed = retimer.heard(Progress(0, self.step, total, {}))
                if changed is not None:
                    total = min(max(self.step, changed), LONGEST * planned)  # as the trial does
                    self.changes.append((self.step, total))
        self.clock += (KNOWN.scoring + KNOWN.end - REPORT) * self.slowness(self.clock) + KNOWN.pace.trial / 2 + REPORT
        return self.clock / self.seconds


@pytest.mark.parametrize("minutes", [5, 15, 45, 120])
def test_a_machine_at_the_pace_that_was_measured_changes_next_to_nothing(minutes: float) -> None:
    ride = Ride(minutes * 60, lambda _: 1.0)
    assert 0.95 <= ride.run() <= 1
    assert len(ride.changes) <= 1


@pytest.mark.parametrize("minutes", [5, 15, 45, 120])
@pytest.mark.parametrize("slowness", [2.0, 0.5])
def test_a_pace_that_halves_or_doubles_in_the_middle_costs_steps_and_not_time(minutes: float, slowness: float) -> None:
    seconds = minutes * 60
    ride = Ride(seconds, lambda now: slowness if now > seconds / 2 else 1.0)
    assert 0.9 <= ride.run() <= 1.05
    assert 1 <= len(ride.changes) <= 5
    constant = Ride(seconds, lambda _: 1.0)
    constant.run()
    assert (ride.step < constant.step) == (slowness > 1)


@given(
    seconds=st.floats(300, 7200),
    at=st.floats(0, 0.8),
    slowness=st.floats(0.5, 2),
    seed=st.integers(0, 99),
    noise=st.sampled_from([0.0, 0.1, 0.3]),
)
@settings(max_examples=60, deadline=None)
def test_the_end_is_within_a_tenth_of_the_hours_whatever_happens(
    seconds: float, at: float, slowness: float, seed: int, noise: float
) -> None:
    rng = random.Random(seed)

    def at_a_time(now: float) -> float:
        return (slowness if now > at * seconds else 1.0) * (1 + rng.uniform(-noise, noise))

    assert 0.9 <= Ride(seconds, at_a_time).run() <= 1.1


@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_cause_many_changes(seed: int) -> None:
    """Steps of many lengths, and other programs that take half of the machine for ten seconds now and then."""
    rng = random.Random(seed)

    def noisy(now: float) -> float:
        busy = int(now / 10) % 6 == rng.randrange(6)
        return rng.uniform(0.6, 1.4) * (2 if busy else 1)

    ride = Ride(1800, noisy)
    assert 0.9 <= ride.run() <= 1.05
    assert len(ride.changes) <= 4


@pytest.mark.parametrize(("minutes", "least"), [(15, 0.75), (45, 0.9)])
@pytest.mark.parametrize("at", [0.05, 0.1, 0.3, 0.5])
def test_a_slow_minute_is_not_taken_for_the_pace_of_what_is_to_come(minutes: float, least: float, at: float) -> None:
    """A shortened schedule drops its rate at once, and no later change brings the lost updates back."""
    seconds = minutes * 60
    constant = Ride(seconds, lambda _: 1.0)
    constant.run()
    ride = Ride(seconds, lambda now: 4.0 if at * seconds < now < at * seconds + 60 else 1.0)
    assert 0.9 <= ride.run() <= 1
    assert min(total for _, total in ride.changes) > least * constant.step


@pytest.mark.parametrize("minutes", [5, 15, 45])
def test_a_machine_that_stays_four_times_slower_than_planned_ends_in_time(minutes: float) -> None:
    ride = Ride(minutes * 60, lambda _: 4.0)
    assert 0.9 <= ride.run() <= 1
    assert len(ride.changes) <= 8


def test_more_passes_than_pay_are_not_trained() -> None:
    ride = Ride(1800, lambda _: 0.25, times=1.5)
    planned = int((1800 - KNOWN.end - KNOWN.scoring - KNOWN.pace.trial) / USUAL)
    assert ride.run() < 0.9
    assert ride.step == round(1.5 * planned)


def test_a_machine_that_stands_still_ends_the_training_at_the_next_step() -> None:
    ride = Ride(900, lambda now: 900.0 if 400 < now < 401 else 1.0)  # a laptop that was closed for twelve minutes
    ride.run()
    assert ride.changes[-1][0] == ride.step == ride.changes[-1][1]
    assert ride.step < 900 / USUAL


def test_nothing_is_changed_before_there_is_something_to_go_by() -> None:
    ride = Ride(1800, lambda _: 3.0)
    ride.run()
    assert ride.changes[0][0] * USUAL * 3 >= 10, "seconds"
