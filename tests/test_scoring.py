"""Test is scored as far as the hours hold it, where the machine has become slower after the training."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import make
import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.coordinator import crew, scoring, sweep
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.notes import of_test
from hpsearch.coordinator.planner import LATE, REPORT_SECONDS, Planner
from hpsearch.errors import PromotionRefused
from hpsearch.fsck import fsck
from hpsearch.registry.promotion import promote
from hpsearch.report import page
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder, TrialFolder
from hpsearch.state.measured import Reading
from hpsearch.state.messages import Lost, Part, Score, Scored
from hpsearch.state.outcome import Summary
from hpsearch.state.plans import PlanMade, Plans
from hpsearch.state.records import write_durably
from hpsearch.training import data, floors, hardware, saved, trainer
from hpsearch.training.floors import FloorSpec
from hpsearch.training.saved import CHUNK, Saved, ScoreSpec
from hpsearch.training.trial import Warm

Models = Callable[[str], Path]
ROWS = 1200

# --- in a worker -----------------------------------------------------------------------------------------------------


class Slow:
    """A model that says nothing, in time that is made: each example takes `before`, and later `after` seconds."""

    def __init__(self, patched: pytest.MonkeyPatch, before: float, after: float, turn: int) -> None:
        self.now, self.rates, self.turn, self.scored = 0.0, (before, after), turn, 0
        patched.setattr(saved, "time", SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now))
        patched.setattr(trainer, "predict", self.predict)

    def predict(self, model: Any, tokens: Any, pieces: range, how: Any) -> list[int]:
        for _ in pieces:
            self.now += self.rates[self.scored >= self.turn]
            self.scored += 1
        return list(pieces)


def says(part: Part, examples: int) -> Any:
    """What a model says of a split with so many examples."""
    tokens = SimpleNamespace(examples=examples, pieces=lambda n: n, first=lambda n: f"first {n}")
    made = object.__new__(Saved)
    made._until = saved.time.monotonic() + part.seconds
    made._model = made._how = None  # type: ignore[assignment]
    made._spec = SimpleNamespace(part=part, data=None, settings=None)  # type: ignore[assignment]
    made._warm = SimpleNamespace(tokens=lambda *_: tokens)  # type: ignore[assignment]
    return made.says_of_part()


@given(
    examples=st.integers(1, 5000),
    least=st.none() | st.integers(1, 5000),
    seconds=st.floats(-50, 200),
    rate=st.floats(0.001, 0.1),
    slower=st.floats(1, 2),
    turn=st.integers(0, 5000),
    models=st.integers(1, 3),
)
@hypothesis_settings(deadline=None)
def test_the_time_is_kept_though_the_machine_becomes_slower_by_half(
    examples: int, least: int | None, seconds: float, rate: float, slower: float, turn: int, models: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(data, "load", lambda *_: list(range(examples)))
        slow = Slow(patched, rate, slower * rate, turn)
        said = says(Part("test", least, seconds, models), examples)
        n = len(said.rows)
        assert said.outputs == said.rows == list(range(n))
        assert said.tokens == f"first {n}"
        assert said.seconds == pytest.approx(slow.now)
        asked = examples if least is None else min(least, examples)
        assert asked <= n <= examples
        assert n == asked or slow.now <= seconds / models + (slower - 1) * rate * CHUNK + 1e-6
        if slower == 1 and n < examples:
            assert slow.now + rate * min(CHUNK, examples - n) > seconds / models - rate, "more would have fitted"


def test_the_first_examples_are_scored_as_they_are_among_all(tmp_path: Path, tiny_model: Models) -> None:
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv", n=300), tiny_model("bert"), "bert")
    home = tmp_path / "home"
    ref, warm = make.prepared(settings, home), Warm(hardware.resolve(settings.hardware))
    for name in ("words", "frozen"):
        found = floors.fit(FloorSpec(0, name, settings, ref, home / name, 60.0), warm)
        model = TrialFolder(home / name).model
        whole, first, in_time = (
            floors.score(name, ScoreSpec(0, settings, ref, model, part, found.fitted), warm, floors._SILENT)
            for part in (Part("test"), Part("test", 20), Part("test", 20, 60.0))
        )
        assert len(whole.predictions) == ref.sizes["test"] > 20
        assert first.predictions == whole.predictions[:20]
        assert first.likelihoods == pytest.approx(whole.likelihoods[:20], abs=1e-5)
        truths = data.load(ref, "test")[:20]["label"]
        right = sum(said == truth for said, truth in zip(first.predictions, truths, strict=True))
        assert first.metrics["accuracy"] == right / 20
        assert len(in_time.predictions) == (20 if name == "words" else ref.sizes["test"]), "words take no time"


# --- in a study ------------------------------------------------------------------------------------------------------

OVERRIDES = (
    "budget.hours=0.2",
    "budget.max_trials=3",
    "budget.startup_trials=2",
    "budget.search_examples=128",
    "budget.confirmation={finalists: 1, seeds: 1, examples: 128}",
    "budget.final=false",
    "budget.floors=true",
    "search.space.train.learning_rate={low: 0.009, high: 0.011}",
    "search.space.train.batch_size.choices=[16]",
    "search.space.train.epochs.choices=[3]",
    "train.epochs=3",
)


def sweep_late(settings: Settings, home: Path, said: list[str]) -> Summary:
    """Run a study that has no time left when it comes to test."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hpsearch.report.display.Display._say", lambda _, text, **__: said.append(text))
        patched.setattr(Planner, "for_test", property(lambda _: -1.0))
        patched.setattr(scoring, "LEAST", 50)
        return sweep.run_sweep(settings, home)


@pytest.mark.slow
def test_what_the_hours_do_not_hold_of_test_is_scored_with_more_hours(tmp_path: Path, tiny_model: Models) -> None:
    path = tiny.write_csv(tmp_path / "toy.csv", n=ROWS)
    settings = make.toy_settings(path, tiny_model("bert"), "bert", *OVERRIDES)
    home, said = tracked.new_home(tmp_path / "home"), list[str]()
    summary, folder = sweep_late(settings, home, said), StudyFolder.of(home, settings.study)
    whole = summary.data.test
    assert whole > 100
    assert set(of_test(50, whole)) <= set(said)
    assert not [*of_test(whole, whole)]
    assert summary.test.n == 50
    assert f"on the first 50 of {whole} test examples of" in page.headline(summary)
    reading = codec.read_file(Reading, folder.test, "")
    assert reading is not None
    others = [*(floor.measured for floor in reading.floors), *([reading.reference] if reading.reference else [])]
    assert len(others) >= 2
    assert {one.answers.data[i][0] for one in others for i in range(50)} == set(reading.winner.answers.ids)
    assert {len(one.answers.data) for one in others} == {50}
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"

    def known() -> float:
        return folder.test.stat().st_mtime

    then = known()
    sweep.run_sweep(settings, home)
    assert known() == then, "the study is finished"
    promote(settings, home)
    own = settings.model_copy(update={"study": "whole"})
    assert sweep.run_sweep(own, home).test.n == whole
    with pytest.raises(PromotionRefused, match=r"version 1 was run on these test data again: the hours of its study"):
        promote(own, home)

    budget = settings.budget.model_copy(update={"hours": 0.4})
    more = sweep.run_sweep(settings.model_copy(update={"budget": budget}), home)
    assert (more.test.n, more.test.readings) == (whole, 1)
    assert {floor.test.n for floor in more.floors} == {whole}
    assert page.headline(more).count(f"on {whole} test examples") == 1
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean\nwhole: clean"


@pytest.mark.parametrize(
    ("hours", "given", "part"),
    [
        (1.0, None, Part("test", 700, 5.0, 2)),
        (1.0, 80, Part("test")),  # a number that is given holds whatever the time
        (None, None, Part("test")),
    ],
)
def test_what_is_scored_of_test_depends_on_what_decides_about_it(
    hours: float | None, given: int | None, part: Part, tmp_path: Path
) -> None:
    budget = SimpleNamespace(test_examples=given, hours=hours)
    asked: Any = SimpleNamespace(budget=budget, task=SimpleNamespace(kind="text_classification"))
    planner: Any = SimpleNamespace(for_test=5.0) if hours is not None else None
    found: Any = SimpleNamespace(reference="another model")
    assert scoring._part(asked, StudyFolder.of(tmp_path, "toy"), found, 700, planner) == part


@pytest.mark.parametrize("spent", [3000.0, 3580.0, 3900.0])
def test_the_time_for_test_ends_when_the_study_would_be_late(spent: float) -> None:
    planner: Any = object.__new__(Planner)
    planner._settings = SimpleNamespace(budget=SimpleNamespace(hours=1.0))
    planner._clock, planner._came_for_test = SimpleNamespace(spent=spent), False
    assert spent + planner.for_test + REPORT_SECONDS == pytest.approx((1 + LATE) * 3600)


@pytest.mark.parametrize(("spent", "all_of_it"), [(3400.0, False), (3480.0, True), (4000.0, True)])
def test_a_command_that_comes_when_only_test_is_left_takes_its_time(
    spent: float, all_of_it: bool, tmp_path: Path
) -> None:
    folder, settings = StudyFolder.of(tmp_path, "toy"), SimpleNamespace(budget=SimpleNamespace(hours=1.0))
    made = PlanMade("now", "search", 1.0, 3450.0, 3600.0, 150.0, {}, ())
    write_durably(folder.plans, codec.write(Plans((made,))))
    clock: Any = SimpleNamespace(spent=spent)
    nothing: Any = None
    planner = Planner(cast(Any, settings), folder, clock, nothing, nothing)
    assert (planner.for_test == math.inf) is all_of_it
    clock.spent = 3590.0
    assert (planner.for_test == math.inf) is all_of_it, "the command has begun when it has begun"


def test_a_lost_worker_takes_its_time_along(monkeypatch: pytest.MonkeyPatch) -> None:
    now, given = 0.0, list[Part]()
    answers: list[Any] = [Lost(None, "gone"), None, object.__new__(Scored)]
    monkeypatch.setattr(crew, "time", SimpleNamespace(monotonic=lambda: now))

    def done(worker: Any, work: Score, *_: Any) -> Any:
        nonlocal now
        now += 10.0
        given.append(work.part)
        return answers[len(given) - 1]

    made: Any = object.__new__(Crew)
    made.settings = SimpleNamespace(hardware=SimpleNamespace(max_attempts=3))
    made.ready_worker, made.renew, made._done = lambda: None, lambda _: None, done
    part = Part("test", 500, 60.0, 2)
    assert made._scored(Score(0, *[cast(Any, None)] * 3, part, {})) is answers[-1]
    assert given == [replace(part, seconds=seconds) for seconds in (60.0, 50.0, 40.0)]
