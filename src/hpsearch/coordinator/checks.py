"""What is wrong with a request, found before anything is written or started."""

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
from hpsearch.training import data, models, trainer
from hpsearch.workers.interface import Workplace
from hpsearch.workers.workplaces import open_workplace


def check(settings: Settings, home: Path) -> tuple[data.Corpus, Workplace]:
    """Find what is wrong with a request before anything is written or started. Raises RequestError."""
    workplace = open_workplace(settings.hardware, home)
    trainer.optimizer_class(settings.optimizer)
    make_plan(settings, 1)
    sampler(settings, 0)
    if settings.storage.uri is not None:
        addresses.check_storage(settings.storage.uri)
    space.reference(settings)
    KINDS[settings.task.kind].check(settings)
    longest = max(possible(settings, "task.max_length"))
    models.check(settings.model, settings.task.model_copy(update={"max_length": longest}))
    return data.read(settings), workplace


USUAL_TRIALS = 20  # of a search that the hours end


def disk_bound(settings: Settings, workers: int) -> int:
    """Bytes that a study's checkpoints and models take at the most.

    A checkpoint holds weights and what the optimizer keeps of each in float32; models are the best so far or one of
    each entrant of the confirmation, one that each worker has just completed, that of a floor, and what is
    logged of these.
    """
    weights, budget = 4 * models.parameters(settings.model), settings.budget
    checkpoints = schedule.most_checkpoints(make_plan(settings, budget.max_trials or USUAL_TRIALS), workers)
    finalists = budget.confirmation.finalists
    kept = 2 + (finalists if finalists is not None else plan.MOST_FINALISTS) + 1 + workers + 2 * budget.floors
    return ((1 + trainer.optimizer_copies(settings.optimizer)) * checkpoints + kept) * weights


def check_disk(settings: Settings, workers: int, home: Path) -> None:
    """See that what a study can come to need is free. Raises RequestError."""
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
