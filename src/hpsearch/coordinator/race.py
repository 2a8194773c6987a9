"""The race of a confirmation: results of the entrants' runs, which entrants are out, and which one wins."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np

from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.decisions import paired, racing, schedule
from hpsearch.decisions.racing import Entrant, Rule, Run
from hpsearch.errors import NoResultError
from hpsearch.state.folder import TrialFolder
from hpsearch.state.measured import Answers, Replies
from hpsearch.state.outcome import Confirmed, Optimism
from hpsearch.state.records import DataRef, Status, TrialRecord
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES, Objective
from hpsearch.training import data
from hpsearch.training.folds import Fold, rows


@dataclass(frozen=True)
class Standing:
    """The result of an entrant."""

    entrant: Entrant
    runs: tuple[TrialRecord, ...]  # complete runs, by seed
    out_after: int | None  # number of seeds; None: the entrant was run to the end

    @property
    def scores(self) -> tuple[float, ...]:
        """Scores on validation, by seed."""
        return tuple(run.score for run in self.runs if run.score is not None)

    @property
    def mean(self) -> float:
        """Mean of the scores."""
        return fmean(self.scores)


@dataclass(frozen=True)
class Rounds:
    """The runs that each entrant gets."""

    seeds: int
    examples: int
    """Training examples of a run."""
    all: bool
    """Whether these are all training examples of the study."""
    folds: int
    """Number of folds, on which runs are validated in turn; 0: runs are validated on the validation split."""

    def fold(self, seed: int) -> Fold | None:
        """Return the fold that a run is validated on; None without folds. `seed` is the place of its seed, from 0."""
        return (seed % self.folds, self.folds) if self.folds else None


class Race:
    """The entrants, and the results of their runs so far."""

    def __init__(
        self,
        entrants: Sequence[Entrant],
        settings: Settings,
        ref: DataRef,
        records: Mapping[int, TrialRecord],
        folder_of: Callable[[int], TrialFolder],
        rounds: Rounds,
    ) -> None:
        """Set up the race of one study.

        Args:
            entrants: the points that are run.
            settings: settings of the runs, except for parameters and seed.
            ref: data of the runs.
            records: records of the runs, by number; more may be added later.
            folder_of: returns the folder of the run with a number, which has its answers.
            rounds: the runs that each entrant gets; runs on other examples do not count.
        """
        self._rounds = rounds
        self.entrants, self._settings, self._ref = entrants, settings, ref
        self._records, self._folder_of = records, folder_of
        self.seeds = tuple((settings.seed + 1 + i) % 2**31 for i in range(rounds.seeds))
        self.objective = OBJECTIVES[settings.task.metric]
        self._kind: Kind = KINDS[settings.task.kind]
        confidence = settings.budget.confirmation.confidence
        self._rule = Rule(self._kind.sums_to(self.objective), self.objective, confidence, rounds.folds > 0)
        self._runs: dict[int, Run] = {}
        self._examples: dict[Fold | None, tuple[list[str], list[Any]]] = {}
        self._decided: tuple[frozenset[tuple[int, Status]], dict[str, int]] = frozenset(), {}

    def standings(self) -> list[Standing]:
        """Return the result of each entrant, in the order in which they entered."""
        out = self.out()
        return [Standing(one, tuple(self.complete(one.name)), out.get(one.name)) for one in self.entrants]

    def winner(self) -> Standing:
        """Return the result of the winner. Raises NoResultError if no run is complete."""
        name = racing.winner(self._by_name(), self.seeds, self.out())
        if name is None:
            reasons = "; ".join(sorted({trial.reason for trial in self._records.values() if trial.reason}))
            raise NoResultError(
                f"study {self._settings.study} has no confirmation run that is complete ({reasons}); "
                "budget.confirmation.finalists=0 takes the search's best trial"
            )
        return next(one for one in self.standings() if one.entrant.name == name)

    def corrected(self) -> float | None:
        """Return the estimated score of the winner on a further seed, in the metric's direction; None with one seed."""
        found = racing.corrected(self._by_name(), self.seeds, self.out())
        return self.objective.worth(found) if found is not None else None

    def interval(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval, over validation examples, of the mean of an entrant's runs.

        Each example counts with the mean of what the runs add for it. This mean varies less than one run does. So the
        interval is somewhat too wide where the runs differ.
        """
        of_runs = [self._run(run).tallies for run in self.complete(name)]
        tallies = np.vstack(of_runs) if self._rounds.folds else np.mean(of_runs, axis=0)
        return paired.intervals(tallies, self._rule.of_sums)[self.objective.name]

    def best_run(self, name: str) -> TrialRecord | None:
        """Return the run of an entrant whose model is kept; None if no run is complete."""
        return next(iter(schedule.best_first(self.complete(name), self.objective)), None)

    def answers(self, number: int) -> Answers:
        """Return the answer of a complete run's model to each validation example."""
        return Answers.of(*self._validated(self._records[number].fold), self._replies(number))

    def _replies(self, number: int) -> Replies:
        predictions, likelihoods = read_answers(self._folder_of(number).answers.read_text())
        return Replies(self._kind.answers(predictions, self._ref.labels), likelihoods)

    def _validated(self, fold: Fold | None) -> tuple[list[str], list[Any]]:
        """Return ids and truths of the examples that a run is validated on."""
        if fold not in self._examples:
            found = data.load(self._ref, "validation").to_dict() if fold is None else rows(self._ref, fold)
            self._examples[fold] = found["id"], self._kind.truths(found, self._ref.labels)
        return self._examples[fold]

    def complete(self, name: str) -> list[TrialRecord]:
        """Return the complete runs of an entrant, in the order of the seeds. Runs with former seeds are left out."""
        named = (run for run in self._records.values() if run.entrant == name and self.has(run))
        found = {run.seed: run for run in named if run.status is Status.COMPLETE}
        return [found[seed] for seed in self.seeds if seed in found]

    def has(self, run: TrialRecord) -> bool:
        """Return whether a run is trained and validated on the examples of this race."""
        folded = (run.fold is not None) == bool(self._rounds.folds)
        return folded and (run.examples == self._rounds.examples or (run.examples is None and self._rounds.all))

    def _by_name(self) -> dict[str, list[Run]]:
        return {one.name: [self._run(trial) for trial in self.complete(one.name)] for one in self.entrants}

    def _run(self, trial: TrialRecord) -> Run:
        if trial.number not in self._runs:
            replies = self._replies(trial.number)
            tallies = self._kind.evidence(self.objective, self._validated(trial.fold)[1], replies, self._ref.labels)
            assert trial.seed is not None, "a confirmation run has its seed"
            score = self.objective.worth(trial.score or 0.0)
            cost = trial.step * space.apply(self._settings, trial.params).train.batch_size
            self._runs[trial.number] = Run(trial.seed, score, tallies, cost)
        return self._runs[trial.number]

    def out(self) -> dict[str, int]:
        """Return which entrants are out, each with the number of seeds after which it was out.

        This takes up to seconds, so it is decided anew only when a run has ended.
        """
        ended = frozenset((t.number, t.status) for t in self._records.values() if t.status.final)
        if ended != self._decided[0]:
            self._decided = ended, self._decide()
        return self._decided[1]

    def _decide(self) -> dict[str, int]:
        failed = {
            t.entrant: self.seeds.index(t.seed)
            for t in self._records.values()
            if self.has(t) and t.status is Status.FAILED and t.entrant is not None and t.seed in self.seeds
        }
        return racing.out(self._by_name(), self.seeds, self._rule, failed)

    def confirmed(self, standing: Standing) -> Confirmed:
        """Return an entrant's result in the form of the summary."""
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


def read_answers(text: str) -> tuple[list[Any], list[float] | None]:
    """Return predictions and likelihoods from the text of a complete run's answers file.

    A file from before there were likelihoods is a list. Its likelihoods are None.
    """
    kept = json.loads(text)
    return (kept, None) if isinstance(kept, list) else (kept["predictions"], kept["likelihoods"])


def optimism(best: TrialRecord, standings: Sequence[Standing], objective: Objective) -> Optimism | None:
    """Compare the search's best score with fresh runs of the same point; None without such runs."""
    for standing in standings:
        if standing.entrant.params == best.params and standing.runs and best.score is not None:
            return Optimism(best.score, standing.mean, objective.gain(best.score, standing.mean))
    return None
