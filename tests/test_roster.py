"""What workers did: written line by line, read after a crash, added up over runs of the command."""

from dataclasses import replace
from pathlib import Path

import pytest

from hpsearch.report import plots, staffing
from hpsearch.state.folder import StudyFolder
from hpsearch.state.roster import (
    ENDED,
    IDLE,
    PARTS,
    STARTING,
    Carried,
    Doing,
    Roster,
    by_node,
    most_workers,
    present,
    staff,
)


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "toy")


def write(folder: StudyFolder, *said: tuple[float, int, str, str]) -> Roster:
    roster = Roster(folder)
    roster.begin(said[0][0])
    for at, worker, node, what in said:
        roster.tell(Doing(at, worker, node, what))
    return roster


def test_only_changes_are_written(folder: StudyFolder) -> None:
    roster = write(folder, (0.0, 0, "", STARTING))
    assert roster.tell(Doing(1.0, 0, "n1", IDLE))
    before = folder.roster.stat().st_size
    assert not roster.tell(Doing(2.0, 0, "n1", IDLE))
    assert folder.roster.stat().st_size == before
    assert roster.tell(Doing(3.0, 0, "n1", "search 1"))
    assert present(folder) == [Doing(3.0, 0, "n1", "search 1")]


def test_the_present_is_that_of_the_last_run_by_node(folder: StudyFolder) -> None:
    write(folder, (0.0, 0, "n1", "search 1"), (0.0, 7, "n1", "search 2"))
    write(
        folder,
        *((10.0, 0, "n2", "search 3"), (10.0, 1, "n1", IDLE), (10.0, 2, "", STARTING), (10.0, 3, "n2", IDLE)),
        *((10.0, 4, "n2", IDLE), (11.0, 5, "n1", "search 4"), (12.0, 5, "n1", ENDED)),
    )
    found = present(folder)
    assert [(one.node, one.worker) for one in found] == [("n1", 1), ("n2", 0), ("n2", 3), ("n2", 4), ("", 2)]
    assert by_node(found) == {"n1": "1 idle", "n2": "search 3, 2 idle", "on no node yet": "1 starting"}


def test_times_are_added_up_over_the_runs_of_a_command(folder: StudyFolder) -> None:
    assert staff(folder) is None
    first = ((100.0, 0, "", STARTING), (110.0, 0, "n1", "search 0"), (150.0, 0, "n1", IDLE), (160.0, 0, "n1", ENDED))
    write(folder, *first)
    # The command goes on an hour later with two workers, and is killed when trial 2 has gone on for 20 seconds.
    write(
        folder,
        *((4000.0, 0, "n1", "search 1"), (4000.0, 1, "n2", "search 2"), (4020.0, 0, "n1", IDLE)),
    )
    with open(folder.roster, "a", encoding="utf-8") as file:
        file.write('{"at": 4050.0, "wor')
    found = staff(folder)
    assert found is not None
    assert (found.workers, found.nodes, found.seconds) == (2, {"n1": 1, "n2": 1}, 80.0)
    assert (found.working, found.waiting, found.starting) == (40.0 + 20.0 + 20.0, 10.0, 10.0)
    assert len(found.there) == len(found.busy) == PARTS
    length = found.seconds / PARTS
    assert sum(found.busy) * length == pytest.approx(found.working, rel=0.01)
    assert sum(found.there) * length == pytest.approx(60.0 + 40.0, rel=0.01)
    assert (found.there[0], found.busy[0], found.busy[-1]) == (1.0, 0.0, 2.0)
    write(folder, (5000.0, 0, "n1", IDLE), (5010.0, 0, "n1", ENDED))  # no line was lost to the one that was cut off
    assert (again := staff(folder)) is not None
    assert (again.working, again.waiting) == (80.0, 20.0)


def test_a_worker_that_is_replaced_starts_anew(folder: StudyFolder) -> None:
    write(folder, (0.0, 0, "n1", "search 0"), (5.0, 0, "", STARTING), (8.0, 0, "n2", "search 0"), (9.0, 0, "n2", ENDED))
    found = staff(folder)
    assert found is not None
    assert (found.working, found.waiting, found.starting) == (6.0, 0.0, 3.0)
    assert (found.workers, found.nodes) == (1, {"n1": 1, "n2": 1})


def test_the_report_says_and_shows_how_busy_workers_were(folder: StudyFolder) -> None:
    write(
        folder,
        *((0.0, 0, "n1", "search 0"), (0.0, 1, "", STARTING), (20.0, 1, "n2", "search 1"), (80.0, 1, "n2", IDLE)),
        *((100.0, 0, "n1", ENDED), (100.0, 1, "n2", ENDED)),
    )
    found = staff(folder)
    assert found is not None
    assert staffing.said(found) == (
        "2 workers on 2 nodes worked 80% of the time that they were there. They waited for work 10% of it, which is "
        "20 s of one worker, and took 10% to start. By node: n1 1, n2 1."
    )
    drawn = plots.workers(found)
    assert "minutes with workers" in drawn
    assert drawn.count("<polyline") == 2


def test_a_clock_that_is_set_back_loses_time_and_nothing_else(folder: StudyFolder) -> None:
    write(folder, (5000.0, 0, "n1", "search 0"), (1400.0, 0, "n1", IDLE), (1410.0, 0, "n1", "search 1"))
    assert staff(folder) is None, "no time has passed that is known"
    write(folder, (5000.0, 0, "n1", "search 2"), (5010.0, 0, "n1", IDLE), (1410.0, 0, "n1", ENDED))
    found = staff(folder)
    assert found is not None
    assert (found.seconds, found.working, found.waiting) == (10.0, 10.0, 0.0)


def test_what_cannot_be_written_or_read_ends_nothing(folder: StudyFolder, tmp_path: Path) -> None:
    folder.path.mkdir()
    folder.workers.write_text("a file where the folder should be")
    roster = write(folder, (0.0, 0, "n1", "search 0"))
    assert roster.tell(Doing(1.0, 0, "n1", IDLE))
    assert staff(folder) is None
    other = StudyFolder(tmp_path / "other")
    write(other, (0.0, 0, "n1", "search 0"), (1.0, 0, "n1", ENDED))
    with open(other.roster, "ab") as file:
        file.write(b"\xff\xfe\n")
    assert (found := staff(other)) is not None
    assert found.working == 1.0


def test_what_travelled_is_added_up_and_said(folder: StudyFolder) -> None:
    assert most_workers(folder) == 0
    told = [(0.0, 0, "n1", "search 0"), (10.0, 0, "n1", ENDED)]
    write(folder, *told).carried(None)
    found = staff(folder)
    assert found is not None
    assert found.carried is None
    assert "sent to nodes" not in staffing.said(found)
    assert not staffing.worth_saying(found)
    alone = replace(found, carried=Carried(1_000_000, 0))
    assert staffing.worth_saying(alone)
    assert staffing.said(alone) == (
        "One worker worked 100% of the time that it was there. It waited for work 0% of it, which is 0.0 s of one "
        "worker, and took 0% to start. 1.0 MB were sent to nodes, and 0.0 MB came back."
    )
    running = write(folder, *told)
    running.carried(Carried(sent=1_000_000))  # before the report
    running.carried(Carried(sent=2_000_000, fetched=300_000))
    write(folder, (0.0, 3, "n2", "search 1"), (10.0, 3, "n2", ENDED)).carried(Carried(sent=500_000))
    found = staff(folder)
    assert found is not None
    assert found.carried == Carried(2_500_000, 300_000)
    assert staffing.said(found).endswith("By node: n1 1, n2 1. 2.5 MB were sent to nodes, and 0.3 MB came back.")
    assert present(folder) == []
    assert most_workers(folder) == 4, "a study that had four workers at once has their hours counted so"
