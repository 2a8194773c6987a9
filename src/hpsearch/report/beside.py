"""Sentences and a table that compare a study's winner with its floors, the simple models on the same data."""

from collections.abc import Iterator

from hpsearch import formats
from hpsearch.report.sections import BEST, COMPLETE, Column, Line, Section, Told
from hpsearch.state.measured import Paired
from hpsearch.state.outcome import BlendOutcome, FloorOutcome, Summary
from hpsearch.state.plans import Outlook
from hpsearch.tasks.objectives import OBJECTIVES

EPSILON = 1e-12  # differences up to this are rounding errors
DOUBLED = 4  # fewest trials for which the gain from half of them to all is reported
SHORT = 0.9  # a winner with a smaller share of the usual updates profits from more


def ahead(summary: Summary) -> FloorOutcome | None:
    """Return the best floor if it scores better on test than the winner, else None."""
    floor = summary.floor
    return floor if floor is not None and floor.gain.difference < -EPSILON else None


def kept(summary: Summary) -> str:
    """Return the name of the model that the study keeps."""
    return summary.model if summary.blend is None else f"{summary.model} with words"


def named(floor: FloorOutcome) -> str:
    """Return what the floor is and how long it trains, as the subject of a sentence."""
    return f"{floor.title}, which trains in {formats.duration(floor.seconds)},"


def warning(summary: Summary) -> str | None:
    """Return the warning that a simple model beats the winner; None if the winner is at least as good."""
    floor = ahead(summary)
    if floor is None:
        return None
    share = OBJECTIVES[summary.metric].share
    return (
        f"A simple model is better: {named(floor)} has {summary.metric} {formats.score(floor.test.value)} on the same "
        f"{formats.count(floor.test.n)} test examples, and {kept(summary)} has {formats.score(summary.test.value)} "
        f"({formats.gain(floor.gain.difference, share)}). {_remedy(summary, floor)}"
    )


def _remedy(summary: Summary, floor: FloorOutcome) -> str:
    """Return what to do when a floor beats the winner.

    It names the hours that should reach the floor's score, if the outlook has such hours.
    """
    instead = "promote the simple model (--floor)"
    objective = OBJECTIVES[summary.metric]
    enough = [one for one in summary.outlook if not objective.better(floor.test.value, one.value)]
    if enough:
        return f"Give {_hours(enough[0])} in all, which should reach it by the curve so far, or {instead}."
    if summary.outlook:
        return f"By the curve so far {_hours(summary.outlook[-1])} would not reach it either: {instead}."
    return f"Give more hours, or {instead}."


def _hours(outlook: Outlook) -> str:
    return formats.duration(3600 * outlook.hours)


def outlook(summary: Summary) -> str | None:
    """Return a sentence on the expected effect of more hours; None in a study without hours."""
    if summary.hours is None:
        return None
    if summary.outlook:
        first = summary.outlook[0]
        value, low, high = map(formats.score, (first.value, first.low, first.high))
        return (
            f"{_hours(first)} would train the winner on {formats.count(first.examples)} examples: test "
            f"{summary.metric} {value} is to be expected then (80 % interval {low} to {high}), by how errors fall with "
            "examples here and on other data."
        )
    length = summary.winner.length
    if length is not None and length < SHORT:
        return (
            f"The winner has had all training examples, but {length:.0%} of the usual number of updates; more hours "
            "train it longer."
        )
    k, said = len(summary.expected), "The winner has had all training examples; more hours only search further."
    if k < DOUBLED:
        return said
    objective = OBJECTIVES[summary.metric]
    gain = formats.gain(objective.gain(summary.expected[k - 1], summary.expected[k // 2 - 1]), objective.share)
    return f"{said} The last doubling of the trials, from {k // 2} to {k}, brought {gain} on validation."


def findings(summary: Summary) -> Iterator[str]:
    """Yield a sentence on the gain from blending with the model of words, and one on the gain over the best floor."""
    floor = summary.floor
    if (blend := summary.blend) is not None:
        tuned, words = blend.weights
        yield (
            f"The winner is a fine-tune and the linear model of words as one model, weighed on validation by "
            f"{tuned:.2g} and {words:.2g}. The fine-tune alone has test {summary.metric} "
            f"{formats.score(blend.test.value)}: the words bring {gained(blend.gain)}."
        )
    if floor is None:
        return
    gain = floor.gain
    doubt = "" if gain.low > 0 else "; these examples do not show that a fine-tune was worth it"
    said, score = named(floor), formats.score(floor.test.value)
    yield (
        f"{said[0].upper()}{said[1:]} has test {summary.metric} {score} on the same examples: "
        f"the winner gains {gained(gain)}{doubt}."
    )


def gained(found: Paired) -> str:
    """Return the gain with its 95 % interval."""
    return f"{formats.gain(found.difference, OBJECTIVES[found.metric].share)} (95 % interval {_interval(found)})"


def _interval(found: Paired) -> str:
    share = OBJECTIVES[found.metric].share
    return " to ".join(formats.gain(bound, share).removesuffix(" points") for bound in (found.low, found.high))


def section(told: Told) -> Section | None:
    """Return the table of floors, with the fine-tune alone if the winner is a blend; None without floors."""
    summary = told.summary
    if not summary.floors:
        return None
    metric, blend = summary.metric, summary.blend
    alone = (
        () if blend is None else (_line(COMPLETE, "the fine-tune alone", blend, metric, summary.data.trained_on, None),)
    )
    return Section(
        title="Floors",
        said=(
            f"Simple models of the same data, fitted before the first trial and scored on the same "
            f"{formats.count(summary.test.n)} test examples. The best on validation is kept as a model."
        ),
        columns=(
            Column("model", left=True, status=True),
            Column(f"validation {metric}"),
            Column(f"test {metric}"),
            Column("95 % interval"),
            Column("the winner gains"),
            Column("95 % interval"),
            Column("training examples"),
            Column("time"),
        ),
        lines=(
            *alone,
            *(
                _line(BEST if one.best else COMPLETE, one.title, one, metric, one.examples, one.seconds)
                for one in summary.floors
            ),
        ),
    )


def _line(
    status: str, title: str, model: FloorOutcome | BlendOutcome, metric: str, examples: int, seconds: float | None
) -> Line:
    share = OBJECTIVES[metric].share
    return Line(
        status,
        (
            title,
            formats.score(model.validation[f"validation_{metric}"]),
            formats.score(model.test.value),
            f"{formats.score(model.test.low)} to {formats.score(model.test.high)}",
            formats.gain(model.gain.difference, share),
            _interval(model.gain),
            formats.count(examples) if examples else formats.NONE,
            formats.duration(seconds) if seconds is not None else formats.NONE,
        ),
    )
