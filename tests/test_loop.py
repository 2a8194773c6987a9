"""The loop of a phase, where no real worker shows it in time."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hpsearch.coordinator.headcount import Headcount
from hpsearch.coordinator.loop import Loop
from hpsearch.state.folder import StudyFolder


def test_no_worker_that_is_busy_still_is_left_to_the_next_phase(tmp_path: Path) -> None:
    """The next phase would take its messages for those of its own trials."""
    busy, idle = SimpleNamespace(trial=3, ready=True), SimpleNamespace(trial=None, ready=True)
    paused: list[Any] = []
    renewed: list[Any] = []
    for worker in (busy, idle):
        worker.pause = lambda worker=worker: paused.append(worker)
    crew = SimpleNamespace(
        workers=[busy, idle],
        interrupted=False,
        workplace=SimpleNamespace(saving_seconds=0.0),
        renew=renewed.append,
        headcount=Headcount(scales=False),
    )
    study = SimpleNamespace(folder=StudyFolder(tmp_path))
    phase: Any = SimpleNamespace(hours=0.0, clocked=0.0, study=study, done=lambda: False, trials={}, total=None)
    phase.over = lambda hours: "the hours are over"
    notes: list[str] = []
    Loop(phase, SimpleNamespace(), crew, SimpleNamespace(note=notes.append)).run()  # type: ignore[arg-type]
    assert notes == ["the hours are over"]
    assert paused == [busy, idle]
    assert renewed == [busy]
