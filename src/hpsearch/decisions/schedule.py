"""Rungs: whether to start a trial, resume a paused one, or be done. Pure functions over the trials' records.

This is successive halving by promotion (asynchronous successive halving, arXiv 1810.05934). Trials pause at a rung, and
the best share of all planned trials goes on from its checkpoints. The number of trials is known, so a new trial is
preferred to a promotion. Thus the best of all trials are promoted, and not the best of the first ones.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import Objective

LOSS = "validation_loss"  # name of a trial's metric, in nats


@dataclass(frozen=True)
class Plan:
    """What decides which trials go on."""

    max_trials: int
    rungs: tuple[float, ...]
    keep: float
    at_least: int  # least number of trials that pass each rung, if there are that many
    objective: Objective


@dataclass(frozen=True)
class Start:
    """Begin a new trial."""


@dataclass(frozen=True)
class Resume:
    """Resume a paused trial."""

    number: int


@dataclass(frozen=True)
class Wait:
    """Nothing can be decided until a running trial reports."""


@dataclass(frozen=True)
class Done:
    """The search is over."""


Action = Start | Resume | Wait | Done


def quota(plan: Plan, rung: int, trials: int) -> int:
    """Return how many of `trials` trials may pass a rung.

    This is the share `keep` for each rung so far, or `at_least` if that is more.
    """
    return min(trials, max(plan.at_least, int(trials * plan.keep ** (rung + 1) + 1e-9)))


def most_checkpoints(plan: Plan, workers: int) -> int:
    """Return how many checkpoints there can be at once.

    Each trial that may go on has one. Each running trial has up to three: the rung's, a newer one, and the one that is
    being written.
    """
    return (quota(plan, 0, plan.max_trials) if plan.rungs else 0) + 3 * workers


def next_action(plan: Plan, trials: Sequence[TrialRecord], may_start: bool) -> Action:
    """Return what a free worker should do.

    Args:
        plan: plan of the study.
        trials: all trials, in any order.
        may_start: whether the budget allows a new trial, apart from the number of trials.
    """
    if may_start and len(trials) < plan.max_trials:
        return Start()
    for rung in reversed(range(len(plan.rungs))):
        if promotable := _promotable(plan, trials, rung):
            return Resume(promotable[0].number)
    return Wait() if any(trial.status is Status.RUNNING for trial in trials) else Done()


def losers(plan: Plan, trials: Sequence[TrialRecord]) -> list[int]:
    """Return the paused trials that can never go on, whatever later trials score."""
    lost = []
    for rung in range(len(plan.rungs)):
        ranked = _ranked(plan, trials, rung)
        beyond = ranked[quota(plan, rung, plan.max_trials) :]
        lost += [t.number for t in beyond if t.status is Status.PAUSED and _rung(t) == rung]
    return sorted(lost)


def best_first(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Return the complete trials, best first.

    Of equal scores the least loss on validation comes first, then the lowest number. Few validation examples often give
    equal scores, and the loss then chooses better than chance: experiments/2026-11-choice.
    """
    found = (trial for trial in trials if trial.status is Status.COMPLETE)
    return sorted(found, key=lambda trial: (-objective.worth(trial.score or 0.0), loss_of(trial), trial.number))


def kept_first(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Return the complete trials, the one to keep first, the others best first.

    It has the least loss on validation among those within one standard error of the best score. Among a few runs it has
    0.1 to 0.3 points more on test than the run with the best score: experiments/2026-11-choice.
    """
    ranked = best_first(trials, objective)
    if not ranked:
        return []
    best, examples = ranked[0].score or 0.0, ranked[0].validated
    error = math.sqrt(best * (1 - best) / examples) if objective.share and examples else 0.0
    near = [one for one in ranked if objective.gain(best, one.score or 0.0) <= error]
    kept = min(near, key=lambda one: (loss_of(one), ranked.index(one)))
    return [kept, *(one for one in ranked if one is not kept)]


def loss_of(trial: TrialRecord) -> float:
    """Return the loss of a trial on validation.

    It is inf where the kind of task has none, and in records of former versions. These chose by score and number alone,
    and what they kept stays.
    """
    return trial.metrics.get(LOSS, math.inf) if trial.validated is not None else math.inf


def expected(trials: Sequence[TrialRecord], objective: Objective) -> list[float]:
    """Return the expected best validation score of 1, 2, ... trials drawn from these.

    The estimate is that of Dodge et al. 2019 (arXiv 1909.03004). Each trial counts with its last score, which is a
    rung's if the trial was stopped there.
    """
    scores = sorted(objective.worth(t.score) for t in trials if t.score is not None)
    total = len(scores)
    found = []
    for k in range(1, total + 1):
        mean = sum(s * (((i + 1) / total) ** k - (i / total) ** k) for i, s in enumerate(scores))
        found.append(objective.worth(mean))
    return found


def share_to_train(plan: Plan, trials: int) -> float:
    """Return how much a study of `trials` trials trains, counted in whole trials."""
    if not plan.rungs:
        return float(trials)
    total = trials * plan.rungs[0]
    ends = (*plan.rungs[1:], 1.0)
    for rung, end in enumerate(ends):
        total += quota(plan, rung, trials) * (end - plan.rungs[rung])
    return min(total, float(trials))


def may_start(plan: Plan, trials: Sequence[TrialRecord], hours_spent: float, max_hours: float | None) -> bool:
    """Return whether the time left holds one more trial and the promotions that are then due.

    The time of a trial is estimated from the schedules trained so far, in whole trials. For trials that are about to go
    on, it is estimated from their own time. A trial with more epochs or smaller batches than most may well be the best.
    """
    if max_hours is None:
        return True
    trained = sum(t.step / t.total_steps for t in trials if t.total_steps)
    if trained == 0:
        return hours_spent < max_hours
    hours_each = hours_spent / trained
    return (share_to_train(plan, len(trials) + 1) + _excess(plan, trials)) * hours_each <= max_hours


def _excess(plan: Plan, trials: Sequence[TrialRecord]) -> float:
    """Return how much longer the trials about to go on take than the same number of mean length, in whole trials."""
    begun = [t for t in trials if t.step and t.total_steps]
    mean = sum(sum(t.seconds.values()) for t in begun) / sum(t.step / t.total_steps for t in begun)
    if not plan.rungs or not mean:
        return 0.0
    excess = 0.0
    for trial in _ranked(plan, trials, 0)[: quota(plan, 0, len(trials) + 1)]:
        share = trial.step / trial.total_steps
        excess += (1 - share) * max(0.0, sum(trial.seconds.values()) / share / mean - 1)
    return excess


def _promotable(plan: Plan, trials: Sequence[TrialRecord], rung: int) -> list[TrialRecord]:
    """Return the trials paused at a rung that may go on, best first."""
    ranked = _ranked(plan, trials, rung)
    allowed = quota(plan, rung, len(trials))
    passed = sum(1 for trial in ranked if _rung(trial) > rung or trial.status in (Status.RUNNING, Status.COMPLETE))
    waiting = [t for t in ranked[:allowed] if t.status is Status.PAUSED and _rung(t) == rung]
    return waiting[: max(0, allowed - passed)]


def _ranked(plan: Plan, trials: Sequence[TrialRecord], rung: int) -> list[TrialRecord]:
    """Return the trials that have a score at a rung, best first. A failed trial leaves its place to the next."""
    scored = [t for t in trials if rung in t.rungs and t.status is not Status.FAILED]
    return sorted(scored, key=lambda t: (-plan.objective.worth(t.rungs[rung]), t.number))


def _rung(trial: TrialRecord) -> int:
    """Return the last rung that a trial has reached; -1 before the first."""
    return max(trial.rungs, default=-1)
