"""The floors of a study: they are fitted before its first trial, in a small share of its time, and kept."""

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.coordinator.clock import Clock
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Fault, StudyContext
from hpsearch.coordinator.race import read_answers
from hpsearch.errors import RequestError
from hpsearch.report.display import Display
from hpsearch.state.floors import FloorRecord, read_floors, write_floors
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Answers, Reading, Replies
from hpsearch.state.messages import FloorFitted
from hpsearch.state.outcome import read_summary
from hpsearch.state.records import write_durably
from hpsearch.tasks.floor import WORDS, Floor
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tracking.artifacts import digest
from hpsearch.tracking.floors import FLOOR, FloorRuns
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data

PHASE = "floors"  # name on the console and in `seconds.json`
SHARE = 0.05  # of the hours, for all floors together
WITHOUT_HOURS = 600.0  # seconds for all floors of a study without hours
FIRST = 0.6  # share of the time left that each floor but the last may take


def limit_seconds(settings: Settings) -> float:
    """Return the seconds that all floors together may take."""
    hours = settings.budget.hours
    return SHARE * 3600 * hours if hours is not None else WITHOUT_HOURS


def fit(study: StudyContext, crew: Crew, display: Display, clock: Clock) -> tuple[FloorRecord, ...]:
    """Fit the missing floors, show their results, and return the records of all floors.

    A floor that can't be fitted is shown as left out, and its record holds the fault. Floors of an earlier run of the
    command are not fitted again. One that had a fault is tried again if there is more time now.

    Raises:
        Interrupted: a signal came; what was fitted is kept.
        RequestError: `floors.json` is damaged.
    """
    settings, folder = study.settings, study.folder
    known = {record.name: record for record in read_floors(folder) if _is_there(study, record)}
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
                known[floor.name] = record = _kept(folder, floor, found, limit_seconds(settings))
                write_floors(folder, tuple(known[one.name] for one in floors if one.name in known))
                display.note(_said(floor, record, settings.task.metric))
    return tuple(known[floor.name] for floor in floors if floor.name in known)


def tell(
    study: StudyContext, floors: Sequence[FloorRecord], runs: FloorRuns, reading: Reading | None
) -> tuple[FloorRecord, ...]:
    """Log the floors in MLflow, and return their records with their run ids.

    Their scores on test are logged too, where test has been read.

    Raises:
        OutOfReachError: MLflow does not answer.
    """
    read = {one.name: one.measured.metrics for one in reading.floors} if reading is not None else {}
    told = []
    for floor in floors:
        if floor.fault is None:
            figures = {f"test_{name}": value for name, value in read.get(floor.name, {}).items()}
            floor = replace(floor, run_id=runs.log(floor, figures))
        told.append(floor)
    if told != list(floors):
        write_floors(study.folder, tuple(told))
    return tuple(told)


def tables(study: StudyContext, floors: Sequence[FloorRecord], reading: Reading) -> dict[str, dict[str, Answers]]:
    """Return the answers of each floor by split, under the id of its MLflow run."""
    kind, ref = KINDS[study.settings.task.kind], study.ref
    read = {one.name: one.measured.answers for one in reading.floors}
    rows = data.load(ref, "validation").to_dict() if floors else {}
    truths = kind.truths(rows, ref.labels) if floors else []
    found: dict[str, dict[str, Answers]] = {}
    for floor in floors:
        answers = study.folder.floor(floor.name).answers
        if floor.run_id is None or not answers.exists():
            continue
        predictions, likelihoods = read_answers(answers.read_text(encoding="utf-8"))
        replies = Replies(kind.answers(predictions, ref.labels), likelihoods)
        found[floor.run_id] = {"validation": Answers.of(rows["id"], truths, replies)}
        if floor.name in read:
            found[floor.run_id]["test"] = read[floor.name]
    return found


def free_disk(study: StudyContext, floors: Sequence[FloorRecord], tested: int) -> None:
    """Delete the models of floors scored on test, except the best one and the one that a later winner may need.

    Args:
        study: the study.
        floors: its floors.
        tested: number of test examples that they were scored on. If these were not all, models may be needed again.
    """
    if tested < study.ref.sizes["test"]:
        return
    kept = best(floors, study.settings.task.metric)
    for floor in floors:
        if floor is not kept and floor.name != WORDS.name:
            shutil.rmtree(study.folder.floor(floor.name).model, ignore_errors=True)


def best(floors: Sequence[FloorRecord], metric: str) -> FloorRecord | None:
    """Return the best floor on validation, the first of equal ones; None where no floor was fitted."""
    worth = OBJECTIVES[metric].worth
    fitted = [floor for floor in floors if floor.fault is None]
    return max(fitted, key=lambda floor: worth(floor.metrics[f"validation_{metric}"]), default=None)


def untell(folder: StudyFolder) -> None:
    """Have the sweep's command log all of a study's floors, and its result, in MLflow again."""
    if folder.floors.exists():
        write_floors(folder, tuple(replace(floor, run_id=None) for floor in read_floors(folder)))
    folder.published.unlink(missing_ok=True)


def faults(folder: StudyFolder, settings: Settings, tracking: Tracking) -> Iterator[Fault]:
    """Yield the faults of a study's floors: in their models, leftovers of a crash, and their runs in MLflow."""
    try:
        floors = [floor for floor in read_floors(folder) if floor.fault is None]
    except RequestError as error:
        yield Fault(str(error))
        return
    names = {floor.name for floor in floors}
    for place in folder.floor_folders():
        if place.path.name not in names and any(place.path.iterdir()):
            yield Fault(f"floors/{place.path.name} is left of a crash", partial(shutil.rmtree, place.path))
    parent = tracking.find_study(settings.study) if floors else None
    runs = {run.tags.get(FLOOR): run for run in tracking.children(parent.run_id)} if parent is not None else {}
    published = folder.published.exists()
    summary = read_summary(folder)
    blended = published and summary is not None and summary.blend is not None
    whole = published and summary is not None and summary.test.n == summary.data.test  # see `free_disk`
    kept = best(floors, settings.task.metric)
    for floor in floors:
        model, name = folder.floor(floor.name), f"the floor {floor.name}"
        if whole and floor is not kept and floor.name != WORDS.name and model.model.exists():
            yield Fault(f"{name} keeps a model and is not the best", partial(shutil.rmtree, model.model))
        if published and floor is kept and not model.weights.exists():
            yield Fault(f"the model of {name}, the best, is missing")
        elif floor.name == WORDS.name and blended and not model.weights.exists():
            yield Fault(f"the model of {name}, which the winner is one model with, is missing")
        run = runs.get(floor.name)
        if parent is not None and run is None and floor.run_id is not None:
            yield Fault(
                f"{name} has no run in MLflow; repair this, and the sweep's command logs it", partial(untell, folder)
            )
        elif run is not None and floor is kept and model.weights.exists():
            logged = tracking.weights(run.run_id)
            if logged is not None and logged != digest(model.weights):
                yield Fault(f"the model of {name} is not the one that was logged")


def as_slow_as_trials(settings: Settings, folder: StudyFolder) -> int:
    """Return how many floors take as long to score on test as a trial's model; the others take almost no time."""
    there = {record.name for record in read_floors(folder) if record.fault is None}
    return sum(floor.script is None and floor.name in there for floor in KINDS[settings.task.kind].floors)


def _is_there(study: StudyContext, record: FloorRecord) -> bool:
    """Return whether a floor need not be fitted: once test has been scored, its answers there are known."""
    place = study.folder.floor(record.name)
    if study.folder.test.exists():
        return True
    if record.fault is not None:
        return record.limit is not None and limit_seconds(study.settings) <= record.limit
    return place.weights.exists() and place.answers.exists()


def _kept(folder: StudyFolder, floor: Floor, found: FloorFitted, limit: float) -> FloorRecord:
    """Write a floor's answers to disk, and return its record. Of a floor with a fault, only the record is kept."""
    if found.fault is not None:
        shutil.rmtree(folder.floor(floor.name).path, ignore_errors=True)
    else:
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
        limit=limit if found.fault is not None else None,
    )


def _said(floor: Floor, record: FloorRecord, metric: str) -> str:
    if record.fault is not None:
        return f"floor: {floor.title} is left out: {record.fault}"
    on = f" on {formats.count(record.examples)} training examples" if record.examples else ""
    score = formats.score(record.metrics[f"validation_{metric}"])
    return f"floor: {floor.title}, fitted{on} in {formats.duration(record.seconds)}: validation {metric} {score}"
