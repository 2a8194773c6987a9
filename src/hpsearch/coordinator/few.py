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

VARIED = {space.RDROP: "R-Drop", space.RATE: "other learning rates"}


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
        self._to_try = space.to_try(settings)
        self._retimers: dict[int, Retimer] = {}  # by trial
        if begun <= 1 and plan.alone(known, planner.left).search.runs == 1:
            known = planner.alone(known)
            dearer = [point for point in self._to_try if planner.cost(point) > 1]
            if dearer and not begun and self._holds(planner.at_cost(known, dearer[0]), plan.SHORTER):
                self._to_try = dearer  # better than the reference recipe for so long: experiments/2026-11-consistency
        elif begun:
            known = replace(known, reference=0.0)  # it is scored beside another
        self.point: Params | None = self._to_try[0] if self._to_try else None
        """What is run next; None: what the sampler draws."""
        self._planned(known)

    def _holds(self, known: Known, times: float) -> bool:
        """Whether the time holds a run that is so many times as long as usual."""
        return self._planner.left - known.end >= known.run(known.sizes.train, times)

    def _affordable(self, point: Params, known: Known) -> Params:
        """A point, or the same without R-Drop where the time holds no run with it that is worth it."""
        holds = self._holds(self._planner.at_cost(known, point), plan.SHORTER)
        return point if holds or space.RDROP not in point else point | {space.RDROP: self._settings.train.rdrop}

    def _planned(self, known: Known) -> None:
        """Take as much time for the next one as it shall have."""
        self._known = known
        if self.point is not None and self._planner.cost(self.point) > 1:
            known = self._planner.at_cost(known, self.point)
        self.step = step = plan.spread(plan.alone(known, self._planner.left).search, known.sizes.train)
        """It, and those after it."""
        most = plan.MOST_PAYING * known.recipe.passes(step.examples)
        # With several to come none may take the time of the others.
        self._times = most / step.passes if step.runs <= self._workers else 1.0
        self.length = Length(None, step.passes)
        """Of the next one."""

    @property
    def introduction(self) -> str:
        """What is run, for people."""
        if self._settings.budget.max_trials == 1:
            return "budget.max_trials=1: the reference recipe, and the same with other seeds as the hours hold them"
        what = "points of the space are tried on all the data; the reference recipe lies outside of it"
        if self._to_try:
            first = self._to_try[0]
            others = [name for path, name in VARIED.items() if len({point.get(path) for point in self._to_try}) > 1]
            who = f"the reference recipe{' with R-Drop' if self._planner.cost(first) > 1 else ''}"
            more = ", ".join((*others, "other seeds"))
            what = f"{who} gets the data and the time, and where these hold more runs, {more}"
        return f"these hours hold no search that would be worth it: {what}; more hours search for a better one"

    def plan_next(
        self, there: Sequence[TrialRecord], phase: Phase, objective: Objective, asked: Params | None = None
    ) -> bool:
        """Whether one more is begun, at the pace of now; `length` and `point` are its.

        Args:
            there: what has been begun.
            phase: whose trials they are.
            objective: of the task.
            asked: a point that somebody asks for, which comes first.
        """
        complete, running, failed = (
            sum(trial.status in statuses for trial in there)
            for statuses in ((Status.COMPLETE,), (Status.RUNNING, Status.PAUSED), (Status.FAILED,))
        )
        count = self._settings.budget.max_trials or 0
        most = count if count > 1 else plan.MOST_ALONE * self._workers
        if self._planner.finishing or running >= self._workers or len(there) >= most:
            return False
        known = self._planner.known([phase]) if complete else self._known  # the complete ones have told the pace
        points = [self._affordable(point, known) for point in self._to_try]
        if asked is not None and complete and not self._holds(self._planner.at_cost(known, asked), plan.SHORTER):
            asked = None  # it waits for more hours, and nothing waits for it
        self.point = asked if asked is not None else next_point(points, there, objective)
        if not complete:
            self._planned(known)
            return failed < max(1, len(self._to_try)) or asked is not None
        if not self._holds(known if self.point is None else self._planner.at_cost(known, self.point), plan.SHORTER):
            return False
        self._planned(replace(known, reference=0.0, dearer=1.0))
        return True

    def seeded(self, trial: TrialRecord) -> TrialRecord:
        """With a seed of its own; the first has the study's."""
        return replace(trial, seed=(self._settings.seed + trial.number) % 2**31 if trial.number else None)

    def retime(self, progress: Progress, trial: TrialRecord, batch_size: int) -> int | None:
        """Steps in all, where a run would end too late or too early."""
        if progress.number not in self._retimers:
            known = self._planner.at_cost(self._known, trial.params)
            self._retimers[progress.number] = Retimer(self._planner, known, self._times, batch_size)
        return self._retimers[progress.number].heard(progress)


def next_point(points: Sequence[Params], there: Sequence[TrialRecord], objective: Objective) -> Params | None:
    """What is run next: each point once, then the best so far, which gets another seed.

    Args:
        points: each of which is run.
        there: what has been begun.
        objective: of the task.

    Returns:
        None where there are no such points.
    """
    begun = [trial.params for trial in there if trial.status is not Status.PRUNED]  # one that was cut off is run again
    new = [point for point in points if not any(point.items() <= params.items() for params in begun)]
    best = schedule.best_first(there, objective)
    if not points or new:
        return new[0] if new else None
    return best[0].params if best else points[0]


def reference_of(best_first: Sequence[TrialRecord], reference: Mapping[str, Any]) -> TrialRecord | None:
    """The best trial of the reference recipe; None where it is the best of all, none is complete, or all were searched.

    Args:
        best_first: complete trials that can be compared.
        reference: parameters of the recipe.
    """
    if not best_first or best_first[0].epochs is None or best_first[0].params == reference:
        return None
    return next((trial for trial in best_first if trial.params == reference), None)
