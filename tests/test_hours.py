"""Sweeps whose budget is hours: planned, run, interrupted, continued, finished early."""

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch import cli, formats
from hpsearch.config import space
from hpsearch.config.dimensions import Choice, Interval
from hpsearch.config.settings import Settings
from hpsearch.coordinator import outlook, sweep
from hpsearch.coordinator import planner as planning
from hpsearch.coordinator.clock import Clock, read_seconds
from hpsearch.coordinator.few import LITTLE
from hpsearch.coordinator.final import Final
from hpsearch.coordinator.loop import Loop
from hpsearch.coordinator.phase import Phase, StudyContext
from hpsearch.coordinator.phases import Course
from hpsearch.coordinator.planner import REPORT_SECONDS, Data, Planner
from hpsearch.coordinator.search import Search
from hpsearch.coordinator.study import Study
from hpsearch.decisions import plan, schedule
from hpsearch.decisions.plan import Sizes
from hpsearch.errors import NoResultError, RequestError
from hpsearch.fsck import fsck
from hpsearch.report import page
from hpsearch.reproduce import reproduce
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Reading
from hpsearch.state.messages import Paced, TrialResult
from hpsearch.state.outcome import Summary
from hpsearch.state.records import Status, TrialRecord
from hpsearch.training import data
from hpsearch.workers.local import LocalWorker

HOURS = 0.2  # more than is needed, so that no test waits for a clock; what ends by one has less
OVERRIDES = (
    f"budget.hours={HOURS}",
    "budget.max_trials=4",
    "budget.startup_trials=3",
    "budget.search_examples=128",
    "budget.confirmation.finalists=1",
    "budget.confirmation.seeds=2",
    "budget.confirmation.examples=256",
    "budget.confirmation.confidence=0.999999",  # who loses a round by chance stays
    "budget.final=true",
    "search.space.train.learning_rate.low=0.005",
    "search.space.train.learning_rate.high=0.03",
    "search.space.train.batch_size.choices=[16]",
    "search.space.train.epochs.choices=[4,6]",
    "train.epochs=4",
)
NOTHING_FIXED = {"finalists": None, "seeds": None, "examples": None}
PLACES = ("trials", "confirmation", "final")
SECONDS = 300
Models = Callable[[str], Path]


@dataclass
class Done:
    settings: Settings
    home: Path
    summary: Summary
    said: str = ""

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder.of(self.home, self.settings.study)

    def records(self, place: str) -> list[TrialRecord]:
        return [TrialRecord.load(one.path) for one in self.folder.trials(place)]


def request_of(root: Path, tiny_model: Models, *overrides: str) -> tuple[Settings, Path]:
    """720 training examples, and enough to validate on that there is no cross-validation."""
    csv = tiny.write_csv(root / "toy.csv", n=1200)
    return make.toy_settings(csv, tiny_model("bert"), "bert", *OVERRIDES, *overrides), tracked.new_home(root / "home")


def with_budget(settings: Settings, **budget: Any) -> Settings:
    return settings.model_copy(update={"budget": settings.budget.model_copy(update=budget)})


def free(settings: Settings) -> Settings:
    """The same with all numbers left to the plan."""
    confirmation = settings.budget.confirmation.model_copy(update=NOTHING_FIXED)
    return with_budget(settings, max_trials=None, search_examples=None, confirmation=confirmation)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Models) -> Done:
    settings, home = request_of(tmp_path_factory.mktemp("hours"), tiny_model)
    with pytest.MonkeyPatch.context() as patched:
        said: list[str] = []
        patched.setattr("hpsearch.report.display.Display._say", lambda _, text, **__: said.append(text))
        summary = sweep.run_sweep(settings, home)
    return Done(settings, home, summary, "\n".join(said))


def test_a_planned_study_searches_confirms_and_trains_the_winner_on_all_data(done: Done) -> None:
    summary = done.summary
    assert [(one.name, one.train_examples) for one in summary.phases] == [
        ("search", 128),
        ("confirmation", 256),
        ("final", 720),
    ]
    trials, runs, [final] = (done.records(place) for place in ("trials", "confirmation", "final"))
    assert len(trials) == 4
    assert {one.examples for one in trials} == {128}
    assert {one.examples for one in runs} == {256}
    assert {one.seed for one in runs} == {1, 2}
    assert (final.status, final.examples, final.seed) == (Status.COMPLETE, 720, 1000)
    [winner] = {run.entrant for run in runs if run.params == final.params and run.entrant == final.entrant}
    assert summary.winner.entrant == winner
    assert final.epochs is not None
    assert final.step == final.total_steps
    assert summary.hours == HOURS
    assert summary.total_seconds < HOURS * 3600
    assert fsck(done.settings, done.home, repair=False) == f"{done.settings.study}: clean"


def test_the_plan_is_said_before_the_first_trial_and_kept(done: Done) -> None:
    lines = done.said.splitlines()
    plans = [i for i, line in enumerate(lines) if line.startswith("plan: ")]
    assert len(plans) == 3
    first = lines.index(next(line for line in lines if "trial 0 begins" in line))
    assert plans[0] < first < plans[1]
    shown = lines[plans[0] : plans[0] + 5]
    assert [line.split()[0] for line in shown] == ["plan:", "search", "confirmation", "final", "test,"]
    assert "the end is at " in shown[0]
    assert "4 runs on 128 training examples" in shown[1]
    assert [made.phase for made in done.summary.plans] == ["search", "confirmation", "final"]
    assert [step.phase for step in done.summary.plans[0].steps] == ["search", "confirmation", "final"]
    for made in done.summary.plans:
        assert made.left > sum(step.seconds for step in made.steps) + made.end
        assert set(made.pace) == {"train", "score", "trial"}
        assert all(seconds > 0 for seconds in made.pace.values())


def test_the_final_model_is_tracked_scored_and_comes_to_the_same_again(done: Done) -> None:
    summary = done.summary
    assert summary.winner.folder == "final/0"
    [final] = done.records("final")
    assert (final.run_id, final.told) == (summary.winner.run_id, True)
    assert summary.data.trained_on == 720
    run = tracked.client(sweep.Tracking(done.settings, done.home)).get_run(summary.winner.run_id)
    assert run.data.tags["hpsearch.final"] == "0"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.examples"] == "720"
    assert reproduce(done.settings, done.home, summary.winner.run_id).endswith("bit for bit: 7 metrics")


def test_the_models_that_a_later_final_one_is_compared_with_are_kept(done: Done) -> None:
    kept = sorted(path.parent.relative_to(done.folder.path).as_posix() for path in done.folder.path.glob("*/*/model"))
    runs = sorted(done.records("confirmation"), key=lambda run: (run.score, -schedule.loss_of(run), -run.number))
    best = {run.entrant: run for run in runs}
    assert kept == sorted(
        ["final/0", f"trials/{done.summary.best.trial}", *(f"confirmation/{run.number}" for run in best.values())]
    )


def test_the_same_command_on_a_finished_study_says_so(
    done: Done, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(LocalWorker, "__init__", lambda *_: pytest.fail("a worker was started"))
    for settings in (done.settings, with_budget(done.settings, hours=HOURS / 2)):
        assert sweep.run_sweep(settings, done.home) == done.summary
        said = " ".join(capsys.readouterr().out.split())
        runs = len(done.records("confirmation"))
        assert (
            f"study {done.settings.study} is finished: 4 of 4 trials, {runs} runs, 1 run; a larger budget (BUD" in said
        )
    unfixed = with_budget(done.settings, max_trials=None)
    assert sweep.run_sweep(unfixed, done.home) == done.summary
    assert "is finished: 4 trials, " in " ".join(capsys.readouterr().out.split())


# ---- what is planned of what is there: with a clock that is set by hand, and without training


@contextmanager
def opened(
    settings: Settings,
    home: Path,
    left: float,
    finishing: bool = False,
    train: float = 1e-4,
    workers: int = 1,
    running: float = 1.0,
) -> Iterator[tuple[Course, Planner]]:
    """The course of a study of whose hours so many seconds are left, and whose pace was `train` seconds a token."""
    folder, corpus = StudyFolder.of(home, settings.study), data.read(settings)
    ref = data.prepare(corpus, settings, home)
    clock = Clock(folder, time.monotonic())
    assert settings.budget.hours is not None
    clock.seconds = {"setup": settings.budget.hours * 3600 - left}
    known = Data(Sizes(*(ref.sizes[split] for split in data.SPLITS)), 1.0, dict.fromkeys(data.SPLITS, 15.0))
    measured = Paced(train=train, score=train / 5, trial=0.1, running=running)
    with closing(Study(settings, home)) as optuna:
        course = Course(StudyContext(settings, home, folder, corpus, ref, optuna, workers, finishing))
        yield course, Planner(settings, folder, clock, measured, known)


def begun(course: Course, planner: Planner) -> list[Phase]:
    """All phases, begun one after the other as a sweep begins them, where each has nothing to run."""
    for phase in course:
        phase.begin(planner, course.opened[:-1])
    return course.opened


@pytest.fixture
def copied(done: Done, tmp_path: Path) -> Path:
    home = tmp_path / "home"
    shutil.copytree(done.home, home, ignore=shutil.ignore_patterns("workers"))
    return home


@pytest.mark.parametrize("examples", [256, None])
@pytest.mark.parametrize("spare", [-5.0, 0.1])
def test_hours_that_hold_no_more_change_nothing(done: Done, copied: Path, examples: int | None, spare: float) -> None:
    confirmation = done.settings.budget.confirmation.model_copy(update={"examples": examples})
    settings = with_budget(done.settings, hours=HOURS + 0.001, confirmation=confirmation)
    with opened(settings, copied, planning.REPORT_SECONDS + spare) as (course, planner):
        phases = begun(course, planner)
        for phase in phases:
            assert phase.next(phase.hours) is None
            assert not [trial for trial in phase.trials.values() if not trial.status.final]
        found = phases[-1].found()
        assert (found.folder, found.winner) == (done.summary.winner.folder, done.records("final")[0])
        confirmed = phases[1].found()
        assert confirmed.winner.entrant == done.summary.winner.entrant
        assert confirmed.folder.startswith("confirmation/")
        assert phases[1].fields()["confirmation"] == done.summary.confirmation


@pytest.mark.parametrize(
    ("examples", "steps", "seen"), [(None, 10, 160), (None, 45, 720), (None, 450, 720), (128, 8, 128), (128, 3, 48)]
)
def test_what_a_trial_has_not_come_to_it_was_not_trained_on(
    done: Done, copied: Path, examples: int | None, steps: int, seen: int
) -> None:
    with opened(done.settings, copied, HOURS * 3600) as (course, _):
        search = course.first
        trial = replace(search.trials[0], examples=examples, step=steps)
        assert search.settings_of(trial).train.batch_size == 16
        assert search.trained_on(trial) == seen


def test_what_more_hours_would_bring_is_said_while_there_are_examples_that_the_winner_lacks(
    done: Done, copied: Path
) -> None:
    assert done.summary.outlook == (), "the winner has all of them"
    said = "The winner has had all training examples; more hours only search further. The last doubling of the trials"
    assert said in " ".join(page.findings(done.summary))
    reading = codec.read_file(Reading, done.folder.test, "run it again")
    assert reading is not None
    scores = reading.winner.metrics | {"accuracy": 0.9}
    reading = replace(reading, winner=replace(reading.winner, metrics=scores))
    with opened(done.settings, copied, HOURS * 3600) as (course, planner):
        phases = begun(course, planner)
        assert outlook.of(planner, phases, phases[-1].found(), reading) == ()
        [twice] = outlook.of(planner, phases[:2], phases[1].found(), reading)
    assert (twice.hours, twice.examples) == (2 * HOURS, 720)
    assert 0.9 < twice.value < 1
    assert twice.low < twice.value < twice.high <= 1


@pytest.mark.parametrize(("seconds", "begins"), [(1.0, True), (400.0, False)])
def test_another_seed_is_begun_where_the_pace_of_now_holds_it(
    tmp_path: Path, tiny_model: Models, seconds: float, begins: bool
) -> None:
    """The machine was busy when the pace was measured."""
    settings, home = request_of(tmp_path, tiny_model)
    settings = free(settings)
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        first = search.next(0.0)
        assert first is not None
        assert (first.seed, first.examples) == (None, None)
        assert first.epochs is not None, "it is alone"
        seen = {"training": seconds}
        search.trials[0] = replace(first, status=Status.COMPLETE, step=180, score=0.9, seconds=seen)
        second = search.next(0.0)
    assert (second is not None) == begins
    if second is not None:
        assert second.seed == settings.seed + 1
        assert second.params == first.params | {"train.learning_rate": 2 * first.params["train.learning_rate"]}


@pytest.mark.parametrize("share", [0.7, 0.8, 1.2, 2.0])
def test_the_last_of_some_fine_tunes_takes_the_time_that_is_left(
    share: float, tmp_path: Path, tiny_model: Models
) -> None:
    """Of a usual one; the pace and the length of those before it were others."""
    settings, home = request_of(tmp_path, tiny_model)
    settings = free(settings)
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        first = search.next(0.0)
        assert first is not None
        search.trials[0] = replace(first, status=Status.COMPLETE, step=180, score=0.9, seconds={"training": 20.0})
        known = planner.known([search])
        planner._clock.seconds["setup"] += planner.left - known.end - known.run(720, share)
        second = search.next(0.0)
        assert (second is not None) is (share > plan.SHORTER)
        if second is not None:
            assert second.epochs is not None
            took = known.pace.trial + known.scoring + 720 * second.epochs * known.pace.train
            assert took == pytest.approx(known.run(720, share), rel=0.05)
            assert planner.left - known.end >= took


def test_a_fine_tune_that_was_drawn_before_a_crash_has_its_seed(tmp_path: Path, tiny_model: Models) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = free(settings)
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        first = search.next(0.0)
        assert first is not None
        complete = replace(first, status=Status.COMPLETE, step=180, score=0.9, seconds={"training": 1.0})
        complete.save(search.trial_folder(0).path)
        search.trials[0] = complete
        drawn = search.next(0.0)
        assert drawn is not None
    with opened(settings, home, 140.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        assert (search.trials[1].params, search.trials[1].seed) == (drawn.params, drawn.seed)
        assert search.trials[1].epochs is not None


def test_a_search_that_is_continued_goes_on_however_few_trials_the_hours_hold(done: Done, copied: Path) -> None:
    settings = with_budget(free(done.settings), hours=2 * HOURS)
    with opened(settings, copied, HOURS * 3600) as (course, planner):
        search = course.first
        known = planner.known([search])
        fixed = replace(known, asked=replace(known.asked, search_examples=128))
        left = next(  # for twelve trials, which are too few to begin with
            left
            for left in (known.end + n * 0.1 * known.run(720) for n in range(10_000))
            if plan.of_all(fixed, left).search.runs >= 12
        )
        assert plan.of_all(known, left).alone
        planner._clock.seconds["setup"] += planner.left - left
        search.begin(planner, ())
        further = search.next(search.hours)
        assert further is not None
        assert (further.number, further.examples, further.epochs) == (4, 128, None)
    with opened(with_budget(settings, hours=3 * HOURS), copied, planning.REPORT_SECONDS + 0.1) as (course, planner):
        search, before = course.first, len(planner.made)
        search.begin(planner, ())
        assert search.next(search.hours) is None, "they hold none"
        assert len(planner.made) == before, "and no plan says otherwise"


def test_a_reference_recipe_that_fails_leaves_what_is_near_it(tmp_path: Path, tiny_model: Models) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = free(settings)
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        for number in range(3):
            trial = search.next(0.0)
            assert trial is not None
            search.trials[number] = replace(trial, status=Status.FAILED, reason="not finite")
        assert search.next(0.0) is None, "each has failed once"
        with pytest.raises(NoResultError, match="3 failed: not finite"):
            search.found()


def with_rdrop(settings: Settings) -> Settings:
    """The same, whose space has R-Drop."""
    space = settings.search.space | {"train.rdrop": Choice(choices=(0.0, 1.0))}
    return settings.model_copy(update={"search": settings.search.model_copy(update={"space": space})})


def test_hours_for_some_fine_tunes_run_rdrop_and_other_rates_with_it(tmp_path: Path, tiny_model: Models) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = with_rdrop(free(settings))
    scores, tried, passes = (0.8, 0.9, 0.85, 0.7, 0.6), list[tuple[float, float]](), list[float]()
    with opened(settings, home, 400.0, train=1e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        [recorded] = planner.made
        known = planner.known([search])
        assert known.dearer == 2.0
        per_example = known.pace.train
        for number, score in enumerate(scores):
            trial = search.next(0.0)
            assert trial is not None
            assert trial.epochs is not None
            if number == 0:
                assert trial.epochs == pytest.approx(recorded.steps[0].passes, rel=0.01)
            tried.append((trial.params["train.learning_rate"], trial.params["train.rdrop"]))
            passes.append(trial.epochs)
            cost = 2 if trial.params["train.rdrop"] else 1
            took = per_example * cost * 720 * trial.epochs
            planner._clock.seconds["setup"] += 0.2 * took
            done = replace(
                trial, status=Status.COMPLETE, step=round(45 * trial.epochs), score=score, seconds={"training": took}
            )
            search.trials[number] = done
            search.recorded(trial, done)
            assert planner.known([search]).pace.train == pytest.approx(per_example, rel=0.03), "of one pass"
        assert tried == [(0.01, 0.0), (0.01, 1.0), (0.02, 1.0), (0.005, 1.0), (0.01, 1.0)]
        found = search.found()
        assert (found.winner.number, found.reference and found.reference.number) == (1, 0)
        planner._clock.seconds["setup"] += planner.left - planner.known([search]).end - known.run(720, 1.3)
        last = search.next(0.0)
        assert last is not None
        assert last.params == search.trials[2].params | {"train.rdrop": 0.0}, "the time holds one without it"
        search.trials[5] = last
    assert min(passes) > 1.3 * 4


@pytest.mark.parametrize(("usual", "weight"), [(1.4, 0.0), (1.6, 1.0), (2.9, 1.0), (3.1, 0.0)])
def test_hours_for_one_fine_tune_give_it_rdrop_where_that_is_long_enough(
    usual: float, weight: float, tmp_path: Path, tiny_model: Models
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = with_rdrop(free(settings))
    with opened(settings, home, 400.0, train=1e-3) as (course, planner):
        search = course.first
        known = planner.known([search])
        spare = known.end - known.reference + usual * known.run(720)
        planner._clock.seconds["setup"] += planner.left - spare / (1 - plan.RESERVE)
        search.begin(planner, ())
        trial = search.next(0.0)
        assert trial is not None
        assert trial.epochs is not None
        assert trial.params["train.rdrop"] == weight
        alone = usual < 3
        taken = (2 if weight else 1) * trial.epochs * 720 * known.pace.train
        assert taken == pytest.approx((1 if alone else 1 / 3) * usual * known.run(720), rel=0.1)
        introduced = search.introduction
        assert introduced is not None
        assert ("recipe with R-Drop runs on all the data" in introduced) is (weight > 0)
        search.trials[0] = replace(trial, status=Status.FAILED, reason="not finite")
        again = search.next(0.0)
        assert again is not None
        assert again.params != trial.params


def few(course: Course, planner: Planner, seconds: float) -> tuple[float, str]:
    """Begin a study that has so many seconds for fine-tunes; return the passes of its first run and what is said."""
    planner._clock.seconds["setup"] += planner.left - (planner.known([course.first]).end + seconds)
    course.first.begin(planner, ())
    trial, introduced = course.first.next(0.0), course.first.introduction
    assert trial is not None
    assert trial.epochs is not None
    assert introduced is not None
    return trial.epochs, introduced


@pytest.mark.parametrize(("seconds", "little"), [(1.0, True), (600.0, False)])
def test_hours_that_hold_next_to_no_updates_say_so(
    seconds: float, little: bool, tmp_path: Path, tiny_model: Models
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    with opened(free(settings), home, 3600.0, train=1e-3) as (course, planner):
        epochs, introduced = few(course, planner, seconds)
        updates = epochs * 720 / settings.train.batch_size
        assert (updates < LITTLE) is little
        assert (f"They hold only {max(1, round(updates))} update" in introduced) is little


def test_few_updates_are_not_laid_to_the_hours_where_the_settings_have_them_so(
    tmp_path: Path, tiny_model: Models
) -> None:
    one_pass = ("train.epochs=1", "search.space.train.epochs.choices=[1]")
    settings, home = request_of(tmp_path, tiny_model, *one_pass)
    with opened(free(settings), home, 3600.0, train=1e-3) as (course, planner):
        epochs, introduced = few(course, planner, 60)
        assert epochs * 720 / settings.train.batch_size < LITTLE
        assert "They hold only" not in introduced


def test_a_point_that_is_asked_for_is_the_first_run_however_short_that_is(tmp_path: Path, tiny_model: Models) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    with opened(free(settings), home, 3600.0, train=1e-3) as (course, planner):
        planner._clock.seconds["setup"] += planner.left - (planner.known([course.first]).end + 1)
        course.first.begin(planner, ())
        assert isinstance(course.first, Search)
        rate = settings.search.space[space.RATE]
        assert isinstance(rate, Interval)
        point = space.reference(settings) | {space.RATE: rate.low}
        wanted: Any = SimpleNamespace(points=[point], begun=lambda trial: trial)
        course.first._wanted = wanted
        trial = course.first.next(0.0)
        assert trial is not None
        assert trial.params == point


@pytest.mark.parametrize(("seconds", "hopes"), [(1.0, True), (600.0, False)])
def test_a_busy_machine_that_would_hold_next_to_no_updates_is_planned_as_if_it_were_idle(
    seconds: float, hopes: bool, tmp_path: Path, tiny_model: Models
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    epochs, ends = [], []
    for running in (1.0, 0.25):
        with opened(free(settings), home, 3600.0, train=1e-3, running=running) as (course, planner):
            passes, introduced = few(course, planner, seconds)
            assert ("the plan counts on the processors" in introduced) is (hopes and running < 1)
            epochs.append(passes)
            ends.append(planner.made[-1].end - REPORT_SECONDS)
            (StudyFolder.of(home, settings.study).plans).unlink()
        shutil.rmtree(home)
        home.mkdir()
    assert ends[1] == pytest.approx(ends[0] / 4 if hopes else ends[0])
    assert epochs[1] > 4 * epochs[0] if hopes else epochs[1] == pytest.approx(epochs[0], rel=0.05)


@pytest.mark.parametrize(("usual", "weights"), [(1.4, [0.0, 0.0]), (1.7, [0.0, 1.0])])
def test_a_second_worker_runs_rdrop_where_that_is_long_enough(
    usual: float, weights: list[float], tmp_path: Path, tiny_model: Models
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = with_rdrop(free(settings))
    with opened(settings, home, 400.0, train=1e-3, workers=2) as (course, planner):
        search = course.first
        known = planner.known([search])
        planner._clock.seconds["setup"] += planner.left - (known.end + usual * known.run(720)) / (1 - plan.RESERVE)
        search.begin(planner, ())
        for number in range(2):
            trial = search.next(0.0)
            assert trial is not None
            search.trials[number] = trial
        assert search.next(0.0) is None
        assert [trial.params["train.rdrop"] for trial in search.trials.values()] == weights
        assert len({trial.seed for trial in search.trials.values()}) == 2


def test_finish_waits_for_the_first_of_a_few_fine_tunes_and_for_no_other(tmp_path: Path, tiny_model: Models) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = free(settings)
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        for number, score in ((0, 0.8), (1, None)):
            trial = search.next(0.0)
            assert trial is not None
            ended = replace(trial, status=Status.COMPLETE, step=180, score=score, seconds={"training": 0.1})
            search.trials[number] = ended if score is not None else replace(trial, step=20)
            search.trials[number].save(search.trial_folder(number).path)
        assert search.over(0.0) is None
    with opened(settings, home, 140.0, finishing=True, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        assert search.over(0.0) == "the study is to finish; no trial goes on"
        assert [trial.number for trial in search.closing()] == [1]
        del search.trials[0]
        assert search.over(0.0) is None, "there is no model yet"


def test_hours_that_hold_some_fine_tunes_try_other_rates_and_then_the_best_with_other_seeds(
    tmp_path: Path, tiny_model: Models
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    settings = free(settings)
    scores, rates = (0.8, 0.7, 0.9, 0.6, 0.95), list[float]()
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        search = course.first
        search.begin(planner, ())
        for number, score in enumerate(scores):
            trial = search.next(0.0)
            assert trial is not None
            assert (trial.number, trial.seed) == (number, number or None)
            rates.append(trial.params["train.learning_rate"])
            search.trials[number] = replace(
                trial, status=Status.COMPLETE, step=180, score=score, seconds={"training": 0.1}
            )
            search.recorded(trial, search.trials[number])
        assert rates == [0.01, 0.02, 0.005, 0.005, 0.005]
        assert [one.number for one in search.kept_models()] == [4, 0]
        found = search.found()
        assert (found.winner.number, found.folder) == (4, "trials/4")
        assert found.reference is not None
        assert (found.reference.number, found.reference_folder) == (0, "trials/0")
        del search.trials[4], search.trials[2]
        assert [one.number for one in search.kept_models()] == [0]
        assert search.found().reference is None, "it is the winner"
    settings = with_budget(settings, max_trials=1).model_copy(update={"study": "reference"})
    with opened(settings, home, 150.0, train=4e-3) as (course, planner):
        course.first.begin(planner, ())
        for number in range(3):
            trial = course.first.next(0.0)
            assert trial is not None
            assert trial.params["train.learning_rate"] == 0.01, "no other is wanted"
            course.first.trials[number] = replace(
                trial, status=Status.COMPLETE, step=180, score=0.5, seconds={"training": 0.1}
            )


def test_a_final_model_that_was_interrupted_goes_on_and_nothing_before_it_does(done: Done, copied: Path) -> None:
    """However much of the hours is left."""
    [final] = done.records("final")
    running = replace(final, status=Status.RUNNING, score=None, metrics={}, told=False, step=20)
    for left in (HOURS * 3600 - 20, planning.REPORT_SECONDS + 1):
        running.save(copied / "studies" / done.settings.study / "final" / "0")
        with opened(done.settings, copied, left) as (course, planner):
            search, confirmation, last = begun(course, planner)
            assert isinstance(last, Final)
            assert [phase.next(phase.hours) for phase in (search, confirmation, last)] == [None, None, None]
            assert confirmation.found().winner.entrant == done.summary.winner.entrant
            assert confirmation.fields()["confirmation"] == done.summary.confirmation
            assert last.trials == {0: running}
            assert last.over(last.hours) is None
            last.trials[0] = final
            assert last.found().winner == final


def test_time_that_is_left_trains_the_final_model_with_other_seeds_of_which_the_best_is_kept(
    done: Done, copied: Path
) -> None:
    settings = with_budget(done.settings, final_seeds=None)
    [first] = done.records("final")
    with opened(settings, copied, HOURS * 1800) as (course, planner):
        last = begun(course, planner)[-1]
        for number, better in ((1, 0.01), (2, -0.01), (3, 0.01), (4, 0.0)):
            further = last.next(last.hours)
            assert further == TrialRecord(
                number,
                first.params,
                Status.RUNNING,
                entrant=first.entrant,
                seed=first.seed + number,
                examples=720,
                epochs=first.epochs,
            )
            last.trials[number] = further
            assert last.next(last.hours) is None, "there is one worker"
            complete = replace(further, status=Status.COMPLETE, score=first.score + better, seconds=first.seconds)
            last.trials[number] = complete
            last.trial_folder(number).model.mkdir(parents=True)
            assert [run.number for run in last.kept_models()] == [1]
        assert last.next(last.hours) is None, "five are enough"
        found = last.found()
        assert (found.winner.number, found.folder) == (1, "final/1")
    with opened(settings, copied, HOURS * 1800, finishing=True) as (course, planner):
        last = begun(course, planner)[-1]
        assert last.next(last.hours) is None


def test_workers_train_the_final_model_with_other_seeds_at_the_same_time(done: Done, copied: Path) -> None:
    shutil.rmtree(copied / "studies" / done.settings.study / "final")
    [first] = done.records("final")
    for seeds, begins in ((None, 3), (2, 2)):
        settings = with_budget(done.settings, final_seeds=seeds)
        with opened(settings, copied, HOURS * 1800, workers=3) as (course, planner):
            last = begun(course, planner)[-1]
            while (run := last.next(last.hours)) is not None:
                last.trials[run.number] = run
            assert [run.seed for run in last.trials.values()] == [1000, 1001, 1002][:begins]
            assert {run.epochs for run in last.trials.values()} == {first.epochs}
            assert last.closing() == [replace(run, status=Status.PRUNED) for run in last.trials.values()]


@pytest.mark.parametrize(("share", "begins"), [(0.45, False), (0.55, True), (0.95, True)])
def test_a_seed_that_must_be_much_shorter_is_not_begun(done: Done, copied: Path, share: float, begins: bool) -> None:
    settings = with_budget(done.settings, final_seeds=None)
    with opened(settings, copied, HOURS * 3600) as (course, planner):
        last = begun(course, planner)[-1]
        [first] = last.trials.values()
        assert first.epochs is not None
        known = planner.known([*course.opened])
        needed = known.pace.trial + known.scoring + share * first.epochs * 720 * known.pace.train
        planner._clock.seconds["setup"] += planner.left - known.end - needed
        further = last.next(last.hours)
    assert (further is not None) is begins
    if further is not None:
        assert further.epochs == pytest.approx(share * first.epochs, rel=0.02)
        for status in (Status.COMPLETE, Status.FAILED):
            last.trials[1] = replace(further, status=status, score=0.1)
            after = last.next(last.hours)
            assert after is None or after.seed == 1002, "it counts, however short it was"


@pytest.mark.parametrize(("left", "again"), [(HOURS * 1800, True), (planning.REPORT_SECONDS + 0.1, False)])
def test_a_final_model_that_was_not_kept_is_trained_again(done: Done, copied: Path, left: float, again: bool) -> None:
    """Another recipe had won in the meantime, or the model was worse than what it is now better than."""
    [first] = done.records("final")
    model = copied / "studies" / done.settings.study / "final" / "0" / "model"
    shutil.move(model, copied / "model")
    with opened(done.settings, copied, left) as (course, planner):
        last = begun(course, planner)[-1]
        assert last.found().folder.startswith("confirmation/")
        assert last.next(last.hours) is None
        assert last.trials == {0: replace(first, status=Status.RUNNING, told=False) if again else first}
        shutil.move(copied / "model", model)
        last.trials[0] = first
        assert last.found().folder == "final/0"


def test_a_final_model_that_was_worse_is_not_trained_again(done: Done, copied: Path) -> None:
    [first] = done.records("final")
    worse = replace(first, score=0.1)
    worse.save(copied / "studies" / done.settings.study / "final" / "0")
    shutil.rmtree(copied / "studies" / done.settings.study / "final" / "0" / "model")
    with opened(done.settings, copied, HOURS * 1800) as (course, planner):
        last = begun(course, planner)[-1]
        assert last.trials == {0: worse}
        assert last.found().folder.startswith("confirmation/")


def test_a_final_model_that_failed_leaves_the_confirmed_one(done: Done, copied: Path) -> None:
    [first] = done.records("final")
    failed = replace(first, status=Status.FAILED, score=None, reason="not finite")
    failed.save(copied / "studies" / done.settings.study / "final" / "0")
    for seeds, more in ((1, None), (None, 1001)):
        with opened(with_budget(done.settings, final_seeds=seeds), copied, HOURS * 1800) as (course, planner):
            last = begun(course, planner)[-1]
            further = last.next(last.hours)
            assert (further.seed if further is not None else None) == more
            assert last.found().folder.startswith("confirmation/")


def test_a_confirmation_that_was_interrupted_goes_on_where_it_was(done: Done, copied: Path) -> None:
    folder = copied / "studies" / done.settings.study
    *there, gone = done.records("confirmation")
    beside = next(run for run in there if run.entrant == gone.entrant)
    if (kept := folder / "confirmation" / str(gone.number) / "model").exists():  # as if it had been the other's
        kept.rename(folder / "confirmation" / str(beside.number) / "model")
    shutil.rmtree(folder / "confirmation" / str(gone.number))
    shutil.rmtree(folder / "final")
    (folder / "published.json").unlink()
    with opened(done.settings, copied, HOURS * 3600 - 30) as (course, planner):
        search, confirmation, _ = begun(course, planner)
        assert search.next(search.hours) is None
        again = confirmation.next(confirmation.hours)
        assert again == TrialRecord(
            gone.number, gone.params, Status.RUNNING, entrant=gone.entrant, seed=gone.seed, examples=256
        )
    with opened(done.settings, copied, planning.REPORT_SECONDS + 0.1) as (course, planner):
        search, confirmation, last = begun(course, planner)
        assert [phase.next(phase.hours) for phase in (search, confirmation, last)] == [None, None, None]
        assert set(confirmation.trials) == {run.number for run in there}
        assert confirmation.found().winner.entrant in {run.entrant for run in there}


def test_a_larger_budget_goes_on_with_the_search(done: Done, copied: Path) -> None:
    with opened(with_budget(done.settings, hours=2 * HOURS, max_trials=8), copied, HOURS * 3600) as (course, planner):
        search = course.first
        search.begin(planner, ())
        new = search.next(search.hours)
        assert new is not None
        assert (new.number, new.examples, new.status) == (4, 128, Status.RUNNING)
        assert search.total == 8
        assert len(planner.made) == 4


def test_who_finishes_begins_no_trial(done: Done, copied: Path) -> None:
    shutil.rmtree(copied / "studies" / done.settings.study / "final")
    settings = with_budget(done.settings, hours=2 * HOURS, max_trials=8)
    with opened(settings, copied, HOURS * 3600, finishing=True) as (course, planner):
        search, confirmation, last = begun(course, planner)
        assert search.next(search.hours) is None
        assert search.over(search.hours) is not None
        assert confirmation.next(confirmation.hours) is None
        new = last.next(last.hours)
        assert new is not None
        assert (new.examples, new.entrant) == (720, done.summary.winner.entrant)


def test_a_final_model_is_not_given_up_for_some_seconds(done: Done, copied: Path) -> None:
    """What is left for test and report has begun to run out, and the run is nearly there."""
    late = planning.LATE * HOURS * 3600
    for left, given_up in ((0.5 * late, False), (-1.1 * late, True)):
        with opened(done.settings, copied, 100) as (course, planner):
            last = begun(course, planner)[-1]
            planner._clock.seconds["setup"] += 100 - planning.REPORT_SECONDS - left
            assert (last.over(last.hours) is not None) is given_up


# ---- run whole


def coordinator(settings: Settings, root: Path, home: Path, **environment: str) -> Coordinator:
    (root / "settings.json").write_text(settings.model_dump_json())
    given = {"OMP_NUM_THREADS": "1", "HPSEARCH_HOME": str(home)} | environment
    return Coordinator(root / "settings.json", root / "log", given)


def interrupted(settings: Settings, root: Path, home: Path, there: Callable[[], bool]) -> None:
    """Begin a sweep, and interrupt it once something is there."""
    process, deadline = coordinator(settings, root, home), time.monotonic() + SECONDS
    while not there():
        assert process.poll() is None, (root / "log").read_text()
        assert time.monotonic() < deadline, (root / "log").read_text()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130, (root / "log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["trials", "confirmation", "final"])
def test_interrupted_anywhere_the_same_command_goes_on_in_that_phase(
    place: str, tmp_path: Path, tiny_model: Models
) -> None:
    longer = ("train.epochs=20", "search.space.train.epochs.choices=[20,30]", "hardware.checkpoint_seconds=0.2")
    settings, home = request_of(tmp_path, tiny_model, *longer)
    folder = StudyFolder.of(home, settings.study)
    interrupted(settings, tmp_path, home, lambda: any(one.checkpoints() for one in folder.trials(place)))
    before = {(kind, one.path.name): one.record.read_text() for kind in PLACES for one in folder.trials(kind)}
    spent = sum(read_seconds(folder).values())
    assert coordinator(settings, tmp_path, home).wait(SECONDS) == 0, (tmp_path / "log").read_text()
    found = Done(settings, home, sweep.read_summary(folder))  # type: ignore[arg-type]
    assert len(found.records("trials")) == 4
    [final] = found.records("final")
    assert (final.status, final.examples) == (Status.COMPLETE, 720)
    assert all(run.status is Status.COMPLETE for run in found.records("confirmation"))
    for (kind, number), text in before.items():
        record = json.loads(text)
        if record["status"] == "complete":
            kept = json.loads((folder.path / kind / number / "trial.json").read_text())
            assert (kept["score"], kept["seconds"]) == (record["score"], record["seconds"]), "it was run again"
    [planned] = {made.phase for made in found.summary.plans if made.phase == "search"}
    assert [made.phase for made in found.summary.plans].count(planned) == 1, "its part of the hours is as it was"
    assert spent < found.summary.total_seconds < HOURS * 3600
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"


@pytest.mark.slow
def test_a_larger_budget_continues_the_study(done: Done, copied: Path) -> None:
    settings = with_budget(done.settings, hours=2 * HOURS, max_trials=7)
    more = Done(settings, copied, sweep.run_sweep(settings, copied))
    assert more.records("trials")[:4] == done.records("trials")
    assert [trial.examples for trial in more.records("trials")] == [128] * 7
    before = {(run.entrant, run.seed): run.seconds for run in done.records("confirmation")}
    kept = [run for run in more.records("confirmation") if (run.entrant, run.seed) in before]
    assert kept
    assert all(run.seconds == before[run.entrant, run.seed] for run in kept), "it was run again"
    assert more.summary.hours == 2 * HOURS
    assert [made.hours for made in more.summary.plans][:3] == [HOURS] * 3
    assert {made.hours for made in more.summary.plans[3:]} == {2 * HOURS}
    assert more.summary.total_seconds > done.summary.total_seconds
    assert fsck(settings, copied, repair=False) == f"{settings.study}: clean"


@pytest.mark.slow
def test_a_final_model_that_is_worse_is_not_kept(
    tmp_path: Path, tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    ended = Loop._ended

    def worse(self: Loop, result: TrialResult) -> None:
        if isinstance(self.phase, Final):
            result = replace(result, score=0.1, metrics=result.metrics | {"validation_accuracy": 0.1})
        ended(self, result)

    monkeypatch.setattr(Loop, "_ended", worse)
    found = Done(settings, home, sweep.run_sweep(settings, home))
    [final] = found.records("final")
    assert (final.status, final.score) == (Status.COMPLETE, 0.1)
    winner = found.summary.winner
    assert winner.folder.startswith("confirmation/")
    assert found.summary.data.trained_on == 256
    best = max(run.score or 0 for run in found.records("confirmation") if run.entrant == winner.entrant)
    assert winner.validation["validation_accuracy"] == best
    assert not found.folder.trial("final", 0).model.exists()
    assert found.folder.named(winner.folder).weights.exists()
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"
    assert sweep.run_sweep(settings, home) == found.summary


@pytest.mark.slow
def test_the_best_seed_of_the_final_model_is_kept_and_comes_to_the_same_again(
    tmp_path: Path, tiny_model: Models
) -> None:
    settings, home = request_of(tmp_path, tiny_model, "budget.final_seeds=3")
    found = Done(settings, home, sweep.run_sweep(settings, home))
    runs = found.records("final")
    assert [(run.status, run.seed) for run in runs] == [(Status.COMPLETE, 1000 + i) for i in range(3)]
    best = max(runs, key=lambda run: (run.score, -run.number))
    assert found.summary.winner.folder == f"final/{best.number}"
    assert [run.number for run in runs if found.folder.trial("final", run.number).model.exists()] == [best.number]
    assert "is reproduced bit for bit" in reproduce(settings, home, found.summary.winner.run_id)
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"


@pytest.mark.slow
def test_hours_that_hold_one_fine_tune_are_all_for_the_reference_recipe(
    tmp_path: Path, tiny_model: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 400 passes, which take minutes."""
    free = (
        "budget.max_trials=null",
        "budget.search_examples=null",
        "budget.confirmation={finalists: null, seeds: null}",
    )
    hours = ("budget.hours=0.017", "train.epochs=400", "search.space.train.epochs.choices=[400]")
    settings, home = request_of(tmp_path, tiny_model, *free, "budget.confirmation.examples=null", *hours)
    found = Done(settings, home, sweep.run_sweep(settings, home))
    said = " ".join(capsys.readouterr().out.split())
    assert "these hours are too short for a search. The reference recipe runs on all the data" in said
    [trial] = found.records("trials")
    assert (trial.status, trial.examples, trial.seed) == (Status.COMPLETE, None, None)
    assert trial.params["train.learning_rate"] == settings.train.learning_rate
    assert trial.epochs is not None
    assert 1 <= trial.epochs < 400
    assert trial.rungs == {}
    assert not found.records("confirmation")
    assert not found.records("final")
    [made] = found.summary.plans
    assert [step.phase for step in made.steps] == ["search"]
    scoring = made.pace["score"] * found.summary.test.n
    assert made.end == pytest.approx(REPORT_SECONDS + scoring, abs=scoring / 2), "one model is scored"
    assert found.summary.total_seconds < 1.1 * 0.017 * 3600
    assert "is reproduced bit for bit" in reproduce(settings, home, found.summary.winner.run_id)
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"
    with opened(with_budget(settings, hours=3.0), home, 2.9 * 3600) as (course, planner):
        course.first.begin(planner, ())
        new = course.first.next(course.first.hours)
        assert new is not None
        assert (new.number, new.epochs) == (1, None), "more hours search"


@pytest.mark.slow
def test_the_reference_recipe_is_scored_beside_the_rate_that_won(
    tmp_path: Path, tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "WORTH_SEARCHING", 10**6)
    monkeypatch.setattr(plan, "MOST_ALONE", 3)
    ended = Loop._ended

    def marked(self: Loop, result: TrialResult) -> None:
        """The third has the best score, as far as anybody is told."""
        score = 0.9 if result.number == 2 else 0.5
        ended(self, replace(result, score=score, metrics=result.metrics | {"validation_accuracy": score}))

    monkeypatch.setattr(Loop, "_ended", marked)
    free = ("budget.max_trials=null", "budget.search_examples=null", "budget.confirmation.examples=null")
    fixed = ("budget.confirmation.finalists=null", "budget.confirmation.seeds=null")
    settings, home = request_of(tmp_path, tiny_model, *free, *fixed)
    found = Done(settings, home, sweep.run_sweep(settings, home))
    trials = found.records("trials")
    assert [trial.params["train.learning_rate"] for trial in trials] == [0.01, 0.02, 0.005]
    assert found.summary.winner.folder == "trials/2"
    reference = found.summary.reference
    assert reference is not None
    assert (reference.params, reference.seed) == (trials[0].params, settings.seed)
    assert [one.number for one in trials if found.folder.trial("trials", one.number).model.exists()] == [0, 2]
    said = " ".join(page.findings(found.summary))
    assert "3 runs that differ in recipe or seed had all the time. Among those within one standard error" in said
    assert f"The reference recipe has test accuracy {formats.score(reference.value)} on the same examples" in said
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"
    assert sweep.run_sweep(settings, home) == found.summary


# ---- finished early


@pytest.mark.slow
def test_a_study_is_finished_with_what_there_is(tmp_path: Path, tiny_model: Models) -> None:
    every = ("search.rungs=[]", "budget.max_trials=30", "train.epochs=20", "search.space.train.epochs.choices=[20,30]")
    settings, home = request_of(tmp_path, tiny_model, *every)
    folder = StudyFolder.of(home, settings.study)
    interrupted(settings, tmp_path, home, lambda: len(folder.trials("trials")) > 1)
    before = [one.path.name for one in folder.trials("trials")]
    found = Done(settings, home, sweep.run_sweep(settings, home, finishing=True))
    after = found.records("trials")
    assert [str(trial.number) for trial in after] == before, "no trial was begun"
    assert all(trial.status.final for trial in after)
    assert after[0].status is Status.COMPLETE
    assert found.records("confirmation")
    assert [run.status for run in found.records("final")] == [Status.COMPLETE]
    assert found.summary.winner.folder == "final/0"
    assert fsck(settings, home, repair=False) == f"{settings.study}: clean"


@pytest.mark.slow
def test_a_study_that_is_to_finish_without_a_complete_trial_trains_one(tmp_path: Path, tiny_model: Models) -> None:
    settings, home = request_of(tmp_path, tiny_model)
    with pytest.raises(RequestError, match=r"there is no study toy-tiny-default in .*; give the settings that it was"):
        sweep.run_sweep(settings, home, finishing=True)
    dies = coordinator(settings, tmp_path, home, DIE_AT="coordinator.loop.Loop._run:1")
    assert dies.wait(SECONDS) == -signal.SIGKILL, (tmp_path / "log").read_text()
    found = Done(settings, home, sweep.run_sweep(settings, home, finishing=True))
    assert [trial.status for trial in found.records("trials")] == [Status.COMPLETE]
    assert [run.status for run in found.records("final")] in ([Status.COMPLETE], []), "there may be a better run"


def test_finish_is_the_sweep_without_new_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[Any] = []
    monkeypatch.setattr(sweep, "run_sweep", lambda *args, **kwargs: given.append((args, kwargs)))
    monkeypatch.setenv("HPSEARCH_HOME", str(tmp_path))
    for verb in ("sweep", "finish"):
        assert cli.main([verb, "task=rotten_tomatoes", "budget=30m", "--force"]) == 0
    (first, one), (second, other) = given
    assert first[:3] == second[:3]
    assert first[0].budget.hours == 0.5
    assert (one, other) == ({"finishing": False}, {"finishing": True})
