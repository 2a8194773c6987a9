"""The floors of a study: fitted before its first trial, in a small share of its time, and kept."""

import json
from collections.abc import Sequence

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.coordinator.clock import Clock
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import StudyContext
from hpsearch.report.display import Display
from hpsearch.state.floors import FloorRecord, read_floors, write_floors
from hpsearch.state.folder import StudyFolder
from hpsearch.state.messages import FloorFitted
from hpsearch.state.records import write_durably
from hpsearch.tasks.floor import Floor
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.metrics import OBJECTIVES

PHASE = "floors"  # on the console, in `seconds.json`
SHARE = 0.05  # of the hours, all floors together
WITHOUT_HOURS = 600.0  # seconds, where a study may take however long
FIRST = 0.6  # share of the time left that a floor may take before the last


def limit_seconds(settings: Settings) -> float:
    """That all floors together may take."""
    hours = settings.budget.hours
    return SHARE * 3600 * hours if hours is not None else WITHOUT_HOURS


def fit_floors(study: StudyContext, crew: Crew, display: Display, clock: Clock) -> tuple[FloorRecord, ...]:
    """Fit those that are not there, and say what they come to; one that can't be fitted is said and left out.

    What is there from an earlier run of the command is not fitted again, nor is what had a fault then.

    Raises:
        Interrupted: a signal came; what was fitted is kept.
        RequestError: `floors.json` is damaged.
    """
    settings, folder = study.settings, study.folder
    known = {record.name: record for record in read_floors(folder) if _is_there(folder, record)}
    floors = KINDS[settings.task.kind].floors
    missing = [floor for floor in floors if floor.name not in known] if settings.budget.floors else []
    if missing:
        display.phase(PHASE)
        with clock.timed(PHASE):
            for floor in missing:
                left = limit_seconds(settings) - sum(record.seconds for record in known.values())
                share = 1.0 if floor is floors[-1] else FIRST
                number, seconds = floors.index(floor), max(0.0, share * left)
                found = crew.fit_floor(number, floor.name, settings, study.ref, seconds)
                known[floor.name] = record = _kept(folder, floor, found)
                write_floors(folder, tuple(known[one.name] for one in floors if one.name in known))
                display.note(_said(floor, record, settings.task.metric))
    return tuple(known[floor.name] for floor in floors if floor.name in known)


def best(floors: Sequence[FloorRecord], metric: str) -> FloorRecord | None:
    """The best on validation, of equal ones the first; None where there is none."""
    worth = OBJECTIVES[metric].worth
    fitted = [floor for floor in floors if floor.fault is None]
    return max(fitted, key=lambda floor: worth(floor.metrics[f"validation_{metric}"]), default=None)


def as_slow_as_trials(settings: Settings, folder: StudyFolder) -> int:
    """How many floors, scored on test, take as long as a trial's model does; the others take next to nothing."""
    there = {record.name for record in read_floors(folder) if record.fault is None}
    return sum(floor.script is None and floor.name in there for floor in KINDS[settings.task.kind].floors)


def _is_there(folder: StudyFolder, record: FloorRecord) -> bool:
    """Whether nothing is left to be fitted: once test has been scored, what it said there is known."""
    place = folder.floor(record.name)
    return record.fault is not None or folder.test.exists() or (place.weights.exists() and place.answers.exists())


def _kept(folder: StudyFolder, floor: Floor, found: FloorFitted) -> FloorRecord:
    """The record of a floor, whose answers are on disk before it."""
    if found.fault is None:
        answers = {"predictions": found.predictions, "likelihoods": found.likelihoods}
        write_durably(folder.floor(floor.name).answers, json.dumps(answers))
    return FloorRecord(
        name=floor.name,
        examples=found.examples,
        seconds=found.seconds,
        chosen=found.chosen,
        metrics=found.metrics,
        confusion=found.confusion,
        fitted=found.fitted,
        fault=found.fault,
    )


def _said(floor: Floor, record: FloorRecord, metric: str) -> str:
    if record.fault is not None:
        return f"floor: {floor.title} is left out: {record.fault}"
    on = f" on {formats.count(record.examples)} training examples" if record.examples else ""
    score = formats.score(record.metrics[f"validation_{metric}"])
    return f"floor: {floor.title}, fitted{on} in {formats.duration(record.seconds)}: validation {metric} {score}"
