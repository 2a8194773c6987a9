"""The few fine-tunes for hours that hold no search: the reference recipe and points near it, each on all the data."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hpsearch.config import space
from hpsearch.config.space import Params
from hpsearch.coordinator.lengths import Length
from hpsearch.coordinator.phase import Phase, StudyContext
from hpsearch.coordinator.retimer import Retimer
from hpsearch.decisions import plan, schedule
from hpsearch.decisions.plan import Known
from hpsearch.state.messages import Progress
from hpsearch.state.records import Status, TrialRecord
from hpsearch.state.steering import SKIPPED
from hpsearch.tasks.objectives import Objective

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

LITTLE = 100  # updates; with 70 and 140 the reference recipe had 0.78 and 0.88 on IMDb (experiments/2026-11-clock)
VARIED = {space.RDROP: "R-Drop", space.RATE: "other learning rates"}


class Few:
    """The few fine-tunes of one study."""

    def __init__(self, study: StudyContext, planner: "Planner", known: Known, begun: int) -> None:
        """Plan the first run, or the next one.

        Args:
            study: the study.
            planner: gives the time that is left.
            known: figures that a plan is made of.
            begun: number of runs that were begun before.
        """
        self._study, self._settings, self._planner = study, study.settings, planner
        self._to_try = space.to_try(self._settings)
        self._retimers: dict[int, Retimer] = {}  # by number of the trial
        if begun <= 1 and plan.alone(known, planner.left).search.runs == 1:
            known = planner.alone(known)
            dearer = [point for point in self._to_try if planner.cost(point) > 1]
            if dearer and not begun and self._holds(planner.at_cost(known, dearer[0]), plan.SHORTER):
                self._to_try = dearer  # better than an equally long reference recipe: experiments/2026-11-consistency
        elif begun:
            known = replace(known, reference=0.0)  # it is scored on test beside another model
        self.point: Params | None = self._to_try[0] if self._to_try else None
        """Point of the next run; None: the sampler draws it."""
        self._planned(known)
        self._hopes = not begun and planner.busy and self._updates < LITTLE
        if self._hopes:  # so few would teach nothing; the schedule is shortened if the machine stays busy
            self._planned(planner.at_rest(known))

    def _holds(self, known: Known, times: float) -> bool:
        """Return whether the time holds a run that is `times` as long as usual."""
        return self._planner.left - known.end >= known.run(known.sizes.train, times)

    def _affordable(self, point: Params, known: Known) -> Params:
        """Return the point, but without R-Drop where the time is too short for a worthwhile run with it."""
        holds = self._holds(self._planner.at_cost(known, point), plan.SHORTER)
        if holds or space.RDROP not in point:
            return point
        return space.moved(self._settings, point, space.RDROP, self._settings.train.rdrop) or point

    def _planned(self, known: Known) -> None:
        """Plan the length of the next run by the time that it may take."""
        self._known = known
        if self.point is not None and self._planner.cost(self.point) > 1:
            known = self._planner.at_cost(known, self.point)
        self.step = step = plan.spread(plan.alone(known, self._planner.left).search, known.sizes.train)
        """Plan of the next run and those after it."""
        most = plan.MOST_PAYING * known.recipe.passes(step.examples)
        # With more runs than workers to come, no run may take the time of the others.
        self._times = most / step.passes if step.runs <= self._study.workers else 1.0
        self.length = Length(None, step.passes)
        """Length of the next run."""

    @property
    def _updates(self) -> int:
        """Planned updates of the next run."""
        return max(1, round(self.step.passes * self.step.examples / self._settings.train.batch_size))

    @property
    def introduction(self) -> str:
        """Message that says what is run."""
        if self._settings.budget.max_trials == 1:
            return "budget.max_trials=1: the reference recipe runs, and again with other seeds while the hours hold it"
        what = "Points of the space run on all the data. The reference recipe lies outside of the space"
        if self._to_try:
            first = self._to_try[0]
            others = [name for path, name in VARIED.items() if len({point.get(path) for point in self._to_try}) > 1]
            who = f"The reference recipe{' with R-Drop' if self._planner.cost(first) > 1 else ''}"
            more = f"{', '.join(others)} and other seeds" if others else "other seeds"
            what = f"{who} runs on all the data, then {more}, as the hours hold them"
        updates = self._updates
        little = (
            f". They hold only {updates} update{'' if updates == 1 else 's'}, and fewer than {LITTLE} teach a model "
            "little: give more hours, or end other programs if they slow this machine"
        )
        hopes = (
            f". At the present pace they would hold fewer than {LITTLE} updates, so the plan counts on the processors "
            "that other programs have now; training ends earlier if they keep them"
        )
        return (
            f"these hours are too short for a search. {what}. More hours search for a better recipe"
            + (hopes if self._hopes else "")
            + (little if updates < LITTLE and self._times > 1 else "")  # else the settings have them so few
        )

    def plan_next(
        self, there: Sequence[TrialRecord], phase: Phase, objective: Objective, asked: Sequence[Params] = ()
    ) -> bool:
        """Return whether one more run is begun, at the current pace; its `length` and `point` are set.

        Args:
            there: runs begun so far.
            phase: the phase of these runs.
            objective: the task's objective.
            asked: points that users ask for. The first one that the time holds comes first.
        """
        failed = sum(trial.status is Status.FAILED and trial.reason != SKIPPED for trial in there)
        complete, running = (
            sum(trial.status in statuses for trial in there)
            for statuses in ((Status.COMPLETE,), (Status.RUNNING, Status.PAUSED))
        )
        count = self._settings.budget.max_trials or 0
        most = count if count > 1 else plan.MOST_ALONE * self._study.workers
        enough = phase.study.finishing and complete + running > 0
        if enough or running >= self._study.workers or len(there) >= most:
            return False
        # The complete runs have told the pace.
        known = self._planner.known([phase]) if complete else self._known
        points = [self._affordable(point, known) for point in self._to_try]
        # The first run is as long as the time holds, whatever its point.
        wanted = [one for one in asked if not complete or self._holds(self._planner.at_cost(known, one), plan.SHORTER)]
        self.point = wanted[0] if wanted else next_point(points, there, objective)
        if not complete:
            self._planned(known)
            return failed < max(1, len(self._to_try)) or bool(wanted)
        if not self._holds(known if self.point is None else self._planner.at_cost(known, self.point), plan.SHORTER):
            return False
        self._planned(replace(known, reference=0.0, dearer=1.0))
        return True

    def seeded(self, trial: TrialRecord) -> TrialRecord:
        """Return the trial with a seed of its own; the first trial has the study's."""
        return replace(trial, seed=(self._settings.seed + trial.number) % 2**31 if trial.number else None)

    def retime(self, progress: Progress, trial: TrialRecord, batch_size: int) -> int | None:
        """Return a new total number of steps where a run would end too late or too early; None otherwise."""
        if progress.number not in self._retimers:
            known = self._planner.at_cost(self._known, trial.params)
            self._retimers[progress.number] = Retimer(self._planner, known, self._times, batch_size)
        return self._retimers[progress.number].heard(progress)


def next_point(points: Sequence[Params], there: Sequence[TrialRecord], objective: Objective) -> Params | None:
    """Return the point of the next run: each point once, then the best so far, which gets another seed.

    Args:
        points: points that are run once each, in this order.
        there: runs begun so far.
        objective: the task's objective.

    Returns:
        The point; None where `points` is empty.
    """
    begun = [trial.params for trial in there if trial.status is not Status.PRUNED]  # a run that was cut off is repeated
    new = [point for point in points if not any(point.items() <= params.items() for params in begun)]
    best = schedule.kept_first(there, objective)
    if not points or new:
        return new[0] if new else None
    return best[0].params if best else points[0]


def reference_of(best_first: Sequence[TrialRecord], reference: Mapping[str, Any]) -> TrialRecord | None:
    """Return the best trial of the reference recipe, which is scored beside the best trial.

    Args:
        best_first: complete trials that can be compared, best first.
        reference: parameters of the reference recipe.

    Returns:
        None where the best trial has these parameters, no trial of them is complete, or the trials belong to a search.
    """
    if not best_first or best_first[0].epochs is None or best_first[0].params == reference:
        return None
    return next((trial for trial in best_first if trial.params == reference), None)
