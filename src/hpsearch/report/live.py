"""The page of a study that has no result yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch import formats
from hpsearch.report import plots
from hpsearch.report.page import pages
from hpsearch.report.sections import COMPLETE, FAILED, STOPPED, Column, Line, Section
from hpsearch.state.records import Points, Status, TrialRecord

SECONDS = 5  # between two looks
LOOKS = {Status.COMPLETE: COMPLETE, Status.FAILED: FAILED}


@dataclass(frozen=True)
class Trial:
    """What one trial has come to."""

    phase: str
    record: TrialRecord
    examples: int | None
    """Training examples; None: all that the study uses."""
    points: Points
    """Of its curves."""


@dataclass(frozen=True)
class Now:
    """What a study has come to."""

    study: str
    state: str
    metric: str
    best: float | None
    """On validation."""
    facts: tuple[tuple[str, str], ...]
    """Name and text."""
    trials: Sequence[Trial]
    """In the order in which they began."""


def page(now: Now) -> str:
    """As HTML, which loads nothing and renews itself."""
    done = [one for one in now.trials if one.record.status is Status.COMPLETE]
    reached = [
        plots.Reached(one.examples, one.record.at, one.record.score, f"{one.phase} {one.record.number}")
        for one in done
        if one.record.at is not None and one.record.score is not None
    ]
    best = f"best validation {now.metric} so far: {formats.score(now.best)}"
    return (
        pages()
        .get_template("live.html.jinja")
        .render(
            now=now,
            metric=now.metric,
            headline=best if now.best is not None else "no trial is complete yet",
            scores=plots.over_time(reached, now.metric),
            section=_trials(now),
            seconds=SECONDS,
        )
    )


def _trials(now: Now) -> Section:
    """Newest first."""
    return Section(
        title="Trials",
        said="Newest first. The score is that of the last rung, or of the whole validation split at the end.",
        columns=(
            Column("phase", left=True),
            Column("number"),
            Column("status", left=True, status=True),
            Column("step"),
            Column(f"validation {now.metric}"),
            Column("training loss"),
            Column("time"),
            Column("parameters", left=True),
        ),
        lines=tuple(map(_line, reversed(now.trials))),
    )


def _line(trial: Trial) -> Line:
    record = trial.record
    losses = [(step, metrics["train_loss"]) for step, metrics in trial.points if "train_loss" in metrics]
    step = max([record.step, *(step for step, _ in trial.points)])
    return Line(
        LOOKS.get(record.status, STOPPED),
        (
            trial.phase,
            str(record.number),
            str(record.status),
            f"{step:,}/{record.total_steps:,}" if record.total_steps else formats.count(step),
            formats.score(record.score),
            formats.score(losses[-1][1] if losses else None),
            formats.duration(sum(record.seconds.values())),
            formats.parameters(record.shown),
        ),
        record.reason,
    )
