"""Whether a challenger becomes champion: a rule, two models' answers to the same test examples, a decision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch import formats
from hpsearch.config.settings import PromotionSettings
from hpsearch.decisions import paired
from hpsearch.decisions.paired import Tallies
from hpsearch.state.measured import ClassScores, Paired
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.metrics import Objective

PERCENT = 100
EPSILON = 1e-12  # of rounding: a loss of just the margin is allowed


@dataclass(frozen=True)
class Contender:
    """A model and what it said on test."""

    name: str
    answers: Sequence[Any]
    megabytes: float | None  # None where it is not known
    seconds_per_example: float | None  # None where it was never timed
    hardware: str | None  # on which it was timed


@dataclass(frozen=True)
class Check:
    """One thing that a rule asks for."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Exam:
    """The test examples that contenders have answered."""

    kind: Kind
    labels: Sequence[str]
    """The classes."""
    objective: Objective
    """What is compared."""
    truths: Sequence[Any]
    """(n,): the right answers."""

    def tallies(self, answers: Sequence[Any]) -> Tallies:
        """(n, k), by `Kind.tallies`."""
        return self.kind.tallies(self.truths, answers, self.labels)

    def compare(self, champion: Tallies, challenger: Tallies) -> Paired:
        """One's answers against another's."""
        return paired.compare(champion, challenger, self.kind.of_sums, self.objective)


@dataclass(frozen=True)
class Verdict:
    """What a rule makes of a challenger."""

    rule: PromotionSettings
    checks: tuple[Check, ...]
    comparison: Paired

    @property
    def passed(self) -> bool:
        """Whether the challenger has shown all that is asked for."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class GateDecision:
    """A verdict and its circumstances, as the winner's MLflow run and the registered version keep them."""

    passed: bool
    rule: PromotionSettings
    checks: tuple[Check, ...]
    """() where the contenders could not be compared, and the promotion was forced."""
    comparison: Paired | None
    """None there too."""
    time: str
    """UTC, ISO 8601, to the second."""
    study: str
    in_place_of: int | None
    """The version that was champion; None where there was none."""
    forced: str | None
    """Why it is promoted whatever the gate says."""
    reasons: tuple[str, ...]
    """Checks and notes, for people."""


def decide(
    rule: PromotionSettings,
    exam: Exam,
    challenger: Contender,
    champion: Contender | None,
    reference: Sequence[Any] | None,
) -> Verdict:
    """Apply a rule.

    Without a champion the challenger must beat the one answer that is right most often, and not lose to the reference
    recipe by more than the rule's margin.

    Args:
        rule: of `conf/promotion/`.
        exam: what all of them have answered.
        challenger: who wants to be champion.
        champion: who is.
        reference: what a model of the reference recipe said; None where the challenger is one, or none was trained.
    """
    kind, ours = exam.kind, exam.tallies(challenger.answers)
    if champion is None:
        constant = kind.constant(exam.truths)
        found = exam.compare(exam.tallies([constant] * len(exam.truths)), ours)
        said = f"the one answer that is right most often ({constant or 'none'!r})"
        checks = [_better(found, said, rule.alpha)]
        if reference is not None:
            beside = exam.compare(exam.tallies(reference), ours)
            text = f"{_shown(beside, 'the reference recipe')}, and the rule allows {_points(-rule.reference_margin)}"
            checks.append(Check(beside.difference >= -rule.reference_margin - EPSILON, text))
        return Verdict(rule, tuple(checks), found)
    theirs = exam.tallies(champion.answers)
    found = exam.compare(theirs, ours)
    checks = []
    if rule.margin:
        bound = paired.least_gain(theirs, ours, kind.of_sums, exam.objective, rule.alpha)
        text = f"{_shown(found, champion.name)}; at least {_points(bound)} at the level {rule.alpha:g}"
        text += f", and the rule allows {_points(-rule.margin)}"
        checks.append(Check(bound > -rule.margin, text))
    else:
        checks.append(_better(found, champion.name, rule.alpha))
    if rule.cost is not None:
        checks.append(_cheaper(challenger, champion, rule.cost))
    if rule.class_margin is not None:
        before, now = (kind.by_class(tallies.sum(0), exam.labels) for tallies in (theirs, ours))
        checks += _by_class(before, now, rule.class_margin)
    return Verdict(rule, tuple(checks), found)


def _better(found: Paired, other: str, alpha: float) -> Check:
    return Check(found.p <= alpha, f"{_shown(found, other)}; p = {_p(found.p)} ({found.test}), {alpha:g} is asked for")


def _shown(found: Paired, other: str) -> str:
    return (
        f"{found.metric} {formats.score(found.challenger)} against {formats.score(found.champion)} of {other} on the "
        f"same {formats.count(found.n)} test examples: {_points(found.difference)} (95 % interval "
        f"{PERCENT * found.low:+.2f} to {PERCENT * found.high:+.2f})"
    )


def _cheaper(challenger: Contender, champion: Contender, cost: float) -> Check:
    pairs = {"MB": (challenger.megabytes, champion.megabytes)}
    if challenger.hardware == champion.hardware:  # else times say nothing
        pairs["s an example"] = (challenger.seconds_per_example, champion.seconds_per_example)
    passed, said = False, []
    for unit, (ours, theirs) in pairs.items():
        if ours is not None and theirs is not None:
            passed |= ours <= cost * theirs
            said.append(f"{ours:.3g} {unit} against {theirs:.3g}")
    return Check(passed, f"{'; '.join(said) or 'sizes and times are not known'}; {cost:.0%} of one is asked for")


def _by_class(before: Mapping[str, ClassScores], now: Mapping[str, ClassScores], margin: float) -> Iterator[Check]:
    for label, scores in before.items():
        change = now[label].recall - scores.recall
        text = f"recall of {label}: {formats.score(now[label].recall)} against {formats.score(scores.recall)}"
        yield Check(change >= -margin - EPSILON, f"{text}, and the rule allows {_points(-margin)}")


def _points(difference: float) -> str:
    return f"{difference * PERCENT:+.2f} points"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "under 0.001"
