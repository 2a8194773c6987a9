"""Whether a challenger becomes champion: a rule, two models' answers to the same test examples, a decision."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator

from hpsearch import formats
from hpsearch.config.settings import PromotionSettings
from hpsearch.decisions import paired
from hpsearch.decisions.paired import Tallies
from hpsearch.state.measured import ClassScores, Paired, Replies
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.metrics import LOG_LOSS, OBJECTIVES, Objective

DIGITS = 2  # of points
EPSILON = 1e-12  # of rounding: a loss of just the margin is allowed


@dataclass(frozen=True)
class Contender:
    """A model and what it said on test."""

    name: str
    replies: Replies
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

    def evidence(self, replies: Replies) -> Tallies:
        """(n, k), by `Kind.evidence`."""
        return self.kind.evidence(self.objective, self.truths, replies, self.labels)

    def compare(self, champion: Tallies, challenger: Tallies) -> Paired:
        """One's answers against another's."""
        return paired.compare(champion, challenger, self.kind.sums_to(self.objective), self.objective)

    def constant(self) -> tuple[str, Replies]:
        """The best that says the same of every example: its name, and what it says."""
        kind, answer, n = self.kind, self.kind.constant(self.truths), len(self.truths)
        if self.objective != LOG_LOSS:
            return f"the one answer that is right most often ({answer or 'none'!r})", Replies([answer] * n, None)
        shares = [kind.shares(self.truths, self.labels)] * n
        likelihoods = kind.likelihoods(self.truths, shares, self.labels)
        return "the shares of the classes in these examples", Replies([answer] * n, likelihoods)

    def by_class(self, replies: Replies) -> dict[str, ClassScores]:
        """How good the answers are in each class."""
        return self.kind.by_class(self.kind.tallies(self.truths, replies.answers, self.labels).sum(0), self.labels)


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


def _with_difference(written: Any) -> Any:
    """A comparison from before the log loss, when more was better by every metric, does not say what is gained."""
    if isinstance(written, dict) and {"challenger", "champion"} <= written.keys():
        return {"difference": written["challenger"] - written["champion"]} | written
    return written


@dataclass(frozen=True)
class GateDecision:
    """A verdict and its circumstances, as the winner's MLflow run and the registered version keep them."""

    passed: bool
    rule: PromotionSettings
    checks: tuple[Check, ...]
    """() where the contenders could not be compared, and the promotion was forced."""
    comparison: Annotated[Paired, BeforeValidator(_with_difference)] | None
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
    floor: str | None = None
    """Name of the floor that is promoted in place of the study's winner."""


def decide(
    rule: PromotionSettings,
    exam: Exam,
    challenger: Contender,
    champion: Contender | None,
    reference: Replies | None,
    floor: Contender | None,
) -> Verdict:
    """Apply a rule.

    Without a champion the challenger must beat the one answer that is right most often, or by the log loss the shares
    of the classes; it must not lose to the reference recipe by more than the rule's margin, and be no worse than the
    best simple model.

    Args:
        rule: of `conf/promotion/`.
        exam: what all of them have answered.
        challenger: who wants to be champion.
        champion: who is.
        reference: what a model of the reference recipe said; None where the challenger is one, or none was trained.
        floor: the best simple model of the study; None where the challenger is one, or none was fitted.
    """
    objective, ours = exam.objective, exam.evidence(challenger.replies)
    if champion is None:
        least, replies = exam.constant()
        found = exam.compare(exam.evidence(replies), ours)
        checks = [_better(found, least, rule.alpha)]
        if reference is not None:
            beside = exam.compare(exam.evidence(reference), ours)
            allowed = _gain(-rule.reference_margin, objective)
            text = f"{_shown(beside, 'the reference recipe')}, and the rule allows {allowed}"
            checks.append(Check(beside.difference >= -rule.reference_margin - EPSILON, text))
        if floor is not None:
            beside = exam.compare(exam.evidence(floor.replies), ours)
            text = f"{_shown(beside, floor.name)}, and a first champion may be no worse"
            checks.append(Check(beside.difference >= -EPSILON, text))
        return Verdict(rule, tuple(checks), found)
    theirs = exam.evidence(champion.replies)
    found = exam.compare(theirs, ours)
    checks = []
    if rule.margin:
        bound = paired.least_gain(theirs, ours, exam.kind.sums_to(objective), objective, rule.alpha)
        text = f"{_shown(found, champion.name)}; at least {_gain(bound, objective)} at the level {rule.alpha:g}"
        text += f", and the rule allows {_gain(-rule.margin, objective)}"
        checks.append(Check(bound > -rule.margin, text))
    else:
        checks.append(_better(found, champion.name, rule.alpha))
    if rule.cost is not None:
        checks.append(_cheaper(challenger, champion, rule.cost))
    if rule.class_margin is not None:
        before, now = exam.by_class(champion.replies), exam.by_class(challenger.replies)
        checks += _by_class(before, now, rule.class_margin)
    return Verdict(rule, tuple(checks), found)


def _better(found: Paired, other: str, alpha: float) -> Check:
    return Check(found.p <= alpha, f"{_shown(found, other)}; p = {_p(found.p)} ({found.test}), {alpha:g} is asked for")


def _shown(found: Paired, other: str) -> str:
    objective = OBJECTIVES[found.metric]
    remark = f" ({objective.remark})" if objective.remark else ""
    low, high = (_gain(bound, objective).removesuffix(" points") for bound in (found.low, found.high))
    return (
        f"{found.metric} {formats.score(found.challenger)} against {formats.score(found.champion)} of {other} on the "
        f"same {formats.count(found.n)} test examples{remark}: {_gain(found.difference, objective)} (95 % interval "
        f"{low} to {high})"
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
        allowed = formats.gain(-margin, share=True, digits=DIGITS)
        yield Check(change >= -margin - EPSILON, f"{text}, and the rule allows {allowed}")


def _gain(difference: float, objective: Objective) -> str:
    return formats.gain(difference, objective.share, DIGITS)


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "under 0.001"
