"""The few fine-tunes of hours that hold no search: the reference recipe, and what is near it, each on all the data."""

from collections.abc import Mapping, Sequence
from typing import Any

from hpsearch.config.space import Params
from hpsearch.decisions import schedule
from hpsearch.state.records import TrialRecord
from hpsearch.tasks.metrics import Objective


def next_point(near: Sequence[Params], there: Sequence[TrialRecord], objective: Objective) -> Params | None:
    """What is run next: each point once, then the best so far, which gets another seed.

    Args:
        near: the reference recipe, and points near it.
        there: what has been begun.
        objective: of the task.

    Returns:
        None where there are no such points.
    """
    begun = [trial.params for trial in there]
    new = [point for point in near if point not in begun]
    best = schedule.best_first(there, objective)
    return new[0] if new else best[0].params if best else near[0] if near else None


def reference_of(best_first: Sequence[TrialRecord], reference: Mapping[str, Any]) -> TrialRecord | None:
    """The best trial of the reference recipe; None where it is the best of all, none is complete, or all were searched.

    Args:
        best_first: complete trials that can be compared.
        reference: parameters of the recipe.
    """
    if not best_first or best_first[0].epochs is None or best_first[0].params == reference:
        return None
    return next((trial for trial in best_first if trial.params == reference), None)
