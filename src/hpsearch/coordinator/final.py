"""The final model: the winner's recipe, trained on as many examples and with as many seeds as the time holds.

Further seeds use time that nothing else needs: idle workers, and what a race that was decided early has left.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.settings import Settings, TrainSettings
from hpsearch.coordinator.phase import Found, Phase, StudyContext
from hpsearch.coordinator.retimer import Retimer
from hpsearch.coordinator.search import Search
from hpsearch.decisions import plan, schedule
from hpsearch.decisions.plan import FEW_MORE, MOST_SEEDS, Known, Step
from hpsearch.state.messages import Progress
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

PAID = 0.5  # least share of the passes of a usual fine-tune, or of another seed's run; a shorter run is no better
FURTHER = 1000  # added to the study's seed, so that no run of the confirmation has the same seed


class Final(Phase):
    """The phase of the final model: one run, or several that differ in their seeds."""

    name: ClassVar[str] = "final"
    noun: ClassVar[str] = "run"
    place: ClassVar[str] = "final"
    tag: ClassVar[str] = "hpsearch.final"
    left_out: ClassVar[str] = "budget.final=false"
    falls_back: ClassVar[bool] = True

    def __init__(self, study: StudyContext, before: Sequence[Phase]) -> None:
        """Continue from the runs in the state folder; the phases in `before` are done."""
        super().__init__(study, study.settings, study.ref)
        self._all_before, self._before = before, before[-1]
        [self._search] = [phase for phase in before if isinstance(phase, Search)]
        self._planner: Planner | None = None
        self._retimers: dict[int, Retimer] = {}  # by number of the run
        self._step: Step | None = None
        if study.settings.budget.hours is None:
            self._step = self._worth(Step(1, self.ref.sizes["train"], math.nan, 0.0))

    def begin(self, planner: "Planner | None", before: Sequence[Phase]) -> None:
        """Plan the final model for the time that is left, where that holds more training than the winner has had."""
        if planner is None or self._search.alone:
            return
        self._planner = planner
        known = self._known(planner)
        step = plan.of_final(known, planner.left - known.end, self._winners().epochs_factor)
        everything = self.ref.sizes["train"]
        running = any(not run.status.final for run in self.trials.values())
        enough = step.passes >= PAID * known.recipe.passes(everything) or step.passes >= 1
        if running or (enough and planner.left - known.end >= known.run(self._before.examples)):
            self._step = self._worth(step)
        self._bring_back(known)
        if self._step is not None:
            self._step = plan.spread(step, everything)
            if not self.done():
                planner.record(self, known, {self.name: step})

    def _bring_back(self, known: Known) -> None:
        """Repeat the best run whose model was not needed before, where the time holds it."""
        for best in self.keepers(self.study.settings, self._of_winner()):
            examples = best.examples or known.sizes.train
            trained = known.pace.train * examples * (best.epochs or known.recipe.passes(examples))
            assert self._planner is not None, "there are hours"
            holds = known.pace.trial + trained + known.scoring <= self._planner.left - known.end
            if holds and not self._worse(best) and not self.trial_folder(best.number).model.exists():
                self.trials[best.number] = replace(best, status=Status.RUNNING, told=False)  # with the same result

    def _known(self, planner: "Planner") -> Known:
        """Return what a plan is made of, at the current pace and for the winner's recipe."""
        known, epochs = planner.known([*self._all_before, self]), self._winners().epochs
        known = planner.at_cost(known, self._winner().params)
        if epochs is None:
            return known
        # The winner's recipe has its own number of epochs.
        return replace(known, recipe=replace(known.recipe, least_passes=epochs, most_passes=epochs))

    def _worth(self, step: Step) -> Step | None:
        """Return the step if it has enough more examples than the winner's run, or with folds; else None."""
        more = self.study.folds > 0 or step.examples >= FEW_MORE * self._before.examples
        return step if more else None

    def _winner(self) -> TrialRecord:
        return self._before.found().winner

    def _winners(self) -> TrainSettings:
        return space.apply(self.study.settings, self._winner().params).train

    @property
    def examples(self) -> int:
        """Number of training examples of the best run; all examples where there is no best run."""
        run = self._best()
        examples = run.examples if run is not None else None
        return examples if examples is not None else self.ref.sizes["train"]

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Return whether the budget asks for a final model."""
        return settings.budget.final

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """Return the study's settings with the winner's parameters and another seed, and without rungs."""
        search = settings.search.model_copy(update={"rungs": ()})
        return space.apply(settings, trial.params).model_copy(update={"seed": trial.seed, "search": search})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Return the best complete run of the newest recipe, if there is one."""
        complete = [run for run in trials if run.status is Status.COMPLETE]
        newest = max(complete, key=lambda run: run.number, default=None)
        same = [run for run in complete if newest is not None and run.params == newest.params]
        return schedule.kept_first(same, OBJECTIVES[settings.task.metric])[:1]

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Final":
        """Return the phase for the recipe that has won so far."""
        return cls(study, before)

    @property
    def introduction(self) -> str | None:
        """Message that names the recipe and its training examples; None where nothing is left to run."""
        if self._step is None or self.done():
            return None
        winner, passes = self._winner(), self._step.passes
        length = "" if math.isnan(passes) else f", {passes:.2g} passes"
        seeds = f", with up to {self._seeds} seeds while there is time" if self._seeds > 1 else ""
        what = f"{self._step.examples:,} training examples{length}{seeds}"
        return f"final model: the recipe of {self._name(winner)} on {what}"

    @property
    def total(self) -> int | None:
        """Number of runs; None where the time decides, or where nothing is run."""
        return self._seeds if self._step is not None and (self._planner is None or self._seeds == 1) else None

    @property
    def _seeds(self) -> int:
        """Largest number of seeds."""
        if self._planner is not None and self.study.finishing:
            return 1
        asked = self.study.settings.budget.final_seeds
        return asked or (1 if self.study.settings.budget.hours is None else MOST_SEEDS)

    def next(self, hours: float) -> TrialRecord | None:
        """Return the first run, or one more with another seed where a worker is idle and time is left; None for now."""
        runs = [run for run in self._of_winner() if run.status is not Status.PRUNED]
        there = runs if any(map(self._long_enough, runs)) else []  # else the time holds much longer runs
        running = sum(not run.status.final for run in self.trials.values())
        if self._step is None or len(there) >= self._seeds or running >= self.study.workers:
            return None
        passes = self._step.passes if not there else self._further(there)
        if passes is None:
            return None
        winner, first = self._winner(), self.study.settings.seed + FURTHER
        seeds = ((first + i) % 2**31 for i in range(len(runs) + 1))
        return TrialRecord(
            number=max(self.trials, default=-1) + 1,
            params=winner.params,
            status=Status.RUNNING,
            entrant=self._name(winner),
            seed=next(seed for seed in seeds if seed not in {run.seed for run in runs}),
            examples=self._step.examples,
            epochs=None if math.isnan(passes) else passes,
        )

    def _further(self, there: Sequence[TrialRecord]) -> float | None:
        """Return the passes of one more run; NaN without hours, None where the time left holds no worthwhile run."""
        if self._planner is None:
            return math.nan
        known, everything = self._known(self._planner), self.ref.sizes["train"]
        step = plan.of_final(known, self._planner.left - known.end, self._winners().epochs_factor)
        passes = plan.spread(step, everything).passes
        return passes if passes >= PAID * max(run.epochs or 0.0 for run in there) else None

    def _name(self, winner: TrialRecord) -> str:
        return winner.entrant or f"trial {winner.number}"

    def _of_winner(self) -> list[TrialRecord]:
        """Return the runs of the winner's recipe."""
        params = self._winner().params
        return [run for run in self.trials.values() if run.params == params]

    def _long_enough(self, run: TrialRecord) -> bool:
        """Return whether a longer run, or one on more examples, would not pay."""
        if self._step is None:
            return True
        more_examples = self._step.examples > (run.examples or 0) * FEW_MORE
        return not more_examples and not self._step.passes > (run.epochs or math.inf) * FEW_MORE

    def _worse(self, run: TrialRecord) -> bool:
        """Return whether a run is worse on validation than the best run of the phases before."""
        before = self._winner().score
        if run.score is None or before is None:
            return True
        comparable = self.study.folds == 0  # with folds, each run had other validation examples
        return comparable and OBJECTIVES[self.study.settings.task.metric].better(before, run.score)

    def _best(self) -> TrialRecord | None:
        """Return the complete run of the winner's recipe that is best on validation; None without one or its model."""
        best = next(iter(self.keepers(self.study.settings, self._of_winner())), None)
        return best if best is not None and self.trial_folder(best.number).model.exists() else None

    def retime(self, progress: Progress) -> int | None:
        """Return a new total number of steps where a run would end too late or too early; None otherwise."""
        run = self.trials[progress.number]
        if self._planner is None or run.epochs is None:
            return None
        if progress.number not in self._retimers:
            known = self._known(self._planner)
            most = known.recipe.passes(self.ref.sizes["train"]) * max(1.0, self._winners().epochs_factor)
            batch_size = self.settings_of(run).train.batch_size
            self._retimers[progress.number] = Retimer(self._planner, known, most / run.epochs, batch_size)
        return self._retimers[progress.number].heard(progress)

    def over(self, hours: float) -> str | None:
        """Return why no run goes on, once it is late; None until then. A run still in training does not count."""
        if self._planner is None or not self._planner.late:
            return None
        budget = formats.duration(self._planner.hours * 3600)
        return f"the budget of {budget} is over; no run of the final model goes on"

    def closing(self) -> list[TrialRecord]:
        """Return the runs that have not ended, as pruned."""
        return [replace(run, status=Status.PRUNED) for run in self.trials.values() if not run.status.final]

    def done(self) -> bool:
        """Return whether nothing is running or left to run."""
        running = any(run.status is Status.RUNNING for run in self.trials.values())
        return not running and self.next(self.hours) is None

    def planned(self) -> float:
        """Return the number of runs that are begun; at least one where a run is planned."""
        return float(max(len(self.trials), self._step is not None))

    def found(self) -> Found:
        """Return the final model, or the result before it where there is none or it is worse on validation."""
        before, run = self._before.found(), self._best()
        if run is None or self._worse(run):
            return before
        return Found(
            run,
            self.study.folder.inside(self.trial_folder(run.number)),
            before.reference,
            before.reference_folder,
            None,
        )
