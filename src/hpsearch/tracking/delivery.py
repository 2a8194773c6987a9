"""Delivery of what the state folder holds to MLflow, in the background of the search.

It delivers in order and each point once, whenever MLflow answers.
"""

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hpsearch.config.settings import Settings
from hpsearch.errors import OutOfReachError
from hpsearch.state.messages import Progress
from hpsearch.state.origin import Origin
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.tracking.runs import Tracking

PATIENCE_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)  # between attempts while MLflow does not answer; the last one repeats


class Source(Protocol):
    """A phase of a study, as the delivery of its trials needs it."""

    @property
    def tag(self) -> str:
        """The tag of the phase's MLflow runs that holds the number of a trial."""

    def trial_folder(self, number: int) -> Path:
        """Return the folder that holds the trial's points."""

    def settings_of(self, trial: TrialRecord) -> Settings:
        """Return the settings that a trial is trained with."""

    def origin(self, trial: TrialRecord) -> Origin | None:
        """Return all that decides a trial's result; None if it is not known."""


Key = tuple[str, int]  # tag of the phase, number of the trial


@dataclass(frozen=True)
class Delivered:
    """What MLflow has of a trial after a delivery."""

    number: int
    run_id: str
    final: bool  # whether MLflow has its final status


class Delivery:
    """The thread that delivers trials' newest records and points. Training never waits for it.

    It stores nothing itself: `trial.json` and `points.jsonl` hold what is not delivered yet. The next start delivers
    from them what MLflow lacks.
    """

    def __init__(self, tracking: Tracking, labels: tuple[str, ...], parent: str):
        """Start the thread.

        Args:
            tracking: Client of MLflow. Until `close`, only the thread uses it for the runs of trials.
            labels: Names of the task's classes.
            parent: Run id of the study.
        """
        self._tracking, self._labels, self._parent = tracking, labels, parent
        self._runs: dict[Key, str] = {}
        self._shown: dict[Key, Status] = {}
        self._last_steps: dict[Key, dict[str, int]] = {}
        self._waiting: dict[Key, tuple[TrialRecord, Source]] = {}
        self._delivered: dict[str, list[Delivered]] = {}
        self._error: Exception | None = None  # error of the last attempt, if it failed
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        self._thread.start()

    def put(self, trial: TrialRecord, source: Source) -> None:
        """Queue a trial's record and its points so far for delivery."""
        with self._changed:
            self._waiting[source.tag, trial.number] = trial, source
            self._changed.notify_all()

    def delivered(self, source: Source) -> list[Delivered]:
        """Return what has been delivered of a phase since the last call.

        Raises the error of the thread, unless it only says that MLflow does not answer.
        """
        with self._changed:
            if self._error is not None and not isinstance(self._error, OutOfReachError):
                raise self._error
            return self._delivered.pop(source.tag, [])

    @property
    def complaint(self) -> str | None:
        """Why the last delivery failed; None if it did not fail."""
        error = self._error
        return str(error) if error is not None else None

    def flush(self, seconds: float) -> None:
        """Wait until all is delivered.

        Raises the error of the last attempt if it failed, and OutOfReachError if delivery takes more than `seconds`.
        """
        with self._changed:
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._waiting or self._broken(), timeout=seconds)
            if self._error is not None:
                raise self._error
            if not done:
                raise OutOfReachError(f"MLflow takes more than {seconds:.0f} s to be told of the trials")

    def close(self, seconds: float) -> bool:
        """End the thread after its current delivery, and wait for that at most `seconds`.

        Returns:
            False if the thread has not ended by then; the caller must not wait for it.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _broken(self) -> bool:
        return self._error is not None and not isinstance(self._error, OutOfReachError)

    def _work(self) -> None:
        attempts = 0
        while True:
            with self._changed:
                if attempts:
                    pause = PATIENCE_SECONDS[min(attempts, len(PATIENCE_SECONDS)) - 1]
                    self._changed.wait_for(lambda: self._closed, timeout=pause)
                self._changed.wait_for(lambda: self._closed or self._waiting)
                if self._closed:
                    return
                trial, source = next(iter(self._waiting.values()))
            try:
                self._deliver(trial, source)
            except OutOfReachError as error:
                attempts += 1
                self._runs.pop((source.tag, trial.number), None)  # the next attempt asks MLflow how much has arrived
                self._failed(error)
            except Exception as error:  # a wrong request or a fault of this program: the coordinator raises it
                self._failed(error)
                return
            else:
                attempts = 0
                self._succeeded(trial, source)

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _succeeded(self, trial: TrialRecord, source: Source) -> None:
        key = source.tag, trial.number
        with self._changed:
            self._error = None
            done = Delivered(trial.number, self._runs[key], trial.status.final)
            self._delivered.setdefault(source.tag, []).append(done)
            if self._waiting[key][0] is trial:  # else a newer record waits
                del self._waiting[key]
            self._changed.notify_all()

    def _deliver(self, trial: TrialRecord, source: Source) -> None:
        number, tracking, settings = trial.number, self._tracking, source.settings_of(trial)
        key = source.tag, number
        if key not in self._runs:
            self._runs[key] = tracking.open_trial(self._parent, trial, settings, source.tag)
            self._last_steps[key] = {name: max(steps) for name, steps in tracking.steps(self._runs[key]).items()}
        elif trial.status is Status.RUNNING and self._shown.get(key) is not Status.RUNNING:
            tracking.open_trial(self._parent, trial, settings, source.tag)
        run_id, last = self._runs[key], self._last_steps[key]
        curves = read_points(source.trial_folder(number))
        new = [
            Progress(number, step, trial.total_steps, fresh)
            for step, values in curves
            if (fresh := {name: value for name, value in values.items() if step > last.get(name, -1)})
        ]
        if new:
            tracking.points(run_id, new)
            for point in new:
                last |= dict.fromkeys(point.metrics, point.step)
        if trial.status is Status.PAUSED and self._shown.get(key) is not Status.PAUSED:
            tracking.pause_trial(run_id)
        elif trial.status.final:
            all_points = [Progress(number, step, trial.total_steps, values) for step, values in curves]
            ended, origin = replace(trial, run_id=run_id), source.origin(trial)
            tracking.finish_trial(ended, settings, self._labels, all_points, origin)
        self._shown[key] = trial.status
