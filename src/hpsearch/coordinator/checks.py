"""Checks of a request, made before anything is written or started."""

import shutil
from pathlib import Path

from hpsearch.config import space
from hpsearch.config.settings import Settings, possible
from hpsearch.coordinator.search import make_plan
from hpsearch.coordinator.study import sampler
from hpsearch.decisions import plan, schedule
from hpsearch.errors import RequestError
from hpsearch.state import addresses
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, models, optimizers
from hpsearch.workers.interface import Workplace
from hpsearch.workers.workplaces import open_workplace


def check(settings: Settings, home: Path) -> tuple[data.Corpus, Workplace]:
    """Check a request before anything is written or started; return its data and workplace. Raises RequestError."""
    workplace = open_workplace(settings.hardware, settings.cluster, home)
    optimizers.optimizer_class(settings.optimizer)
    make_plan(settings, 1)
    sampler(settings, 0)
    if settings.storage.uri is not None:
        addresses.check_storage(settings.storage.uri)
    space.reference(settings)
    KINDS[settings.task.kind].check(settings)
    least, processes = min(possible(settings, "train.batch_size")), settings.cluster.processes_per_trial
    if least < processes:
        raise RequestError(
            f"cluster.processes_per_trial={processes}: train.batch_size may be {least}, and each process needs an "
            "example of a batch; lower the first, or raise the second"
        )
    longest = max(possible(settings, "task.max_length"))
    models.check(settings.model, settings.task.model_copy(update={"max_length": longest}))
    return data.read(settings), workplace


USUAL_TRIALS = 20  # assumed for a search that only the hours limit


def disk_bound(settings: Settings, workers: int) -> int:
    """Return the largest number of bytes that a study's checkpoints and models can take.

    A checkpoint holds the weights and the tensors that the optimizer keeps for them, in float32. The models are the
    best so far, or one of each entrant of the confirmation. Each worker adds the one that it has just completed. A
    floor's model and the logged copies are counted too.
    """
    weights, budget = 4 * models.parameters(settings.model), settings.budget
    checkpoints = schedule.most_checkpoints(make_plan(settings, budget.max_trials or USUAL_TRIALS), workers)
    finalists = budget.confirmation.finalists
    kept = 2 + (finalists if finalists is not None else plan.MOST_FINALISTS) + 1 + workers + 2 * budget.floors
    return ((1 + optimizers.optimizer_copies(settings.optimizer)) * checkpoints + kept) * weights


def check_disk(settings: Settings, workers: int, home: Path) -> None:
    """Check that the disk has room for all that a study can need. Raises RequestError if not."""
    needed, there = disk_bound(settings, workers), home.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise RequestError(
            f"the study's checkpoints and models take up to {needed / 1e9:.1f} GB, and the disk of {there} has "
            f"{free / 1e9:.1f} GB free; free some, set HPSEARCH_HOME to a folder on another disk, or lower "
            "search.keep, budget.max_trials or hardware.workers"
        )
