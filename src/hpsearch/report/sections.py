"""The sections of the page that show what was run: tables of trials, of a later phase's runs, or of a race."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.decisions import schedule
from hpsearch.state.outcome import PhaseOutcome, Summary
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES

BEST, COMPLETE, STOPPED, FAILED = "best", "complete", "stopped", "failed"  # looks of a row


@dataclass(frozen=True)
class Told:
    """What the page of a finished study is made from."""

    settings: Settings
    summary: Summary
    records: Sequence[TrialRecord]
    """Trials of the search that the summary covers."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str
    left: bool = False
    """Whether its texts are aligned to the left."""
    status: bool = False
    """Whether it shows the mark of the row's look."""


@dataclass(frozen=True)
class Line:
    """A row of a table."""

    look: str
    """BEST, COMPLETE, STOPPED or FAILED."""
    cells: tuple[str, ...]
    reason: str | None = None
    """Text below the row; None means no text."""


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph and a table."""

    title: str
    said: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Ranked:
    """A trial with its place in the leaderboard."""

    rank: int
    """Place in the leaderboard, from 1."""
    trial: int
    status: str
    params: dict[str, Any]
    score: float | None
    step: int
    total_steps: int
    seconds: float
    reason: str | None


def leaderboard(records: Sequence[TrialRecord], settings: Settings) -> list[Ranked]:
    """Return a row for each trial, best first.

    Complete trials come first, by score. Trials stopped early follow, by their last rung and then by score. Failed
    trials come last.
    """
    objective = OBJECTIVES[settings.task.metric]

    def order(record: TrialRecord) -> tuple[int, int, float, float, int]:
        group = {Status.COMPLETE: 0, Status.FAILED: 2}.get(record.status, 1)
        furthest = max(record.rungs, default=-1) if group == 1 else 0
        worth = objective.worth(record.score) if record.score is not None else -math.inf
        return group, -furthest, -worth, schedule.loss_of(record), record.number

    return [
        Ranked(
            rank=rank,
            trial=record.number,
            status=record.status.value,
            params=record.params,
            score=record.score,
            step=record.step,
            total_steps=record.total_steps,
            seconds=sum(record.seconds.values()),
            reason=record.reason,
        )
        for rank, record in enumerate(sorted(records, key=order), start=1)
    ]


def trials(told: Told) -> Section:
    """Return the table of the search's trials."""
    settings, summary = told.settings, told.summary
    names = [Column(formats.parameter(path)) for path in settings.search.space]
    score = Column(f"validation {summary.metric}")
    looks = {str(Status.COMPLETE): COMPLETE, str(Status.FAILED): FAILED}
    return Section(
        title="Trials",
        said=(
            f"Best first. Complete trials are scored on all {formats.count(summary.data.validation)} validation "
            "examples; for the others the score is the one at which they were stopped."
        ),
        columns=(
            Column("trial"),
            Column("status", left=True, status=True),
            score,
            *names,
            Column("steps"),
            Column("time"),
        ),
        lines=tuple(
            Line(
                BEST if row.trial == summary.best.trial else looks.get(row.status, STOPPED),
                (
                    str(row.trial),
                    row.status,
                    formats.score(row.score),
                    *_values(row.params, settings),
                    f"{formats.count(row.step)} / {formats.count(row.total_steps)}",
                    formats.duration(row.seconds),
                ),
                row.reason,
            )
            for row in leaderboard(told.records, settings)
        ),
    )


def race(told: Told) -> Section:
    """Return the table of the confirmation's entrants."""
    settings, summary, data = told.settings, told.summary, told.summary.data
    names, confirmed_on = [Column(formats.parameter(path)) for path in settings.search.space], _confirmed_on(summary)
    return Section(
        title="Confirmation",
        said=(
            "The search's best points and the reference recipe with fresh seeds, on "
            f"{formats.count(confirmed_on)} training examples each (the search had {formats.count(data.train)}). "
            "These runs alone decide; what clearly loses is run no more. The intervals are over examples; the spread "
            "over seeds is no part of them."
        ),
        columns=(
            Column("of", left=True, status=True),
            Column(f"mean validation {summary.metric}"),
            Column("95 % interval"),
            Column("standard deviation"),
            Column("by seed", left=True),
            *names,
            Column("time"),
        ),
        lines=tuple(
            Line(
                BEST if one.entrant == summary.winner.entrant else COMPLETE if one.out_after is None else STOPPED,
                (
                    one.entrant,
                    formats.score(one.mean),
                    " to ".join(map(formats.score, one.interval or ())),
                    formats.score(one.spread),
                    " ".join([*map(formats.score, one.validation), *(["(out)"] if one.out_after is not None else [])]),
                    *_values(one.params, settings),
                    formats.duration(sum(one.seconds)),
                ),
            )
            for one in summary.confirmation
            if one.validation
        ),
    )


def _confirmed_on(summary: Summary) -> int:
    """Return the number of training examples of a confirmation run."""
    own = [phase.train_examples for phase in summary.phases if phase.name == "confirmation"]
    return own[0] if own else summary.data.trained_on


def of_time(told: Told) -> Section | None:
    """Return the table of planned and spent time by phase; None in a study without hours."""
    summary = told.summary
    if not summary.plans or summary.hours is None:
        return None
    planned = {step.phase: step for made in summary.plans for step in made.steps}
    latest = summary.plans[-1]
    lines = [
        Line(
            COMPLETE,
            (
                step.phase,
                formats.count(step.runs),
                formats.count(step.examples),
                f"{step.passes:.2g}",
                formats.duration(step.seconds),
                formats.duration(summary.seconds.get(step.phase, 0.0)),
            ),
        )
        for step in planned.values()
    ]
    end = sum(summary.seconds.get(name, 0.0) for name in ("test", "report"))
    blank = formats.NONE
    lines.append(
        Line(
            COMPLETE,
            ("test, report", blank, blank, blank, formats.duration(latest.end), formats.duration(end)),
        )
    )
    pace = latest.pace
    return Section(
        title="Time",
        said=(
            f"{formats.duration(summary.hours * 3600)} were asked for, and {formats.duration(summary.total_seconds)} "
            f"were taken. The last plan of each phase, made when it began, by the pace of then: at the end "
            f"{1 / pace['train']:.1f} training examples a second, {1 / pace['score']:.0f} scored."
        ),
        columns=(
            Column("phase", left=True, status=True),
            Column("runs"),
            Column("training examples"),
            Column("passes"),
            Column("planned"),
            Column("taken"),
        ),
        lines=tuple(lines),
    )


def of_runs(told: Told, outcome: PhaseOutcome) -> Section:
    """Return the table of a phase's runs."""
    settings, summary = told.settings, told.summary
    names = [Column(formats.parameter(path)) for path in settings.search.space]
    looks = {Status.COMPLETE: COMPLETE, Status.FAILED: FAILED}
    return Section(
        title=outcome.name.capitalize(),
        said=(
            f"{len(outcome.runs)} {outcome.noun}s on {formats.count(outcome.train_examples)} training examples each, "
            f"in {formats.duration(outcome.seconds)}."
        ),
        columns=(
            Column(outcome.noun),
            Column("of", left=True, status=True),
            Column("seed"),
            Column(f"validation {summary.metric}"),
            *names,
            Column("steps"),
            Column("time"),
        ),
        lines=tuple(
            Line(
                looks.get(run.status, STOPPED),
                (
                    str(run.number),
                    run.entrant or formats.NONE,
                    formats.NONE if run.seed is None else str(run.seed),
                    formats.score(run.score),
                    *_values(run.params, settings),
                    f"{formats.count(run.step)} / {formats.count(run.total_steps)}",
                    formats.duration(run.seconds),
                ),
                run.reason,
            )
            for run in outcome.runs
        ),
    )


def _values(params: Mapping[str, Any], settings: Settings) -> list[str]:
    """Return the text of each searched parameter's value."""
    return [formats.value(params[path]) if path in params else formats.NONE for path in settings.search.space]
