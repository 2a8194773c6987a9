"""The state of the studies in a state folder, read from their files alone."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from hpsearch import formats
from hpsearch.coordinator.clock import read_seconds
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder, phase_of
from hpsearch.state.locks import holder
from hpsearch.state.outcome import read_summary
from hpsearch.state.plans import Plans
from hpsearch.state.records import Status, TrialRecord, last_step, read_points
from hpsearch.state.roster import Doing, by_node, present
from hpsearch.state.stored_settings import settings_of
from hpsearch.tasks.objectives import OBJECTIVES

NARROW = 100  # columns of a terminal, below which there is no table
WATCH_SECONDS = 2.0  # between two updates of the table


@dataclass(frozen=True)
class Going:
    """A trial that is running."""

    phase: str
    number: int
    step: int
    """The last step that it has reported."""
    total_steps: int
    """0 until its first rung."""
    node: str | None = None
    """Name of the machine that trains it."""


@dataclass(frozen=True)
class Standing:
    """The state of one study."""

    study: str
    state: str
    """running, finished or stopped. The same command continues a stopped study."""
    process: int | None
    """Process id of the study's coordinator on this machine; None: the study is not running."""
    phase: str | None
    trials: dict[str, int]
    """Number of trials with each status, over all phases."""
    metric: str
    best: float | None
    """Best validation score in the last phase that has a complete trial."""
    test: float | None
    """Test score of the winner; None: the study has no result."""
    hours: float | None
    """Hours of the study's budget."""
    spent: float
    """Seconds spent so far, without those of the current phase."""
    ends: str | None
    """Local time at which a running study ends by its last plan, in ISO 8601."""
    going: tuple[Going, ...]
    workers: tuple[Doing, ...] = ()
    """What each worker of a running study does, by node."""


def standings(home: Path, study: str | None) -> list[Standing]:
    """Return the state of one study, or of all studies if `study` is None.

    Raises:
        RequestError: There is no such study, or one of its files is damaged.
    """
    folders = [folder for folder in StudyFolder.all(home) if folder.settings.exists()]
    if study is None:
        return [_standing(folder) for folder in folders]
    return [_standing(StudyFolder.begun(home, study))]


def _standing(folder: StudyFolder) -> Standing:
    asked = settings_of(folder)
    objective = OBJECTIVES[asked.task.metric]
    records = {place: [TrialRecord.load(trial.path) for trial in folder.trials(place)] for place in folder.places()}
    best = None
    for found in records.values():
        scores = [one.score for one in found if one.status is Status.COMPLETE and one.score is not None]
        best = max(scores, key=objective.worth) if scores else best
    process, summary = holder(folder), read_summary(folder)
    made = codec.read_file(Plans, folder.plans, "delete it")
    last = made.made[-1] if made is not None and made.made else None
    finished = summary is not None and folder.published.exists()
    return Standing(
        study=folder.name,
        state="running" if process is not None else "finished" if finished else "stopped",
        process=process,
        phase=next(map(phase_of, reversed(records)), None),
        trials=dict(Counter(one.status.value for found in records.values() for one in found)),
        metric=objective.name,
        best=best,
        test=summary.test.value if summary is not None else None,
        hours=asked.budget.hours,
        spent=sum(read_seconds(folder).values()),
        ends=_end(last.time, last.left) if last is not None and process is not None else None,
        going=tuple(
            Going(phase_of(place), one.number, _step(folder, place, one), one.total_steps, one.node)
            for place, found in records.items()
            for one in found
            if one.status is Status.RUNNING
        ),
        workers=tuple(present(folder)) if process is not None else (),
    )


def _end(made: str, left: float) -> str:
    return (datetime.fromisoformat(made) + timedelta(seconds=left)).astimezone().isoformat(timespec="seconds")


def status(home: Path, study: str | None, as_json: bool, watch: bool) -> None:
    """Print the state of the studies; with `watch` repeatedly, until Ctrl-C. Raises RequestError like `standings`."""
    if as_json:
        print(json.dumps([asdict(one) for one in standings(home, study)], indent=1))
        return
    console = Console()
    if not watch:
        console.print(Group(*_shown(standings(home, study), home, console.width)))
        return
    with Live(console=console, screen=False, auto_refresh=False) as live:
        while True:
            live.update(Group(*_shown(standings(home, study), home, console.width)), refresh=True)
            time.sleep(WATCH_SECONDS)


def _shown(found: Sequence[Standing], home: Path, width: int) -> Iterator[Table | str]:
    """Yield a table, or a paragraph for each study where the terminal is too narrow for a table."""
    if not found:
        yield f"there is no study in {home}"
        return
    rows = [cells(one) for one in found]
    if width < NARROW:
        for row in rows:
            yield f"{row.pop('study')}: " + ", ".join(f"{name} {text}" for name, text in row.items())
    else:
        table = Table(box=None)
        for name in rows[0]:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        yield table
    for one in found:
        for trial in one.going if one.process is not None else ():
            of = f" of {trial.total_steps:,}" if trial.total_steps else ""
            yield f"{one.study}: {trial.phase} {trial.number} is at step {trial.step:,}{of}"
        if len(one.workers) > 1:
            yield from (f"{one.study}: {node}: {what}" for node, what in by_node(one.workers).items())


def _step(folder: StudyFolder, place: str, trial: TrialRecord) -> int:
    return last_step(trial, read_points(folder.trial(place, trial.number).path))


def cells(one: Standing) -> dict[str, str]:
    """Return what people see of a study: a text for each name."""
    ends = datetime.fromisoformat(one.ends).strftime("%H:%M:%S") if one.ends is not None else formats.NONE
    return {
        "study": one.study,
        "state": one.state,
        "phase": one.phase or formats.NONE,
        "trials": ", ".join(f"{count} {status}" for status, count in sorted(one.trials.items())) or formats.NONE,
        "best": formats.score(one.best),
        "test": formats.score(one.test),
        "spent": formats.duration(one.spent),
        "ends": ends,
    }
