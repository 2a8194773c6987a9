"""Does what study, tracking and state folder say of each other agree? Checks, and mends what can be mended."""

import hashlib
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import yaml

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator import results
from hpsearch.coordinator.confirmation import ANSWERS, CONFIRMATION, run_settings
from hpsearch.coordinator.search import TRIALS
from hpsearch.coordinator.study import STATES, Study
from hpsearch.decisions import schedule
from hpsearch.errors import FaultsFound, HpsearchError, RequestError, first_line
from hpsearch.registry.champions import CHAMPION, champion_version
from hpsearch.state import identity
from hpsearch.state.locks import Lock
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.tasks import metrics
from hpsearch.tracking import runs as tracked
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.runs import ENDED, SHA256, TRIAL, Tracking, name_of
from hpsearch.training import checkpoints
from hpsearch.training.trial import MODEL

WEIGHTS = "model.safetensors"
TELL_SECONDS = 60.0  # for MLflow to be told what it lacks of a trial


@dataclass(frozen=True)
class Fault:
    """Something that does not agree."""

    text: str
    mend: Callable[[], object] | None = None  # None: nothing here can put it right


def fsck(settings: Settings, home: Path, repair: bool) -> str:
    """Check every study of the state folder; returns what was found, for the user.

    Args:
        settings: say where Optuna and MLflow are; each study has its own for the rest.
        home: the state folder.
        repair: mend what can be mended.

    Raises:
        FaultsFound: something is wrong still.
        OutOfReachError: the study database or MLflow does not answer.
    """
    lines, left = [], 0
    for folder in sorted(path for path in (home / "studies").glob("*") if path.is_dir()):
        try:
            with closing(Lock(folder)):
                found = _check(settings, home, folder, repair)
        except RequestError as reason:  # it is being run, or another version wrote it
            lines.append(f"{folder.name}: not checked: {reason}")
            continue
        for fault, mended in found:
            fate = "mended" if mended else "--repair mends it" if fault.mend else "can't be mended here"
            lines.append(f"{folder.name}: {fault.text}: {fate}")
            left += not mended
        if not found:
            lines.append(f"{folder.name}: clean")
    text = "\n".join(lines) or f"there is no study in {home}"
    if left:
        raise FaultsFound(f"{text}\n{left} fault(s) left")
    return text


def _check(settings: Settings, home: Path, folder: Path, repair: bool) -> list[tuple[Fault, bool]]:
    """A study's faults, each with whether it has been mended. Raises RequestError if this version can't read it."""
    identity.check_folder(folder)
    try:
        own = results.read_settings(folder, settings)
    except (OSError, ValueError, yaml.YAMLError, HpsearchError) as error:
        if not list(folder.glob("trials/*")):
            return []  # it ended before it began
        return [(Fault(f"settings.yaml can't be read ({first_line(error)})"), False)]
    with closing(Study(own, home)) as study:
        found = list(_faults(own, folder, study, Tracking(own, home)))
        mended = [repair and fault.mend is not None for fault in found]
        for fault in found:
            if repair and fault.mend is not None:
                fault.mend()
    return list(zip(found, mended, strict=True))


@dataclass(frozen=True)
class Group:
    """The trials of the search, or the runs of the confirmation."""

    noun: str
    folder: Path
    tag: str  # of their MLflow runs
    records: dict[int, TrialRecord]
    settings: Settings  # of the study

    def settings_of(self, trial: TrialRecord) -> Settings:
        """What a trial or a run is trained with."""
        return space.apply(self.settings, trial.params) if trial.entrant is None else run_settings(self.settings, trial)

    def origin(self, trial: TrialRecord) -> None:
        """Nobody knows here what it was trained on and with."""


def _faults(settings: Settings, folder: Path, study: Study, tracking: Tracking) -> Iterator[Fault]:
    yield from _leftovers(folder)
    try:
        results.read_summary(folder)
    except RequestError as error:
        yield Fault(str(error))
        return
    groups = []
    for noun, name, tag in (("trial", TRIALS, TRIAL), ("run", CONFIRMATION, tracked.CONFIRMATION)):
        records = {}
        for path in sorted((folder / name).glob("*/trial.json")):
            try:
                record = TrialRecord.load(path.parent)
            except (ValueError, KeyError, TypeError) as error:
                yield Fault(f"{noun} {path.parent.name}: trial.json can't be read ({error})")
                continue
            records[record.number] = record
        groups.append(Group(noun, folder / name, tag, records, settings))
    search, confirmation = groups
    for group in groups:
        yield from _of_records(group)
    if len(search.records) > settings.budget.max_trials:
        yield Fault(f"there are {len(search.records)} trials, and budget.max_trials is {settings.budget.max_trials}")
    yield from _of_models(folder, search, confirmation, settings)
    yield from _of_study(search.records, study)
    yield from _of_tracking(folder, groups, settings, tracking)
    yield from _of_summary(folder, search.records, settings)


def _leftovers(folder: Path) -> Iterator[Fault]:
    """What a crash left of files and folders that were being written."""
    unsealed = [path for path in folder.glob("*/*/unsealed") if any(path.iterdir())]
    for path in sorted([*folder.rglob("*.tmp"), *unsealed]):
        yield Fault(f"{path.relative_to(folder)} is left of a crash", partial(_delete, path))


def _of_records(group: Group) -> Iterator[Fault]:
    """Records that say what can't be, and checkpoints that are damaged or that nobody needs."""
    for number, record in group.records.items():
        name, path = f"{group.noun} {number}", group.folder / str(number)
        scored = record.score is not None and math.isfinite(record.score)
        if record.status is Status.COMPLETE and not (scored and record.step == record.total_steps):
            yield Fault(f"{name} is complete, but has no score or has not trained to its end")
        if record.status is Status.FAILED and not record.reason:
            yield Fault(f"{name} failed without a reason")
        if record.status is Status.COMPLETE and record.entrant is not None and not (path / ANSWERS).exists():
            yield Fault(f"{name} is complete, and what its model said on validation is missing")
        sealed = sorted(path.glob("checkpoint-*"))
        if record.status.final and sealed:
            yield Fault(f"{name} is {record.status} and keeps checkpoints", partial(checkpoints.discard, path))
        elif damaged := [checkpoint.name for checkpoint in sealed if not checkpoints.whole(checkpoint)]:
            yield Fault(
                f"{name}: {', '.join(damaged)} is damaged", partial(_delete, *(path / name for name in damaged))
            )


def _of_models(folder: Path, search: Group, confirmation: Group, settings: Settings) -> Iterator[Fault]:
    """Models that nobody needs, and those that are missing: the winner's is needed, and the best of each entrant."""
    published, summary = (folder / results.PUBLISHED).exists(), results.read_summary(folder)
    confirmed = published and summary is not None and summary["winner"]["folder"].startswith(CONFIRMATION)
    best = _best(search.records, settings)
    of_entrants: dict[str | None, dict[int, TrialRecord]] = {}
    for number, run in confirmation.records.items():
        of_entrants.setdefault(run.entrant, {})[number] = run
    needed = {
        search.noun: [] if confirmed else [best],
        confirmation.noun: [_best(runs, settings) for runs in of_entrants.values()],
    }
    for group in (search, confirmation):
        for number, record in group.records.items():
            model = group.folder / str(number) / MODEL
            if model.exists() and record.status.final and record not in needed[group.noun]:
                yield Fault(f"{group.noun} {number} keeps a model and is not the best", partial(_delete, model))
    if published and summary is not None:
        if not (folder / summary["winner"]["folder"] / MODEL / WEIGHTS).exists():
            yield Fault(f"the model of the winner, {summary['winner']['folder']}, is missing")
        return
    if (
        best is not None
        and not confirmation.records
        and not (search.folder / str(best.number) / MODEL / WEIGHTS).exists()
    ):
        yield Fault(f"the model of the best trial, {best.number}, is missing")


def _of_study(records: dict[int, TrialRecord], study: Study) -> Iterator[Fault]:
    known = {trial.number: trial for trial in study.optuna.get_trials(deepcopy=False)}
    for number, told in known.items():
        if told.state.is_finished() and number not in records:
            yield Fault(f"trial {number} is {told.state.name} in Optuna, and the state folder has no record of it")
    for number, record in records.items():
        frozen = known.get(number)
        if frozen is None:
            yield Fault(f"trial {number} is unknown to Optuna")
            continue
        if frozen.params != record.params:
            yield Fault(f"trial {number} has other parameters in Optuna: {frozen.params} for {record.params}")
        wanted = STATES[record.status] if record.status.final else None
        if frozen.state.is_finished():
            if frozen.state is not wanted:
                yield Fault(f"trial {number} is {frozen.state.name} in Optuna and {record.status} in the state folder")
            elif record.status is Status.COMPLETE and frozen.value != record.score:
                yield Fault(f"trial {number} has the value {frozen.value} in Optuna and {record.score} here")
        elif wanted is not None or frozen.intermediate_values != record.rungs:
            yield Fault(
                f"Optuna has not been told that trial {number} is {record.status}",
                partial(study.tell, record),
            )


def _of_tracking(folder: Path, groups: list[Group], settings: Settings, tracking: Tracking) -> Iterator[Fault]:
    parent = tracking.find_study(settings.study)
    if parent is None:
        if any(group.records for group in groups):
            yield Fault(
                "MLflow has no run of the study; if tracking.uri is right, mend this, and the sweep's command "
                "tells it everything",
                partial(_untell, folder, groups),
            )
        return
    children = tracking.children(parent.info.run_id)
    for group in groups:
        yield from _of_runs(folder, group, children, tracking, parent.info.run_id)
    if parent.info.status == "RUNNING":
        yield Fault(
            "the study is RUNNING in MLflow, and nobody runs it",
            partial(tracking.end, parent.info.run_id, "KILLED"),
        )
    elif (folder / results.PUBLISHED).exists() and parent.info.status not in ("FINISHED", "KILLED"):
        yield Fault(
            f"the study is finished; MLflow says {parent.info.status}",
            partial(tracking.end, parent.info.run_id, "FINISHED"),
        )
    yield from _of_champion(settings, tracking, {run.info.run_id for run in children})


def _of_runs(folder: Path, group: Group, children: list[Any], tracking: Tracking, parent: str) -> Iterator[Fault]:
    """The MLflow runs of a group."""
    runs: dict[int, Any] = {}
    for run in children:
        if group.tag in run.data.tags:
            number = int(run.data.tags[group.tag])
            if number in runs:
                ids = f"{runs[number].info.run_id} and {run.info.run_id}"
                yield Fault(f"{group.noun} {number} has two runs in MLflow: {ids}")
            runs[number] = run
    for number, record in group.records.items():
        run, name = runs.get(number), f"{group.noun} {number}"
        tell = partial(_deliver, folder, group, record, tracking, parent)
        if run is None:
            if record.status.final:
                yield Fault(f"{name} has no run in MLflow", tell)
            continue
        twice, missing = _points(group.folder / str(number), run, tracking)
        if twice:
            yield Fault(f"{name} has points twice in MLflow: {', '.join(twice)}")
        status = run.info.status
        if record.status.final:
            if status != ENDED[record.status] or missing:
                yield Fault(f"{name} is {record.status}; MLflow says {status}, {missing} points missing", tell)
        elif status in ("RUNNING", "SCHEDULED"):
            yield Fault(
                f"{name} is {status} in MLflow, and nobody runs it",
                partial(tracking.end, run.info.run_id, "KILLED"),
            )


def _points(folder: Path, run: Any, tracking: Tracking) -> tuple[list[str], int]:
    """Metrics with a step twice in MLflow, and how many finite points of the file in `folder` it lacks."""
    there: dict[str, list[int]] = {}
    for name in run.data.metrics:
        there[name] = [metric.step for metric in tracking.client.get_metric_history(run.info.run_id, name)]
    twice = sorted(name for name, steps in there.items() if len(steps) != len(set(steps)))
    wanted = {
        (name, step) for step, values in read_points(folder) for name, value in values.items() if math.isfinite(value)
    }
    return twice, len(wanted - {(name, step) for name, steps in there.items() for step in steps})


def _of_champion(settings: Settings, tracking: Tracking, runs: set[str]) -> Iterator[Fault]:
    """Whether the champion's weights, where it is of this study, are those that were logged."""
    name = name_of(settings)
    version = champion_version(tracking, settings)
    if version is None or version.run_id not in runs:
        return
    logged = tracking.client.get_run(version.run_id).data.tags.get(SHA256)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            where = mlflow.artifacts.download_artifacts(f"models:/{name}@{CHAMPION}", dst_path=scratch)
            [weights] = Path(where).glob("artifacts/model/model.safetensors")
        except (mlflow.exceptions.MlflowException, OSError, ValueError):
            yield Fault(f"the weights of {name} version {version.version}, the champion, are missing")
            return
        with open(weights, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != logged:
        yield Fault(f"the weights of {name} version {version.version}, the champion, are not those that were logged")


def _of_summary(folder: Path, records: dict[int, TrialRecord], settings: Settings) -> Iterator[Fault]:
    summary = results.read_summary(folder)
    if summary is None or not all(record.status.final for record in records.values()):
        return  # a study that goes on has the summary of its smaller budget
    if sum(summary["trials"].values()) != len(records):
        return  # it was continued and has not come to its end
    counts = Counter(str(record.status) for record in records.values())
    if any(summary["trials"][status] != counts[status] for status in summary["trials"]):
        yield Fault(f"summary.json counts {summary['trials']}, and there are {dict(counts)}")
    best = _best(records, settings)
    if best is not None and best.number != summary["best"]["trial"]:
        yield Fault(f"summary.json has trial {summary['best']['trial']} as the best, and it is {best.number}")


def _best(records: dict[int, TrialRecord], settings: Settings) -> TrialRecord | None:
    maximize = metrics.DIRECTIONS[settings.task.metric] == "maximize"
    return next(iter(schedule.complete(records.values(), maximize)), None)


def _deliver(folder: Path, group: Group, record: TrialRecord, tracking: Tracking, parent: str) -> None:
    summary = results.read_summary(folder)
    if summary is None:  # the picture of its errors needs the names of the classes
        record = replace(record, confusion=None)
    labels = tuple(summary["labels"]) if summary else ()
    delivery = Delivery(tracking, labels, parent)
    try:
        delivery.put(record, group)
        delivery.flush(TELL_SECONDS)
    finally:
        delivery.close(TELL_SECONDS)


def _untell(folder: Path, groups: list[Group]) -> None:
    """Have the sweep's command tell MLflow everything."""
    for group in groups:
        for number, record in group.records.items():
            replace(record, told=False, run_id=None).save(group.folder / str(number))
    (folder / results.PUBLISHED).unlink(missing_ok=True)


def _delete(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
