"""Commands to a study from another terminal: stop, finish or extend it, skip a trial, try a point."""

import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from hpsearch.config import space
from hpsearch.config.composition import hours_of
from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError, nearest
from hpsearch.state.folder import SEARCHED_IN, StudyFolder
from hpsearch.state.locks import holder
from hpsearch.state.records import TrialRecord
from hpsearch.state.steering import Command, Steering
from hpsearch.state.stored_settings import settings_of

SAVE_SECONDS = 60.0  # time limit for a coordinator to save its running trials
REPLY_SECONDS = 60.0  # time limit for a coordinator to act on a command
LOOK_SECONDS = 0.2  # between two checks


def chosen(home: Path, study: str | None) -> StudyFolder:
    """Return the folder of a study by name; without a name, of the only running study or of the only study.

    Raises:
        RequestError: There is no such study, or several studies are possible.
    """
    if study is not None:
        return StudyFolder.begun(home, study)
    begun = [folder for folder in StudyFolder.all(home) if folder.settings.exists()]
    found = [folder for folder in begun if holder(folder) is not None] or begun
    if len(found) == 1:
        return found[0]
    there = ", ".join(folder.name for folder in found) or "none"
    raise RequestError(f"give the name of a study in {home}; there are: {there}")


def own_settings(folder: StudyFolder, given: Settings) -> Settings:
    """Return the settings of a study, with the addresses of the command line where that has any.

    Raises:
        RequestError: The study's file is damaged, or an address in it has lost its password and is not given.
    """
    own = settings_of(folder)
    for section in ("tracking", "storage"):
        if getattr(given, section).uri is not None:
            own = own.model_copy(update={section: getattr(given, section)})
        elif "***" in (getattr(own, section).uri or ""):
            raise RequestError(
                f"{section}.uri: study {folder.name} has {getattr(own, section).uri}, without its password; give "
                f"{section}.uri=<the whole address>"
            )
    return own


def stop(home: Path, study: str | None) -> str:
    """Make a study's coordinator on this machine save and end, as Ctrl-C does, and return what was done, in words.

    Raises:
        RequestError: There is no such study, or it does not end in time.
    """
    folder = chosen(home, study)
    process = holder(folder)
    if process is None:
        return f"study {folder.name} is not being run"
    try:
        os.kill(process, signal.SIGINT)
    except ProcessLookupError:
        pass  # it has just ended
    except PermissionError:
        raise RequestError(f"study {folder.name}: process {process} belongs to another user, who can stop it") from None
    deadline = time.monotonic() + SAVE_SECONDS
    while holder(folder) is not None:
        if time.monotonic() > deadline:
            raise RequestError(
                f"study {folder.name}: process {process} is still saving after {SAVE_SECONDS:.0f} s; wait for it"
            )
        time.sleep(LOOK_SECONDS)
    return f"study {folder.name} is stopped and saved; the command that began it continues it"


def given_to(folder: StudyFolder) -> tuple[str, ...]:
    """Return the settings and options of the command that runs a study; () for a study of a former version."""
    return tuple(json.loads(folder.given.read_text(encoding="utf-8"))) if folder.given.exists() else ()


def _searching(home: Path, study: str | None) -> StudyFolder:
    """Return the folder of a study that may have further trials.

    Raises:
        RequestError: There is no such study, several are possible, or it has its result.
    """
    folder = chosen(home, study)
    asked = Steering(folder)
    extended = any(asked.read(name).command.verb == "extend" for name in asked.waiting())
    if folder.published.exists() and holder(folder) is None and not extended:
        raise RequestError(f"study {folder.name} is finished; `hpsearch extend` gives it more hours first")
    return folder


def finish(folder: StudyFolder) -> str:
    """Make a running study begin no more search trials, and confirm, train and score with what it has.

    Raises:
        RequestError: The coordinator refuses.
    """
    return _tell(folder, Command.now("finish"))


def skip(home: Path, study: str | None, trial: int) -> str:
    """End a trial of the search as failed, and continue the study without it.

    Raises:
        RequestError: There is no such study or trial, or the trial has ended.
    """
    folder = _searching(home, study)
    place = folder.trial(SEARCHED_IN, trial)
    if not place.record.exists():
        numbers = ", ".join(one.path.name for one in folder.trials(SEARCHED_IN)) or "none"
        raise RequestError(f"study {folder.name} has no trial {trial}; there are: {numbers}")
    status = TrialRecord.load(place.path).status
    if status.final:
        raise RequestError(f"trial {trial} of study {folder.name} has ended: {status}")
    return _tell(folder, Command.now("skip", trial=trial))


def try_point(home: Path, study: str | None, words: Sequence[str]) -> str:
    """Make a study run a point of the space next. Values that are not given are those of the reference recipe.

    Args:
        home: The state folder.
        study: Name of the study; None: as for `chosen`.
        words: Values such as `train.learning_rate=3e-5`, or `learning_rate=3e-5` if that names one searched setting.

    Raises:
        RequestError: There is no such study, or no such point in its space.
    """
    folder = _searching(home, study)
    settings = settings_of(folder)
    if settings.sampler.name == "GridSampler":
        raise RequestError(f"study {folder.name} has sampler=grid, and a grid has its own points")
    try:
        given = OmegaConf.from_dotlist([_path(word, settings) for word in words])
        values = {f"{section!s}.{name!s}": value for section in given for name, value in given[section].items()}
    except (OmegaConfBaseException, YAMLError) as error:
        raise RequestError(f"{' '.join(words)}: is not understood: {error}") from None
    return _tell(folder, Command.now("try", params=space.point(settings, values)))


def _path(word: str, settings: Settings) -> str:
    """Return a word `setting=value` with the whole path of its setting."""
    name, equals, value = word.partition("=")
    searched = list(settings.search.space)
    paths = [path for path in searched if name in (path, path.rpartition(".")[2])]
    if not equals or len(paths) != 1:
        raise RequestError(
            f"{word}: give a setting that study {settings.study} searches, and its value: one of "
            f"{', '.join(f'{path}=...' for path in searched)}{nearest(name, searched)}"
        )
    return f"{paths[0]}={value}"


def extend(home: Path, study: str | None, budget: str) -> str:
    """Give a study more hours, `budget` in all, so that it makes a new plan.

    Raises:
        RequestError: There is no such study, it has no hours, or its hours are not fewer than `budget`.
    """
    folder = chosen(home, study)
    hours, now = hours_of(budget), settings_of(folder).budget.hours
    if hours is None:
        raise RequestError(f"--budget={budget}: give a time, as 90s, 15m, 2h")
    if now is None:
        raise RequestError(
            f"study {folder.name} has no hours, it runs all its trials; the command that began it runs more with "
            "budget.max_trials=<more in all>"
        )
    if hours <= now:
        raise RequestError(f"--budget={budget}: study {folder.name} has {now:.3g} hours already; give more, in all")
    return _tell(folder, Command.now("extend", hours=hours))


def _tell(folder: StudyFolder, command: Command) -> str:
    """Leave a command in the study's folder, wait for the coordinator's reply, and return the result in words.

    Raises:
        RequestError: The coordinator refuses the command.
    """
    steering = Steering(folder)
    name = steering.ask(command)
    deadline = time.monotonic() + REPLY_SECONDS
    while (reply := steering.reply(name)) is None:
        if holder(folder) is None and steering.reply(name) is None:
            return (
                f"study {folder.name} is not being run; its next start does this: {command}. "
                "The command that began it continues it"
            )
        if time.monotonic() > deadline:
            return f"study {folder.name} is busy with something else, and does this as soon as it can: {command}"
        time.sleep(LOOK_SECONDS)
    if not reply.accepted:
        raise RequestError(f"study {folder.name}: {reply.said}")
    return f"study {folder.name}: {reply.said}"
