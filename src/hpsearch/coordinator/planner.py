"""The plan of a study, made from the measured pace of its workers and the time that is left."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import fmean

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.dimensions import Interval
from hpsearch.config.settings import Settings, possible
from hpsearch.coordinator.clock import Clock
from hpsearch.coordinator.floors import as_slow_as_trials
from hpsearch.coordinator.phase import Phase
from hpsearch.data.tokens import Tokens
from hpsearch.decisions import schedule
from hpsearch.decisions.plan import Asked, Known, Pace, Plan, Recipe, Sizes, Step, of_all
from hpsearch.errors import RequestError
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.messages import Paced
from hpsearch.state.outcome import Params
from hpsearch.state.plans import PlanMade, PlannedStep, Plans
from hpsearch.state.records import write_durably
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.training import parts

FIRST_TRIAL = 2.0  # multiple of the time for loading and saving alone; a trial has more to do
REPORT_SECONDS = 20.0  # for report, pictures and MLflow
SCORED_ON_TEST = 2  # number of trial models
RECENT = 4  # newest trials, from which the present pace is taken
LEAST_STEPS = 10  # of a trial from which the pace is taken
LATE = 0.05  # share of the hours by which a run or a test may be late before it is given up
USUAL = 12  # trials for which the mean trained share of a trial is computed


@dataclass(frozen=True)
class Data:
    """Sizes of a study's data."""

    sizes: Sizes
    pieces: float
    """Mean number of pieces of a training example."""
    tokens: dict[str, float]
    """Split: mean number of tokens of an example."""

    @staticmethod
    def of(tokens: dict[str, Tokens]) -> "Data":
        """Return the sizes of tokenised splits."""
        train = tokens["train"]
        return Data(
            Sizes(*(tokens[split].examples for split in ("train", "validation", "test"))),
            len(train) / train.examples,
            {split: float(found.lengths.sum()) / found.examples for split, found in tokens.items()},
        )


class Planner:
    """Plans the time of a study that has hours."""

    def __init__(self, settings: Settings, folder: StudyFolder, clock: Clock, measured: Paced, data: Data) -> None:
        """Load the plans that were made before.

        Args:
            settings: settings of the study.
            folder: folder of the study, which keeps the plans.
            clock: clock of the study.
            measured: the measured pace.
            data: sizes of the data that the study uses.
        """
        self._settings, self._clock, self._measured, self._data = settings, clock, measured, data
        self._folder = folder
        self._end = REPORT_SECONDS
        before = codec.read_file(Plans, folder.plans, "delete it")
        self.made: tuple[PlanMade, ...] = before.made if before is not None else ()
        """Plans that this run of the command and earlier runs have made."""
        self._before = self.made
        self._came_for_test = bool(self.made) and self.left < self.made[-1].end

    @property
    def hours(self) -> float:
        """Hours of the budget."""
        assert self._settings.budget.hours is not None, "a study without hours has no plan"
        return self._settings.budget.hours

    def extend(self, hours: float) -> None:
        """Plan with these hours in all from now on."""
        budget = self._settings.budget.model_copy(update={"hours": hours})
        self._settings = self._settings.model_copy(update={"budget": budget})

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; below 0 once the budget is spent."""
        return self.hours * 3600 - self._clock.spent

    @property
    def over(self) -> bool:
        """Whether all the time that is left is needed for test and report."""
        return self.left <= self._end

    @property
    def late(self) -> bool:
        """Whether the study can't wait any longer, even for a run that is nearly done."""
        return self.left <= self._end - LATE * self.hours * 3600

    @property
    def for_test(self) -> float:
        """Seconds that scoring test may take, so that the study is not late.

        Where a command was cut off when only test and report were left, the next one takes the time that they need.
        """
        if self._came_for_test:
            return math.inf
        return self.left - REPORT_SECONDS + LATE * self.hours * 3600

    def until(self, phase: Phase) -> float | None:
        """Return the planned end of a phase, in its own hours; None: it was not planned with the present budget."""
        made = [one for one in self.made if one.phase == phase.name and one.hours == self.hours]
        return made[-1].until / 3600 if made else None

    def begun(self, phase: Phase) -> bool:
        """Return whether an earlier run of the command has begun a phase with the present budget."""
        return sum(one.phase == phase.name and one.hours == self.hours for one in self._before) > 0

    def alone(self, known: Known) -> Known:
        """Return `known` for a study that does not score the reference recipe on test beside another model."""
        self._end = known.end - known.reference
        return replace(known, end=self._end, reference=0.0)

    @property
    def busy(self) -> bool:
        """Whether other programs had the processors while the pace was measured."""
        return self._measured.busy

    def at_rest(self, known: Known) -> Known:
        """Return `known` for the time when other programs have ended, by how long the worker waited for processors."""
        share = self._measured.running
        pace = replace(known.pace, train=known.pace.train * share, score=known.pace.score * share)
        self._end = REPORT_SECONDS + (known.end - REPORT_SECONDS) * share
        return replace(known, pace=pace, end=self._end, reference=known.reference * share)

    def check_fits(self, whole: Plan, known: Known) -> None:
        """Check that the settings fixed by hand fit into the hours. Raises RequestError if they do not."""
        fixed, left = known.asked.settings, self.left
        if not fixed or whole.alone or whole.seconds <= left:
            return
        said = " and ".join(f"{name}={value}" for name, value in fixed.items())
        hours = math.ceil(10 * (self.hours + (whole.seconds - left) / 3600)) / 10
        raise RequestError(
            f"{said}: with this the study takes {formats.duration(whole.seconds)} at the pace of this machine, and "
            f"budget.hours={self.hours:.3g} leave {formats.duration(left)}; lower it, leave it to the plan (null), or "
            f"give BUDGET={hours:g}h"
        )

    def known(self, phases: Sequence[Phase]) -> Known:
        """Return the facts that a plan is made from, with the pace of the last trials of these phases."""
        pace, budget = self.pace(phases), self._settings.budget
        asked = Asked(
            trials=budget.max_trials,
            search_examples=budget.search_examples,
            finalists=budget.confirmation.finalists,
            seeds=budget.confirmation.seeds,
            confirmation_examples=budget.confirmation.examples,
            final=budget.final,
        )
        sizes, tokens = self._data.sizes, self._data.tokens
        tested = sizes.test * pace.score * tokens["test"] / tokens["validation"]
        self._end = (SCORED_ON_TEST + as_slow_as_trials(self._settings, self._folder)) * tested + REPORT_SECONDS
        return Known(
            pace=pace,
            sizes=sizes,
            recipe=self._recipe(),
            asked=asked,
            workers=phases[0].study.workers,
            end=self._end,
            reference=tested,
            folds=phases[0].study.folds,
            dearer=max(map(self.cost, space.to_try(self._settings)), default=1.0),
        )

    def trained_on(self, known: Known, hours: float) -> int:
        """Return the number of training examples that the winner of a study with `hours` has."""
        found = of_all(known, hours * 3600)
        steps = (found.search, found.confirmation, found.final)
        return max(step.examples for step in steps if step is not None)

    def factor(self, known: Known, params: Params) -> float:
        """Return the training time of a point of the space, as a multiple of the usual time."""
        train = space.apply(self._settings, params).train
        usual = known.recipe.least_passes  # where epochs are given, they are the same for any number of examples
        return self.cost(params) * train.epochs_factor * (train.epochs / usual if train.epochs is not None else 1.0)

    def cost(self, params: Params) -> float:
        """Return the time of an update of a point, as a multiple of that of the reference recipe."""
        train = space.apply(self._settings, params).train
        return parts.passes_of_batch(train) / parts.passes_of_batch(self._settings.train)

    def at_cost(self, known: Known, params: Params) -> Known:
        """Return `known` for the training of this point."""
        return replace(known, pace=replace(known.pace, train=known.pace.train * self.cost(params)), dearer=1.0)

    def record(self, phase: Phase, known: Known, steps: Mapping[str, Step | None], alone: bool = False) -> None:
        """Write down what the time that is left is for, as a phase begins."""
        own = steps[phase.name]
        assert own is not None, "a phase that has nothing to do has no plan"
        planned = (
            PlannedStep(name, step.runs, step.examples, step.passes, step.seconds)
            for name, step in steps.items()
            if step is not None
        )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        until = phase.hours * 3600 + own.seconds
        pace = asdict(known.pace)
        made = PlanMade(now, phase.name, self.hours, until, self.left, self._end, pace, tuple(planned), alone)
        self.made = (*self.made, made)
        write_durably(self._folder.plans, codec.write(Plans(self.made)))

    def pace(self, phases: Sequence[Phase]) -> Pace:
        """Return the pace of an example: that of the last trials, or the measured one before there are trials."""
        measured, tokens = self._measured, self._data.tokens
        first = Pace(
            measured.train * tokens["train"], measured.score * tokens["validation"], FIRST_TRIAL * measured.trial
        )
        seen = [(phase, trial) for phase in phases for trial in phase.trials.values() if trial.step >= LEAST_STEPS]
        recent = [(phase, trial) for phase, trial in seen if trial.seconds.get("training")][-RECENT:]
        if not recent:
            return first
        seconds = sum(trial.seconds["training"] for _, trial in recent)
        trained = sum(
            trial.step * phase.settings_of(trial).train.batch_size * self.cost(trial.params) for phase, trial in recent
        )
        train = seconds / trained * self._data.pieces
        besides = fmean(sum(trial.seconds.get(part, 0.0) for part in ("setup", "checkpoint")) for _, trial in recent)
        return Pace(train, first.score * train / first.train, besides)

    def _recipe(self) -> Recipe:
        settings, searched = self._settings, self._settings.search.space
        usual = (settings.model.reference.epochs, float(parts.MOST_PASSES))
        longest = 1.0
        if (fixed := _mean(settings, "train.epochs", settings.train.epochs)) is not None:
            usual, longest = (fixed, fixed), max(possible(settings, "train.epochs")) / fixed
        factor = _mean(settings, "train.epochs_factor", settings.train.epochs_factor)
        costs = [self.cost({"train.rdrop": weight}) for weight in possible(settings, "train.rdrop")]
        objective = OBJECTIVES[settings.task.metric]
        rungs = schedule.Plan(USUAL, settings.search.rungs, settings.search.keep, 2, objective)
        return Recipe(
            seen=parts.LEAST_SEEN / self._data.pieces,
            least_passes=usual[0],
            most_passes=usual[1],
            factor=(factor if factor is not None else 1.0) * fmean(costs),
            longest=max(possible(settings, "train.epochs_factor")) * longest * max(costs),
            share=schedule.share_to_train(rungs, USUAL) / USUAL if searched else 1.0,
        )


def _mean(settings: Settings, path: str, fixed: float | None) -> float | None:
    """Return the mean of the values that a setting takes in the search, or `fixed` where it is not searched."""
    dimension = settings.search.space.get(path)
    if dimension is None:
        return fixed
    values = (dimension.low, dimension.highest) if isinstance(dimension, Interval) else dimension.choices
    return fmean(float(value) for value in values)
