"""The final model: the winner's recipe once more, on all the training examples that the time holds."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator.phase import Found, Phase, StudyContext
from hpsearch.coordinator.retimer import Retimer
from hpsearch.coordinator.search import Search
from hpsearch.decisions import plan
from hpsearch.decisions.plan import FEW_MORE, Step
from hpsearch.state.messages import Progress
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks import metrics

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

PAID = 0.5  # of a usual fine-tune: a shorter one is none the better
FURTHER = 1000  # added to the study's seed, which no run of the confirmation has then


class Final(Phase):
    """One run."""

    name: ClassVar[str] = "final"
    noun: ClassVar[str] = "run"
    place: ClassVar[str] = "final"
    tag: ClassVar[str] = "hpsearch.final"
    left_out: ClassVar[str] = "budget.final=false"
    falls_back: ClassVar[bool] = True

    def __init__(self, study: StudyContext, before: Sequence[Phase]) -> None:
        """Take up what there is; the phases before are done."""
        super().__init__(study, study.settings, study.ref)
        self._before, [self._search] = before[-1], [phase for phase in before if isinstance(phase, Search)]
        self._planner: Planner | None = None
        self._retimer: Retimer | None = None
        self._step: Step | None = None
        if study.settings.budget.hours is None:
            self._step = self._worth(Step(1, self.ref.sizes["train"], math.nan, 0.0))

    def begin(self, planner: "Planner | None", before: Sequence[Phase]) -> None:
        """Take what time is left, where it holds more than the winner has had."""
        if planner is None or self._search.alone:
            return
        self._planner = planner
        known, winner = planner.known([*before, self]), self._winner()
        train = space.apply(self.study.settings, winner.params).train
        factor = train.epochs_factor
        if train.epochs is not None:  # the winner's own, where they were searched
            known = replace(known, recipe=replace(known.recipe, least_passes=train.epochs, most_passes=train.epochs))
        step = plan.of_final(known, planner.left - known.end, factor)
        everything = self.ref.sizes["train"]
        most = known.recipe.passes(everything) * max(1.0, factor)
        running = any(not run.status.final for run in self.trials.values())
        enough = step.passes >= PAID * known.recipe.passes(self.ref.sizes["train"]) or step.passes >= 1
        if running or (enough and planner.left - known.end >= known.run(self._before.examples)):
            self._step = self._worth(step)
        if self._step is not None and not self.done():
            planner.record(self, known, {self.name: step})
            self._step = plan.spread(step, everything)
        self._retimer = Retimer(planner, known, most / plan.spread(step, everything).passes, train.batch_size)

    def _worth(self, step: Step) -> Step | None:
        """The step, where it has so many more examples than the winner's run that they pay."""
        more = self.study.folds > 0 or step.examples >= FEW_MORE * self._before.examples
        return step if more else None

    def _winner(self) -> TrialRecord:
        return self._before.found().winner

    @property
    def examples(self) -> int:
        """That the run is trained on."""
        run = self._run()
        examples = run.examples if run is not None else None
        return examples if examples is not None else self.ref.sizes["train"]

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """As the budget says."""
        return settings.budget.final

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """The study's, with the winner's parameters, another seed, and without rungs."""
        search = settings.search.model_copy(update={"rungs": ()})
        return space.apply(settings, trial.params).model_copy(update={"seed": trial.seed, "search": search})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The newest complete one."""
        complete = [run for run in trials if run.status is Status.COMPLETE]
        return [max(complete, key=lambda run: run.number)] if complete else []

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Final":
        """Of whoever has won so far."""
        return cls(study, before)

    @property
    def introduction(self) -> str | None:
        """Whose recipe is trained on what."""
        if self._step is None or self.done():
            return None
        winner, passes = self._winner(), self._step.passes
        length = "" if math.isnan(passes) else f", {passes:.2g} passes"
        return f"final model: the recipe of {self._name(winner)} on {self._step.examples:,} training examples{length}"

    @property
    def total(self) -> int | None:
        """One, if any."""
        return 1 if self._step is not None else None

    def next(self, hours: float) -> TrialRecord | None:
        """The run, if it is not there."""
        if self._step is None or self._run() is not None or any(not run.status.final for run in self.trials.values()):
            return None
        winner = self._winner()
        return TrialRecord(
            number=max(self.trials, default=-1) + 1,
            params=winner.params,
            status=Status.RUNNING,
            entrant=self._name(winner),
            seed=(self.study.settings.seed + FURTHER) % 2**31,
            examples=self._step.examples,
            epochs=None if math.isnan(self._step.passes) else self._step.passes,
        )

    def _name(self, winner: TrialRecord) -> str:
        return winner.entrant or f"trial {winner.number}"

    def _run(self) -> TrialRecord | None:
        """The complete run of the winner's recipe, on as many examples as there shall be."""
        for run in self.keepers(self.study.settings, list(self.trials.values())):
            enough = self._step is None or (run.examples or 0) * FEW_MORE >= self._step.examples
            if run.params == self._winner().params and enough:
                return run
        return None

    def retime(self, progress: Progress) -> int | None:
        """Where the run would end too late or too early."""
        return self._retimer.heard(progress) if self._retimer is not None else None

    def over(self, hours: float) -> str | None:
        """Once it is late: what is trained by then does not count."""
        if self._planner is None or not self._planner.late:
            return None
        return f"budget.hours={self._planner.hours:.3g} are over; the final model is given up"

    def closing(self) -> list[TrialRecord]:
        """A run that was cut off ends where it is."""
        return [replace(run, status=Status.PRUNED) for run in self.trials.values() if not run.status.final]

    def done(self) -> bool:
        """Whether the run is there, or none shall be."""
        running = any(run.status is Status.RUNNING for run in self.trials.values())
        return not running and self.next(self.hours) is None

    def planned(self) -> float:
        """One."""
        return 1.0 if self._step is not None else 0.0

    def found(self) -> Found:
        """The final model, unless it is worse on validation than the best run before it."""
        before, run = self._before.found(), self._run()
        if run is None or run.score is None or before.winner.score is None:
            return before
        comparable = self.study.folds == 0  # else each run has had other validation examples
        if comparable and metrics.OBJECTIVES[self.study.settings.task.metric].better(before.winner.score, run.score):
            return before
        return Found(
            run,
            self.study.folder.inside(self.trial_folder(run.number)),
            before.reference,
            before.reference_folder,
            None,
        )
