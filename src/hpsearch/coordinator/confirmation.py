"""The confirmation: the search's best points and the reference recipe are run again with fresh seeds."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, ClassVar

import numpy as np

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator.phase import Fault, Fields, Found, Phase, Stored, StudyContext
from hpsearch.coordinator.search import Search
from hpsearch.decisions import paired, racing, schedule
from hpsearch.decisions.racing import Entrant, Rule, Run
from hpsearch.errors import NoResultError
from hpsearch.report import sections
from hpsearch.report.sections import Section, Told
from hpsearch.state.measured import Answers, Replies
from hpsearch.state.messages import TrialResult
from hpsearch.state.outcome import Confirmed, Optimism
from hpsearch.state.records import Status, TrialRecord, write_durably
from hpsearch.tasks import metrics
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.metrics import Objective
from hpsearch.training import data


def settings_for(settings: Settings) -> Settings:
    """What confirmation runs are trained with, apart from parameters and seed: perhaps more examples, no rungs."""
    examples = settings.budget.train_examples
    if examples is not None:
        examples = max(1, round(examples * settings.budget.confirmation.train_factor))
    budget = settings.budget.model_copy(update={"train_examples": examples})
    search = settings.search.model_copy(update={"rungs": ()})
    return settings.model_copy(update={"budget": budget, "search": search})


@dataclass(frozen=True)
class Standing:
    """What an entrant came to."""

    entrant: Entrant
    runs: tuple[TrialRecord, ...]  # complete ones, by seed
    out_after: int | None  # seeds, where it was not run to the end

    @property
    def scores(self) -> tuple[float, ...]:
        """On validation, by seed."""
        return tuple(run.score for run in self.runs if run.score is not None)

    @property
    def mean(self) -> float:
        """Of the scores."""
        return fmean(self.scores)


class Confirmation(Phase):
    """The race of a study's entrants."""

    name: ClassVar[str] = "confirmation"
    noun: ClassVar[str] = "run"
    place: ClassVar[str] = "confirmation"
    tag: ClassVar[str] = "hpsearch.confirmation"
    left_out: ClassVar[str] = "budget.confirmation.finalists=0"

    def __init__(self, study: StudyContext, search: Search) -> None:
        """Take up what there is.

        Args:
            study: that it is a phase of.
            search: says who is run.
        """
        settings = settings_for(study.settings)
        super().__init__(study, settings, data.prepare(study.corpus, settings, study.home))
        given = self.settings.budget.confirmation
        self.entrants = racing.entrants(search.best_first(), space.reference(study.settings), given.finalists)
        self._hours_before, self._examples_before = search.hours, search.ref.sizes["train"]
        self._best = search.best_first()[0]
        self.seeds = tuple((self.settings.seed + 1 + i) % 2**31 for i in range(given.seeds))
        self.kind: Kind = KINDS[self.settings.task.kind]
        self.objective = metrics.OBJECTIVES[self.settings.task.metric]
        self.rule = Rule(self.kind.sums_to(self.objective), self.objective, given.confidence)
        self._runs: dict[int, Run] = {}
        self._decided: tuple[frozenset[tuple[int, Status]], dict[str, int]] = frozenset(), {}
        for one in self.entrants:
            best = self.best_run(one.name)
            if best is not None and not self.trial_folder(best.number).model.exists():
                # Its model was not needed then, or other seeds counted. Run once more, it comes to the same.
                self.trials[best.number] = replace(best, status=Status.RUNNING, told=False)

    @classmethod
    def asked(cls, settings: Settings) -> bool:
        """Where there is to be a finalist."""
        return settings.budget.confirmation.finalists > 0

    @classmethod
    def trained_with(cls, settings: Settings, trial: TrialRecord) -> Settings:
        """The study's, with a run's parameters and seed."""
        return space.apply(settings_for(settings), trial.params).model_copy(update={"seed": trial.seed})

    @classmethod
    def keepers(cls, settings: Settings, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The best run of each entrant."""
        names, objective = dict.fromkeys(run.entrant for run in trials), metrics.OBJECTIVES[settings.task.metric]
        best = (schedule.best_first([run for run in trials if run.entrant == name], objective)[:1] for name in names)
        return [run for found in best for run in found]

    @classmethod
    def faults(cls, stored: Stored) -> Iterator[Fault]:
        """Complete runs without their answers."""
        for number, run in stored.records.items():
            if run.status is Status.COMPLETE and not stored.folder.trial(cls.place, number).answers.exists():
                yield Fault(f"run {number} is complete, and what its model said on validation is missing")

    @classmethod
    def open(cls, study: StudyContext, before: Sequence[Phase]) -> "Confirmation":
        """Of the best points of the search."""
        [search] = [phase for phase in before if isinstance(phase, Search)]
        return cls(study, search)

    @property
    def introduction(self) -> str:
        """Who is run on what."""
        return (
            f"confirmation: {', '.join(one.name for one in self.entrants)}, each with up to {len(self.seeds)} fresh "
            f"seeds on {self.ref.sizes['train']:,} training examples (the search had {self._examples_before:,})"
        )

    # ---- the race

    def done(self) -> bool:
        """Whether nothing is left to be run, within the time there is."""
        running = any(trial.status is Status.RUNNING for trial in self.trials.values())
        return not running and self.next(self.hours) is None

    def standings(self) -> list[Standing]:
        """What each entrant came to, in the order in which they entered."""
        out = self._out()
        return [Standing(one, tuple(self._complete(one.name)), out.get(one.name)) for one in self.entrants]

    def winner(self) -> Standing:
        """Raises NoResultError if no run is complete."""
        name = racing.winner(self._by_name(), self.seeds, self._out())
        if name is None:
            reasons = "; ".join(sorted({trial.reason for trial in self.trials.values() if trial.reason}))
            raise NoResultError(
                f"study {self.study.folder.name} has no confirmation run that is complete ({reasons}); "
                "budget.confirmation.finalists=0 takes the search's best trial"
            )
        return next(one for one in self.standings() if one.entrant.name == name)

    def corrected(self) -> float | None:
        """What the choice is worth on a further seed, in the direction of the metric; None with one seed."""
        found = racing.corrected(self._by_name(), self.seeds, self._out())
        return self.objective.worth(found) if found is not None else None

    def interval(self, name: str) -> tuple[float, float]:
        """95 %, over validation examples, of the mean of an entrant's runs.

        Each example counts with the mean of what the runs add for it, which varies less than one run does: where the
        runs differ the interval is rather too wide.
        """
        tallies = np.mean([self._run(run).tallies for run in self._complete(name)], axis=0)
        return paired.intervals(tallies, self.rule.of_sums)[self.objective.name]

    def best_run(self, name: str) -> TrialRecord | None:
        """The run of an entrant whose model is kept; None if none is complete."""
        return max(
            self._complete(name), key=lambda run: (self.objective.worth(run.score or 0.0), -run.number), default=None
        )

    def answers(self, number: int) -> Answers:
        """What a complete run's model said of each validation example."""
        return Answers.of(*self._validation, self._replies(number))

    def _replies(self, number: int) -> Replies:
        predictions, likelihoods = read_answers(self.trial_folder(number).answers.read_text())
        return Replies(self.kind.answers(predictions, self.ref.labels), likelihoods)

    @cached_property
    def _validation(self) -> tuple[list[str], list[Any]]:
        rows = data.load(self.ref, "validation").to_dict()
        return rows["id"], self.kind.truths(rows, self.ref.labels)

    def _complete(self, name: str) -> list[TrialRecord]:
        """The complete runs of an entrant, in the order of the seeds; those of former seeds are left out."""
        found = {t.seed: t for t in self.trials.values() if t.entrant == name and t.status is Status.COMPLETE}
        return [found[seed] for seed in self.seeds if seed in found]

    def _by_name(self) -> dict[str, list[Run]]:
        return {one.name: [self._run(trial) for trial in self._complete(one.name)] for one in self.entrants}

    def _run(self, trial: TrialRecord) -> Run:
        if trial.number not in self._runs:
            replies = self._replies(trial.number)
            tallies = self.kind.evidence(self.objective, self._validation[1], replies, self.ref.labels)
            assert trial.seed is not None, "a confirmation run has its seed"
            score = self.objective.worth(trial.score or 0.0)
            cost = trial.step * self.settings_of(trial).train.batch_size
            self._runs[trial.number] = Run(trial.seed, score, tallies, cost)
        return self._runs[trial.number]

    def _out(self) -> dict[str, int]:
        """Who is out, after how many seeds; decided anew when a run has ended, for it takes up to seconds."""
        ended = frozenset((t.number, t.status) for t in self.trials.values() if t.status.final)
        if ended != self._decided[0]:
            self._decided = ended, self._decide()
        return self._decided[1]

    def _decide(self) -> dict[str, int]:
        failed = {
            t.entrant: self.seeds.index(t.seed)
            for t in self.trials.values()
            if t.status is Status.FAILED and t.entrant is not None and t.seed in self.seeds
        }
        return racing.out(self._by_name(), self.seeds, self.rule, failed)

    # ---- as a phase

    def next(self, hours: float) -> TrialRecord | None:
        """The next run, round by round; the first round is run whatever the time."""
        begun = {(trial.entrant, trial.seed): trial for trial in self.trials.values()}
        out = self._out()
        for done, seed in enumerate(self.seeds):
            if done and self._spent(hours):
                return None
            due = [one for one in self.entrants if out.get(one.name, len(self.seeds)) > done]
            for entrant in due:
                if (entrant.name, seed) not in begun:
                    number = max(self.trials, default=-1) + 1
                    return TrialRecord(number, entrant.params, Status.RUNNING, entrant=entrant.name, seed=seed)
            if any(not begun[entrant.name, seed].status.final for entrant in due):
                return None  # who loses this round is not known yet
        return None

    def _spent(self, hours: float) -> bool:
        limit = self.settings.budget.max_hours
        return limit is not None and self._hours_before + hours >= limit

    def answered(self, result: TrialResult) -> None:
        """A complete run's answers are on disk before its record says that it is complete."""
        if result.status is Status.COMPLETE:
            kept = {"predictions": result.predictions, "likelihoods": result.likelihoods}
            write_durably(self.trial_folder(result.number).answers, json.dumps(kept))

    def kept_models(self) -> list[TrialRecord]:
        """The best run of each entrant, by the seeds that count."""
        best = (self.best_run(one.name) for one in self.entrants)
        return [run for run in best if run is not None]

    def said(self) -> Iterator[tuple[TrialRecord, Answers]]:
        """Of every complete run that counts."""
        for one in self.entrants:
            for run in self._complete(one.name):
                yield run, self.answers(run.number)

    def fields(self) -> Fields:
        """What each entrant came to, and what the search's best score was worth."""
        standings = self.standings()
        return {
            "confirmation": tuple(self._confirmed(standing) for standing in standings),
            "optimism": optimism(self._best, standings, self.objective),
        }

    def _confirmed(self, standing: Standing) -> Confirmed:
        scores, name = standing.scores, standing.entrant.name
        return Confirmed(
            entrant=name,
            reference=name == racing.REFERENCE,
            params=standing.entrant.params,
            seeds=tuple(run.seed for run in standing.runs if run.seed is not None),
            validation=scores,
            mean=standing.mean if scores else None,
            interval=self.interval(name) if scores else None,
            spread=stdev(scores) if len(scores) > 1 else None,
            out_after=standing.out_after,
            seconds=tuple(sum(run.seconds.values()) for run in standing.runs),
            run_ids=tuple(run.run_id for run in standing.runs if run.run_id is not None),
        )

    @classmethod
    def section(cls, told: Told) -> Section | None:
        """The race, by entrant."""
        return sections.race(told) if told.summary.confirmation else None

    def planned(self) -> float:
        """As many as the race still allows."""
        out = self._out()
        return sum(out.get(one.name, len(self.seeds)) for one in self.entrants)

    def found(self) -> Found:
        """The best run of the race's winner, beside the reference recipe's. Raises NoResultError."""
        name = self.winner().entrant.name
        best, other = self.best_run(name), self.best_run(racing.REFERENCE)
        assert best is not None, "a winner has a complete run"
        if name == racing.REFERENCE:
            other = None
        where = [self.study.folder.inside(self.trial_folder(run.number)) for run in (best, other) if run is not None]
        return Found(best, where[0], other, where[1] if other is not None else None, self.corrected())


def read_answers(text: str) -> tuple[list[Any], list[float] | None]:
    """Predictions and likelihoods of a complete run's file; one of before there were likelihoods is a list."""
    kept = json.loads(text)
    return (kept, None) if isinstance(kept, list) else (kept["predictions"], kept["likelihoods"])


def optimism(best: TrialRecord, standings: Sequence[Standing], objective: Objective) -> Optimism | None:
    """What the search's best score came to; None without fresh runs of the same point."""
    for standing in standings:
        if standing.entrant.params == best.params and standing.runs and best.score is not None:
            return Optimism(best.score, standing.mean, objective.gain(best.score, standing.mean))
    return None
