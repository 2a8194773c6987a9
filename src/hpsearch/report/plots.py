"""A study's charts as inline SVG. The page's style sheet colours them, so they follow its light and dark themes."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator

from hpsearch.config.dimensions import Choice, Dimension
from hpsearch.config.settings import Settings
from hpsearch.formats import parameter, parameters, score, value
from hpsearch.state.outcome import Summary
from hpsearch.state.records import Status, TrialRecord
from hpsearch.state.roster import Staff
from hpsearch.tasks.objectives import OBJECTIVES

Curves = Mapping[int, Sequence[tuple[int, dict[str, float]]]]  # trial: (step, metrics)

# Units of the drawings, about a phone's pixels: text stays readable there. Wider columns scale the drawings up.
WIDE, NARROW, HEIGHT = 400, 300, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 24, 40

KINDS = ("stopped", "failed", "complete", "best")  # in the order of drawing: later marks lie on top


def kind(record: TrialRecord, best: int) -> str:
    """Return the mark of a trial, one of KINDS."""
    if record.number == best:
        return "best"
    return {Status.COMPLETE: "complete", Status.FAILED: "failed"}.get(record.status, "stopped")


def validation(records: Sequence[TrialRecord], settings: Settings, best: int) -> Markup:
    """Draw each trial's validation scores at its rungs and its end, over the share of its own schedule."""
    series = []
    for record in _in_order(records, best):
        points = [(settings.search.rungs[rung], reached) for rung, reached in sorted(record.rungs.items())]
        if record.status is Status.COMPLETE and record.score is not None:
            points.append((1.0, record.score))
        if points:
            series.append(Series(tuple(points), kind(record, best), _title(record)))
    y = _axis(_validation(settings.task.metric), [reached for one in series for _, reached in one.points])
    return _chart(series, SCHEDULE, y, WIDE, settings.search.rungs)


def training_loss(records: Sequence[TrialRecord], curves: Curves, settings: Settings, best: int) -> Markup | None:
    """Draw each trial's training loss over the share of its own schedule; None if there is no loss to draw."""
    series = []
    for record in _in_order(records, best):
        losses = {step: metrics["train_loss"] for step, metrics in curves[record.number] if "train_loss" in metrics}
        # A trial that was lost before it reported the length of its schedule has no place on the axis.
        if losses and record.total_steps:
            points = tuple((step / record.total_steps, losses[step]) for step in sorted(losses))
            series.append(Series(points, kind(record, best), _title(record)))
    if not series:
        return None
    y = _axis("training loss", [loss for one in series for _, loss in one.points])
    return _chart(series, SCHEDULE, y, WIDE, settings.search.rungs)


def scatters(records: Sequence[TrialRecord], settings: Settings, best: int) -> Iterator[Markup]:
    """Draw the newest score against each searched parameter, without trials that lack a score or the parameter."""
    for path, dimension in settings.search.space.items():
        shown = [(r, r.score) for r in _in_order(records, best) if r.score is not None and path in r.params]
        if not shown:
            continue
        x, places = _places(parameter(path), dimension, [record.params[path] for record, _ in shown])
        series = [
            Series(((place, reached),), kind(record, best), _title(record))
            for (record, reached), place in zip(shown, places, strict=True)
        ]
        y = _axis(_validation(settings.task.metric), [reached for _, reached in shown])
        yield _chart(series, x, y, NARROW)


def answer(records: Sequence[TrialRecord], summary: Summary) -> Markup:
    """Draw a number line: validation scores of the complete trials above, the test score with its interval below."""
    complete = {r.number: r.score for r in records if r.status is Status.COMPLETE and r.score is not None}
    best, test = summary.best.trial, summary.test
    x = _axis("", [*complete.values(), test.value, test.low, test.high])
    svg = _canvas(WIDE, 92, "validation scores of the complete trials; test score with its 95 % interval")
    alone = " without the words" if summary.blend is not None else ""
    _text(svg, 0, 12, f"validation of complete trials{alone}, the best ringed", "start", "label")
    for reached in complete.values():
        _line(svg, "tick", _x(x, reached, WIDE), "24", _x(x, reached, WIDE), "38")
    _mark(SubElement(svg, "g", {"class": "best"}), _x(x, complete[best], WIDE), "31", "stopped")
    _line(svg, "grid", str(LEFT), "46", str(WIDE - RIGHT), "46")
    _line(svg, "interval", _x(x, test.low, WIDE), "60", _x(x, test.high, WIDE), "60")
    _mark(SubElement(svg, "g", {"class": "best"}), _x(x, test.value, WIDE), "60", "best")
    _text(svg, 0, 64, "test", "start", "label")
    for tick, text in x.ticks(6):
        _text(svg, float(_x(x, tick, WIDE)), 86, text, "middle")
    return Markup(tostring(svg, encoding="unicode"))


def bought(records: Sequence[TrialRecord], summary: Summary) -> Markup | None:
    """Draw validation scores against the minutes of the study at which they were reached; None if no time is known.

    Each line is the best score so far among what was trained on the same number of examples.
    """
    search = next((phase for phase in summary.phases if phase.name == "search"), None)
    ended = [
        (search.train_examples, record.at, record.score, f"trial {record.number}")
        for record in records
        if search is not None and record.status is Status.COMPLETE
    ] + [
        (phase.train_examples, run.at, run.score, f"{phase.name}, {run.named}")
        for phase in summary.phases
        for run in phase.runs
        if run.status is Status.COMPLETE
    ]
    found = [
        Reached(examples, at, reached, name)
        for examples, at, reached, name in ended
        if at is not None and reached is not None
    ]
    return over_time(found, summary.metric)


@dataclass(frozen=True)
class Reached:
    """A trial or run that was trained to its end, as `over_time` draws it."""

    examples: int | None
    """Number of training examples; None means all that the study uses."""
    at: float
    """Seconds of the study at which it ended."""
    score: float
    """Its score on validation."""
    name: str
    """Its name, for people."""


def over_time(reached: Sequence[Reached], metric: str) -> Markup | None:
    """Draw validation scores against minutes; None if nothing is complete yet.

    A line shows the best score so far for each number of training examples.
    """
    found = sorted(reached, key=lambda one: one.at)
    if not found:
        return None
    objective, series = OBJECTIVES[metric], []
    for size in dict.fromkeys(one.examples for one in found):
        best: list[tuple[float, float]] = []
        for one in found:
            if one.examples == size:
                kept = best and not objective.better(one.score, best[-1][1])
                best.append((one.at / 60, best[-1][1] if kept else one.score))
        series.append(Series(tuple(best), "complete", f"best so far on {_examples(size)}"))
    for one in found:
        look = "best" if one.examples == found[-1].examples else "stopped"
        title = f"{one.name}, {_examples(one.examples)}: {score(one.score)}"
        series.append(Series(((one.at / 60, one.score),), look, title))
    x = _axis("minutes since the study began", [0.0, *(one.at / 60 for one in found)])
    return _chart(series, x, _axis(_validation(metric), [one.score for one in found]), WIDE)


def _examples(number: int | None) -> str:
    return f"{number:,} training examples" if number is not None else "all training examples"


def expected(values: Sequence[float], metric: str) -> Markup:
    """Draw the expected best validation score against the number of trials."""
    points = tuple((float(i), value) for i, value in enumerate(values, 1))
    series = [Series(points, "best", f"expected best of so many trials, up to {score(values[-1])}")]
    return _chart(series, _axis("trials", [1, len(values)]), _axis(_validation(metric), values), NARROW)


def workers(staff: Staff) -> Markup:
    """Draw how many workers there were, and how many of them worked, against minutes."""
    length = staff.seconds / len(staff.busy) / 60
    series = [
        Series(tuple(((part + 0.5) * length, mean) for part, mean in enumerate(means)), look, title)
        for means, look, title in ((staff.there, "stopped", "workers"), (staff.busy, "best", "workers that worked"))
    ]
    y = Axis("workers", 0.0, 1.06 * max(staff.there))
    return _chart(series, _axis("minutes with workers", [0.0, staff.seconds / 60]), y, WIDE)


# ---- axes


def _validation(metric: str) -> str:
    """Return the label of an axis of validation scores."""
    return ", ".join(filter(None, (f"validation {metric}", OBJECTIVES[metric].remark)))


@dataclass(frozen=True)
class Axis:
    """The axis along one side of a chart; with `choices`, positions 0, 1, ... stand for the choices."""

    label: str
    low: float
    high: float
    log: bool = False
    percent: bool = False
    choices: tuple[str, ...] = ()

    def share(self, number: float) -> float:
        """Return where a value lies between low (0) and high (1)."""
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Return values to mark, with their text: all choices if the axis has choices, else about `most` values."""
        if self.choices:
            return [(float(index), choice) for index, choice in enumerate(self.choices)]
        if self.log:
            for subs in ((1, 2, 5), (1, 3), (1,)):
                marks = self._inside(LogLocator(subs=subs, numticks=20).tick_values(self.low, self.high))
                if len(marks) <= most:
                    break
        else:
            marks = self._inside(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high))
        return [(mark, f"{mark:.0%}" if self.percent else f"{mark:g}") for mark in marks]

    def _inside(self, marks: Sequence[float]) -> list[float]:
        rounded = [float(f"{mark:.12g}") for mark in marks]  # removes rounding errors such as 0.15000000000000002
        return [mark for mark in rounded if self.low <= mark <= self.high]


SCHEDULE = Axis("share of the trial's own schedule", 0, 1.03, percent=True)


def _axis(label: str, numbers: Sequence[float], log: bool = False) -> Axis:
    """Return an axis that shows all numbers, with some room around them even if they are equal."""
    low, high = min(numbers), max(numbers)
    if log:
        room = (high / low) ** 0.06 if high > low else 1.5
        return Axis(label, low / room, high * room, log=True)
    room = 0.06 * (high - low) if high > low else 0.05 * abs(high) or 0.05
    return Axis(label, low - room, high + room)


def _places(name: str, dimension: Dimension, chosen: Sequence[Any]) -> tuple[Axis, list[float]]:
    """Return the axis of a parameter and the places of its values; equal choices are spread so that none is hidden."""
    if not isinstance(dimension, Choice):
        span = [float(dimension.low), float(dimension.high), *map(float, chosen)]
        return _axis(name + (" (log)" if dimension.log else ""), span, dimension.log), [float(one) for one in chosen]
    seen: Counter[Any] = Counter()
    places = []
    for one in chosen:
        places.append(dimension.choices.index(one) + (seen[one] % 7 - 3) * 0.06)
        seen[one] += 1
    names = tuple(map(value, dimension.choices))
    return Axis(name, -0.5, len(names) - 0.5, choices=names), places


# ---- drawing


@dataclass(frozen=True)
class Series:
    """The drawing of one trial: a line through its points, a mark at the last one, text to hover."""

    points: tuple[tuple[float, float], ...]
    kind: str  # one of KINDS
    title: str


def _chart(series: Sequence[Series], x: Axis, y: Axis, width: int, dotted: Sequence[float] = ()) -> Markup:
    svg = _canvas(width, HEIGHT, f"{y.label} against {x.label}")
    for tick, text in y.ticks(5):
        _line(svg, "grid", str(LEFT), _y(y, tick), str(width - RIGHT), _y(y, tick))
        _text(svg, LEFT - 6, float(_y(y, tick)) + 4, text, "end")
    for tick, text in x.ticks(width // 70):
        _text(svg, float(_x(x, tick, width)), HEIGHT - BOTTOM + 17, text, "middle")
    for at in dotted:
        _line(svg, "rung", _x(x, at, width), str(TOP), _x(x, at, width), str(HEIGHT - BOTTOM))
    _text(svg, 0, 12, y.label, "start", "label")
    _text(svg, width - RIGHT, HEIGHT - 5, x.label, "end", "label")
    for one in series:
        group = SubElement(svg, "g", {"class": one.kind})
        SubElement(group, "title").text = one.title
        places = [(_x(x, across, width), _y(y, up)) for across, up in one.points]
        if len(places) > 1:
            SubElement(group, "polyline", {"points": " ".join(f"{across},{up}" for across, up in places)})
        _mark(group, *places[-1], one.kind)
    return Markup(tostring(svg, encoding="unicode"))


def _in_order(records: Sequence[TrialRecord], best: int) -> list[TrialRecord]:
    return sorted(records, key=lambda record: KINDS.index(kind(record, best)))


def _title(record: TrialRecord) -> str:
    return f"trial {record.number}, {record.status.value}, {score(record.score)}  {parameters(record.params)}"


def _canvas(width: int, height: int, label: str) -> Element:
    return Element("svg", {"viewBox": f"0 0 {width} {height}", "role": "img", "aria-label": label})


def _text(parent: Element, x: float, y: float, text: str, anchor: str, style: str = "tick-text") -> None:
    where = {"class": style, "x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    SubElement(parent, "text", where).text = text


def _line(parent: Element, style: str, x1: str, y1: str, x2: str, y2: str) -> None:
    SubElement(parent, "line", {"class": style, "x1": x1, "y1": y1, "x2": x2, "y2": y2})


def _mark(parent: Element, x: str, y: str, kind: str) -> None:
    """Draw a disc, a ring for an early stop or a cross for a failure, so that more than colour tells them apart."""
    if kind == "failed":
        SubElement(parent, "path", {"d": f"M{x} {y}m-4 -4l8 8m0 -8l-8 8"})
    else:
        shape = "ring" if kind == "stopped" else "disc"
        SubElement(parent, "circle", {"class": shape, "cx": x, "cy": y, "r": "5" if kind == "best" else "3.5"})


def _x(x: Axis, number: float, width: int) -> str:
    return f"{LEFT + x.share(number) * (width - LEFT - RIGHT):.1f}"


def _y(y: Axis, number: float) -> str:
    return f"{HEIGHT - BOTTOM - y.share(number) * (HEIGHT - TOP - BOTTOM):.1f}"
