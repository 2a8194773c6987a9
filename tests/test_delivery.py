"""MLflow is told behind the search: in order, each point once, whatever its store does."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tracked
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.errors import OutOfReachError
from hpsearch.state import records
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tracking import delivery
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.runs import Tracking
from make import compose_settings
from tracked import LABELS, TAG, data_ref, record


@pytest.fixture(scope="module")
def settings() -> Settings:
    return compose_settings()


class Flaky(Tracking):
    """A store that does not answer every so many calls; of those, every second call was done all the same."""

    every = 0
    calls = 0

    def _now_and_then(self, call: Callable[[], Any]) -> Any:
        self.calls += 1
        if self.every and self.calls % self.every == 0:
            if self.calls % (2 * self.every) == 0:
                call()  # the answer is lost
            raise OutOfReachError("it does not answer")
        return call()

    def open_trial(self, *args: Any) -> Any:
        return self._now_and_then(lambda: super(Flaky, self).open_trial(*args))

    def points(self, *args: Any) -> Any:
        return self._now_and_then(lambda: super(Flaky, self).points(*args))

    def finish_trial(self, *args: Any) -> Any:
        return self._now_and_then(lambda: super(Flaky, self).finish_trial(*args))


@pytest.fixture
def tracking(settings: Settings, tmp_path: Path) -> Flaky:
    return Flaky(settings, tracked.new_home(tmp_path))


class Trials:
    """A study's trials, written as the coordinator does it."""

    def __init__(self, tracking: Tracking, settings: Settings, home: Path) -> None:
        self.tracking, self.settings, self.home = tracking, settings, home
        self.parent = tracking.open_study(settings.study, "id", settings, data_ref(home), tracked.FACTS)

    tag = TAG

    def trial_folder(self, number: int) -> Path:
        return StudyFolder.of(self.home, self.settings.study).trial("trials", number).path

    def settings_of(self, trial: TrialRecord) -> Settings:
        return space.apply(self.settings, trial.params)

    def origin(self, trial: TrialRecord) -> None:
        pass

    @contextmanager
    def delivery(self) -> Iterator[Delivery]:
        made = Delivery(self.tracking, LABELS, self.parent)
        try:
            yield made
        finally:
            assert made.close(20)

    def point(self, trial: TrialRecord, step: int, **values: float) -> TrialRecord:
        records.add_points(self.trial_folder(trial.number), step, values)
        return replace(trial, step=step)

    def history(self, run_id: str, name: str) -> list[tuple[int, float]]:
        return [
            (metric.step, metric.value) for metric in tracked.client(self.tracking).get_metric_history(run_id, name)
        ]

    def status(self, run_id: str) -> str:
        return str(tracked.client(self.tracking).get_run(run_id).info.status)


@pytest.fixture
def trials(tracking: Flaky, settings: Settings, tmp_path: Path) -> Trials:
    return Trials(tracking, settings, tmp_path)


@pytest.mark.parametrize("every", [0, 3, 5, 7])
def test_every_point_arrives_once_and_in_order(
    trials: Trials, tracking: Flaky, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", (0.01,))
    tracking.every = every
    begun = [record(0), record(1)]
    with trials.delivery() as delivering:
        for step in range(1, 21):
            begun = [trials.point(trial, step, train_loss=1 / step) for trial in begun]
            if step % 10 == 0:
                begun = [trials.point(trial, step, validation_accuracy=step / 100) for trial in begun]
            for trial in begun:
                delivering.put(trial, trials)
            delivering.flush(60)
        for trial in begun:
            delivering.put(
                replace(trial, status=Status.PRUNED, total_steps=20, metrics={"validation_accuracy": 0.2}), trials
            )
        delivering.flush(60)
        told = {done.number: done.run_id for done in delivering.delivered(trials) if done.final}
    assert told.keys() == {0, 1}
    assert tracking.calls > 40
    for run_id in told.values():
        assert trials.history(run_id, "train_loss") == [(step, 1 / step) for step in range(1, 21)]
        assert trials.history(run_id, "validation_accuracy") == [(10, 0.1), (20, 0.2)]
        assert trials.status(run_id) == "FINISHED"


def test_the_next_start_delivers_what_the_last_did_not(trials: Trials) -> None:
    trial = trials.point(record(0), 1, train_loss=0.5)
    with trials.delivery() as first:
        first.put(trial, trials)
        first.flush(20)
        [done] = first.delivered(trials)
    trial = trials.point(replace(trial, run_id=done.run_id), 2, train_loss=0.4)
    trial = trials.point(trial, 2, validation_accuracy=0.7)
    with trials.delivery() as second:
        second.put(replace(trial, status=Status.FAILED, reason="it diverged"), trials)
        second.flush(20)
    assert trials.history(done.run_id, "train_loss") == [(1, 0.5), (2, 0.4)]
    assert trials.history(done.run_id, "validation_accuracy") == [(2, 0.7)]
    assert trials.status(done.run_id) == "FAILED"


def test_a_paused_trial_is_shown_as_such_until_it_goes_on(trials: Trials) -> None:
    with trials.delivery() as delivering:
        seen = []
        for status in (Status.RUNNING, Status.PAUSED, Status.RUNNING, Status.COMPLETE):
            delivering.put(record(0, status), trials)
            delivering.flush(20)
            [done] = delivering.delivered(trials)
            seen.append(trials.status(done.run_id))
            assert done.final == (status is Status.COMPLETE)
    assert seen == ["RUNNING", "SCHEDULED", "RUNNING", "FINISHED"]


def test_nobody_waits_for_a_store_that_never_answers(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(trials.tracking, "open_trial", lambda *_: answer.wait(60))
    delivering = Delivery(trials.tracking, LABELS, trials.parent)
    try:
        began = time.monotonic()
        for step in range(1, 1001):
            delivering.put(record(0, step=step), trials)
        assert delivering.delivered(trials) == []
        assert time.monotonic() - began < 30, "it waited for the store"
        with pytest.raises(OutOfReachError, match="takes more than 0 s"):
            delivering.flush(0.1)
        assert not delivering.close(0.1)
    finally:
        answer.set()


def test_a_store_that_is_away_is_complained_of_until_it_is_back(
    trials: Trials, tracking: Flaky, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", (0.01,))
    tracking.every = 1
    with trials.delivery() as delivering:
        delivering.put(record(0), trials)
        with pytest.raises(OutOfReachError, match="it does not answer"):
            delivering.flush(0.5)
        assert delivering.complaint == "it does not answer"
        assert delivering.delivered(trials) == []
        tracking.every = 0
        delivering.flush(20)
        assert delivering.complaint is None


def test_a_fault_of_the_program_is_not_hidden(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> str:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(trials.tracking, "open_trial", broken)
    with trials.delivery() as delivering:
        delivering.put(record(0), trials)
        with pytest.raises(ZeroDivisionError):
            delivering.flush(20)
        with pytest.raises(ZeroDivisionError):
            delivering.delivered(trials)
