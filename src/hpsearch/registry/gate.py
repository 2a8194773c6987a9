"""The gate: a rule that decides, by models' answers to the same test examples, if a challenger becomes champion."""

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
from hpsearch.tasks.objectives import LOG_LOSS, OBJECTIVES, Objective

DIGITS = 2  # decimals of points
EPSILON = 1e-12  # for rounding errors: a loss of exactly the margin is allowed


@dataclass(frozen=True)
class Contender:
    """A model and its answers on test."""

    name: str
    replies: Replies
    megabytes: float | None  # size of its weights; None if not known
    seconds_per_example: float | None  # None if it was never timed
    hardware: str | None  # the hardware on which it was timed


@dataclass(frozen=True)
class Check:
    """One condition of a rule, and whether the challenger meets it."""

    passed: bool
    text: str


@dataclass(frozen=True)
class Exam:
    """The test examples that contenders have answered."""

    kind: Kind
    labels: Sequence[str]
    """The classes."""
    objective: Objective
    """The metric that is compared, and its direction."""
    truths: Sequence[Any]
    """(n,): the right answers."""

    def evidence(self, replies: Replies) -> Tallies:
        """Return the replies' tallies (n, k), by `Kind.evidence`."""
        return self.kind.evidence(self.objective, self.truths, replies, self.labels)

    def compare(self, champion: Tallies, challenger: Tallies) -> Paired:
        """Compare the challenger's answers with the champion's."""
        return paired.compare(champion, challenger, self.kind.sums_to(self.objective), self.objective)

    def constant(self) -> tuple[str, Replies]:
        """Return the best model that says the same of every example: its name and its replies."""
        kind, answer, n = self.kind, self.kind.constant(self.truths), len(self.truths)
        if self.objective != LOG_LOSS:
            return f"the one answer that is right most often ({answer or 'none'!r})", Replies([answer] * n, None)
        shares = [kind.shares(self.truths, self.labels)] * n
        likelihoods = kind.likelihoods(self.truths, shares, self.labels)
        return "the shares of the classes in these examples", Replies([answer] * n, likelihoods)

    def by_class(self, replies: Replies) -> dict[str, ClassScores]:
        """Return how good the answers are for each class."""
        return self.kind.by_class(self.kind.tallies(self.truths, replies.answers, self.labels).sum(0), self.labels)


@dataclass(frozen=True)
class Verdict:
    """A rule's judgement of a challenger."""

    rule: PromotionSettings
    checks: tuple[Check, ...]
    comparison: Paired

    @property
    def passed(self) -> bool:
        """Whether the challenger meets all conditions of the rule."""
        return all(check.passed for check in self.checks)


def _with_difference(written: Any) -> Any:
    """Add the difference to a stored comparison that lacks it.

    Those were written before the log loss was a metric, when more was better by every metric.
    """
    if isinstance(written, dict) and {"challenger", "champion"} <= written.keys():
        return {"difference": written["challenger"] - written["champion"]} | written
    return written


@dataclass(frozen=True)
class GateDecision:
    """A verdict and its circumstances, as the promoted model's MLflow run and the registered version keep them."""

    passed: bool
    rule: PromotionSettings
    checks: tuple[Check, ...]
    """The checks of the verdict; () if the contenders could not be compared and the promotion was forced."""
    comparison: Annotated[Paired, BeforeValidator(_with_difference)] | None
    """Comparison of the verdict; None if the contenders could not be compared."""
    time: str
    """Time of the decision: UTC, ISO 8601, to the second."""
    study: str
    in_place_of: int | None
    """Number of the version that was champion; None if there was none."""
    forced: str | None
    """Why it is promoted whatever the gate says; None if it is not forced."""
    reasons: tuple[str, ...]
    """Checks and notes, for people."""
    floor: str | None = None
    """Name of the floor that is promoted in place of the study's winner; None for the winner."""


def decide(
    rule: PromotionSettings,
    exam: Exam,
    challenger: Contender,
    champion: Contender | None,
    reference: Replies | None,
    floor: Contender | None,
) -> Verdict:
    """Apply a rule to a challenger.

    Without a champion, the challenger must beat the one answer that is right most often. By the log loss, it must beat
    the shares of the classes instead. It must not lose to the reference recipe by more than the rule's margin. It must
    be no worse than the best simple model.

    Args:
        rule: A rule from `conf/promotion/`.
        exam: The test examples that all of them have answered.
        challenger: The model that may become champion.
        champion: The present champion; None if there is none.
        reference: Replies of a model of the reference recipe. None if the challenger is one, or none was trained.
        floor: The best simple model of the study. None if the challenger is one, or none was fitted.
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
    if challenger.hardware == champion.hardware:  # times on different hardware say nothing
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
