"""Checks whether state folder, study database and MLflow agree, and repairs of what can be repaired."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from hpsearch.config.settings import Settings
from hpsearch.coordinator import floors, phases, results
from hpsearch.coordinator.phase import Fault, Phase, Stored
from hpsearch.coordinator.study import Study
from hpsearch.errors import FaultsFound, HpsearchError, RequestError, first_line
from hpsearch.registry.champions import CHAMPION
from hpsearch.state import identity
from hpsearch.state.folder import StudyFolder, TrialFolder
from hpsearch.state.locks import Lock
from hpsearch.state.outcome import Summary, read_summary
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.state.steering import Steering
from hpsearch.steering import own_settings
from hpsearch.tracking.client import Run
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.parts import PARTS
from hpsearch.tracking.registered import RegisteredModel
from hpsearch.tracking.runs import ENDED, Tracking
from hpsearch.training import checkpoints

TELL_SECONDS = 60.0  # time limit for sending MLflow what it lacks of a trial


def fsck(settings: Settings, home: Path, repair: bool) -> str:
    """Check every study of the state folder and return what was found, for the user.

    Args:
        settings: Settings with the addresses of Optuna and MLflow. Each study has its own other settings, and its own
            addresses where these settings have none.
        home: The state folder.
        repair: Whether to repair what can be repaired.

    Raises:
        FaultsFound: Faults are left.
        OutOfReachError: The study database or MLflow does not answer.
    """
    lines, left = [], 0
    for folder in StudyFolder.all(home):
        try:
            with closing(Lock(folder)):
                found = _check(settings, home, folder, repair)
        except RequestError as reason:  # the study is running, or another version wrote it
            lines.append(f"{folder.name}: not checked: {reason}")
            continue
        for fault, repaired in found:
            fate = "repaired" if repaired else "--repair repairs it" if fault.repair else "can't be repaired here"
            lines.append(f"{folder.name}: {fault.text}: {fate}")
            left += not repaired
        if not found:
            lines.append(f"{folder.name}: clean")
    text = "\n".join(lines) or f"there is no study in {home}"
    if left:
        raise FaultsFound(f"{text}\n{left} fault(s) left")
    return text


def _check(settings: Settings, home: Path, folder: StudyFolder, repair: bool) -> list[tuple[Fault, bool]]:
    """Return the faults of a study, each with whether it has been repaired.

    Raises:
        RequestError: This version cannot read the study, or an address lacks its password.
    """
    identity.check_folder(folder)
    try:
        results.read_settings(folder, settings)
    except (OSError, ValueError, HpsearchError) as error:
        if not any(folder.trials(kind.place) for kind in phases.PHASES):
            return []  # the study ended before its first trial
        return [(Fault(f"settings.yaml can't be read ({first_line(error)})"), False)]
    own = results.read_settings(folder, own_settings(folder, settings))
    with closing(Study(own, home)) as study:
        found = list(_faults(own, folder, study, Tracking(own, home)))
        repaired = [repair and fault.repair is not None for fault in found]
        for fault in found:
            if repair and fault.repair is not None:
                fault.repair()
    return list(zip(found, repaired, strict=True))


@dataclass(frozen=True)
class Group:
    """The trials of a phase."""

    phase: type[Phase]
    folder: StudyFolder
    records: dict[int, TrialRecord]
    settings: Settings  # settings of the study

    @property
    def noun(self) -> str:
        """Word for one trial of the phase."""
        return self.phase.noun

    @property
    def tag(self) -> str:
        """Tag of an MLflow run that holds the number of its trial."""
        return self.phase.tag

    def at(self, number: int) -> TrialFolder:
        """Return the folder of a trial."""
        return self.folder.trial(self.phase.place, number)

    # ---- methods that a Delivery calls

    def trial_folder(self, number: int) -> Path:
        """Return the path of a trial's folder, which contains its points."""
        return self.at(number).path

    def settings_of(self, trial: TrialRecord) -> Settings:
        """Return the settings that a trial is trained with."""
        return self.phase.trained_with(self.settings, trial)

    def origin(self, trial: TrialRecord) -> None:
        """Return None: the data, code and libraries of the trial are not known here."""


def _faults(settings: Settings, folder: StudyFolder, study: Study, tracking: Tracking) -> Iterator[Fault]:
    for path in folder.leftovers():
        yield Fault(f"{path.relative_to(folder.path)} is left of a crash", partial(_delete, path))
    for path, reason in Steering(folder).faults():
        yield Fault(f"a command from another terminal cannot be read ({reason})", partial(_delete, path))
    try:
        summary = read_summary(folder)
    except RequestError as error:
        yield Fault(str(error))
        return
    groups = []
    for phase in phases.PHASES:
        records = {}
        for trial in folder.trials(phase.place):
            try:
                record = TrialRecord.load(trial.path)
            except (ValueError, KeyError, TypeError) as error:
                yield Fault(f"{phase.noun} {trial.path.name}: {trial.record.name} can't be read ({error})")
                continue
            records[record.number] = record
        groups.append(Group(phase, folder, records, settings))
    for group in groups:
        yield from _of_records(group)
    published = summary if folder.published.exists() else None
    yield from _of_models(groups, published)
    for i, group in enumerate(groups):
        later = any(other.records for other in groups[i + 1 :])
        stored = Stored(folder, settings, group.records, study, later, published is not None)
        yield from group.phase.faults(stored)
    yield from _of_tracking(folder, groups, settings, tracking)
    yield from floors.faults(folder, settings, tracking)
    yield from _of_summary(summary, groups[0])


def _of_records(group: Group) -> Iterator[Fault]:
    """Yield contradictory records, and checkpoints that are damaged or not needed."""
    for number, record in group.records.items():
        name, trial = f"{group.noun} {number}", group.at(number)
        scored = record.score is not None and math.isfinite(record.score)
        if record.status is Status.COMPLETE and not (scored and record.step == record.total_steps):
            yield Fault(f"{name} is complete, but has no score or has not trained to its end")
        if record.status is Status.FAILED and not record.reason:
            yield Fault(f"{name} failed without a reason")
        sealed = trial.checkpoints()
        if record.status.final and sealed:
            yield Fault(f"{name} is {record.status} and keeps checkpoints", partial(checkpoints.discard, trial.path))
        elif damaged := [checkpoint for checkpoint in sealed if not checkpoints.whole(checkpoint)]:
            names = ", ".join(checkpoint.name for checkpoint in reversed(damaged))
            yield Fault(f"{name}: {names} is damaged", partial(_delete, *damaged))


def _of_models(groups: list[Group], published: Summary | None) -> Iterator[Fault]:
    """Yield models that are not needed, and the winner's model if it is missing."""
    last = None
    if published is not None:
        last = next(i for i, one in enumerate(groups) if published.winner.folder.startswith(f"{one.phase.place}/"))
    for i, group in enumerate(groups):
        needed = group.phase.keepers(group.settings, list(group.records.values()))
        if last is not None and i != last and not (i < last and groups[last].phase.falls_back):
            needed = []  # the winner comes from another phase
        for number, record in group.records.items():
            model = group.at(number).model
            if model.exists() and record.status.final and record not in needed:
                yield Fault(f"{group.noun} {number} keeps a model and is not the best", partial(_delete, model))
    if published is not None and not groups[0].folder.named(published.winner.folder).weights.exists():
        yield Fault(f"the model of the winner, {published.winner.folder}, is missing")


def _of_tracking(folder: StudyFolder, groups: list[Group], settings: Settings, tracking: Tracking) -> Iterator[Fault]:
    parent = tracking.find_study(settings.study)
    if parent is None:
        if any(group.records for group in groups):
            yield Fault(
                "MLflow has no run of the study; if tracking.uri is right, repair this, and the sweep's command "
                "tells it everything",
                partial(_untell, folder, groups),
            )
        return
    children = tracking.children(parent.run_id)
    for group in groups:
        yield from _of_runs(group, children, tracking, parent.run_id)
    if parent.status == "RUNNING":
        yield Fault(
            "the study is RUNNING in MLflow, and nobody runs it",
            partial(tracking.end, parent.run_id, "KILLED"),
        )
    elif folder.published.exists() and parent.status not in ("FINISHED", "KILLED"):
        yield Fault(
            f"the study is finished; MLflow says {parent.status}",
            partial(tracking.end, parent.run_id, "FINISHED"),
        )
    yield from _of_champion(tracking, {run.run_id for run in children})


def _of_runs(group: Group, children: list[Run], tracking: Tracking, parent: str) -> Iterator[Fault]:
    """Yield the faults in the MLflow runs of a phase."""
    runs: dict[int, Run] = {}
    for run in children:
        if group.tag in run.tags:
            number = int(run.tags[group.tag])
            if number in runs:
                ids = f"{runs[number].run_id} and {run.run_id}"
                yield Fault(f"{group.noun} {number} has two runs in MLflow: {ids}")
            runs[number] = run
    for number, record in group.records.items():
        found, name = runs.get(number), f"{group.noun} {number}"
        tell = partial(_deliver, group, record, tracking, parent)
        if found is None:
            if record.status.final:
                yield Fault(f"{name} has no run in MLflow", tell)
            continue
        twice, missing = _points(group.trial_folder(number), tracking.steps(found.run_id))
        if twice:
            yield Fault(f"{name} has points twice in MLflow: {', '.join(twice)}")
        status = found.status
        if record.status.final:
            if status != ENDED[record.status] or missing:
                yield Fault(f"{name} is {record.status}; MLflow says {status}, {missing} points missing", tell)
        elif status in ("RUNNING", "SCHEDULED"):
            yield Fault(
                f"{name} is {status} in MLflow, and nobody runs it",
                partial(tracking.end, found.run_id, "KILLED"),
            )


def _points(folder: Path, there: dict[str, list[int]]) -> tuple[list[str], int]:
    """Compare the points of a trial in MLflow with its file.

    Args:
        folder: Folder of the trial.
        there: Steps of each metric in MLflow.

    Returns:
        The metrics that have a step twice in MLflow, and the number of finite points of the file that MLflow lacks.
    """
    twice = sorted(name for name, steps in there.items() if len(steps) != len(set(steps)))
    wanted = {
        (name, step) for step, values in read_points(folder) for name, value in values.items() if math.isfinite(value)
    }
    return twice, len(wanted - {(name, step) for name, steps in there.items() for step in steps})


def _of_champion(tracking: Tracking, runs: set[str]) -> Iterator[Fault]:
    """Yield faults if the champion comes from this study and its weights are missing or are not the logged ones."""
    model = RegisteredModel(tracking)
    version = model.version_of(CHAMPION)
    if version is None or version.run_id not in runs:
        return
    which = f"the weights of {model.name} version {version.number}, the champion,"
    for part in PARTS:
        logged = tracking.weights(version.run_id, part)
        if logged is None and part != "model":
            continue  # the champion has no such part
        found = model.weights(CHAMPION, part)
        if found is None:
            yield Fault(f"{which} are missing ({part})")
        elif found != logged:
            yield Fault(f"{which} are not those that were logged ({part})")


def _of_summary(summary: Summary | None, first: Group) -> Iterator[Fault]:
    records = first.records
    if summary is None or not all(record.status.final for record in records.values()):
        return  # a continued study still has the summary of its smaller budget
    if summary.trials.all != len(records):
        return  # the study was continued and has not ended yet
    counts, said = Counter(str(record.status) for record in records.values()), asdict(summary.trials)
    if any(counts[status] != number for status, number in said.items()):
        yield Fault(f"summary.json counts {said}, and there are {dict(counts)}")
    for best in first.phase.keepers(first.settings, list(records.values()))[:1]:
        if best.number != summary.best.trial:
            yield Fault(f"summary.json has trial {summary.best.trial} as the best, and it is {best.number}")


def _deliver(group: Group, record: TrialRecord, tracking: Tracking, parent: str) -> None:
    summary = read_summary(group.folder)
    if summary is None:  # the plot of the confusion matrix needs the names of the classes
        record = replace(record, confusion=None)
    labels = summary.labels if summary is not None else ()
    delivery = Delivery(tracking, labels, parent)
    try:
        delivery.put(record, group)
        delivery.flush(TELL_SECONDS)
    finally:
        delivery.close(TELL_SECONDS)


def _untell(folder: StudyFolder, groups: list[Group]) -> None:
    """Mark everything as not sent to MLflow, so that the sweep's command sends it again."""
    for group in groups:
        for number, record in group.records.items():
            replace(record, told=False, run_id=None).save(group.trial_folder(number))
    floors.untell(folder)


def _delete(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
