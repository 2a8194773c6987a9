"""Whether a challenger becomes champion: a rule, two models' answers to the same test examples, a decision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hpsearch import formats
from hpsearch.config.settings import PromotionSettings
from hpsearch.decisions import paired
from hpsearch.decisions.paired import Paired
from hpsearch.tasks.kind import ClassScores, Kind

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
class Decision:
    """What a rule makes of a challenger."""

    rule: PromotionSettings
    checks: tuple[Check, ...]
    paired: Paired | None  # None where nobody was there to compare with

    @property
    def passed(self) -> bool:
        """Whether the challenger has shown all that is asked for."""
        return all(check.passed for check in self.checks)

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "passed": self.passed,
            "rule": self.rule.model_dump(mode="json"),
            "checks": [asdict(check) for check in self.checks],
            "comparison": asdict(self.paired) if self.paired is not None else None,
        }


def decide(
    rule: PromotionSettings,
    kind: Kind,
    labels: Sequence[str],
    metric: str,
    truths: Sequence[Any],
    challenger: Contender,
    champion: Contender | None,
    reference: Sequence[Any] | None,
) -> Decision:
    """Apply a rule.

    Without a champion the challenger must beat the one answer that is right most often, and not lose to the reference
    recipe by more than the rule's margin.

    Args:
        rule: of `conf/promotion/`.
        kind: of the task.
        labels: its classes.
        metric: what is compared.
        truths: the right answers on test.
        challenger: who wants to be champion.
        champion: who is.
        reference: what a model of the reference recipe said; None where the challenger is one, or none was trained.
    """
    ours = kind.tallies(truths, challenger.answers, labels)
    if champion is None:
        constant = kind.constant(truths)
        theirs = kind.tallies(truths, [constant] * len(truths), labels)
        found = paired.compare(theirs, ours, kind.of_sums, metric)
        said = f"the one answer that is right most often ({constant or 'none'!r})"
        checks = [_better(found, said, rule.alpha)]
        if reference is not None:
            recipe = kind.tallies(truths, reference, labels)
            beside = paired.compare(recipe, ours, kind.of_sums, metric)
            text = f"{_shown(beside, 'the reference recipe')}, and the rule allows {_points(-rule.reference_margin)}"
            checks.append(Check(beside.difference >= -rule.reference_margin - EPSILON, text))
        return Decision(rule, tuple(checks), found)
    theirs = kind.tallies(truths, champion.answers, labels)
    found = paired.compare(theirs, ours, kind.of_sums, metric)
    checks = []
    if rule.margin:
        bound = paired.least_gain(theirs, ours, kind.of_sums, metric, rule.alpha)
        text = f"{_shown(found, champion.name)}; at least {_points(bound)} at the level {rule.alpha:g}"
        text += f", and the rule allows {_points(-rule.margin)}"
        checks.append(Check(bound > -rule.margin, text))
    else:
        checks.append(_better(found, champion.name, rule.alpha))
    if rule.cost is not None:
        checks.append(_cheaper(challenger, champion, rule.cost))
    if rule.class_margin is not None:
        before, now = (kind.by_class(tallies.sum(0), labels) for tallies in (theirs, ours))
        checks += _by_class(before, now, rule.class_margin)
    return Decision(rule, tuple(checks), found)


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
