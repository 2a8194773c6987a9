"""Studies that are steered from another terminal while they run, and while they do not."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch import arguments, cli, live
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator import helm, results, sweep
from hpsearch.coordinator.wanted import Wanted
from hpsearch.errors import RequestError
from hpsearch.fsck import fsck
from hpsearch.state import steering as state
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary
from hpsearch.state.records import Status, TrialRecord, add_points
from hpsearch.state.steering import SKIPPED, Asked, Command, Reply, Steering
from hpsearch.steering import chosen, extend, own_settings, skip, try_point
from hpsearch.tracking.runs import STEERING, Tracking

SECONDS = 300
LONG = ("train.epochs=40", "search.space.train.epochs.choices=[40]", "search.rungs=[]", "study=toy")
LONG += ("search.space.train.learning_rate.low=0.004", "search.space.train.learning_rate.high=0.03")
Models = Callable[[str], Path]
Say = Callable[..., str]


@pytest.fixture
def asked(tmp_path: Path, tiny_model: Models, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A toy study, whose state folder is the command line's."""
    home = tracked.new_home(tmp_path / "home")
    monkeypatch.setenv("HPSEARCH_HOME", str(home))
    return make.toy_settings(tiny.write_csv(tmp_path / "toy.csv", n=190), tiny_model("bert"), "bert", *LONG)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What the command line prints of some words."""

    def said(*words: str, code: int = 0) -> str:
        assert cli.main(list(words)) == code
        out, error = capsys.readouterr()
        return out if code == 0 else error

    return said


def begin(settings: Settings, root: Path) -> Coordinator:
    (root / "settings.json").write_text(settings.model_dump_json())
    return Coordinator(root / "settings.json", root / "log", {"HPSEARCH_HOME": str(root / "home")})


def once(process: Coordinator, root: Path, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, (root / "log").read_text()
        assert time.monotonic() < deadline, (root / "log").read_text()
        time.sleep(0.02)


def records(folder: StudyFolder) -> list[TrialRecord]:
    return [TrialRecord.load(one.path) for one in folder.trials("trials")]


def not_run(settings: Settings, home: Path) -> StudyFolder:
    """The folder of a study that has begun and is not run."""
    folder = StudyFolder.of(home, settings.study)
    results.write_settings(folder, settings)
    return folder


# ---- run whole


@pytest.mark.slow
def test_trials_are_skipped_points_tried_and_a_study_finished_while_it_runs(
    asked: Settings, tmp_path: Path, say: Say
) -> None:
    home, folder = tmp_path / "home", StudyFolder.of(tmp_path / "home", "toy")
    process = begin(asked, tmp_path)
    once(process, tmp_path, lambda: bool(folder.trials("trials")))
    assert say("try", "toy", "learning_rate=0.02", "batch_size=16").startswith("study toy: it is run next")
    assert say("skip", "0") == "study toy: trial 0 is skipped\n"
    assert (records(folder)[0].status, records(folder)[0].reason) == (Status.FAILED, SKIPPED)
    assert "trial 0 of study toy has ended: failed" in say("skip", "0", code=2)
    once(process, tmp_path, lambda: any(one.status is Status.COMPLETE for one in records(folder)))
    assert "trial 1 has this point" in say("try", "learning_rate=0.02", "batch_size=16", code=2)
    assert say("finish", "toy").startswith("study toy: its trials are confirmed")
    assert process.wait(SECONDS) == 0, (tmp_path / "log").read_text()
    found = records(folder)
    assert found[1].params == space.reference(asked) | {"train.learning_rate": 0.02, "train.batch_size": 16}
    assert found[1].command is not None
    assert [one.command for one in found if one is not found[1]] == [None] * (len(found) - 1)
    assert len(found) < 8, "it was finished before all had begun"
    summary = read_summary(folder)
    assert summary is not None
    assert [one.said.split(" ", 1)[1].split()[0] for one in summary.steering] == ["try", "skip", "finish"]
    tracking = Tracking(asked, home)
    [tag] = [
        run.data.tags[STEERING]
        for run in tracked.client(tracking).search_runs([summary.mlflow.experiment_id])
        if STEERING in run.data.tags
    ]
    assert tag == "; ".join(one.said for one in summary.steering)
    assert "skip trial 0" in folder.report.read_text()
    assert fsck(asked, home, repair=False) == "toy: clean"
    more = sweep.run_sweep(asked, home)
    assert more.trials.all == 8, "its command goes on with the search, for it is not to finish twice"


@pytest.mark.slow
def test_hours_are_extended_while_a_study_runs_and_its_command_keeps_them(
    asked: Settings, tmp_path: Path, say: Say
) -> None:
    home, folder = tmp_path / "home", StudyFolder.of(tmp_path / "home", "toy")
    budget = asked.budget.model_copy(update={"hours": 0.2, "max_trials": 3})
    settings = asked.model_copy(update={"budget": budget})
    process = begin(settings, tmp_path)
    once(process, tmp_path, lambda: bool(folder.trials("trials")))
    begun = records(folder)[0].params
    assert "toy has 0.2 hours already" in say("extend", "toy", "--budget", "12m", code=2)
    assert say("extend", "--budget", "15m") == "study toy: it takes 15 min in all\n"
    assert process.wait(SECONDS) == 0, (tmp_path / "log").read_text()
    summary = read_summary(folder)
    assert summary is not None
    assert summary.hours == 0.25
    assert [made.hours for made in summary.plans][:2] == [0.2, 0.25]
    assert (tmp_path / "log").read_text().count("plan: ") >= 2, "the new plan is shown"
    assert (summary.given, summary.hours) == (("budget=15m",), 0.25)
    assert summary.trials.all == 3
    assert records(folder)[0].params == begun, "no trial was lost"
    assert sum(summary.seconds[name] for name in summary.seconds if name != "total") == pytest.approx(
        summary.total_seconds
    )
    assert sweep.run_sweep(settings, home).finished == summary.finished, "there is nothing left for its command to do"
    assert fsck(settings, home, repair=False) == "toy: clean"


@pytest.mark.slow
def test_what_is_asked_of_a_study_that_is_not_run_is_done_at_its_next_start(
    asked: Settings, tmp_path: Path, say: Say
) -> None:
    folder = StudyFolder.of(tmp_path / "home", "toy")
    process = begin(asked, tmp_path)
    once(process, tmp_path, lambda: len(folder.trials("trials")) > 1)
    say("stop")
    assert process.wait(SECONDS) == 130, (tmp_path / "log").read_text()
    before = len(records(folder))
    assert "study toy is not being run; its next start does this: skip trial 1" in say("skip", "1")
    assert "its next start does this: try" in say("try", "toy", "train.learning_rate=0.005")
    code = say("status", "toy", "--json")
    assert json.loads(code)[0]["state"] == "stopped"
    summary = sweep.run_sweep(asked, tmp_path / "home")
    found = records(folder)
    assert (found[1].status, found[1].reason) == (Status.FAILED, SKIPPED)
    assert found[before].params["train.learning_rate"] == 0.005
    assert summary.trials.all == 8
    assert not Steering(folder).waiting()


@pytest.mark.slow
def test_finish_needs_no_settings_where_the_study_has_a_name(asked: Settings, tmp_path: Path, say: Say) -> None:
    folder = StudyFolder.of(tmp_path / "home", "toy")
    process = begin(asked, tmp_path)
    once(process, tmp_path, lambda: len(folder.trials("trials")) > 1)
    say("stop", "toy")
    process.wait(SECONDS)
    before = len(records(folder))
    assert "accuracy" in say("finish", "toy")
    assert len(records(folder)) == before, "no trial was begun"
    assert read_summary(folder) is not None


# ---- what is asked


def test_a_finished_study_takes_points_once_it_has_been_given_more_hours(asked: Settings, tmp_path: Path) -> None:
    hours = asked.budget.model_copy(update={"hours": 0.1})
    settings, home = asked.model_copy(update={"budget": hours}), tmp_path / "home"
    folder = not_run(settings, home)
    folder.published.write_text("{}")
    with pytest.raises(RequestError, match="is finished; `hpsearch extend` gives it more hours first"):
        try_point(home, "toy", ["learning_rate=0.02"])
    extend(home, "toy", "1h")
    said = try_point(home, "toy", ["learning_rate=0.02"])
    assert "next start" in said
    assert [Steering(folder).read(name).command.verb for name in Steering(folder).waiting()] == ["extend", "try"]


def test_a_study_is_chosen_by_name_or_as_the_only_one(asked: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with pytest.raises(RequestError, match=r"give the name of a study in .*; there are: none"):
        chosen(home, None)
    folder = not_run(asked, home)
    assert chosen(home, None) == folder
    assert chosen(home, "toy") == folder
    not_run(asked.model_copy(update={"study": "other"}), home)
    with pytest.raises(RequestError, match="there are: other, toy"):
        chosen(home, None)
    with pytest.raises(RequestError, match="there is no study mine"):
        chosen(home, "mine")


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["learning_rate"], "learning_rate: give a setting that study toy searches, and its value: one of"),
        (["learningrate=1"], "did you mean 'train.learning_rate'"),
        (["learning_rate=5"], "train.learning_rate=5: lies outside of the space, which has"),
        (["learning_rate=fast"], "train.learning_rate=fast: lies outside of the space"),
        (["learning_rate=[1,2]"], "lies outside of the space"),
        (["learning_rate=[1"], "is not understood"),
        (["batch_size=7"], "train.batch_size=7: lies outside of the space, which has"),
        (["batch_size=true"], "lies outside of the space"),
    ],
)
def test_a_point_outside_of_the_space_is_refused_before_anything_is_left(
    words: list[str], fault: str, asked: Settings, tmp_path: Path
) -> None:
    folder = not_run(asked, tmp_path / "home")
    with pytest.raises(RequestError) as raised:
        try_point(tmp_path / "home", "toy", words)
    assert fault in str(raised.value)
    assert not Steering(folder).waiting()


def test_a_point_is_as_the_reference_recipe_where_nothing_is_said(asked: Settings) -> None:
    found = space.point(asked, {"train.learning_rate": 0.005})
    assert found == space.reference(asked) | {"train.learning_rate": 0.005}
    other = asked.model_copy(update={"train": asked.train.model_copy(update={"learning_rate": 0.9})})
    with pytest.raises(RequestError, match=r"the reference recipe's 0\.9 lies outside .*; give train\.learning_rate"):
        space.point(other, {})


def test_trials_and_hours_that_make_no_sense_are_refused(asked: Settings, tmp_path: Path, say: Say) -> None:
    home = tmp_path / "home"
    folder = not_run(asked, home)
    with pytest.raises(RequestError, match="study toy has no trial 3; there are: none"):
        skip(home, "toy", 3)
    TrialRecord(3, {}, Status.PRUNED).save(folder.trial("trials", 3).path)
    with pytest.raises(RequestError, match="trial 3 of study toy has ended: pruned"):
        skip(home, "toy", 3)
    with pytest.raises(RequestError, match="study toy has no hours"):
        extend(home, "toy", "2h")
    with pytest.raises(RequestError, match="--budget=soon: give a time, as 90s, 15m, 2h"):
        extend(home, "toy", "soon")
    assert not Steering(folder).waiting()
    assert "skip needs the number of a trial" in say("skip", "toy", code=2)
    assert "try needs values of what is searched" in say("try", "toy", code=2)
    assert "extend needs the hours in all" in say("extend", "toy", code=2)


def of(verb: str, name: str, hours: float | None = None) -> Asked:
    return Asked(name, Command(verb, "2026-01-01", hours=hours), Reply("2026-01-01", True, ""))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("commands", "done", "finishes"),
    [
        ([], [], False),
        ([of("finish", "1")], [], True),
        ([of("finish", "1")], ["1"], False),
        ([of("finish", "1"), of("finish", "2")], ["1"], True),
        ([of("finish", "1"), of("extend", "2", 2.0)], [], False),
        ([of("extend", "1", 2.0), of("finish", "2")], ["1"], True),
        ([of("skip", "1")], [], False),
    ],
)
def test_a_study_is_to_finish_once_and_not_after_it_was_extended(
    commands: list[Asked], done: list[str], finishes: bool
) -> None:
    assert state.finishing(commands, done) is finishes


def test_the_most_hours_count() -> None:
    extended = [of("extend", "1", 2.0), of("finish", "2"), of("extend", "3", 3.0)]
    assert state.hours(1.0, extended) == 3.0
    assert state.hours(4.0, extended) == 4.0
    assert state.hours(1.0, []) == 1.0
    assert state.hours(None, extended) is None


def test_a_study_that_was_not_run_starts_as_it_was_asked_to(asked: Settings, tmp_path: Path) -> None:
    settings = asked.model_copy(update={"budget": asked.budget.model_copy(update={"hours": 1.0})})
    folder = not_run(settings, tmp_path / "home")
    steering = Steering(folder)
    assert helm.taken_up(settings, folder, finishing=False) == (settings, False)
    steering.ask(Command.now("extend", hours=2.0))
    steering.ask(Command.now("finish"))
    waits = steering.ask(Command.now("skip", trial=1))
    found, finishes = helm.taken_up(settings, folder, finishing=False)
    assert (found.budget.hours, found.budget.name, finishes) == (2.0, "2h", True)
    assert [one.command.verb for one in steering.accepted()] == ["extend", "finish"]
    assert steering.waiting() == [waits], "the search does that"
    steering.ask(Command.now("extend", hours=1.5))
    assert helm.taken_up(settings, folder, finishing=False)[0].budget.hours == 2.0
    assert len(steering.accepted()) == 2, "less was refused"
    helm.refuse_late(folder)
    assert steering.waiting() == []
    assert len(steering.accepted()) == 2


@pytest.mark.parametrize("text", ["{", '{"verb": "skip", "time": "2026-01-01"}', '{"verb": "dance", "time": ""}'])
def test_a_damaged_command_is_left_out_and_found_by_fsck(text: str, asked: Settings, tmp_path: Path) -> None:
    folder = not_run(asked, tmp_path / "home")
    steering = Steering(folder)
    name = steering.ask(Command.now("finish"))
    folder.command(name).write_text(text)
    with pytest.raises(RequestError, match=re.escape(f"{name}.json")):
        steering.read(name)
    assert steering.accepted() == []
    assert helm.taken_up(asked, folder, finishing=False) == (asked, False)
    [(path, reason)] = steering.faults()
    assert (path, name in reason) == (folder.command(name), True)


def test_points_are_taken_once_and_no_more_than_there_is_place_for(asked: Settings, tmp_path: Path) -> None:
    folder = not_run(asked, tmp_path / "home")
    wanted = Wanted(folder, [])
    first, second = (
        Asked(str(rate), Command.now("try", params=space.point(asked, {"train.learning_rate": rate})), None)
        for rate in (0.005, 0.02)
    )
    begun = [TrialRecord(0, space.reference(asked), Status.RUNNING)]
    outside = Asked("x", Command.now("try", params={"train.learning_rate": 0.005}), None)
    assert wanted.take(outside, asked, begun, 3) == "this is no point of the space"
    assert wanted.take(first, asked, begun, 3) is None
    assert wanted.take(first, asked, begun, 3) == "this point is to be run next already"
    assert wanted.take(second, asked, begun, 2) == "all 2 trials have begun, or have a point"
    assert wanted.take(second, asked, begun, 3) is None
    again = Asked("y", Command.now("try", params=begun[0].params), None)
    assert wanted.take(again, asked, begun, 9) == "trial 0 has this point"
    failed = [TrialRecord(0, begun[0].params, Status.FAILED)]
    assert wanted.take(again, asked, failed, 9) is None, "a trial that failed or was skipped may be run again"
    assert len(wanted.points) == 3
    trial = wanted.begun(TrialRecord(1, wanted.points[0], Status.RUNNING))
    assert trial.command == "0.005"
    assert len(wanted.points) == 2
    grid = asked.model_copy(update={"sampler": asked.sampler.model_copy(update={"name": "GridSampler"})})
    assert wanted.take(first, grid, begun, 9) == "a grid has its own points"


# ---- on the command line


@pytest.mark.parametrize(
    ("words", "study", "left"),
    [
        (["finish"], None, []),
        (["finish", "toy"], "toy", []),
        (["finish", "study=toy"], "toy", []),
        (["finish", "task=csv", "study=toy"], None, ["task=csv", "study=toy"]),
        (["report", "toy", "tracking.uri=http://a"], "toy", ["tracking.uri=http://a"]),
        (["promote", "toy", "--dry-run"], "toy", []),
        (["promote", "study=toy", "promotion=cheaper"], "toy", ["promotion=cheaper"]),
        (["promote", "task=imdb", "study=toy"], None, ["task=imdb", "study=toy"]),
        (["serve", "tracking.uri=http://a"], None, ["tracking.uri=http://a"]),
        (["predict", "toy", "--input", "a.csv", "--output", "b.csv"], "toy", []),
        (["predict", "toy", "task.columns.text=body", "--input", "a.csv", "--output", "b.csv"], "toy", []),
        (["skip", "study=toy", "3"], "toy", []),
        (["extend", "study=toy", "--budget", "2h"], "toy", []),
        (["try", "toy", "learning_rate=3e-5"], "toy", []),
    ],
)
def test_a_study_is_named_by_a_word_or_by_its_setting(words: list[str], study: str | None, left: list[str]) -> None:
    args, rest = arguments.parse(words)
    assert (args.study, rest) == (study, left)


@pytest.mark.parametrize(
    "words",
    [
        ["stop", "budget=2h"],
        ["finish", "toy", "hardware.workers=2"],
        ["promote", "toy", "task=imdb"],
        ["rollback", "study=toy", "budget=2h"],
        ["serve", "toy", "task.columns.text=body"],
        ["stop", "toy", "other"],
    ],
    ids=" ".join,
)
def test_a_setting_that_would_be_passed_over_is_refused(words: list[str]) -> None:
    with pytest.raises(RequestError):
        arguments.parse(words)


def test_an_address_without_its_password_is_asked_for(asked: Settings, tmp_path: Path) -> None:
    secret = asked.model_copy(update={"storage": asked.storage.model_copy(update={"uri": "postgresql://me:pw@db/x"})})
    folder = not_run(secret, tmp_path / "home")
    with pytest.raises(
        RequestError, match=r"storage\.uri: study toy has postgresql://\*\*\*@db/x, without its password"
    ):
        own_settings(folder, asked)
    assert own_settings(folder, secret).storage == secret.storage


# ---- the page


def test_a_study_that_runs_has_a_page_and_then_its_report(asked: Settings, tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = not_run(asked, home)
    assert "no trial is complete yet" in live.page(home, "toy")
    TrialRecord(0, {"train.learning_rate": 0.01}, Status.COMPLETE, score=0.75, step=4, total_steps=4, at=60.0).save(
        folder.trial("trials", 0).path
    )
    TrialRecord(1, {"train.learning_rate": 0.02}, Status.FAILED, reason="<b>no</b>").save(
        folder.trial("trials", 1).path
    )
    add_points(folder.trial("trials", 0).path, 2, {"train_loss": 0.5})
    page = live.page(home, "toy")
    assert "best validation accuracy so far: 0.750" in page
    assert "search 0, all training examples: 0.750" in page
    assert 'http-equiv="refresh"' in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    with pytest.raises(RequestError, match="there is no study other"):
        live.page(home, "other")


@pytest.fixture
def address(asked: Settings, tmp_path: Path) -> Iterator[str]:
    not_run(asked, tmp_path / "home")
    program = [sys.executable, "-m", "hpsearch", "report", "toy", "--serve", "--port", str(tracked.free_port())]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
        process.terminate()  # an interrupt is ignored where the tests run in the background


def test_the_page_is_for_this_machine(address: str, tmp_path: Path) -> None:
    assert requests.get(address, timeout=60).headers["Content-Type"] == "text/html; charset=utf-8"
    assert requests.get(f"{address}favicon.ico", timeout=60).status_code == 404
    foreign = requests.get(address, headers={"Host": "evil.example:80"}, timeout=60)
    assert (foreign.status_code, address in foreign.text) == (403, True)
    record = StudyFolder.of(tmp_path / "home", "toy").trial("trials", 0)
    record.path.mkdir(parents=True)
    record.record.write_text("{")
    damaged = requests.get(address, timeout=60)
    assert (damaged.status_code, damaged.headers["Refresh"]) == (500, "5")


# ---- TAB


@pytest.mark.parametrize(
    ("line", "proposed"),
    [("hpsearch ex", "extend"), ("hpsearch sweep task=im", "task=imdb"), ("hpsearch stop t", "toy")],
)
def test_tab_proposes_verbs_choices_and_studies(line: str, proposed: str, asked: Settings, tmp_path: Path) -> None:
    not_run(asked, tmp_path / "home")
    out = tmp_path / "proposed"
    asks = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    asks |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    subprocess.run([sys.executable, "-m", "hpsearch"], env=os.environ | asks, check=True, timeout=SECONDS)
    assert proposed in out.read_text().replace("\013", "\n").split()
