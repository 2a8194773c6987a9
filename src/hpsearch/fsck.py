"""Does what study, tracking and state folder say of each other agree? Checks, and mends what can be mended."""

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
from hpsearch.tracking.client import Run
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.parts import PARTS
from hpsearch.tracking.registered import RegisteredModel
from hpsearch.tracking.runs import ENDED, Tracking
from hpsearch.training import checkpoints

TELL_SECONDS = 60.0  # for MLflow to be told what it lacks of a trial


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
    for folder in StudyFolder.all(home):
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


def _check(settings: Settings, home: Path, folder: StudyFolder, repair: bool) -> list[tuple[Fault, bool]]:
    """A study's faults, each with whether it has been mended. Raises RequestError if this version can't read it."""
    identity.check_folder(folder)
    try:
        own = results.read_settings(folder, settings)
    except (OSError, ValueError, HpsearchError) as error:
        if not any(folder.trials(kind.place) for kind in phases.PHASES):
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
    """The trials of a phase."""

    phase: type[Phase]
    folder: StudyFolder
    records: dict[int, TrialRecord]
    settings: Settings  # of the study

    @property
    def noun(self) -> str:
        """What one of them is called."""
        return self.phase.noun

    @property
    def tag(self) -> str:
        """Of their MLflow runs."""
        return self.phase.tag

    def at(self, number: int) -> TrialFolder:
        """Where one is."""
        return self.folder.trial(self.phase.place, number)

    # ---- for a delivery

    def trial_folder(self, number: int) -> Path:
        """Where the points of one are."""
        return self.at(number).path

    def settings_of(self, trial: TrialRecord) -> Settings:
        """What one is trained with."""
        return self.phase.trained_with(self.settings, trial)

    def origin(self, trial: TrialRecord) -> None:
        """Nobody knows here what it was trained on and with."""


def _faults(settings: Settings, folder: StudyFolder, study: Study, tracking: Tracking) -> Iterator[Fault]:
    for path in folder.leftovers():
        yield Fault(f"{path.relative_to(folder.path)} is left of a crash", partial(_delete, path))
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
    """Records that say what can't be, and checkpoints that are damaged or that nobody needs."""
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
    """Models that nobody needs, and the winner's where it is missing."""
    last = None
    if published is not None:
        last = next(i for i, one in enumerate(groups) if published.winner.folder.startswith(f"{one.phase.place}/"))
    for i, group in enumerate(groups):
        needed = group.phase.keepers(group.settings, list(group.records.values()))
        if last is not None and i != last and not (i < last and groups[last].phase.falls_back):
            needed = []  # another phase has decided
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
                "MLflow has no run of the study; if tracking.uri is right, mend this, and the sweep's command "
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
    """The MLflow runs of a group."""
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
    """Metrics with a step twice `there`, in MLflow, and how many finite points of the file in `folder` it lacks."""
    twice = sorted(name for name, steps in there.items() if len(steps) != len(set(steps)))
    wanted = {
        (name, step) for step, values in read_points(folder) for name, value in values.items() if math.isfinite(value)
    }
    return twice, len(wanted - {(name, step) for name, steps in there.items() for step in steps})


def _of_champion(tracking: Tracking, runs: set[str]) -> Iterator[Fault]:
    """Whether the champion's weights, where it is of this study, are those that were logged."""
    model = RegisteredModel(tracking)
    version = model.version_of(CHAMPION)
    if version is None or version.run_id not in runs:
        return
    which = f"the weights of {model.name} version {version.number}, the champion,"
    for part in PARTS:
        logged = tracking.weights(version.run_id, part)
        if logged is None and part != "model":
            continue  # it has no such part
        found = model.weights(CHAMPION, part)
        if found is None:
            yield Fault(f"{which} are missing ({part})")
        elif found != logged:
            yield Fault(f"{which} are not those that were logged ({part})")


def _of_summary(summary: Summary | None, first: Group) -> Iterator[Fault]:
    records = first.records
    if summary is None or not all(record.status.final for record in records.values()):
        return  # a study that goes on has the summary of its smaller budget
    if summary.trials.all != len(records):
        return  # it was continued and has not come to its end
    counts, said = Counter(str(record.status) for record in records.values()), asdict(summary.trials)
    if any(counts[status] != number for status, number in said.items()):
        yield Fault(f"summary.json counts {said}, and there are {dict(counts)}")
    for best in first.phase.keepers(first.settings, list(records.values()))[:1]:
        if best.number != summary.best.trial:
            yield Fault(f"summary.json has trial {summary.best.trial} as the best, and it is {best.number}")


def _deliver(group: Group, record: TrialRecord, tracking: Tracking, parent: str) -> None:
    summary = read_summary(group.folder)
    if summary is None:  # the picture of its errors needs the names of the classes
        record = replace(record, confusion=None)
    labels = summary.labels if summary is not None else ()
    delivery = Delivery(tracking, labels, parent)
    try:
        delivery.put(record, group)
        delivery.flush(TELL_SECONDS)
    finally:
        delivery.close(TELL_SECONDS)


def _untell(folder: StudyFolder, groups: list[Group]) -> None:
    """Have the sweep's command tell MLflow everything."""
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
