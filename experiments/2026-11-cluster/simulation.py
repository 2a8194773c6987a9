"""What does the coordinator do with thousands of trials on hundreds of workers? Writes simulation-<trials>.md.

python simulation.py [--trials 10000] [--workers 256] [--lost 0.03]

The coordinator is the real one: schedule, sampler, SQLite, records on disk. Workers are made, and time is virtual. The
time that the coordinator itself takes counts as it is, so workers wait for it as they would. Each worker is lost with a
probability of 3 % in every 10 seconds, as in Ray's own chaos test. A trial has checkpoints as a real one has: at each
rung, and every `hardware.checkpoint_seconds`, here 60.
"""

import argparse
import heapq
import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import search
import sleeper

from hpsearch.config.settings import Settings
from hpsearch.coordinator.phase import Phase
from hpsearch.state.messages import (
    Decision,
    FitFloor,
    Fits,
    Lost,
    Message,
    Pace,
    Probe,
    Progress,
    Ready,
    RungReport,
    Score,
    Train,
)
from hpsearch.state.records import Status
from hpsearch.workers.interface import Worker

HERE = Path(__file__).parent
TRIAL_SECONDS = 600.0  # of a whole trial
PROGRESS_SECONDS = 30.0  # between two reports of progress
CHECKPOINTS = "hardware.checkpoint_seconds=60"
LOSS_SECONDS = 10.0  # in which a worker is lost with the probability that is given


class Made:
    """A worker in virtual time."""

    leaving = False

    def __init__(self, index: int, place: "Place") -> None:
        self.index, self.place, self.ready, self.silent_seconds = index, place, True, 0.0
        self.node, self.output, self.over = f"n{index // 8}", "", False
        self.work: Train | None = None
        self.trial: int | None = None
        self.until = 0.0  # when its present stretch of training ends
        place.later(0.0, self, Ready(sleeper.HARDWARE))
        place.later(place.lifetime(), self, Lost(0, "lost"))

    def give(self, work: Train | Score | FitFloor) -> None:
        """See Worker."""
        assert isinstance(work, Train)
        self.trial, self.work = work.number, work
        self.at = self.place.steps.get(work.number, 0.0)
        self.go_on()

    def go_on(self) -> None:
        """Train up to the next rung or the end."""
        assert self.work is not None
        settings, number = self.work.settings, self.work.number
        rungs = sleeper.rungs(settings)
        ahead = [step for step in rungs if step > self.at]
        step = min(ahead, default=sleeper.STEPS)
        seconds = TRIAL_SECONDS * (step - self.at) / sleeper.STEPS
        self.began, self.from_step = self.place.now, self.at
        found = sleeper.score(settings, number, step / sleeper.STEPS)
        metrics = {"validation_accuracy": found, "validation_loss": 1 - found}
        message: Message = (
            RungReport(number, rungs[step], step, sleeper.STEPS, found, metrics)
            if ahead
            else sleeper.result(number, Status.COMPLETE, step, found, TRIAL_SECONDS)
        )
        self.until, self.message, self.steps_a_second = self.place.now + seconds, message, (step - self.at) / seconds
        self.at = float(step)
        self.speak()

    def speak(self) -> None:
        """Report progress now and then, and at last the end of this stretch. The worker works on meanwhile."""
        assert self.trial is not None
        left = self.until - self.place.now
        if left <= PROGRESS_SECONDS:
            self.place.later(max(0.0, left), self, self.message)
            return
        step = int(self.at - (left - PROGRESS_SECONDS) * self.steps_a_second)
        progress = Progress(self.trial, step, sleeper.STEPS, {"train_loss": 0.5})
        self.place.later(PROGRESS_SECONDS, self, progress)

    def answer(self, decision: Decision) -> None:
        """See Worker."""
        assert self.trial is not None
        if decision is not Decision.STOP:
            self.place.steps[self.trial] = self.at
        if decision is Decision.CONTINUE:
            self.go_on()
            return
        self.place.later(0.0, self, sleeper.result(self.trial, Status.PAUSED, int(self.at), None, 0.0))

    def die(self) -> None:
        """Leave the newest checkpoint of the trial behind."""
        if self.trial is None or self.work is None:
            return
        each = self.work.settings.hardware.checkpoint_seconds
        sealed = (min(self.place.now, self.until) - self.began) // each * each
        if sealed > 0:
            self.place.steps[self.trial] = self.from_step + sealed * self.steps_a_second

    def ask(self, question: Probe | Pace) -> None:
        """See Worker."""
        self.place.later(0.0, self, Fits(fits=True))

    def pause(self) -> None:
        """See Worker."""

    def retime(self, total_steps: int) -> None:
        """See Worker."""

    def end(self, timeout_seconds: float) -> None:
        """See Worker."""
        self.over = True


class Place:
    """A workplace in virtual time."""

    hardware, saving_seconds, carried = sleeper.HARDWARE, 20.0, None

    def __init__(self, count: int, lost: float, seed: int = 0) -> None:
        self.count, self.lost, self.random = count, lost, random.Random(seed)
        self.now, self.left = 0.0, time.perf_counter()
        self.events: list[tuple[float, int, Made, Message]] = []
        self.ticket = self.losses = 0
        self.steps: dict[int, float] = {}  # trial: step of its checkpoint
        self.busy = self.there = self.own = 0.0

    def lifetime(self) -> float:
        """Return the seconds until a worker is lost."""
        return self.random.expovariate(self.lost / LOSS_SECONDS) if self.lost else 1e12

    def later(self, seconds: float, worker: Made, message: Message) -> None:
        """Have a worker say something after these seconds."""
        self.ticket += 1
        heapq.heappush(self.events, (self.now + seconds, self.ticket, worker, message))

    def close(self) -> None:
        """See Workplace."""

    def start(self, index: int, output: str) -> Made:
        """See Workplace."""
        return Made(index, self)

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """See Workplace."""
        self.pass_on(time.perf_counter() - self.left, workers)
        self.own += time.perf_counter() - self.left
        while self.events and self.stale(self.events[0]):
            heapq.heappop(self.events)
        if self.events and self.events[0][0] > self.now:
            self.pass_on(self.events[0][0] - self.now, workers)
        due = []
        while self.events and self.events[0][0] <= self.now:
            event = heapq.heappop(self.events)
            if not self.stale(event):
                due.append((event[2], event[3]))
        self.left = time.perf_counter()
        for worker, message in due:
            if worker.over:
                continue
            if isinstance(message, Progress):
                worker.speak()
            if isinstance(message, Lost):
                self.losses += 1
                worker.die()
                message = Lost(None, message.reason)  # the loss of a node is no fault of its trial
            if not isinstance(message, RungReport | Ready | Fits | Progress):
                worker.trial = None
            yield worker, message

    def stale(self, event: tuple[float, int, Made, Message]) -> bool:
        """Return whether the worker of an event has ended."""
        return event[2].over

    def pass_on(self, seconds: float, workers: Sequence[Worker]) -> None:
        """Let time pass. A worker works until its rung or its end; then it waits for the coordinator."""
        then = self.now + seconds
        for worker in workers:
            assert isinstance(worker, Made), "it was started here"
            if worker.trial is not None:
                self.busy += max(0.0, min(then, worker.until) - self.now)
        self.there += seconds * self.count
        self.now = then


class Watched:
    """How long drawing a trial takes, and how much memory the coordinator has, as trials become more."""

    def __init__(self, path: Path, place: Place) -> None:
        self.path, self.place, self.began = path, place, time.perf_counter()
        self.drawn: list[float] = []
        self.lines: list[dict[str, float]] = []

    def __call__(self, phase: Phase) -> None:
        """Watch a search."""
        draw = phase.next

        def timed(hours: float) -> Any:
            before, began = len(phase.trials), time.perf_counter()
            found = draw(hours)
            if found is not None and found.number >= before:
                self.drawn.append(time.perf_counter() - began)
                if len(self.drawn) % EVERY == 0:
                    self.line(len(self.drawn))
            return found

        phase.next = timed  # type: ignore[method-assign]

    def line(self, trials: int) -> None:
        """Note where the search stands."""
        newest = sorted(self.drawn[-EVERY:])
        place = self.place
        self.lines.append(
            {
                "trials": trials,
                "draw": newest[len(newest) // 2],
                "draw_most": newest[-1],
                "megabytes": resident() / 2**20,
                "busy": place.busy / place.there if place.there else 0.0,
                "virtual_hours": place.now / 3600,
                "own_hours": place.own / 3600,
                "losses": place.losses,
            }
        )
        self.path.write_text(json.dumps(self.lines, indent=1))


EVERY, SHOWN = 250, 1000  # trials of a line, and of a line that the table shows


def resident() -> int:
    """Return the memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def settings_of(folder: Path, trials: int) -> Settings:
    """Return the settings of the search."""
    return search.settings_of(folder, trials, "search.rungs=[0.25,0.5]", "search.rungs_after=1", CHECKPOINTS)


def table(cells: Path, path: Path) -> None:
    """Write the table of a run."""
    lines = [
        "| trials | drawing one, median | at most | memory | workers busy | losses of workers | virtual hours | own |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    *before, last = json.loads(cells.read_text())
    for one in [*(one for one in before if one["trials"] % SHOWN == 0), last]:
        lines.append(
            f"| {one['trials']:,} | {1000 * one['draw']:.0f} ms | {1000 * one['draw_most']:.0f} ms | "
            f"{one['megabytes']:.0f} MB | {one['busy']:.1%} | {one['losses']:,} | {one['virtual_hours']:.2f} | "
            f"{60 * one['own_hours']:.1f} min |"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the search."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=256)
    parser.add_argument("--lost", type=float, default=0.03)
    given = parser.parse_args()
    name = f"simulation-{given.trials}"
    place, path = Place(given.workers, given.lost), HERE / "cells" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    watched = Watched(path, place)
    with tempfile.TemporaryDirectory() as scratch:
        settings = settings_of(Path(scratch), given.trials)
        phase = search.searched(settings, Path(scratch) / "home", place, told=False, watch=watched)
        watched.line(len(phase.trials))
    assert all(trial.status.final for trial in phase.trials.values()), "a trial is lost"
    assert all(trial.attempts == 0 for trial in phase.trials.values()), "a loss of a node counts as an attempt"
    table(path, HERE / f"{name}.md")


if __name__ == "__main__":
    main()
