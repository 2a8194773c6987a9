"""What the books keep of thousands of trials, and what they delete."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpsearch.coordinator.books import Books, free_disk
from hpsearch.state.folder import TrialFolder
from hpsearch.state.records import Status, TrialRecord, add_points


def phase_of(root: Path, *trials: TrialRecord) -> Any:
    for trial in trials:
        folder = TrialFolder(root / str(trial.number))
        folder.model.mkdir(parents=True)
        (folder.path / "checkpoint-10").mkdir()
    return SimpleNamespace(
        trials={trial.number: trial for trial in trials}, trial_folder=lambda number: TrialFolder(root / str(number))
    )


def ended(number: int, status: Status = Status.COMPLETE) -> TrialRecord:
    return TrialRecord(number, {}, status, score=0.5, step=20, total_steps=40)


def test_a_model_goes_once_another_one_is_kept(tmp_path: Path) -> None:
    first, second, running = ended(0), ended(1), TrialRecord(2, {}, Status.RUNNING)
    phase, freed = phase_of(tmp_path, first, running), set[int]()
    place = phase.trial_folder
    free_disk(phase, [first], freed)
    assert place(0).model.exists()
    assert not place(0).checkpoints()
    assert place(2).checkpoints(), "it goes on from there"
    phase.trials |= phase_of(tmp_path / "more", second).trials
    (tmp_path / "more" / "1").rename(tmp_path / "1")
    free_disk(phase, [second], freed)
    assert not place(0).model.exists()
    assert place(1).model.exists()
    assert freed == {0}


def test_trials_that_left_nothing_are_not_looked_at_again_before_the_end(tmp_path: Path) -> None:
    phase, freed = phase_of(tmp_path, ended(0), ended(1, Status.PRUNED)), set[int]()
    free_disk(phase, [], freed)
    late = phase.trial_folder(1).path / "checkpoint-20"
    late.mkdir()  # a worker that was thought to be dead has written it
    free_disk(phase, [], freed)
    assert late.exists()
    free_disk(phase, [])
    assert not late.exists()


@pytest.mark.parametrize("status", list(Status))
def test_the_steps_of_trials_are_known_after_a_restart(status: Status, tmp_path: Path) -> None:
    phase = phase_of(tmp_path, ended(0, status))
    for step in (10, 20, 30):
        add_points(phase.trial_folder(0).path, step, {"train_loss": 0.5})
    nobody: Any = None
    books = Books(phase, nobody, nobody, nobody, nobody)
    whole = status in (Status.COMPLETE, Status.PRUNED)
    assert books.trained == {0: 20 if whole else 30}
    assert books.logged == ({} if status.final else {0: {(step, "train_loss") for step in (10, 20, 30)}})
