"""The few fine-tunes of hours that hold no search: the reference recipe, and what is near it, each on all the data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.config.space import Params
from hpsearch.coordinator.lengths import Length
from hpsearch.coordinator.phase import Phase
from hpsearch.coordinator.retimer import Retimer
from hpsearch.decisions import plan, schedule
from hpsearch.decisions.plan import Known
from hpsearch.state.messages import Progress
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.metrics import Objective

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner


class Few:
    """Those of one study."""

    def __init__(self, settings: Settings, workers: int, planner: "Planner", known: Known, begun: int) -> None:
        """Plan the first, or the next.

        Args:
            settings: of the study.
            workers: that train at the same time.
            planner: says what time is left.
            known: what a plan is made of.
            begun: how many there are already.
        """
        self._settings, self._workers, self._planner = settings, workers, planner
        near = space.near_reference(settings)
        self._near = near[:1] if settings.budget.max_trials == 1 else near
        self._retimers: dict[int, Retimer] = {}  # by trial
        if plan.alone(known, planner.left).search.runs == 1 and begun <= 1:
            known = planner.alone(known)
        elif begun:
            known = replace(known, reference=0.0)  # it is scored beside another
        self._planned(known)

    def _planned(self, known: Known) -> None:
        step = plan.spread(plan.alone(known, self._planner.left).search, known.sizes.train)
        most = plan.MOST_PAYING * known.recipe.passes(step.examples)
        self._known = known
        # With several to come none may take the time of the others.
        self._times = most / step.passes if step.runs <= self._workers else 1.0
        self.length = Length(None, step.passes)
        """Of the next one."""

    @property
    def introduction(self) -> str:
        """What is run, for people."""
        if self._settings.budget.max_trials == 1:
            return "budget.max_trials=1: the reference recipe, and the same with other seeds as the hours hold them"
        others = "other learning rates and seeds" if len(self._near) > 1 else "other seeds"
        what = f"the reference recipe gets the data and the time, and where these hold more runs, {others}"
        if not self._near:
            what = "points of the space are tried on all the data; the reference recipe lies outside of it"
        return f"these hours hold no search that would be worth it: {what}; more hours search for a better one"

    def plan_next(self, there: Sequence[TrialRecord], phase: Phase) -> bool:
        """Whether one more is begun, at the pace of now; `length` and `point` are its.

        Args:
            there: what has been begun.
            phase: whose trials they are.
        """
        complete, running, failed = (
            sum(trial.status in statuses for trial in there)
            for statuses in ((Status.COMPLETE,), (Status.RUNNING, Status.PAUSED), (Status.FAILED,))
        )
        asked = self._settings.budget.max_trials or 0
        most = asked if asked > 1 else plan.MOST_ALONE * self._workers
        if self._planner.finishing or running >= self._workers or len(there) >= most:
            return False
        if not complete:
            return failed < max(1, len(self._near))
        known = self._planner.known([phase])  # the complete ones have told the pace
        if self._planner.left - known.end < known.run(known.sizes.train, plan.SHORTER):
            return False
        self._planned(replace(known, reference=0.0))
        return True

    def point(self, there: Sequence[TrialRecord], objective: Objective) -> Params | None:
        """What is run next; None: what the sampler draws."""
        return next_point(self._near, there, objective)

    def seeded(self, trial: TrialRecord) -> TrialRecord:
        """With a seed of its own; the first has the study's."""
        return replace(trial, seed=(self._settings.seed + trial.number) % 2**31 if trial.number else None)

    def retime(self, progress: Progress, batch_size: int) -> int | None:
        """Steps in all, where a run would end too late or too early."""
        if progress.number not in self._retimers:
            self._retimers[progress.number] = Retimer(self._planner, self._known, self._times, batch_size)
        return self._retimers[progress.number].heard(progress)


def next_point(near: Sequence[Params], there: Sequence[TrialRecord], objective: Objective) -> Params | None:
    """What is run next: each point once, then the best so far, which gets another seed.

    Args:
        near: the reference recipe, and points near it.
        there: what has been begun.
        objective: of the task.

    Returns:
        None where there are no such points.
    """
    begun = [trial.params for trial in there if trial.status is not Status.PRUNED]  # one that was cut off is run again
    new = [point for point in near if not any(point.items() <= params.items() for params in begun)]
    best = schedule.best_first(there, objective)
    if not near or new:
        return new[0] if new else None
    return best[0].params if best else near[0]


def reference_of(best_first: Sequence[TrialRecord], reference: Mapping[str, Any]) -> TrialRecord | None:
    """The best trial of the reference recipe; None where it is the best of all, none is complete, or all were searched.

    Args:
        best_first: complete trials that can be compared.
        reference: parameters of the recipe.
    """
    if not best_first or best_first[0].epochs is None or best_first[0].params == reference:
        return None
    return next((trial for trial in best_first if trial.params == reference), None)
