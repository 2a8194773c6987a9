"""Reproduction of a tracked trial from the record in its MLflow run, with a comparison of the results."""

import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from hpsearch.config.loading import from_plain
from hpsearch.config.settings import Settings
from hpsearch.config.stored import completed
from hpsearch.errors import FaultsFound, NoResultError, RequestError
from hpsearch.state import identity
from hpsearch.state.messages import DataName, Decision, Lost, NoRoom, OutOfMemory, RungReport, Train, TrialResult, named
from hpsearch.state.origin import Origin
from hpsearch.state.records import Status, StudyHardware
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data, models
from hpsearch.workers.interface import Workplace
from hpsearch.workers.workplaces import open_workplace


def reproduce(settings: Settings, home: Path, run_id: str) -> str:
    """Train a trial or a confirmation run again, compare its metrics, and return the result for the user.

    Nothing is recorded, and the test split is not scored.

    Args:
        settings: Settings with the address of MLflow.
        home: The state folder. Its prepared data are used too.
        run_id: Id of the trial's MLflow run.

    Raises:
        RequestError: The run does not record what is needed, or the data cannot be read.
        FaultsFound: The metrics differ. The message lists what else differs from the recorded trial.
        NoResultError: The worker ended, or memory or disk is too small.
    """
    origin = Tracking(settings, home).origin(run_id)
    if origin is None:
        raise RequestError(
            f"{run_id}: is no run of a trial that ended complete or pruned in {settings.tracking.uri or home}; "
            "give the id of a child run of a study (MLflow's page of the run shows it)"
        )
    if not origin.metrics:
        raise RequestError(f"{run_id}: the trial ended before its first score; there is nothing to compare with")
    own = from_plain(origin.settings)
    workplace = _workplace(own, origin.hardware, home)
    ref = data.prepare(data.read(own), own, home)
    here = models.with_attention(workplace.hardware.of_study(workplace.count), own.model)
    now = {"settings": own.model_dump(mode="json"), "data": ref.digests, "hardware": asdict(here)}
    then = {"settings": completed(origin.settings), "data": origin.digests, "hardware": asdict(origin.hardware)}
    made = {"code": origin.code, "libraries": origin.libraries}
    differing = [*identity.changes(then, now), *identity.made_otherwise(made, identity.made_by())]
    differs = [f"  differs: {change}" for change in differing]
    folder = Path(tempfile.mkdtemp(prefix="reproduce-", dir=home))
    try:
        found = _train(Train(0, own, DataName.of(ref, home), named(folder, home)), workplace, home, origin)
    finally:
        shutil.rmtree(folder)
    wanted = origin.metrics
    unequal = [
        f"  {name}: {value!r} then, {found.get(name)!r} now"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if unequal:
        causes = differs or ["  nothing is known to differ: data, code, libraries and hardware are the same"]
        raise FaultsFound("\n".join([f"run {run_id} is not reproduced:", *unequal, *causes]))
    return "\n".join([f"run {run_id} is reproduced bit for bit: {len(wanted)} metrics", *differs])


def _workplace(own: Settings, then: StudyHardware, home: Path) -> Workplace:
    """Open a workplace with the recorded hardware, or with this machine's if that is not available."""
    here = own.cluster.model_copy(update={"name": "local", "processes_per_trial": then.processes})
    asked = {"device": then.device, "precision": then.precision, "threads": then.threads, "compile": then.compile}
    try:
        return open_workplace(own.hardware.model_copy(update=asked | {"workers": 1}), here, home)
    except RequestError:
        alone = here.model_copy(update={"processes_per_trial": 1})
        return open_workplace(own.hardware.model_copy(update={"workers": 1}), alone, home)


def _train(work: Train, workplace: Workplace, home: Path, origin: Origin) -> dict[str, float]:
    """Train up to the point that the recorded trial had reached, and return the metrics there.

    This point is the end of the trial, or the rung at which it was pruned.
    """
    worker = workplace.start(0, work.folder)
    found: dict[str, float] = {}
    try:
        worker.give(work)
        while worker.trial is not None:
            for _, message in workplace.hear([worker], timeout_seconds=1.0):
                if isinstance(message, RungReport):
                    found = message.metrics
                    last = origin.status is Status.PRUNED and message.rung >= origin.rung
                    worker.answer(Decision.STOP if last else Decision.CONTINUE)
                elif isinstance(message, TrialResult):
                    if message.status is Status.FAILED:
                        raise FaultsFound(f"the trial fails now: {message.reason}")
                    found |= message.metrics
                elif isinstance(message, OutOfMemory):
                    raise NoResultError(f"one update does not fit in memory here: {message.reason}")
                elif isinstance(message, NoRoom):
                    raise NoResultError(f"the disk of {home} is full; free some, and give the command again")
                elif isinstance(message, Lost):
                    raise NoResultError(f"the worker ended: {message.last_words}")
    finally:
        worker.end(timeout_seconds=5.0)
    return found
