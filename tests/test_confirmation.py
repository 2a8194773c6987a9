"""Sweeps with a confirmation: fresh seeds decide, the model kept is a fresh one, and nothing is lost."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import mlflow
import pytest

import make
import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.coordinator import results, sweep
from hpsearch.coordinator.books import Books
from hpsearch.coordinator.confirmation import Confirmation
from hpsearch.coordinator.loop import Loop
from hpsearch.errors import FaultsFound, NoResultError, PromotionRefused, RequestError
from hpsearch.fsck import fsck
from hpsearch.registry.promotion import promote
from hpsearch.state import codec, identity
from hpsearch.state.measured import Answers, Paired
from hpsearch.state.outcome import Reference, Summary
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.tasks.kinds import KINDS
from hpsearch.tracking.runs import Tracking
from hpsearch.workers.local import LocalWorker

OVERRIDES = (
    "budget.max_trials=4",
    "budget.startup_trials=3",
    "search.space.train.learning_rate.low=0.008",
    "search.space.train.learning_rate.high=0.03",
    "search.space.train.batch_size.choices=[16]",
    "search.space.train.epochs.choices=[6,8]",
    "search.keep=0.5",
    "train.epochs=8",
    "budget.search_examples=64",
    "budget.confirmation.finalists=2",
    "budget.confirmation.seeds=2",
    "budget.confirmation.confidence=0.999999",  # who loses a round by chance stays
    "budget.confirmation.examples=112",  # all
    "budget.train_examples=112",  # of 114, so that there is no cross-validation
)


@dataclass
class Done:
    settings: Settings
    home: Path
    summary: Summary

    @property
    def folder(self) -> Path:
        return self.home / "studies" / self.settings.study

    def runs(self) -> list[TrialRecord]:
        found = [TrialRecord.load(path.parent) for path in self.folder.glob("confirmation/*/trial.json")]
        return sorted(found, key=lambda run: run.number)

    def tracking(self) -> Tracking:
        return Tracking(self.settings, self.home)

    def outcome(self) -> Any:
        """All of a summary that a repetition must give again."""
        timeless = codec.plain(self.summary)
        for key in ("finished", "seconds", "mlflow", "staff"):
            del timeless[key]
        for standing in timeless["confirmation"]:
            del standing["seconds"], standing["run_ids"]
        for phase in timeless["phases"]:
            for one in (phase, *phase["runs"]):
                del one["seconds"]
                one.pop("at", None)
        del timeless["winner"]["run_id"], timeless["test"]["seconds_per_example"]
        (timeless["reference"] or {}).pop("run_id", None)
        return timeless


def request_of(root: Path, tiny_model: Callable[[str], Path], *overrides: str) -> tuple[Settings, Path]:
    csv = tiny.write_csv(root / "toy.csv", n=190)
    return make.toy_settings(csv, tiny_model("bert"), "bert", *OVERRIDES, *overrides), tracked.new_home(root / "home")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Done:
    settings, home = request_of(tmp_path_factory.mktemp("confirmed"), tiny_model)
    return Done(settings, home, sweep.run_sweep(settings, home))


def test_every_entrant_is_run_with_the_same_fresh_seeds(done: Done) -> None:
    standings = done.summary.confirmation
    assert {one.entrant for one in standings} >= {"reference"}
    assert len(standings) in (2, 3)
    assert [one.seeds for one in standings] == [(1, 2)] * len(standings)
    assert sum(one.reference for one in standings) == 1
    runs = done.runs()
    assert len(runs) == 2 * len(standings)
    assert {run.seed for run in runs} == {1, 2} != {done.settings.seed}
    assert all(run.status is Status.COMPLETE and run.rungs == {} and run.told for run in runs)
    # 112 training examples in place of the search's 64: longer schedules for the same parameters.
    assert done.summary.data.confirmation == 112 > done.summary.data.train == 64
    assert done.summary.steps.confirmation == sum(run.step for run in runs)


def test_the_fresh_runs_decide_and_the_winner_is_one_of_them(done: Done) -> None:
    summary, standings = done.summary, done.summary.confirmation
    best = max(standings, key=lambda one: one.mean or 0.0)
    winner = summary.winner
    assert next(one for one in standings if one.entrant == winner.entrant).mean == best.mean
    scores = [one.validation for one in standings if one.out_after is None]
    left_out = {(one[0] + other[1]) / 2 for one in scores for other in scores}
    possible = {0.632 * worth + 0.368 * max(map(fmean, scores)) for worth in left_out}
    assert any(winner.corrected == pytest.approx(worth) for worth in possible)
    assert winner.corrected <= max(map(fmean, scores)) + 1e-9, "the best mean flatters"
    run = TrialRecord.load(done.folder / winner.folder)
    assert (run.entrant, run.seed, run.run_id) == (winner.entrant, winner.seed, winner.run_id)
    assert run.score == max(r.score or 0 for r in done.runs() if r.entrant == winner.entrant)
    assert (done.folder / winner.folder / "model" / "model.safetensors").exists()
    assert not list(done.folder.glob("trials/*/model"))
    assert len(list(done.folder.glob("confirmation/*/model"))) == len(standings)
    optimism = summary.optimism
    assert optimism is not None
    assert optimism.difference == optimism.search - optimism.confirmed
    assert optimism.search == summary.best.validation
    assert list(summary.expected) == sorted(summary.expected)


def test_mlflow_has_the_runs_their_answers_and_the_model(done: Done) -> None:
    tracking = done.tracking()
    client, children = tracked.client(tracking), tracking.children(done.summary.mlflow.run_id)
    fresh = {client.get_run(run.run_id).info.run_name: run for run in children if "hpsearch.confirmation" in run.tags}
    assert len(children) == 4 + len(done.runs())
    assert set(fresh) == {
        f"confirmation-{run.entrant.replace(' ', '-')}-seed-{run.seed}" for run in done.runs() if run.entrant
    }
    assert {run.status for run in fresh.values()} == {"FINISHED"}
    winner = done.summary.winner
    run = client.get_run(winner.run_id)
    assert run.data.params["train.learning_rate"] == str(winner.params["train.learning_rate"])
    for split, n in (("validation", 38), ("test", 38)):
        table = tracking.answers(winner.run_id, split)
        assert table is not None
        assert len(table.data) == n
    for standing in done.summary.confirmation:
        assert standing.interval is not None
        low, high = standing.interval
        assert standing.mean is not None
        assert low <= standing.mean <= high
        for run_id in standing.run_ids:
            table = tracking.answers(run_id, "validation")
            assert table is not None
            assert len(table.data) == 38
    origin = tracking.origin(winner.run_id)
    assert origin is not None
    assert winner.digests == origin.digests
    assert winner.digests == done.summary.data.digests, "the search took the first of the same examples"
    assert origin.settings["train"]["examples"] == 112
    mlflow.set_tracking_uri(tracking.uri)
    assert mlflow.pyfunc.load_model(run.data.tags["hpsearch.model"]).predict(["a great film"])["label"].tolist()


def test_the_surest_mistakes_are_wrong_answers_to_test(done: Done) -> None:
    table = done.tracking().answers(done.summary.winner.run_id, "test")
    assert table is not None
    wrong = {row[0]: (row[1], row[2]) for row in table.data if row[1] != row[2]}
    mistakes = done.summary.test.mistakes
    assert len(mistakes) == min(10, len(wrong))
    assert all(wrong[one.id] == (one.truth, one.answer) for one in mistakes)
    assert [one.confidence for one in mistakes] == sorted((one.confidence for one in mistakes), reverse=True)
    classes = done.summary.test.classes
    assert sum(one.n for one in classes.values()) == 38
    assert {label: one.recall for label, one in classes.items()} == {
        label: pytest.approx(row[i] / sum(row))
        for i, (label, row) in enumerate(zip(done.summary.labels, done.summary.test.confusion, strict=True))
    }


def test_the_report_is_made_of_what_mlflow_keeps(done: Done, tmp_path: Path) -> None:
    shown = (done.folder / "report.html").read_text()
    elsewhere = tmp_path / "home"
    shutil.copytree(done.home, elsewhere, ignore=shutil.ignore_patterns("studies"))
    assert results.rebuild_report(done.settings, elsewhere).read_text() == shown
    with pytest.raises(RequestError, match=r"study other has no result in .* nor in MLflow"):
        results.rebuild_report(done.settings.model_copy(update={"study": "other"}), elsewhere)


def test_what_another_version_wrote_is_left_to_it(done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit in ("OLDEST", "FORMAT"):
        monkeypatch.setattr(identity, limit, identity.FORMAT + 1)
    elsewhere = tmp_path / "home"  # without the study's folder
    shutil.copytree(done.home, elsewhere, ignore=shutil.ignore_patterns("studies"))
    said = f"study {done.settings.study} was written by an older version of hpsearch"
    for command in (
        lambda: sweep.run_sweep(done.settings, done.home, force=True),
        lambda: results.rebuild_report(done.settings, done.home),
        lambda: results.rebuild_report(done.settings, elsewhere),
        lambda: promote(done.settings, done.home),
    ):
        with pytest.raises(RequestError, match=said):
            command()
    assert fsck(done.settings, done.home, repair=True).startswith(f"{done.settings.study}: not checked: {said}")


def test_test_is_read_once_for_winner_and_reference(done: Done) -> None:
    reading = json.loads((done.folder / "test.json").read_text())
    assert reading["readings"] == done.summary.test.readings == 1
    if done.summary.winner.entrant == "reference":
        assert reading["reference"] is done.summary.reference is None
    else:
        assert done.summary.reference is not None
        gain = done.summary.reference.gain
        assert gain.challenger == done.summary.test.value
        assert gain.champion == done.summary.reference.value
        ids = [[row[0] for row in reading[side]["answers"]["data"]] for side in ("winner", "reference")]
        assert ids[0] == ids[1]


def test_report_and_fsck_know_the_confirmation(done: Done) -> None:
    page = (done.folder / "report.html").read_text()
    assert "<h2>Confirmation</h2>" in page
    assert "with fresh seeds" in page
    assert fsck(done.settings, done.home, repair=False) == f"{done.settings.study}: clean"


def test_a_confirmed_study_keeps_its_confirmation(done: Done) -> None:
    confirmation = done.settings.budget.confirmation.model_copy(update={"finalists": 0})
    budget = done.settings.budget.model_copy(update={"confirmation": confirmation, "max_trials": 5})
    with pytest.raises(
        RequestError, match=r"finalists=0: study .* has had its confirmation, and the models of its trials"
    ):
        sweep.run_sweep(done.settings.model_copy(update={"budget": budget}), done.home)


def test_a_finished_study_starts_nothing(done: Done, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalWorker, "__init__", lambda *_: pytest.fail("a worker was started"))
    assert sweep.run_sweep(done.settings, done.home).finished == done.summary.finished


@pytest.mark.slow
def test_a_larger_budget_and_more_seeds_reuse_the_runs_that_are_there(done: Done, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(done.home, home, ignore=shutil.ignore_patterns("workers"))
    before = {(run.entrant, run.seed): run for run in done.runs()}
    confirmation = done.settings.budget.confirmation.model_copy(update={"seeds": 3})
    budget = done.settings.budget.model_copy(update={"max_trials": 5, "confirmation": confirmation})
    settings = done.settings.model_copy(update={"budget": budget})
    more = Done(settings, home, sweep.run_sweep(settings, home))
    standings = more.summary.confirmation
    assert [one.seeds for one in standings] == [(1, 2, 3)] * len(standings)
    kept = [run for run in more.runs() if (run.entrant, run.seed) in before]
    assert [run.score for run in kept] == [before[run.entrant, run.seed].score for run in kept]
    assert [run.seconds for run in kept] == [before[run.entrant, run.seed].seconds for run in kept], "run again"
    assert (more.folder / more.summary.winner.folder / "model" / "model.safetensors").exists()
    assert more.summary.test.readings in (1, 2)
    assert fsck(settings, home, repair=False).endswith("clean")


class Dies(Exception):
    """The command ends at once, as if killed."""


@pytest.mark.slow
@pytest.mark.parametrize("place", [(Loop, "_ended"), (Books, "points"), (Loop, "_give")])
def test_an_interrupted_confirmation_goes_on(
    place: tuple[type[Loop] | type[Books], str],
    done: Done,
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    original, calls = getattr(*place), []

    def dying(self: Loop | Books, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self.phase, Confirmation):
            calls.append(1)
            if len(calls) == 3:
                raise Dies
        return original(self, *args, **kwargs)

    monkeypatch.setattr(*place, dying)
    with pytest.raises(Dies):
        sweep.run_sweep(settings, home)
    monkeypatch.undo()
    again = Done(settings, home, sweep.run_sweep(settings, home))
    expected = done.outcome()
    for key in ("data", "lineage"):  # another file
        expected[key] = again.outcome()[key]
    assert again.outcome() == expected
    for run in again.runs():
        steps = [
            step
            for step, values in read_points(again.folder / "confirmation" / str(run.number))
            if "train_loss" in values
        ]
        assert steps == sorted(set(steps))
    assert fsck(settings, home, repair=False).endswith("clean")


@pytest.mark.slow
def test_a_model_that_is_gone_is_trained_once_more(done: Done, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(done.home, home, ignore=shutil.ignore_patterns("workers"))
    folder = home / "studies" / done.settings.study / done.summary.winner.folder
    weights = (folder / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "model")
    with pytest.raises(FaultsFound, match=r"the model of the winner, confirmation/\d, is missing"):
        fsck(done.settings, home, repair=False)
    again = Done(done.settings, home, sweep.run_sweep(done.settings, home))
    assert (folder / "model" / "model.safetensors").read_bytes() == weights
    assert again.outcome() == done.outcome()


@pytest.mark.slow
def test_without_time_the_first_round_is_run_all_the_same(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    monkeypatch.setattr(Confirmation, "_holds", lambda *_: False)
    short = Done(settings, home, sweep.run_sweep(settings, home))
    assert all(one.seeds == (1,) for one in short.summary.confirmation)
    assert sweep.run_sweep(settings, home).finished == short.summary.finished, "there is no time for more"


@pytest.mark.slow
def test_runs_that_all_fail_give_no_result(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    ended = Loop._ended

    def failing(self: Loop, result: Any) -> None:
        fields = {"status": Status.FAILED, "reason": "made to fail", "score": None}
        changed = fields if isinstance(self.phase, Confirmation) else {}
        ended(self, type(result)(**(vars(result) | changed)))

    monkeypatch.setattr(Loop, "_ended", failing)
    with pytest.raises(NoResultError, match=r"no confirmation run that is complete \(made to fail\)"):
        sweep.run_sweep(settings, home)


def test_the_first_champion_must_not_lose_to_the_reference(done: Done, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(done.home, home, ignore=shutil.ignore_patterns("workers"))
    other = next(run for run in done.runs() if run.run_id != done.summary.winner.run_id)
    tracking = Tracking(done.settings, home)
    table = tracking.answers(done.summary.winner.run_id, "test")
    assert table is not None
    assert other.run_id is not None
    perfect = Answers(data=tuple((row[0], row[1], row[1]) for row in table.data))
    flawed = tuple((row[0], row[1], "negative" if i < 8 else row[1]) for i, row in enumerate(table.data))
    tracking.log_answers(other.run_id, {"test": perfect})
    tracking.log_answers(done.summary.winner.run_id, {"test": Answers(data=flawed)})
    gain = Paired("accuracy", 38, 0.9, 0.9, 0.0, 0.0, 1.0, "exact McNemar", 0, 0, difference=0.0)
    recipe = Reference(other.params, 1, other.run_id, 0.9, 0.8, 1.0, gain)
    path = home / "studies" / done.settings.study / "summary.json"
    path.write_text(codec.write(replace(done.summary, reference=recipe)))
    with pytest.raises(PromotionRefused, match=r"failed: accuracy 0\.\d+ against 1\.000 of the reference recipe"):
        promote(done.settings, home)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multilabel", "qa_files"])
def test_every_kind_is_confirmed_and_promoted(task: str, tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    rows = tiny.questions(300, 0) if task == "qa_files" else tiny.labelled(200, 0)
    windows = ("task.max_length=32", "task.stride=8") if task == "qa_files" else ()
    overrides = (*OVERRIDES, *windows, "budget.confirmation.seeds=1", "budget.max_trials=2")
    file = tiny.write_jsonl(tmp_path / "toy.jsonl", rows)
    settings = make.toy_settings(file, tiny_model("bert"), "bert", *overrides, task=task)
    home = tracked.new_home(tmp_path / "home")
    found = Done(settings, home, sweep.run_sweep(settings, home))
    test = found.summary.test
    table = found.tracking().answers(found.summary.winner.run_id, "test")
    assert table is not None
    kind = KINDS[settings.task.kind]
    sums = kind.tallies(table.truths, table.said, found.summary.labels).sum(0)
    assert float(kind.of_sums(sums)[test.metric]) == pytest.approx(test.value)
    assert test.low <= test.value <= test.high
    assert fsck(settings, home, repair=False).endswith("clean")
    assert "version 1 is the champion now" in promote(settings, home, force="a toy")
