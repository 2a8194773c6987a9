"""The effects that commands from another terminal have on a study."""

from dataclasses import replace

from hpsearch import formats
from hpsearch.config.composition import hours_named
from hpsearch.config.settings import Settings
from hpsearch.coordinator.books import Books
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Phase
from hpsearch.coordinator.results import write_settings
from hpsearch.errors import RequestError
from hpsearch.report.display import Display
from hpsearch.state import codec, steering
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary
from hpsearch.state.plans import Plans
from hpsearch.state.records import Status
from hpsearch.state.steering import SKIPPED, Asked, Steering

TOO_LATE = "the study has its result by now; its command with more hours continues it"


class Helm:
    """The handler of commands while one phase runs."""

    def __init__(self, phase: Phase, books: Books, crew: Crew, display: Display) -> None:
        self._phase, self._books, self._crew, self._display = phase, books, crew, display
        self._steering = Steering(phase.study.folder)
        self._unreadable: set[str] = set()  # names of commands that were reported

    def heed(self) -> None:
        """Act on the waiting commands. A trial in training is skipped once it is saved, at a later call."""
        for name in self._steering.waiting():
            if name in self._unreadable:
                continue
            try:
                asked = self._steering.read(name)
            except (RequestError, OSError) as error:
                self._unreadable.add(name)
                self._display.note(f"a command from another terminal cannot be read: {error}")
                continue
            try:
                self._act(asked)
            except RequestError as error:
                self._answer(asked, str(error), "")

    def _act(self, asked: Asked) -> None:
        command = asked.command
        if command.trial is not None:
            self._skip(asked, command.trial)
        elif command.params is not None:
            refusal = self._phase.take(asked)
            self._answer(asked, refusal, "it is run next, as soon as a worker is free and if the hours hold it")
        elif command.hours is not None:
            self._extend(asked, command.hours)
        else:
            self._finish(asked)

    def _skip(self, asked: Asked, number: int) -> None:
        trial = self._phase.trials.get(number)
        refusal = None
        if not self._phase.skips:
            refusal = f"the study is in its {self._phase.name}, and trials of the search have ended"
        elif trial is None:
            refusal = f"there is no trial {number}"
        elif trial.status.final and trial.reason != SKIPPED:  # after a crash, a skipped one still needs its reply
            refusal = f"trial {number} has ended: {trial.status}"
        elif held := [worker for worker in self._crew.workers if worker.trial == number]:
            held[0].pause()
            return
        elif not trial.status.final:
            self._books.keep(replace(trial, status=Status.FAILED, reason=SKIPPED))
        self._answer(asked, refusal, f"trial {number} is skipped")

    def _finish(self, asked: Asked) -> None:
        study, refusal = self._phase.study, None
        if not study.settings.search.space:
            refusal = "it is a single fine-tune, which ends by itself; `hpsearch stop` ends it now"
        elif study.finishing:
            refusal = "it finishes already"
        else:
            study.finishing = True
        self._answer(asked, refusal, "its trials are confirmed, the final model trained, test scored")

    def _extend(self, asked: Asked, hours: float) -> None:
        study, before = self._phase.study, self._phase.study.settings.budget.hours
        if before is not None and hours <= before:
            refusal: str | None = f"it has {formats.duration(before * 3600)} already"
        else:
            refusal = self._phase.extend(hours)
        if refusal is None:
            study.settings, study.finishing = _with_hours(study.settings, hours), False
            write_settings(study.folder, study.settings)
            if (plans := codec.read_file(Plans, study.folder.plans, "delete it")) is not None:
                self._display.plan(plans.made[-1])
        self._answer(asked, refusal, f"it takes {formats.duration(hours * 3600)} in all")

    def _answer(self, asked: Asked, refusal: str | None, said: str) -> None:
        self._steering.answer(asked, refusal is None, refusal or said)
        self._display.note(f"from another terminal: {asked.command}: {refusal or said}")


def taken_up(settings: Settings, folder: StudyFolder, finishing: bool) -> tuple[Settings, bool]:
    """Return the settings of a study with its extended hours, and whether it is to finish.

    The commands `finish` and `extend` that came while the study was not run are answered here. The caller holds the
    study's lock.

    Args:
        settings: the settings given with the study's command.
        folder: the study's folder.
        finishing: whether the study's command asks it to finish.

    Raises:
        RequestError: a file of the study is damaged.
    """
    kept = Steering(folder)
    for asked in _readable(kept):
        command, hours = asked.command, settings.budget.hours
        now = steering.hours(hours, kept.accepted())
        if command.verb == "finish":
            kept.answer(asked, True, "its trials are confirmed, the final model trained, test scored")
        elif command.hours is not None and now is not None and command.hours > now:
            kept.answer(asked, True, f"it takes {formats.duration(command.hours * 3600)} in all")
        elif command.hours is not None:
            kept.answer(asked, False, "it has as many hours already, or none")
    summary, accepted = read_summary(folder) if folder.published.exists() else None, kept.accepted()
    done = [one.name for one in summary.steering] if summary is not None else []
    hours = steering.hours(settings.budget.hours, accepted)
    if hours is not None and hours != settings.budget.hours:
        settings = _with_hours(settings, hours)
    return settings, finishing or steering.finishing(accepted, done)


def refuse_late(folder: StudyFolder) -> None:
    """Reply to the commands that came once the study's phases were over."""
    kept = Steering(folder)
    for asked in _readable(kept):
        kept.answer(asked, False, TOO_LATE)


def _readable(kept: Steering) -> list[Asked]:
    found = []
    for name in kept.waiting():
        try:
            found.append(kept.read(name))
        except (RequestError, OSError):
            continue  # fsck names it
    return found


def _with_hours(settings: Settings, hours: float) -> Settings:
    budget = settings.budget.model_copy(update={"hours": hours, "name": hours_named(hours)})
    return settings.model_copy(update={"budget": budget})
