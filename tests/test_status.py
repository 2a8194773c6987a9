"""What studies are doing, said from their files; a study that is stopped from elsewhere and goes on."""

import io
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch import cli
from hpsearch import status as status_module
from hpsearch.errors import RequestError
from hpsearch.state.folder import StudyFolder
from hpsearch.state.locks import Lock, holder
from hpsearch.state.records import Status, TrialRecord, add_points
from hpsearch.state.roster import IDLE, STARTING, Doing
from hpsearch.status import Standing, standings, status
from hpsearch.steering import stop

SECONDS = 300


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(list(words)) == 0
    return capsys.readouterr().out


def test_a_trial_is_at_the_step_that_it_has_reported_last(tmp_path: Path) -> None:
    """Its record is written at rungs and at its end alone."""
    folder = StudyFolder.of(tmp_path, "toy")
    place = folder.trial("trials", 3).path
    trial = TrialRecord(3, {}, Status.RUNNING, step=20)
    trial.save(place)
    assert status_module._step(folder, "trials", trial) == 20
    for step in (30, 60):
        add_points(place, step, {"train_loss": 0.5})
    assert status_module._step(folder, "trials", trial) == 60


@pytest.mark.slow
def test_a_running_study_is_seen_stopped_and_continued(
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home = tracked.new_home(tmp_path / "home")
    monkeypatch.setenv("HPSEARCH_HOME", str(home))
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    long = (
        "train.epochs=60",
        "search.space.train.epochs.choices=[60]",
        "budget.max_trials=3",
        "study=toy",
        "search.rungs=[]",
    )
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", *long)
    request, log = tmp_path / "settings.json", tmp_path / "log"
    request.write_text(json.dumps(settings.model_dump(mode="json")))
    assert "there is no study" in said(capsys, "status")
    coordinator = Coordinator(request, log, {"HPSEARCH_HOME": str(home)})

    def now() -> dict[str, Any]:
        [found] = json.loads(said(capsys, "status", "toy", "--json"))
        return dict(found)

    deadline = time.monotonic() + SECONDS
    while not StudyFolder.of(home, "toy").settings.exists() or now()["trials"].get("complete", 0) < 1:
        assert time.monotonic() < deadline
        assert coordinator.poll() is None, log.read_text()
        time.sleep(0.05)
    seen = now()
    assert (seen["state"], seen["process"], seen["phase"]) == ("running", coordinator.pid, "search")
    assert seen["best"] > 0
    assert seen["test"] is None
    [worker] = seen["workers"]
    assert (worker["worker"], worker["node"]) == (0, socket.gethostname())
    assert worker["what"].startswith("search ") or worker["what"] == IDLE
    shown = said(capsys, "status")
    assert "toy" in shown
    assert "running" in shown
    assert said(capsys, "stop", "toy") == "study toy is stopped and saved; the command that began it continues it\n"
    assert coordinator.wait(SECONDS) == 130, log.read_text()
    stopped = now()
    assert (stopped["state"], stopped["process"]) == ("stopped", None)
    assert said(capsys, "stop", "toy") == "study toy is not being run\n"
    assert Coordinator(request, log, {"HPSEARCH_HOME": str(home)}).wait(SECONDS) == 0, log.read_text()
    finished = now()
    assert finished["state"] == "finished"
    assert sum(finished["trials"].values()) == 3
    assert finished["trials"]["complete"] >= stopped["trials"]["complete"]
    assert finished["test"] is not None
    assert finished["going"] == []
    assert finished["workers"] == []


def test_a_study_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "studies" / "mine").mkdir(parents=True)
    with pytest.raises(RequestError, match=r"there is no study other in .*; there are: mine"):
        stop(tmp_path, "other")
    with pytest.raises(RequestError, match="there is no study other"):
        status(tmp_path, "other", as_json=False, watch=False)
    assert standings(tmp_path, None) == [], "it has asked for nothing yet"


def test_names_stay_whole_in_a_narrow_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Standing("imdb-minilm-default", "stopped", None, None, {}, "accuracy", 0.9, None, 0.25, 60.0, None, ())
    monkeypatch.setattr("hpsearch.status.standings", lambda home, study: [one])
    shown = io.StringIO()
    monkeypatch.setattr("hpsearch.status.Console", lambda: Console(width=50, file=shown))
    status(tmp_path, None, as_json=False, watch=False)
    assert shown.getvalue().startswith("imdb-minilm-default: state stopped, phase -, ")
    assert "best 0.900" in " ".join(shown.getvalue().split())


def test_several_workers_are_shown_by_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = (Doing(1.0, 2, "", STARTING), Doing(1.0, 0, "n1", "search 4"), Doing(1.0, 1, "n1", IDLE))
    one = Standing("toy", "running", 7, "search", {}, "accuracy", None, None, None, 1.0, None, (), workers)
    monkeypatch.setattr("hpsearch.status.standings", lambda home, study: [one])
    shown = io.StringIO()
    monkeypatch.setattr("hpsearch.status.Console", lambda: Console(width=120, file=shown))
    status(tmp_path, None, as_json=False, watch=False)
    lines = [line.strip() for line in shown.getvalue().splitlines()]
    assert lines[-2:] == ["toy: on no node yet: 1 starting", "toy: n1: search 4, 1 idle"]


def test_who_looks_does_not_keep_a_coordinator_from_its_lock(tmp_path: Path) -> None:
    folder = StudyFolder.of(tmp_path, "toy")
    assert holder(folder) is None
    lock = Lock(folder)
    assert holder(folder) is not None
    with pytest.raises(RequestError, match="is being run by process"):
        Lock(folder)
    lock.close()
    assert holder(folder) is None
    Lock(folder).close()
