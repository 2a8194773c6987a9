"""The effects that commands from another terminal have on a study."""

from dataclasses import replace

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.coordinator.books import Books
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Phase
from hpsearch.report.display import Display
from hpsearch.state import steering
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary
from hpsearch.state.records import Status
from hpsearch.state.steering import SKIPPED, Asked, Command, Steering


class TakenUpAgain(Exception):
    """The study gets other hours, or is to finish: it is saved, and begun again in this process."""

    since = 0.0
    """Time of the monotonic clock from which on time is not counted yet."""


class Helm:
    """The handler of commands while one phase runs."""

    def __init__(self, phase: Phase, books: Books, crew: Crew, display: Display) -> None:
        self._phase, self._books, self._crew, self._display = phase, books, crew, display
        self._steering = Steering(phase.study.folder)

    def heed(self) -> None:
        """Act on the waiting commands. A trial in training is skipped once it is saved, at a later call.

        Raises:
            TakenUpAgain: the study is to be begun again; its trials are not saved yet.
        """
        for asked in self._steering.waiting():
            command = asked.command
            if command.trial is not None:
                self._skip(asked, command.trial)
            elif command.params is not None:
                refusal = self._phase.take(asked)
                self._answer(asked, refusal, "it is run next, as soon as a worker is free and if the hours hold it")
            else:
                refusal, said = _on_the_whole(command, self._phase.study.settings, self._phase.study.finishing)
                self._answer(asked, refusal, said)
                if refusal is None:
                    raise TakenUpAgain

    def _skip(self, asked: Asked, number: int) -> None:
        trial = self._phase.trials.get(number)
        refusal = None
        if not self._phase.skips:
            refusal = f"the study is in its {self._phase.name}, and trials of the search have ended"
        elif trial is None:
            refusal = f"there is no trial {number}"
        elif trial.status.final and trial.reason != SKIPPED:  # that one was skipped, and nobody was told before a crash
            refusal = f"trial {number} has ended: {trial.status}"
        elif held := [worker for worker in self._crew.workers if worker.trial == number]:
            held[0].pause()
            return
        elif not trial.status.final:
            self._books.keep(replace(trial, status=Status.FAILED, reason=SKIPPED))
        self._answer(asked, refusal, f"trial {number} is skipped")

    def _answer(self, asked: Asked, refusal: str | None, said: str) -> None:
        self._steering.answer(asked, refusal is None, refusal or said)
        self._display.note(f"from another terminal: {asked.command}: {refusal or said}")


def taken_up(settings: Settings, folder: StudyFolder, finishing: bool) -> tuple[Settings, bool]:
    """Return the settings of a study with its extended hours, and whether it is to finish.

    The commands `finish` and `extend` that came while the study was not run are answered here.

    Args:
        settings: the settings given with the study's command.
        folder: the study's folder.
        finishing: whether the study's command asks it to finish.

    Raises:
        RequestError: a file of the study is damaged.
    """
    kept = Steering(folder)
    for asked in kept.waiting():
        if asked.command.verb in ("finish", "extend"):
            refusal, said = _on_the_whole(asked.command, _extended(settings, kept), finishing)
            kept.answer(asked, refusal is None, refusal or said)
    summary, accepted = read_summary(folder), kept.accepted()
    finished = summary.finished if summary is not None else None
    return _extended(settings, kept), finishing or steering.finishing(accepted, finished)


def _extended(settings: Settings, kept: Steering) -> Settings:
    hours = steering.hours(settings.budget.hours, kept.accepted())
    return settings.model_copy(update={"budget": settings.budget.model_copy(update={"hours": hours})})


def _on_the_whole(command: Command, settings: Settings, finishing: bool) -> tuple[str | None, str]:
    """Return why a command on the whole study is refused (None: accepted), and the reply if it is accepted."""
    if command.verb == "finish":
        refusal = "the study finishes already" if finishing else None
        return refusal, "its trials are confirmed, the final model trained, test scored"
    hours, asked = settings.budget.hours, command.hours
    assert asked is not None, "an extension has its hours"
    if hours is None:
        return "the study has no hours, it runs all its trials; budget.max_trials=<more> continues it", ""
    if asked <= hours:
        return f"the study has {formats.duration(hours * 3600)} already", ""
    return None, f"the study takes {formats.duration(asked * 3600)} in all"
