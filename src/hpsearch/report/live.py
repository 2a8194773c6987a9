"""The page of a study that has no result yet."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpsearch import formats
from hpsearch.report import plots
from hpsearch.report.page import pages
from hpsearch.report.sections import COMPLETE, FAILED, STOPPED, Column, Line, Section
from hpsearch.state.records import Points, Status, TrialRecord, last_step

SECONDS = 5  # between two reloads of the page
LOOKS = {Status.COMPLETE: COMPLETE, Status.FAILED: FAILED}


@dataclass(frozen=True)
class Trial:
    """The present state of one trial."""

    phase: str
    record: TrialRecord
    examples: int | None
    """Number of training examples; None means all that the study uses."""
    points: Points
    """Points of its curves."""


@dataclass(frozen=True)
class Now:
    """The present state of a study."""

    study: str
    state: str
    metric: str
    best: float | None
    """Best score on validation so far; None before the first complete trial."""
    facts: tuple[tuple[str, str], ...]
    """Facts of the study: (name, text)."""
    trials: Sequence[Trial]
    """The trials, in the order in which they began."""


def page(now: Now) -> str:
    """Return the page as HTML. It loads nothing from elsewhere and reloads itself."""
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
    """Return the table of trials, newest first."""
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
    step = last_step(record, trial.points)
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
