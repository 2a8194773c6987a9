"""Rungs: start a trial, go on with a paused one, or be done. Pure functions over the trials' records.

Successive halving by promotion (asynchronous successive halving, arXiv 1810.05934): trials pause at a rung, and the
best share of all that were planned goes on from its checkpoints. With the number of trials known, a new trial is
preferred to a promotion, so that the best of all are promoted and not the best of the first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.metrics import Objective


@dataclass(frozen=True)
class Plan:
    """What decides who goes on."""

    max_trials: int
    rungs: tuple[float, ...]
    keep: float
    at_least: int  # trials that pass each rung, where there are so many
    objective: Objective


@dataclass(frozen=True)
class Start:
    """Begin a new trial."""


@dataclass(frozen=True)
class Resume:
    """Go on with a paused trial."""

    number: int


@dataclass(frozen=True)
class Wait:
    """Nothing can be decided until a running trial reports."""


@dataclass(frozen=True)
class Done:
    """The search is over."""


Action = Start | Resume | Wait | Done


def quota(plan: Plan, rung: int, trials: int) -> int:
    """How many of `trials` may pass a rung: the share `keep` for each rung so far, or `at_least` if that is more."""
    return min(trials, max(plan.at_least, int(trials * plan.keep ** (rung + 1) + 1e-9)))


def most_checkpoints(plan: Plan, workers: int) -> int:
    """How many there can be at once: one of each trial that may go on, and of each running one up to three.

    These are the rung's, a newer one, and the one that is being written.
    """
    return (quota(plan, 0, plan.max_trials) if plan.rungs else 0) + 3 * workers


def next_action(plan: Plan, trials: Sequence[TrialRecord], may_start: bool) -> Action:
    """What a free worker should do.

    Args:
        plan: of the study.
        trials: all of them; the order does not matter.
        may_start: whether the budget allows a new trial, apart from their number.
    """
    if may_start and len(trials) < plan.max_trials:
        return Start()
    for rung in reversed(range(len(plan.rungs))):
        if promotable := _promotable(plan, trials, rung):
            return Resume(promotable[0].number)
    return Wait() if any(trial.status is Status.RUNNING for trial in trials) else Done()


def losers(plan: Plan, trials: Sequence[TrialRecord]) -> list[int]:
    """Paused trials that can never go on, whatever the trials to come are worth."""
    lost = []
    for rung in range(len(plan.rungs)):
        ranked = _ranked(plan, trials, rung)
        beyond = ranked[quota(plan, rung, plan.max_trials) :]
        lost += [t.number for t in beyond if t.status is Status.PAUSED and _rung(t) == rung]
    return sorted(lost)


def best_first(trials: Iterable[TrialRecord], objective: Objective) -> list[TrialRecord]:
    """Complete trials; of equal ones the first comes first."""
    found = (trial for trial in trials if trial.status is Status.COMPLETE)
    return sorted(found, key=lambda trial: (-objective.worth(trial.score or 0.0), trial.number))


def expected(trials: Sequence[TrialRecord], objective: Objective) -> list[float]:
    """Expected best validation score of 1, 2, ... trials drawn from these (Dodge et al. 2019, arXiv 1909.03004).

    Each trial counts with its last score, of a rung if it was stopped there.
    """
    scores = sorted(objective.worth(t.score) for t in trials if t.score is not None)
    total = len(scores)
    found = []
    for k in range(1, total + 1):
        mean = sum(s * (((i + 1) / total) ** k - (i / total) ** k) for i, s in enumerate(scores))
        found.append(objective.worth(mean))
    return found


def share_to_train(plan: Plan, trials: int) -> float:
    """Schedules, counted in whole trials, that a study of so many trials trains."""
    if not plan.rungs:
        return float(trials)
    total = trials * plan.rungs[0]
    ends = (*plan.rungs[1:], 1.0)
    for rung, end in enumerate(ends):
        total += quota(plan, rung, trials) * (end - plan.rungs[rung])
    return min(total, float(trials))


def may_start(plan: Plan, trials: Sequence[TrialRecord], hours_spent: float, max_hours: float | None) -> bool:
    """Whether the time left holds one more trial and the promotions that are then due.

    The time a trial takes is estimated from the schedules trained so far, in whole trials; for trials that are about to
    go on, from their own: a trial with more epochs or smaller batches than most may well be the best.
    """
    if max_hours is None:
        return True
    trained = sum(t.step / t.total_steps for t in trials if t.total_steps)
    if trained == 0:
        return hours_spent < max_hours
    hours_each = hours_spent / trained
    return (share_to_train(plan, len(trials) + 1) + _excess(plan, trials)) * hours_each <= max_hours


def _excess(plan: Plan, trials: Sequence[TrialRecord]) -> float:
    """What the trials that are about to go on will take beyond as many of mean length, in whole trials."""
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
    """Trials paused at a rung that may go on, best first."""
    ranked = _ranked(plan, trials, rung)
    allowed = quota(plan, rung, len(trials))
    passed = sum(1 for trial in ranked if _rung(trial) > rung or trial.status in (Status.RUNNING, Status.COMPLETE))
    waiting = [t for t in ranked[:allowed] if t.status is Status.PAUSED and _rung(t) == rung]
    return waiting[: max(0, allowed - passed)]


def _ranked(plan: Plan, trials: Sequence[TrialRecord], rung: int) -> list[TrialRecord]:
    """Trials that have a score at a rung, best first; a failed trial leaves its place to the next."""
    scored = [t for t in trials if rung in t.rungs and t.status is not Status.FAILED]
    return sorted(scored, key=lambda t: (-plan.objective.worth(t.rungs[rung]), t.number))


def _rung(trial: TrialRecord) -> int:
    """The last rung a trial has reached."""
    return max(trial.rungs, default=-1)
