"""Live progress of a sweep: a panel that redraws itself on a terminal, plain lines with the time elsewhere."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpsearch.formats import count, duration, parameters, score
from hpsearch.state.messages import Decision
from hpsearch.state.plans import PlanMade
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import Objective

# Without a terminal, a running trial prints a line after this time or share of its steps, whichever comes first.
LINE_SECONDS = 30.0
LINE_SHARE = 0.1

AT_RUNG = {Decision.CONTINUE: "goes on", Decision.PAUSE: "pauses", Decision.STOP: "stops"}


@dataclass(frozen=True)
class Running:
    """A trial that a worker is training, as of its last message."""

    number: int
    params: Mapping[str, Any]
    step: int | None = None  # None until a resumed trial reports: it begins at its checkpoint
    total_steps: int = 0
    validation: float | None = None
    train_loss: float | None = None
    examples_per_second: float | None = None
    said_at: float = 0.0  # clock reading of its last plain line
    said_step: int = 0  # step of its last plain line


class Display:
    """The display of what the coordinator reports. Use it as a context manager."""

    def __init__(self, console: Console, objective: Objective, clock: Callable[[], float] = time.monotonic) -> None:
        """Create the display. `objective` decides which trial is the best so far; `clock` gives seconds."""
        self.console, self.objective, self.metric, self.clock = console, objective, objective.name, clock
        self.began = clock()
        self.searching_since: float | None = None  # start of the first trial; before it, no step is trained
        self.steps_seen = 0
        self.remaining_steps: int | None = None
        self.total: int | None = None
        self.noun = "trial"
        self.phase_name = ""
        self.statuses: dict[int, Status] = {}
        self.running: dict[int, Running] = {}
        self.best: TrialRecord | None = None
        self.nodes: Mapping[str, str] = {}
        self._lock = threading.Lock()  # a thread of its own redraws the panel
        self._live = (
            Live(console=console, get_renderable=self._panel, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Display":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def start(self, earlier: Iterable[TrialRecord], total: int | None, noun: str) -> None:
        """Start the display of a phase's trials or runs.

        Args:
            earlier: Trials from an earlier run of the command. They are counted and compared with, but not printed.
            total: Number of trials that the phase will have; None if it is not known.
            noun: What one of them is called.
        """
        with self._lock:
            self.total, self.noun, self.statuses, self.best = total, noun, {}, None
            self.searching_since, self.steps_seen = None, 0
        for record in earlier:
            if record.status.final:
                self._book(record)
            else:
                self.statuses[record.number] = record.status
        if self.statuses:
            self._say(f"continuing with {self._so_far(len(self.statuses))} from before")

    def phase(self, name: str) -> None:
        """Show the current phase: data, search, confirmation, test, report."""
        with self._lock:
            self.phase_name, self.remaining_steps = name, None
        self._say(f"phase: {name}", style="dim")

    def plan(self, made: PlanMade) -> None:
        """Print how the remaining time is planned."""
        end = (datetime.fromisoformat(made.time) + timedelta(seconds=made.left)).astimezone()
        self._say(f"plan: {duration(max(0.0, made.left))} are left, the end is at {end:%H:%M:%S}", style="yellow")
        for step in made.steps:
            runs = f"{step.runs} {'run' if step.runs == 1 else 'runs'} on {count(step.examples)} training examples"
            self._say(
                f"  {step.phase:<13}{duration(step.seconds):>12}  {runs}, {step.passes:.2g} passes", style="yellow"
            )
        self._say(f"  {'test, report':<13}{duration(made.end):>12}", style="yellow")

    def note(self, text: str) -> None:
        """Print a choice that was made on the user's behalf, or a warning."""
        self._say(text, style="yellow")

    def staff(self, nodes: Mapping[str, str]) -> None:
        """Show on the panel what the workers of each node do."""
        self.nodes = nodes

    def trial_started(self, number: int, params: Mapping[str, Any], resumed: bool) -> None:
        """Show that a worker has started a trial, or resumed it from its checkpoint."""
        now = self.clock()
        with self._lock:
            self.searching_since = self.searching_since if self.searching_since is not None else now
            self.statuses[number] = Status.RUNNING
            self.running[number] = Running(number, params, step=None if resumed else 0, said_at=now)
        if not self._live:
            self._say(f"{self.noun} {number} {'goes on' if resumed else 'begins'}: {parameters(params)}")

    def progress(
        self, number: int, step: int, total_steps: int, metrics: Mapping[str, float], remaining_steps: int | None
    ) -> None:
        """Show new metrics of a running trial; `remaining_steps` are the steps that the whole search still plans."""
        now = self.clock()
        with self._lock:
            before = self.running.get(number)
            if before is None:  # the trial ended or stopped at a rung while this was on its way
                return
            if before.step is not None:  # steps of a resumed trial count from its first report on
                self.steps_seen += max(0, step - before.step)
            self.remaining_steps = remaining_steps
            trial = replace(
                before,
                step=step,
                total_steps=total_steps,
                validation=metrics.get(f"validation_{self.metric}", before.validation),
                train_loss=metrics.get("train_loss", before.train_loss),
                examples_per_second=metrics.get("examples_per_second", before.examples_per_second),
            )
            due = now - trial.said_at >= LINE_SECONDS or step - trial.said_step >= LINE_SHARE * total_steps
            if due:
                trial = replace(trial, said_at=now, said_step=step)
            self.running[number] = trial
        if due and not self._live:
            left = f", {text} left" if (text := self._time_left()) else ""
            self._say(f"{self.noun} {number}: step {step}/{total_steps}{_measures(trial)}{left}")

    def rung(self, number: int, rung: int, score_there: float, decision: Decision) -> None:
        """Show a trial's score at a rung and whether it continues."""
        with self._lock:
            trial = self.running[number]
            if decision is Decision.CONTINUE:
                self.running[number] = replace(trial, validation=score_there)
            else:
                self.statuses[number] = Status.PAUSED
                del self.running[number]
        found = f"{self.metric} {score(score_there)}"
        self._say(f"{self.noun} {number} {AT_RUNG[decision]} at rung {rung + 1}: {found}  {parameters(trial.params)}")

    def trial_ended(self, record: TrialRecord) -> None:
        """Show that a trial has a final status, or was paused between rungs."""
        is_best = self._book(record)
        if not record.status.final:
            return
        if record.status is Status.FAILED:
            self._say(f"{self.noun} {record.number} failed: {record.reason}  {parameters(record.shown)}", style="red")
            return
        style = {Status.COMPLETE: "bold" if is_best else "", Status.PRUNED: "dim"}[record.status]
        found = f"{self.metric} {score(record.score)}{', the best so far' if is_best else ''}"
        steps = f"{record.step}/{record.total_steps} steps"
        self._say(
            f"{self.noun} {record.number} {record.status}: {found}, {steps}  {parameters(record.shown)}", style=style
        )

    def _book(self, record: TrialRecord) -> bool:
        """Count a record; return whether it is the best complete trial so far."""
        with self._lock:
            self.running.pop(record.number, None)
            self.statuses[record.number] = record.status
            if record.status is not Status.COMPLETE or record.score is None:
                return False
            if self.best is None or self.best.score is None or self.objective.better(record.score, self.best.score):
                self.best = record
            return self.best is record

    def _so_far(self, count: int) -> str:
        if self.total is not None:
            return f"{count} of {self.total} {self.noun}s"
        return f"{count} {self.noun}{'' if count == 1 else 's'}"

    def _time_left(self) -> str | None:
        """Return the expected remaining time, by the steps a second since the first trial began."""
        if self.remaining_steps is None or not self.steps_seen or self.searching_since is None:
            return None
        return duration(self.remaining_steps * (self.clock() - self.searching_since) / self.steps_seen)

    def _say(self, text: str, style: str = "") -> None:
        if not self._live:
            text, style = f"{time.strftime('%H:%M:%S')}  {text}", ""
        try:
            self.console.print(Text(text, style=style), soft_wrap=not self._live)
        except (OSError, SystemExit):  # rich turns a closed pipe into SystemExit
            self.console.quiet = True  # the reader of the output is gone; the sweep continues

    # ---- the panel

    def _panel(self) -> RenderableType:
        with self._lock:
            parts: list[RenderableType] = [Text(), self._headline(), self._counts()]
            if self.running:
                parts.append(self._table())
            for node, what in self.nodes.items():
                parts.append(Text(f"{node}: {what}", style="dim", no_wrap=True, overflow="ellipsis"))
            return Group(*parts)

    def _headline(self) -> Text:
        if self.best is None:
            return Text(f"best {self.metric} so far: no {self.noun} is complete yet", style="bold", no_wrap=True)
        found = (f"best {self.metric} so far: {score(self.best.score)}", "bold green")
        shown = f"  {self.noun} {self.best.number}  {parameters(self.best.shown)}"
        return Text.assemble(found, shown, no_wrap=True)

    def _counts(self) -> Text:
        counts = Counter(self.statuses.values())
        named = [f"{counts[status]} {status}" for status in Status if counts[status]]
        trials = self._so_far(len(self.statuses)) + (f": {', '.join(named)}" if named else "")
        left = f", about {text} left" if (text := self._time_left()) else ""
        times = f"{self.phase_name}: {duration(self.clock() - self.began)} passed{left}"
        return Text(f"{times}\n{trials}", style="dim", no_wrap=True, overflow="ellipsis")

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in (self.noun, "steps", "", self.metric, "loss", "examples/s"):
            justify: Literal["left", "right"] = "right" if heading else "left"
            table.add_column(heading, justify=justify, no_wrap=True, min_width=max(5, len(heading)))
        table.add_column("parameters", no_wrap=True, overflow="ellipsis", ratio=1)
        for trial in self.running.values():
            step = trial.step or 0
            table.add_row(
                str(trial.number),
                f"{step}/{trial.total_steps}" if trial.total_steps else "starting",
                ProgressBar(total=trial.total_steps or 1, completed=step, width=20),
                score(trial.validation),
                score(trial.train_loss),
                "-" if trial.examples_per_second is None else f"{trial.examples_per_second:.1f}",
                Text(parameters(trial.params)),
            )
        return table


def _measures(trial: Running) -> str:
    known = {"validation": trial.validation, "loss": trial.train_loss}
    text = "".join(f", {name} {score(number)}" for name, number in known.items() if number is not None)
    rate = trial.examples_per_second
    return text + (f", {rate:.1f} examples/s" if rate is not None else "")
