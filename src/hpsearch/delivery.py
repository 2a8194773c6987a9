"""MLflow is told behind the search what the state folder says: in order, each point once, whenever MLflow answers."""

import threading
from dataclasses import dataclass, replace
from pathlib import Path

from hpsearch import space
from hpsearch.errors import OutOfReachError
from hpsearch.records import Progress, Status, TrialRecord, read_points
from hpsearch.settings import Settings
from hpsearch.tracking import Tracking

PATIENCE_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0)  # between attempts while MLflow does not answer; the last one repeats


@dataclass(frozen=True)
class Delivered:
    """What MLflow now knows of a trial."""

    number: int
    run_id: str
    final: bool  # its final status, too


class Delivery:
    """One thread that delivers trials' newest records and points. The search never waits for it.

    What it has not delivered needs no store of its own: `trial.json` and `points.jsonl` have it, and the next start
    delivers from them what MLflow does not have.
    """

    def __init__(self, tracking: Tracking, settings: Settings, labels: tuple[str, ...], parent: str, folder: Path):
        """Start.

        Args:
            tracking: used by the thread alone until `close`, but for the runs of trials.
            settings: of the study.
            labels: of the task's classes.
            parent: run id of the study.
            folder: of the study.
        """
        self._tracking, self._settings, self._labels = tracking, settings, labels
        self._parent, self._folder = parent, folder
        self._runs: dict[int, str] = {}
        self._shown: dict[int, Status] = {}
        self._last_steps: dict[int, dict[str, int]] = {}
        self._waiting: dict[int, TrialRecord] = {}
        self._delivered: list[Delivered] = []
        self._error: Exception | None = None  # why the last attempt failed
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="delivery", daemon=True)
        self._thread.start()

    def put(self, trial: TrialRecord) -> None:
        """Have a trial's record and its points so far delivered."""
        with self._changed:
            self._waiting[trial.number] = trial
            self._changed.notify_all()

    def delivered(self) -> list[Delivered]:
        """What has been delivered since the last call. Raises what went wrong, unless MLflow just does not answer."""
        with self._changed:
            if self._error is not None and not isinstance(self._error, OutOfReachError):
                raise self._error
            found, self._delivered = self._delivered, []
            return found

    @property
    def complaint(self) -> str | None:
        """Why MLflow is not being told at the moment."""
        error = self._error
        return str(error) if error is not None else None

    def flush(self, seconds: float) -> None:
        """Wait until all is delivered. Raises OutOfReachError if MLflow does not answer for so long."""
        with self._changed:
            self._changed.notify_all()
            done = self._changed.wait_for(lambda: not self._waiting or self._broken(), timeout=seconds)
            if self._error is not None:
                raise self._error
            if not done:
                raise OutOfReachError(f"MLflow takes more than {seconds:.0f} s to be told of the trials")

    def close(self, seconds: float) -> bool:
        """Let the thread end after what it is at; False if that takes longer, and it must not be waited for."""
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
                trial = next(iter(self._waiting.values()))
            try:
                self._deliver(trial)
            except OutOfReachError as error:
                attempts += 1
                self._runs.pop(trial.number, None)  # how much of it has arrived is for MLflow to say
                self._failed(error)
            except Exception as error:  # the coordinator raises it: a request that is wrong, or a fault of this program
                self._failed(error)
                return
            else:
                attempts = 0
                self._succeeded(trial)

    def _failed(self, error: Exception) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _succeeded(self, trial: TrialRecord) -> None:
        with self._changed:
            self._error = None
            self._delivered.append(Delivered(trial.number, self._runs[trial.number], trial.status.final))
            if self._waiting[trial.number] is trial:  # else there is news of it
                del self._waiting[trial.number]
            self._changed.notify_all()

    def _deliver(self, trial: TrialRecord) -> None:
        number, tracking = trial.number, self._tracking
        if number not in self._runs:
            self._runs[number] = tracking.open_trial(self._parent, trial, self._settings_of(trial))
            self._last_steps[number] = tracking.last_steps(self._runs[number])
        elif trial.status is Status.RUNNING and self._shown.get(number) is not Status.RUNNING:
            tracking.open_trial(self._parent, trial, self._settings_of(trial))
        run_id, last = self._runs[number], self._last_steps[number]
        curves = read_points(self._folder / "trials" / str(number))
        new = [
            Progress(number, step, trial.total_steps, fresh)
            for step, values in curves
            if (fresh := {name: value for name, value in values.items() if step > last.get(name, -1)})
        ]
        if new:
            tracking.points(run_id, new)
            for point in new:
                last |= dict.fromkeys(point.metrics, point.step)
        if trial.status is Status.PAUSED and self._shown.get(number) is not Status.PAUSED:
            tracking.pause_trial(run_id)
        elif trial.status.final:
            all_points = [Progress(number, step, trial.total_steps, values) for step, values in curves]
            tracking.finish_trial(replace(trial, run_id=run_id), self._settings, self._labels, all_points)
        self._shown[number] = trial.status

    def _settings_of(self, trial: TrialRecord) -> Settings:
        return space.apply(self._settings, trial.params)
