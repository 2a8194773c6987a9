import io
import re
from typing import Any, Literal

import pytest
from rich.console import Console

from hpsearch.report.display import Display
from hpsearch.state.messages import Decision
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES, Objective

PARAMS = {"train.learning_rate": 2.13e-4, "train.batch_size": 16}


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A display with what it has written so far, control codes taken out."""

    def __init__(self, terminal: bool, objective: Objective = OBJECTIVES["accuracy"]) -> None:
        self.file, self.clock = io.StringIO(), Clock()
        self.console = Console(file=self.file, force_terminal=terminal, width=140)
        self.display = Display(self.console, objective, self.clock)

    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.file.getvalue())

    def panel(self) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(self.display._panel())
        return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture(params=[True, False], ids=["terminal", "plain"])
def screen(request: pytest.FixtureRequest) -> Screen:
    return Screen(request.param)


def record(number: int, status: Status = Status.COMPLETE, **fields: Any) -> TrialRecord:
    return TrialRecord(number, PARAMS, status, step=76, total_steps=76, **fields)


def test_a_whole_sweep_is_told_in_order(screen: Screen) -> None:
    with screen.display as display:
        display.phase("data")
        display.note("hardware: cpu, bfloat16")
        display.start([], 12, "trial")
        display.phase("search")
        display.trial_started(0, PARAMS, resumed=False)
        display.progress(0, 10, 76, {"train_loss": 0.6, "examples_per_second": 27.3}, 500)
        display.rung(0, 0, 0.75, Decision.PAUSE)
        display.trial_started(0, PARAMS, resumed=True)
        display.trial_ended(record(0, score=0.86))
        display.trial_ended(record(1, Status.PRUNED, score=0.7))
        display.trial_ended(record(2, Status.FAILED, reason="loss is nan [bold]at step 4[/bold]"))
    told = [
        "phase: data",
        "hardware: cpu, bfloat16",
        "trial 0 pauses at rung 1: accuracy 0.750",
        "trial 0 complete: accuracy 0.860, the best so far, 76/76 steps  learning_rate 2.13e-04  batch_size 16",
        "trial 1 pruned: accuracy 0.700",
        "trial 2 failed: loss is nan [bold]at step 4[/bold]",
    ]
    text = screen.text()
    places = [text.find(line) for line in told]
    assert -1 not in places, [line for line, place in zip(told, places, strict=True) if place < 0]
    assert places == sorted(places)


def test_plain_lines_are_dated_and_uncoloured() -> None:
    screen = Screen(terminal=False)
    with screen.display as display:
        display.note("x" * 300)
        display.trial_started(3, PARAMS, resumed=False)
    lines = screen.file.getvalue().splitlines()
    assert [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in lines] == [
        "x" * 300,
        "trial 3 begins: learning_rate 2.13e-04  batch_size 16",
    ]


def test_plain_progress_keeps_to_its_pace() -> None:
    screen = Screen(terminal=False)
    screen.display.trial_started(0, PARAMS, resumed=False)
    for step in range(1, 1001):
        screen.clock.now += 0.01
        screen.display.progress(0, step, 1000, {"train_loss": 0.5}, None)
    assert screen.text().count("trial 0: step") == 10  # every tenth of the steps
    screen.display.trial_started(1, PARAMS, resumed=False)
    for step in range(1, 91):
        screen.clock.now += 1
        screen.display.progress(1, step, 1000, {}, None)
    assert screen.text().count("trial 1: step") == 3  # every 30 seconds


def test_panel_shows_running_trial_counts_and_best() -> None:
    screen = Screen(terminal=True)
    display = screen.display
    assert "no trial is complete yet" in screen.panel()
    display.start([record(0, score=0.9), record(1, Status.PRUNED, score=0.6)], 12, "trial")
    display.phase("search")
    display.trial_started(5, PARAMS, resumed=False)
    display.progress(5, 20, 80, {"train_loss": 0.61, "examples_per_second": 27.31}, 400)
    display.rung(5, 0, 0.75, Decision.CONTINUE)
    display.trial_ended(record(6, score=0.8))  # not the best
    panel = screen.panel()
    for part in ("best accuracy so far: 0.900  trial 0", "4 of 12 trials", "1 running", "2 complete", "1 pruned"):
        assert part in panel
    row = next(line for line in panel.splitlines() if line.lstrip().startswith("5 "))
    for part in ("20/80", "0.750", "0.610", "27.3", "learning_rate 2.13e-04"):
        assert part in row
    display.rung(5, 0, 0.75, Decision.PAUSE)
    assert "20/80" not in screen.panel()
    assert "1 paused" in screen.panel()


def test_panel_shows_what_workers_of_each_node_do() -> None:
    screen = Screen(terminal=True)
    screen.display.staff({"n1": "search 3, 1 idle", "n2": "1 starting"})
    assert [line.strip() for line in screen.panel().splitlines()][-2:] == ["n1: search 3, 1 idle", "n2: 1 starting"]


def test_runs_are_counted_anew_and_called_runs(screen: Screen) -> None:
    with screen.display as display:
        display.start([record(0, score=0.9)], 12, "trial")
        display.start([], None, "run")
        run = record(0, score=0.8, entrant="trial 3", seed=1)
        display.trial_started(0, run.shown, resumed=False)
        display.trial_ended(run)
        assert "best accuracy so far: 0.800  run 0  of trial 3  seed 1" in screen.panel()
        assert "1 run: 1 complete" in screen.panel()
    assert "run 0 complete: accuracy 0.800, the best so far, 76/76 steps  of trial 3  seed 1" in screen.text()


@pytest.mark.parametrize(("direction", "best"), [("maximize", "0.900"), ("minimize", "0.700")])
def test_best_follows_the_direction(direction: Literal["maximize", "minimize"], best: str) -> None:
    screen = Screen(terminal=True, objective=Objective("accuracy", direction, share=True))
    for number, score in enumerate((0.8, 0.9, 0.7)):
        screen.display.trial_ended(record(number, score=score))
    assert f"so far: {best}" in screen.panel()


def test_time_left_follows_the_pace_of_the_whole_run() -> None:
    screen = Screen(terminal=True)
    display = screen.display
    display.phase("search")
    display.trial_started(0, PARAMS, resumed=True)
    screen.clock.now += 10
    display.progress(0, 500, 1000, {}, 300)  # the first 500 steps were not of this run
    assert "left" not in screen.panel()
    screen.clock.now += 10
    display.progress(0, 600, 1000, {}, 200)  # 100 steps in 20 s
    assert "20 s passed, about 40 s left" in screen.panel()
    display.phase("test")
    assert "left" not in screen.panel()


def test_a_point_that_comes_after_the_pause_is_no_error(screen: Screen) -> None:
    display = screen.display
    display.trial_started(0, PARAMS, resumed=False)
    display.rung(0, 0, 0.75, Decision.STOP)
    display.progress(0, 20, 80, {"train_loss": 0.5}, 10)
    assert "20/80" not in screen.panel()


@pytest.mark.parametrize("error", [BrokenPipeError, OSError])
def test_a_reader_that_goes_away_does_not_end_the_sweep(error: type[OSError], monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise error("gone")

    console = Console(file=Gone())
    # What rich does itself, but for turning this process's own standard output to /dev/null.
    monkeypatch.setattr(console, "on_broken_pipe", lambda: (_ for _ in ()).throw(SystemExit(1)))
    display = Display(console, OBJECTIVES["accuracy"])
    with display:
        display.note("one")
        display.note("two")
    assert console.quiet
