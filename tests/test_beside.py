"""Floors of whole studies: fitted before the first trial, tracked, kept, shown, checked, served, promoted."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pandas as pd
import pytest
from rich.console import Console

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch import cli
from hpsearch.config.settings import Settings
from hpsearch.coordinator import floors, results, sweep
from hpsearch.errors import FaultsFound, PromotionRefused, RequestError
from hpsearch.fsck import fsck
from hpsearch.registry.champions import champion_uri, history, rollback
from hpsearch.registry.promotion import promote
from hpsearch.report import beside, cards, next_steps, page
from hpsearch.serving import loading, packaging
from hpsearch.state import codec
from hpsearch.state.floors import FloorRecord, read_floors, write_floors
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import FloorOutcome, Summary
from hpsearch.state.plans import Outlook, PlanMade
from hpsearch.tasks import squad
from hpsearch.tracking.registered import RegisteredModel
from hpsearch.tracking.runs import Tracking

Models = Callable[[str], Path]
SECONDS = 600
FEW = (
    "budget.floors=true",
    "budget.max_trials=1",
    "budget.startup_trials=1",
    "search.rungs=[]",
    "search.space.train.epochs.choices=[1]",
    "search.space.train.batch_size.choices=[16]",
)
WEAK = "search.space.train.learning_rate={low: 1e-9, high: 2e-9}"  # a trial that learns nothing


@dataclass
class Swept:
    settings: Settings
    home: Path
    summary: Summary

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder.of(self.home, self.settings.study)

    @property
    def tracking(self) -> Tracking:
        return Tracking(self.settings, self.home)

    def floor(self, name: str) -> FloorOutcome:
        return next(floor for floor in self.summary.floors if floor.name == name)

    def runs(self) -> dict[str, Any]:
        """By name of the floor."""
        client, parent = tracked.client(self.tracking), self.summary.mlflow.run_id
        found = client.search_runs([self.summary.mlflow.experiment_id], f"tags.mlflow.parentRunId = '{parent}'")
        return {run.data.tags["hpsearch.floor"]: run for run in found if "hpsearch.floor" in run.data.tags}


def swept_on(root: Path, rows: Path, model: Path, *overrides: str, task: str = "csv") -> Swept:
    settings = make.toy_settings(rows, model, "bert", *FEW, *overrides, task=task)
    home = tracked.new_home(root / "home")
    return Swept(settings, home, sweep.run_sweep(settings, home))


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory, tiny_model: Models) -> Swept:
    """A study whose winner is worse than a linear model of words."""
    root = tmp_path_factory.mktemp("weak")
    return swept_on(root, tiny.write_csv(root / "toy.csv", n=190), tiny_model("bert"), WEAK)


@pytest.fixture
def copy(weak: Swept, tmp_path: Path) -> Swept:
    shutil.copytree(weak.home, tmp_path / "home", ignore=shutil.ignore_patterns("artifacts", "cache"))
    return replace(weak, home=tmp_path / "home")


# --- fitted and kept -------------------------------------------------------------------------------------------------


def test_floors_are_scored_where_the_winner_is(weak: Swept) -> None:
    assert [floor.name for floor in weak.summary.floors] == ["words", "frozen"]
    words = weak.floor("words")
    assert words.best
    assert words == weak.summary.floor
    assert words.test.value > 0.9
    assert words.test.low < words.test.value <= words.test.high
    assert (words.test.n, words.test.digest) == (weak.summary.test.n, weak.summary.test.digest)
    assert words.test.intervals.keys() == weak.summary.test.intervals.keys()
    gain = words.gain
    assert (gain.challenger, gain.champion) == (weak.summary.test.value, words.test.value)
    assert gain.difference < 0
    assert words.examples == weak.summary.data.train
    assert weak.summary.test.readings == 1
    assert weak.summary.blend is None, "38 validation examples are too few for it"
    assert weak.summary.seconds["floors"] >= sum(floor.seconds for floor in weak.summary.floors) * 0.9
    plain = json.loads(weak.folder.summary.read_text())
    del plain["floors"]
    assert codec.parse(Summary, json.dumps(plain)) == replace(weak.summary, floors=())


def test_only_the_best_floor_s_model_stays(weak: Swept) -> None:
    kept = [place.path.name for place in weak.folder.floor_folders() if place.model.exists()]
    assert kept == ["words"]
    assert [record.name for record in read_floors(weak.folder)] == ["words", "frozen"]


def test_each_has_a_run_with_its_scores_and_answers(weak: Swept) -> None:
    runs = weak.runs()
    assert runs.keys() == {"words", "frozen"}
    for floor in weak.summary.floors:
        run = runs[floor.name]
        assert (run.info.run_id, run.info.status) == (floor.run_id, "FINISHED")
        assert run.info.run_name == f"floor-{floor.name}"
        assert run.data.metrics["test_accuracy"] == floor.test.value
        assert run.data.metrics["validation_accuracy"] == floor.validation["validation_accuracy"]
        assert run.data.params["examples"] == str(floor.examples)
        for split, value in (("validation", floor.validation["validation_accuracy"]), ("test", floor.test.value)):
            table = weak.tracking.answers(floor.run_id, split)
            assert table is not None
            right = [truth == said for truth, said in zip(table.truths, table.said, strict=True)]
            assert sum(right) / len(right) == pytest.approx(value)
    parent = tracked.client(weak.tracking).get_run(weak.summary.mlflow.run_id)
    assert parent.data.metrics["floor_words_test_accuracy"] == weak.floor("words").test.value
    assert parent.data.tags["mlflow.note.content"].startswith("A simple model is better: a linear model of words")


def test_served_answers_are_those_that_were_scored(weak: Swept) -> None:
    words = weak.floor("words")
    uri = tracked.client(weak.tracking).get_run(words.run_id).data.tags["hpsearch.model"]
    table = weak.tracking.answers(words.run_id, "test")
    assert table is not None
    with open(weak.settings.task.files.train, encoding="utf-8") as file:  # type: ignore[union-attr,arg-type]
        texts = pd.read_csv(file)["text"].tolist()
    by_id = {f"train-{number}": text for number, text in enumerate(texts, 2)}
    said, sure = packaging.answers(uri, weak.settings, {"text": [by_id[name] for name in table.ids]})
    assert said == table.said
    assert sure is not None
    assert [row[truth] for row, truth in zip(sure, table.truths, strict=True)] == pytest.approx(
        table.replies.likelihoods, abs=1e-5
    )
    model = loading.load(uri)
    requirements = [line.partition("==")[0] for line in open_requirements(uri)]
    assert requirements == ["mlflow", "safetensors", "numpy", "pandas"]
    assert model.predict(["", "good <br /> great"])["label"].tolist()[1] == "positive"


def open_requirements(uri: str) -> list[str]:
    path = Path(loading.fetched(uri)) / "requirements.txt"
    return [line for line in path.read_text().splitlines() if line]


def test_what_is_fitted_is_not_fitted_again_and_is_not_lost(
    copy: Swept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_floors(copy.folder)
    more = copy.settings.model_copy(update={"budget": copy.settings.budget.model_copy(update={"max_trials": 2})})
    again = sweep.run_sweep(more, copy.home)
    said = capsys.readouterr().out
    assert "phase: floors" not in said
    assert "phase: test" in said
    assert [(one.name, one.metrics, one.seconds) for one in read_floors(copy.folder)] == [
        (one.name, one.metrics, one.seconds) for one in before
    ]
    assert [floor.test.all for floor in again.floors] == [floor.test.all for floor in copy.summary.floors]
    assert fsck(more, copy.home, repair=False).endswith(": clean")


@pytest.mark.slow
def test_a_study_of_before_gets_floors_when_it_goes_on(tmp_path: Path, tiny_model: Models) -> None:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    without = swept_on(tmp_path, csv, tiny_model("bert"), WEAK, "budget.floors=false")
    assert without.summary.floors == ()
    assert not without.folder.floors.exists()
    assert "floors" not in without.summary.seconds
    assert fsck(without.settings, without.home, repair=False).endswith(": clean")
    budget = without.settings.budget.model_copy(update={"floors": True, "max_trials": 2})
    found = sweep.run_sweep(without.settings.model_copy(update={"budget": budget}), without.home)
    assert [floor.name for floor in found.floors] == ["words", "frozen"]


def test_a_floor_that_fails_is_said_and_left_out(
    tmp_path: Path, tiny_model: Models, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    fault = "import sklearn\nfrom hpsearch.training import words\n\ndef fail(*_):\n    raise MemoryError('no room')\n\n"
    (start / "sitecustomize.py").write_text(fault + "words.fit = fail\n")
    monkeypatch.setenv("PYTHONPATH", f"{start}:{Path(sweep.__file__).parents[2]}")
    done = swept_on(tmp_path, tiny.write_csv(tmp_path / "toy.csv", n=190), tiny_model("bert"), WEAK)
    said = capsys.readouterr().out
    assert "floor: a linear model of words is left out: MemoryError: no room" in said
    assert [floor.name for floor in done.summary.floors] == ["frozen"]
    assert done.summary.floor is not None
    [words, _] = read_floors(done.folder)
    assert (words.fault, words.limit) == ("MemoryError: no room", floors.WITHOUT_HOURS)
    assert fsck(done.settings, done.home, repair=False).endswith(": clean")


def test_a_floor_that_failed_is_tried_again_only_with_more_time(tmp_path: Path) -> None:
    failed = FloorRecord("words", 0, 0.0, {}, {}, None, {}, "its 1 s are too short", limit=45.0)
    folder = StudyFolder(tmp_path)

    def is_there(hours: float, record: FloorRecord = failed) -> bool:
        study: Any = SimpleNamespace(folder=folder, settings=make.compose_settings(f"budget.hours={hours}"))
        return floors._is_there(study, record)

    assert is_there(0.25)
    assert not is_there(0.5)
    assert not is_there(0.25, replace(failed, limit=None)), "a former version had no limit"
    folder.test.touch()
    assert is_there(0.5), "test is read, and would have to be read again"


@pytest.mark.chaos
@pytest.mark.parametrize("moment", ["coordinator.floors._kept:1", "-coordinator.floors.write_floors:1"])
def test_an_interrupted_fit_is_done_anew(moment: str, tmp_path: Path, tiny_model: Models) -> None:
    """Killed when the first floor is fitted and not yet booked, and when it is booked and the second is not begun."""
    csv = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(csv, tiny_model("bert"), "bert", *FEW, WEAK)
    home = tracked.new_home(tmp_path / "home")
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    environment = {"OMP_NUM_THREADS": "1", "HPSEARCH_HOME": str(home)}
    log = tmp_path / "log"
    first = Coordinator(tmp_path / "settings.json", log, environment | {"DIE_AT": moment})
    assert first.wait(SECONDS) < 0, log.read_text()
    folder = StudyFolder.of(home, settings.study)
    before = [record.seconds for record in read_floors(folder)]
    assert len(before) == moment.startswith("-")
    assert Coordinator(tmp_path / "settings.json", log, environment).wait(SECONDS) == 0, log.read_text()
    found = read_floors(folder)
    assert [record.name for record in found] == ["words", "frozen"]
    assert [record.seconds for record in found][: len(before)] == before, "it is not fitted again"
    assert fsck(settings, home, repair=False).endswith(": clean")


def test_the_time_is_shared_and_what_is_spent_is_gone(weak: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    given = weak.settings.model_copy(update={"budget": weak.settings.budget.model_copy(update={"hours": 0.25})})
    assert floors.limit_seconds(given) == 45.0
    assert floors.limit_seconds(weak.settings) == 600.0


# --- said ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((0.5, 1.0), "Give 4 h in all, which should reach it by the curve so far, or promote the simple model"),
        ((0.5, 0.6), "By the curve so far 4 h would not reach it either: promote the simple model (--floor)."),
        ((), "Give more hours, or promote the simple model (--floor)."),
    ],
)
def test_the_hours_that_would_reach_a_simple_model(weak: Swept, values: tuple[float, ...], said: str) -> None:
    outlook = tuple(
        Outlook(2.0 * (i + 1), 1000 * (i + 1), value, value - 0.01, value + 0.01) for i, value in enumerate(values)
    )
    assert said in page.headline(replace(weak.summary, hours=1.0, outlook=outlook))


def test_what_twice_the_hours_would_buy(weak: Swept) -> None:
    ahead = (Outlook(2.0, 4000, 0.9, 0.88, 0.92), Outlook(4.0, 8000, 0.93, 0.9, 0.95))
    assert (
        "2 h would train the winner on 4,000 examples: test accuracy 0.900 is to be expected then (80 % interval "
        "0.880 to 0.920), by how errors fall with examples here and on other data."
    ) in list(page.findings(replace(weak.summary, hours=1.0, outlook=ahead)))
    for expected, more in (
        ((0.7, 0.8, 0.85, 0.87), " The last doubling of the trials, from 2 to 4, brought +7.0 points on validation."),
        ((0.7, 0.8), ""),
    ):
        all_of_it = replace(weak.summary, hours=1.0, expected=expected)
        said = "The winner has had all training examples; more hours only search further."
        assert f"{said}{more}" in list(page.findings(all_of_it))
    half = replace(all_of_it, winner=replace(all_of_it.winner, length=0.46))
    assert "all training examples, but 46% of the usual number of updates; more hours train it" in beside.outlook(half)
    assert beside.outlook(weak.summary) is None, "it took as long as it took"


def test_why_a_winner_was_not_confirmed(weak: Swept) -> None:
    made = PlanMade("2026-11-29T00:00:00+00:00", "search", 0.25, 800.0, 850.0, 50.0, {"train": 1.0, "score": 1.0}, ())
    alone, counts = replace(made, alone=True), weak.summary.trials
    for plans, trials, said in (
        ((), counts, "The winner was not confirmed with fresh seeds (budget.confirmation.finalists=0)."),
        ((made,), counts, "The winner was not confirmed with fresh seeds: the hours were over."),
        ((alone,), counts, "15 min are too short for a search, so the reference recipe had all the time: "),
        (
            (alone,),
            replace(counts, complete=3),
            "3 runs that differ in recipe or seed had all the time. ",
        ),
    ):
        summary = replace(weak.summary, hours=0.25, plans=plans, trials=trials)
        assert any(said in line for line in page.findings(summary))
    of_questions = replace(weak.summary.winner, validation={})  # which have no loss on validation
    few = replace(weak.summary, hours=0.25, plans=(alone,), trials=replace(counts, complete=3), winner=of_questions)
    assert any("The best on validation is kept." in line for line in page.findings(few))


def test_the_first_line_says_that_a_simple_model_is_better(weak: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    headline = page.headline(weak.summary)
    assert headline.startswith("A simple model is better: a linear model of words, which trains in ")
    assert "Give more hours, or promote the simple model (--floor). tiny reaches accuracy" in headline
    console = Console(width=300)
    console.print(page.final_table(weak.summary, [], weak.settings, weak.folder), soft_wrap=True)
    shown = capsys.readouterr().out
    assert shown.strip().startswith("A simple model is better")
    assert "floor: words" in shown
    assert "the winner gains -" in shown
    report = weak.folder.report.read_text()
    assert "<h2>Floors</h2>" in report
    assert ", a linear model of words " in report.partition("<h1>")[2].partition("</h1>")[0]
    assert report.index("A simple model is better") < report.index("<h2>Test</h2>") < report.index("<h2>Floors</h2>")
    assert results.rebuild_report(weak.settings, weak.home).read_text() == report
    commands = dict(next_steps.commands(weak.settings, weak.summary))
    assert commands["make the best simple model the champion instead"].endswith("ARGS=--floor")
    assert "which trains in" in cards.model_card(weak.settings, weak.summary)
    assert cards.floor_card(weak.settings, weak.summary, weak.floor("words")).startswith(
        "# hpsearch-toy\n\nA linear model"
    )


def test_a_winner_that_is_better_says_by_how_much_and_no_more(weak: Swept) -> None:
    words = weak.floor("words")
    better = replace(words, gain=replace(words.gain, difference=0.02, low=0.01, high=0.03))
    summary = replace(weak.summary, floors=(better, weak.floor("frozen")))
    assert beside.warning(summary) is None
    [line] = beside.findings(summary)
    assert line.endswith("the winner gains +2.0 points (95 % interval +1.0 to +3.0).")
    assert page.headline(summary).startswith("tiny reaches")
    assert all("--floor" not in command for _, command in next_steps.commands(weak.settings, summary))
    doubtful = replace(better, gain=replace(better.gain, low=-0.01))
    [line] = beside.findings(replace(summary, floors=(doubtful,)))
    assert line.endswith("; these examples do not show that a fine-tune was worth it.")
    assert list(beside.findings(replace(summary, floors=()))) == []


# --- promoted --------------------------------------------------------------------------------------------------------


def test_a_first_champion_is_no_worse_than_the_best_floor(copy: Swept) -> None:
    with pytest.raises(PromotionRefused) as refused:
        promote(copy.settings, copy.home)
    said = str(refused.value)
    assert "of a linear model of words on the same 38 test examples: -" in said
    assert "and a first champion may be no worse" in said
    assert "promote the simple model with ARGS=--floor" in said
    assert RegisteredModel(copy.tracking).version_of("champion") is None


def test_a_floor_is_promoted_and_recorded_as_one(copy: Swept, tmp_path: Path) -> None:
    assert "floor words of study toy-tiny-default would become champion" in promote(
        copy.settings, copy.home, dry_run=True, floor=True
    )
    done = promote(copy.settings, copy.home, floor=True)
    assert "version 1 is the champion now, the task's first: test accuracy 1.000" in done
    assert "version 1 is the champion already" in promote(copy.settings, copy.home, floor=True)
    version = RegisteredModel(copy.tracking).version_of("champion")
    assert version is not None
    words = copy.floor("words")
    assert version.run_id == words.run_id
    assert version.tags["hpsearch.floor"] == "words"
    assert version.tags["hpsearch.test.value"] == repr(words.test.value)
    assert "hpsearch.seed" not in version.tags
    assert json.loads(version.tags["hpsearch.decision"])["floor"] == "words"
    console = Console(width=400)
    with console.capture() as shown:
        console.print(history(copy.settings, copy.home))
    assert "by better, the floor words" in shown.get()
    source, labelled = tmp_path / "new.csv", tmp_path / "labelled.csv"
    source.write_text("text\nthe film was good and great\na dull story and a weak plot\n")
    task = ("text_classification", {"text": "text"}, "auto")
    assert packaging.predict_file(champion_uri(copy.settings, copy.home), source, labelled, *task) == 2
    assert pd.read_csv(labelled)["label"].tolist() == ["positive", "negative"]
    with pytest.raises(PromotionRefused, match="version 1 stays champion"):
        promote(copy.settings, copy.home)
    promote(copy.settings, copy.home, force="to see it change")
    assert "version 1 is the champion again" in rollback(copy.settings, copy.home)


def test_a_study_without_floors_has_none_to_promote(tmp_path: Path) -> None:
    home = tracked.new_home(tmp_path / "home")
    settings = make.compose_settings("study=plain")
    tracking = Tracking(settings, home)
    parent = tracking.open_study("plain", "id", settings, tracked.data_ref(home), tracked.FACTS)
    trial = tracked.run_trial(tracking, parent, 0, settings)
    folder = tracked.save_study(home, settings, [trial], tracked.summary(settings, parent, trial, 0.8))
    assert folder.exists()
    with pytest.raises(RequestError, match=r"study=plain: has no floor to promote.*leave --floor out"):
        promote(settings, home, floor=True)


def test_the_command_takes_the_option(
    copy: Swept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPSEARCH_HOME", str(copy.home))
    monkeypatch.setattr("hpsearch.config.loading.load", lambda _: copy.settings)
    assert cli.main(["promote", "--floor", "--dry-run"]) == 0
    assert "floor words of study" in capsys.readouterr().out


# --- checked ---------------------------------------------------------------------------------------------------------


def no_model(study: Swept) -> None:
    shutil.rmtree(study.folder.floor("words").model)


def other_model(study: Swept) -> None:
    weights = study.folder.floor("words").weights
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


def torn_record(study: Swept) -> None:
    study.folder.floors.write_text("{")


def left_over(study: Swept) -> None:
    study.folder.floor("sentence").model.mkdir(parents=True)


def needless_model(study: Swept) -> None:
    study.folder.floor("frozen").model.mkdir(parents=True)


def no_run(study: Swept) -> None:
    tracked.client(study.tracking).delete_run(study.floor("frozen").run_id)


FAULTS = {
    no_model: ("the model of the floor words, the best, is missing", False),
    other_model: ("the model of the floor words is not the one that was logged", False),
    torn_record: (r"floors\.json: is damaged .*; delete it, and the sweep's command fits them again", False),
    left_over: ("floors/sentence is left of a crash", True),
    needless_model: ("the floor frozen keeps a model and is not the best", True),
    no_run: ("the floor frozen has no run in MLflow; repair this, and the sweep's command logs it", True),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_fsck_knows_floors(fault: Callable[[Swept], None], copy: Swept) -> None:
    assert fsck(copy.settings, copy.home, repair=False).endswith(": clean")
    fault(copy)
    text, repairable = FAULTS[fault]
    fate = "--repair repairs it" if repairable else "can't be repaired here"
    with pytest.raises(FaultsFound, match=f"(?s){text}: {fate}\n1 fault"):
        fsck(copy.settings, copy.home, repair=False)
    if repairable:
        assert fsck(copy.settings, copy.home, repair=True).endswith(": repaired")
    if fault is no_run:
        assert sweep.run_sweep(copy.settings, copy.home).floors[1].run_id != copy.floor("frozen").run_id
    if repairable:
        assert fsck(copy.settings, copy.home, repair=False).endswith(": clean")


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    record = FloorRecord("words", 3, 1.5, {"strength": 1.0}, {"validation_f1": 0.5}, ((1, 2), (3, 4)), {}, None)
    write_floors(StudyFolder(tmp_path), (record, replace(record, name="frozen", fault="no room")))
    assert read_floors(StudyFolder(tmp_path)) == (record, replace(record, name="frozen", fault="no room"))
    assert read_floors(StudyFolder(tmp_path / "nowhere")) == ()


# --- other kinds -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_questions_have_their_floors(tmp_path: Path, tiny_model: Models) -> None:
    rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.questions(300, 0))
    windows = ("task.max_length=32", "task.stride=8")
    done = swept_on(tmp_path, rows, tiny_model("bert"), WEAK, *windows, task="qa_files")
    assert [floor.name for floor in done.summary.floors] == ["constant", "sentence"]
    best = done.summary.floor
    assert best is not None
    assert best.test.value > 0.05
    uri = tracked.client(done.tracking).get_run(best.run_id).data.tags["hpsearch.model"]
    mlflow.set_tracking_uri(done.tracking.uri)
    asked = tiny.questions(60, 1)
    out = loading.load(uri).predict(pd.DataFrame(asked)[["question", "context"]])
    assert list(out) == ["answer", "score", "begin", "end", "no_answer", "best_answer"]
    for row, given in zip(out.to_dict("records"), asked, strict=True):
        assert row["no_answer"] == (row["answer"] == "")
        if row["begin"] >= 0:
            assert given["context"][row["begin"] : row["end"]] == row["answer"]
    golds = [[answer["text"] for answer in row["answers"]] for row in asked]
    assert squad.scores(out["answer"].tolist(), golds)[1].mean() > 0.05
    assert "would become champion" in promote(done.settings, done.home, force="to see", dry_run=True, floor=True)


@pytest.mark.slow
def test_entities_have_their_floor(tmp_path: Path, tiny_model: Models) -> None:
    rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.tagged(200, 0))
    done = swept_on(tmp_path, rows, tiny_model("bert"), WEAK, "task.stride=8", task="ner_files")
    [tags] = done.summary.floors
    assert tags.test.value > 0.8
    uri = tracked.client(done.tracking).get_run(tags.run_id).data.tags["hpsearch.model"]
    table = done.tracking.answers(tags.run_id, "test")
    assert table is not None
    text = "the story of iron and its plot"
    [found] = loading.load(uri).predict([text])["entities"].tolist()
    assert all(text[one["begin"] : one["end"]] == one["text"] for one in found)
    assert "version 1 is the champion now" in promote(done.settings, done.home, floor=True)


@pytest.mark.slow
def test_several_labels_and_a_frozen_head_are_served(tmp_path: Path, tiny_model: Models) -> None:
    rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.labelled(200, 0))
    done = swept_on(tmp_path, rows, tiny_model("bert"), WEAK, task="multilabel")
    assert [floor.name for floor in done.summary.floors] == ["words", "frozen"]
    words = done.floor("words")
    uri = tracked.client(done.tracking).get_run(words.run_id).data.tags["hpsearch.model"]
    texts = [row["text"] for row in tiny.labelled(40, 7)]
    said, _ = packaging.answers(uri, done.settings, {"text": texts})
    right = [sorted(row["labels"]) == sorted(one) for row, one in zip(tiny.labelled(40, 7), said, strict=True)]
    assert sum(right) / len(right) > 0.8
