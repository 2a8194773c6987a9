"""The results of a phase's trials: written to disk first, then passed to Optuna, MLflow and the display."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hpsearch.config.settings import Settings
from hpsearch.coordinator.clock import Clock
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Phase
from hpsearch.report.display import Display
from hpsearch.state import identity
from hpsearch.state.messages import Decision, Progress, RungReport
from hpsearch.state.origin import Origin
from hpsearch.state.records import Status, TrialRecord, add_points, last_step, read_points
from hpsearch.tracking.delivery import Delivery
from hpsearch.training import checkpoints

TELL_SECONDS = 60.0  # limit for sending the last results of a phase to MLflow


class Books:
    """The records and curves of a phase's trials."""

    def __init__(self, phase: Phase, crew: Crew, delivery: Delivery, display: Display, clock: Clock) -> None:
        self.phase, self._crew, self._delivery, self._display = phase, crew, delivery, display
        self._clock = clock
        self.logged: dict[int, set[tuple[int, str]]] = {}  # running trial: (step, metric) pairs in its points file
        self.trained: dict[int, int] = {}  # trial: its steps so far
        self._freed: set[int] = set()  # ended trials without a file to delete
        for number, trial in phase.trials.items():
            # There may be thousands of trials. A failed one has trained beyond the step of its record.
            whole = trial.status in (Status.COMPLETE, Status.PRUNED)
            points = [] if whole else read_points(phase.trial_folder(number).path)
            self.trained[number] = last_step(trial, points)
            if not trial.status.final:
                self.logged[number] = {(step, name) for step, values in points for name in values}
        self._complaint: str | None = None  # why MLflow does not answer, as last shown

    # ---- writing

    def keep(self, trial: TrialRecord) -> None:
        """Write a trial's record to disk, and only then pass it to MLflow, the phase and the display."""
        before = self.phase.trials.get(trial.number)
        ends = trial.status.final and (before is None or not before.status.final)
        if ends:
            trial = replace(trial, at=self._clock.spent)
        self._write(trial)
        self._delivery.put(trial, self)
        self.phase.recorded(before, trial)
        if ends:
            self.logged.pop(trial.number, None)
            self._display.trial_ended(trial)

    def points(self, points: Sequence[Progress]) -> None:
        """Log the points that are not logged yet; a resumed trial passes some steps again."""
        for point in points:
            logged = self.logged.setdefault(point.number, set())
            new = {name: value for name, value in point.metrics.items() if (point.step, name) not in logged}
            if not new:
                continue
            logged |= {(point.step, name) for name in new}
            self.trained[point.number] = max(point.step, self.trained.get(point.number, 0))
            add_points(self.phase.trial_folder(point.number).path, point.step, new)
            self._delivery.put(self.phase.trials[point.number], self)

    def at_rung(self, report: RungReport) -> Decision:
        """Record a trial's score at a rung, and return whether the trial continues at once, pauses or stops."""
        before = self.phase.trials[report.number]
        trial = replace(
            before,
            status=Status.PAUSED,
            step=report.step,
            total_steps=report.total_steps,
            rungs=before.rungs | {report.rung: report.score},
            score=report.score,
            metrics=before.metrics | report.metrics,
        )
        self.keep(trial)
        self.points([Progress(report.number, report.step, report.total_steps, report.metrics)])
        decision = self.phase.decide(report.number)
        if decision is Decision.CONTINUE:
            self.keep(replace(trial, status=Status.RUNNING))
        self._display.rung(report.number, report.rung, report.score, decision)
        return decision

    def close(self) -> None:
        """End the phase's unfinished trials, and free disk space. Raises NoResultError if there is no result."""
        for trial in self.phase.closing():
            self.keep(trial)
        free_disk(self.phase, self.phase.kept_models())

    def free_disk(self) -> None:
        """Delete what trials that have ended since the last call need no more: see `free_disk`."""
        free_disk(self.phase, self.phase.kept_models(), self._freed)

    def _write(self, trial: TrialRecord) -> None:
        self.phase.trials[trial.number] = trial
        trial.save(self.phase.trial_folder(trial.number).path)

    # ---- MLflow

    def tell_all(self) -> None:
        """Send MLflow all that it does not have yet.

        Raises:
            OutOfReachError: MLflow does not answer; the state folder keeps what was not sent.
        """
        for trial in self.phase.trials.values():
            if trial.status.final and not trial.told:
                self._delivery.put(trial, self)
        self._delivery.flush(TELL_SECONDS)
        self.hear_of_deliveries()

    def hear_of_deliveries(self) -> None:
        """Record what MLflow has received, and show when it stops or starts to answer."""
        for done in self._delivery.delivered(self):
            trial = self.phase.trials[done.number]
            told = replace(trial, run_id=done.run_id, told=done.final)
            if told != trial:
                self._write(told)
        if (complaint := self._delivery.complaint) != self._complaint:
            self._complaint = complaint
            self._display.note(
                f"MLflow will be told later, training goes on: {complaint}" if complaint else "MLflow answers again"
            )

    # ---- what the delivery reads: see `delivery.Source`

    @property
    def tag(self) -> str:
        """Tag of the phase's MLflow runs, which holds the number of a trial."""
        return self.phase.tag

    def trial_folder(self, number: int) -> Path:
        """Return the folder that holds a trial's points."""
        return self.phase.trial_folder(number).path

    def settings_of(self, trial: TrialRecord) -> Settings:
        """Return the settings that a trial is trained with."""
        return self.phase.settings_of(trial)

    def origin(self, trial: TrialRecord) -> Origin | None:
        """Return what `reproduce` needs to repeat a trial and compare the result; None for a failed trial.

        That is settings, data, hardware, code, libraries and metrics.
        """
        if trial.status is Status.FAILED:
            return None
        settings = self._crew.micro_on(trial.device).applied(self.settings_of(trial)).model_dump(mode="json")
        settings |= {"tracking": {"uri": None}, "storage": {"uri": None}}  # these addresses may hold a password
        made_by = identity.made_by()
        return Origin(
            settings=settings,
            digests=self.phase.ref.digests,
            hardware=self._crew.hardware,
            status=trial.status,
            rung=max(trial.rungs, default=-1),
            metrics=trial.metrics,
            code=made_by["code"],
            libraries=made_by["libraries"],
        )

    # ---- for the display

    def remaining_steps(self) -> int | None:
        """Return the steps that are still planned; None while the length of no trial is known.

        Each planned trial counts with the mean length of the trials so far. The result is never less than the
        remaining steps of the running trials.
        """
        trials = self.phase.trials.values()
        known = [t.total_steps for t in trials if t.total_steps]
        if not known:
            return None
        running = [t for t in trials if t.status is Status.RUNNING]
        least = sum(max(0, t.total_steps - self.trained.get(t.number, 0)) for t in running)
        return max(least, round(self.phase.planned() * sum(known) / len(known) - sum(self.trained.values())))


def free_disk(phase: Phase, keepers: Sequence[TrialRecord], freed: set[int] | None = None) -> None:
    """Delete the checkpoints of trials that have ended, and their models except those of `keepers`.

    Args:
        phase: phase of the trials.
        keepers: trials whose models are kept.
        freed: numbers of trials without a file to delete, which are left out. Those whose files are deleted are added.
    """
    kept, done = {trial.number for trial in keepers}, freed if freed is not None else set()
    for number in [number for number, trial in phase.trials.items() if trial.status.final and number not in done]:
        folder = phase.trial_folder(number)
        checkpoints.discard(folder.path)
        if number not in kept:
            shutil.rmtree(folder.model, ignore_errors=True)
            done.add(number)
