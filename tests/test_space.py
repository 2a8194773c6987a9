"""The space and the samplers: every value fits the settings, draws repeat, paused trials teach."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial

import make
from hpsearch.config import space
from hpsearch.config.dimensions import Choice, Dimension, Interval
from hpsearch.config.section import replace
from hpsearch.config.settings import Settings
from hpsearch.coordinator import study
from hpsearch.coordinator.notes import of_search
from hpsearch.coordinator.study import suggest
from hpsearch.errors import OutOfReachError, RequestError
from hpsearch.state import addresses, locks
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import Status, TrialRecord

SAMPLERS = ("tpe", "gp", "random", "grid", "cmaes", "qmc")
WIDE = make.compose_settings("search=wide")


def with_space(dimensions: dict[str, Dimension], *overrides: str) -> Settings:
    settings = make.compose_settings(*overrides)
    return settings.model_copy(update={"search": settings.search.model_copy(update={"space": dimensions})})


@given(st.integers(0, 10**6))
@hypothesis_settings(max_examples=50)
def test_every_point_of_the_space_fits_the_settings(seed: int) -> None:
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    params = suggest(trial, WIDE.search.space)
    assert params.keys() == WIDE.search.space.keys()
    applied = space.apply(WIDE, params)
    for path, value in params.items():
        section, field = path.split(".")
        assert getattr(getattr(applied, section), field) == value
        dimension = WIDE.search.space[path]
        if isinstance(dimension, Interval):
            assert dimension.low <= value <= dimension.high
        else:
            assert value in dimension.choices
    assert applied.budget == WIDE.budget
    assert applied.train.max_grad_norm == WIDE.train.max_grad_norm


@given(low=st.floats(1e-6, 1e-1), factor=st.floats(1, 1e3), seed=st.integers(0, 1000))
@hypothesis_settings(max_examples=30)
def test_bounds_are_inclusive_and_log_is_log(low: float, factor: float, seed: int) -> None:
    dimension = Interval(low=low, high=low * factor, log=True)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    value = suggest(trial, {"train.learning_rate": dimension})["train.learning_rate"]
    assert low <= value <= low * factor
    assert trial.distributions["train.learning_rate"].log  # type: ignore[attr-defined]


def test_the_type_is_that_of_the_setting() -> None:
    dimensions: dict[str, Dimension] = {
        "train.epochs": Interval(low=1, high=3),
        "train.batch_size": Interval(low=8, high=32, step=8),
    }
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    params = suggest(trial, dimensions)
    assert isinstance(params["train.epochs"], float)
    assert isinstance(params["train.batch_size"], int)
    assert params["train.batch_size"] % 8 == 0


def test_a_condition_makes_a_dimension_exist_or_not() -> None:
    dimensions: dict[str, Dimension] = {
        "train.warmup": Interval(low=0.05, high=0.2, when={"train.scheduler": ("linear", "cosine")}),
        "train.scheduler": Choice(choices=("linear", "cosine", "constant")),
    }
    seen = set()
    for seed in range(20):
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        params = suggest(trial, dimensions)
        assert ("train.warmup" in params) == (params["train.scheduler"] != "constant")
        seen.add(params["train.scheduler"])
    assert len(seen) == 3


def test_conditions_in_a_circle_are_refused() -> None:
    dimensions: dict[str, Dimension] = {
        "train.warmup": Interval(low=0.05, high=0.2, when={"train.weight_decay": (0.0,)}),
        "train.weight_decay": Choice(choices=(0.0, 0.1), when={"train.warmup": (0.1,)}),
    }
    with pytest.raises(RequestError, match="circle"):
        space.reference_point(with_space(dimensions))


def test_what_few_hours_try_is_the_reference_recipe_and_what_the_space_holds_near_it() -> None:
    settings = make.compose_settings()
    point, dropped, twice, half = space.to_try(settings)
    assert point == space.reference_point(settings)
    assert dropped == point | {space.RDROP: 1.0}
    rate = settings.model.reference.learning_rate
    assert (twice, half) == (dropped | {space.RATE: 2 * rate}, dropped | {space.RATE: rate / 2})
    narrow = make.compose_settings(f"search.space.train.learning_rate.high={1.5 * rate}")
    assert space.to_try(narrow) == [point, dropped, half]
    only, other = space.to_try(make.compose_settings("~search.space.train.learning_rate"))
    assert only == {path: value for path, value in point.items() if path != space.RATE}
    assert other == only | {space.RDROP: 1.0}
    outside = settings.model_copy(update={"train": replace(settings.train, {"batch_size": 7})})
    assert space.to_try(outside) == []
    assert space.to_try(make.compose_settings("budget.max_trials=1")) == [point]
    for without in ("model=modernbert-base", "~search.space.train.rdrop", "train.rdrop=1"):
        first, *others = space.to_try(make.compose_settings(without))
        assert {one.get(space.RDROP) for one in others} == {first.get(space.RDROP)}, without


@pytest.mark.parametrize("where", [0.0, 1.0])
def test_points_near_the_reference_recipe_have_what_exists_there(where: float, tmp_path: Path) -> None:
    dimensions: dict[str, Dimension] = {
        "train.learning_rate": Interval(low=1e-5, high=1e-3, log=True),
        "train.rdrop": Choice(choices=(0.0, 1.0)),
        "train.label_smoothing": Interval(low=0.0, high=0.2, when={"train.rdrop": (where,)}),
    }
    settings, smoothing = with_space(dimensions), "train.label_smoothing"
    points = space.to_try(settings)
    assert [point["train.rdrop"] for point in points] == [0.0, 1.0, 1.0, 1.0]
    assert [smoothing in point for point in points] == [point["train.rdrop"] == where for point in points]
    assert space.moved(settings, points[1], "train.rdrop", 0.0) == points[0]
    assert space.moved(settings, points[0], "train.learning_rate", 1.0) is None
    opened = study.Study(settings, tmp_path)
    for number, point in enumerate(points):
        assert opened.ask(number, [], point).params == point


def test_the_reference_is_the_settings_own_point_or_none() -> None:
    settings = make.compose_settings()
    params = space.reference_point(settings)
    assert params == {
        "train.learning_rate": settings.model.reference.learning_rate,
        "train.batch_size": settings.model.reference.batch_size,
        "train.epochs_factor": 1.0,
        "train.rdrop": 0.0,
    }
    outside = settings.model_copy(update={"train": replace(settings.train, {"batch_size": 7})})
    assert space.reference_point(outside) is None
    assert space.reference(outside) == {**params, "train.batch_size": 7}
    assert space.apply(outside, space.reference(outside)) == outside
    assert space.recipe(outside, {"train.epochs": 9.0}) == {
        "train.learning_rate": settings.model.reference.learning_rate,
        "train.batch_size": 7,
        "train.epochs": 9.0,
        "train.warmup": settings.train.warmup,
    }
    passes = ("~search.space.train.epochs_factor", "+search.space.train.epochs.choices=[1,2]")
    chosen = space.reference_point(make.compose_settings("train.epochs=2", *passes))
    assert chosen is not None
    assert type(chosen["train.epochs"]) is int, "the choice, as the sampler draws it"
    for unsaid in (passes, ("~search.space.train.epochs_factor", "+search.space.train.epochs={low: 1, high: 3}")):
        assert space.reference_point(make.compose_settings(*unsaid)) is None, "as many as the data ask for"
    for step, params in ((0.05, {"train.warmup": 0.1}), (0.04, None)):  # 0.1 is between two steps of the latter
        stepped = with_space({"train.warmup": Interval(low=0.0, high=0.2, step=step)})
        assert stepped.train.warmup == 0.1
        assert space.reference_point(stepped) == params


def toy_space(step: float | None) -> dict[str, Dimension]:
    return {
        "train.learning_rate": Interval(low=0.1, high=0.3, step=step),
        "train.batch_size": Choice(choices=(8, 16)),
    }


def run_study(settings: Settings, home: Path, count: int, reopen: bool = False) -> list[dict[str, Any]]:
    """Ask for so many trials, each scored at a rung and paused."""
    opened = study.Study(settings, home)
    trials: list[TrialRecord] = []
    for _ in range(count):
        if reopen:
            opened = study.Study(settings, home)
        trial = opened.ask(len(trials), trials)
        score = -abs(trial.params["train.learning_rate"] - 0.2)
        paused = {"status": Status.PAUSED, "rungs": {0: score}, "score": score, "step": 1, "total_steps": 5}
        trials.append(dataclasses.replace(trial, **paused))
        opened.tell(trials[-1])
    assert [trial.number for trial in trials] == list(range(count))
    return [trial.params for trial in trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_shipped_sampler_draws_within_the_space_and_repeats_itself(name: str, tmp_path: Path) -> None:
    overrides = (f"sampler={name}", "budget.startup_trials=2", "train.learning_rate=0.2")
    settings = with_space(toy_space(0.1 if name == "grid" else None), *overrides)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = run_study(settings, tmp_path / "a", 6)
    assert first == run_study(settings, tmp_path / "b", 6, reopen=True)
    for params in first:
        assert 0.1 <= params["train.learning_rate"] <= 0.3
        assert params["train.batch_size"] in (8, 16)
    if name == "grid":
        assert len({tuple(params.items()) for params in first}) == 6
    else:
        assert first[0] == {"train.learning_rate": 0.2, "train.batch_size": 16}  # the reference recipe
        assert len({params["train.learning_rate"] for params in first}) == 6


def test_every_sampler_file_is_tested() -> None:
    assert {path.stem for path in (make.CONF / "sampler").glob("*.yaml")} == set(SAMPLERS)


def test_a_grid_needs_steps() -> None:
    settings = make.compose_settings("sampler=grid")
    with pytest.raises(RequestError, match="with a step"):
        study.sampler(settings, 0)


def test_sampler_options_are_tried_before_the_sweep() -> None:
    settings = make.compose_settings("+sampler.options.n_startup_trails=3")
    with pytest.raises(RequestError, match="TPESampler refuses"):
        study.sampler(settings, 0)
    with pytest.raises(RequestError, match="no such sampler"):
        study.sampler(make.compose_settings("sampler.name=NSGAIISampler"), 0)


def test_the_sampler_learns_from_paused_trials(tmp_path: Path) -> None:
    """All trials are paused, none is told: the later draws still gather where scores were good."""
    settings = with_space(
        {"train.learning_rate": Interval(low=1e-5, high=1.0, log=True)}, "sampler=tpe", "budget.startup_trials=5"
    )
    opened = study.Study(settings, tmp_path)
    trials: list[TrialRecord] = []
    for _ in range(30):
        trial = opened.ask(len(trials), trials)
        rate = trial.params["train.learning_rate"]
        score = 1.0 if rate < 1e-3 else 0.0
        trials.append(TrialRecord(trial.number, trial.params, Status.PAUSED, rungs={0: score}, score=score))
    late = [t.score for t in trials[-10:]]
    assert sum(s or 0.0 for s in late) >= 7  # at random: 4


def test_importance_names_the_parameter_that_matters(tmp_path: Path) -> None:
    dimensions: dict[str, Dimension] = {
        "train.learning_rate": Interval(low=1e-5, high=1e-3, log=True),
        "train.batch_size": Choice(choices=(16, 32)),
    }
    opened = study.Study(with_space(dimensions, "sampler=random"), tmp_path)
    trials: list[TrialRecord] = []
    for number in range(20):
        drawn = opened.ask(len(trials), trials)
        worth = -abs(math.log10(drawn.params["train.learning_rate"]) + 4)
        # Scores at the end say something else, and only one trial has come to it.
        last = {"status": Status.COMPLETE, "score": 9.0} if number == 0 else {"status": Status.PRUNED, "score": worth}
        trials.append(dataclasses.replace(drawn, rungs={0: worth}, **last))  # type: ignore[arg-type]
        opened.tell(trials[-1])
    found = opened.importance(trials)
    assert list(found) == ["train.learning_rate", "train.batch_size"]
    assert sum(found.values()) == pytest.approx(1)
    assert found["train.learning_rate"] > 0.9
    assert opened.importance(trials[:5]) == {}
    assert opened.importance([dataclasses.replace(trial, rungs={0: 0.5}) for trial in trials]) == {}
    assert opened.importance([dataclasses.replace(trial, params=trials[0].params) for trial in trials]) == {}


def test_what_is_told_stays_told(tmp_path: Path) -> None:
    settings = make.compose_settings()
    opened = study.Study(settings, tmp_path)
    trial = opened.ask(0, [])
    opened.tell(TrialRecord(0, trial.params, Status.PAUSED, score=0.8, rungs={0: 0.8}))
    complete = TrialRecord(0, trial.params, Status.COMPLETE, score=0.9, rungs={0: 0.8})
    opened.tell(complete)
    opened.tell(complete)
    frozen = study.Study(settings, tmp_path).optuna.trials[0]
    assert frozen.state is optuna.trial.TrialState.COMPLETE
    assert frozen.value == 0.9
    assert frozen.intermediate_values == {0: 0.8}


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_a_crash_while_a_trial_is_drawn_changes_no_trial(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the trial was written by then or not, the next start takes the same trial up, once."""
    overrides = (f"sampler={sampler}", "budget.startup_trials=2", "train.learning_rate=0.2")
    settings = with_space(toy_space(0.1 if sampler == "grid" else None), *overrides)
    homes = [tmp_path / "whole", tmp_path / "crashed"]
    for home in homes:
        home.mkdir()
    expected = run_study(settings, homes[0], 6)

    database, crashed = optuna.storages.RDBStorage, homes[1]
    whole = database.create_new_trial
    trials: list[TrialRecord] = []
    for number in range(6):
        opened = study.Study(settings, crashed)
        if number in (0, 3):
            for after in (False, True):

                def crash(*given: Any, done: bool = after) -> None:
                    if done:
                        whole(*given)
                    raise KeyboardInterrupt

                monkeypatch.setattr(database, "create_new_trial", crash)
                with pytest.raises(KeyboardInterrupt):
                    opened.ask(len(trials), trials)
                monkeypatch.setattr(database, "create_new_trial", whole)
                opened = study.Study(settings, crashed)
                assert len(opened.known()) == number + after
        known = opened.known()
        trial = known[number] if len(known) > number else opened.ask(len(trials), trials)
        score = -abs(trial.params["train.learning_rate"] - 0.2)
        paused = {"status": Status.PAUSED, "rungs": {0: score}, "score": score, "step": 1, "total_steps": 5}
        trials.append(dataclasses.replace(trial, **paused))
        opened.tell(trials[-1])
    assert [trial.params for trial in trials] == expected
    assert [trial.number for trial in trials] == list(range(6))
    assert len(study.Study(settings, crashed).optuna.trials) == 6


def test_a_write_whose_confirmation_is_lost_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "RETRY_SECONDS", 0.01)
    opened = study.Study(make.compose_settings(), tmp_path)
    lost = 0

    def unconfirmed(whole: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal lost
            done = whole(*args, **kwargs)
            lost += 1
            if lost % 2:
                raise optuna.exceptions.StorageInternalError("server closed the connection unexpectedly")
            return done

        return call

    database = optuna.storages.RDBStorage
    for name in ("create_new_trial", "set_trial_intermediate_value", "set_trial_state_values"):
        monkeypatch.setattr(database, name, unconfirmed(getattr(database, name)))
    trial = opened.ask(0, [])
    assert lost == 1
    paused = dataclasses.replace(trial, status=Status.PAUSED, score=0.8, rungs={0: 0.8})
    lost = 0
    opened.tell(paused)
    lost = 0
    opened.tell(dataclasses.replace(paused, status=Status.COMPLETE, score=0.9))
    assert lost == 1
    [frozen] = study.Study(make.compose_settings(), tmp_path).optuna.trials
    assert (frozen.value, frozen.intermediate_values, frozen.params) == (0.9, {0: 0.8}, trial.params)


def test_a_write_that_optuna_itself_repeats_leaves_the_next_draws_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna adds a trial again where the database could not confirm it, and says nothing of it."""
    settings = make.compose_settings("budget.startup_trials=3")
    opened, written = study.Study(settings, tmp_path), 0
    prepare = optuna.storages.RDBStorage._get_prepared_new_trial

    def unconfirmed(given: Any, study_id: int, template: FrozenTrial, session: Any) -> Any:
        nonlocal written
        written += 1
        if written == 2:  # the first attempt at trial 1
            commit = session.commit

            def lost() -> None:
                del session.commit
                commit()
                raise sqlalchemy.exc.OperationalError("COMMIT", {}, Exception("connection closed"))

            session.commit = lost
        return prepare(given, study_id, template, session)

    monkeypatch.setattr(optuna.storages.RDBStorage, "_get_prepared_new_trial", unconfirmed)
    monkeypatch.setattr("optuna.storages._rdb.storage.time.sleep", lambda _: None)
    trials: list[TrialRecord] = []
    for number in range(6):
        trials.append(dataclasses.replace(opened.ask(number, trials), score=0.5 + number / 100))
    assert written == 6, "one trial was written twice, and no other one for it"
    assert trials[2].params == trials[1].params
    stored = study.Study(settings, tmp_path).optuna.trials
    assert [trial.params for trial in stored] == [trial.params for trial in trials]
    assert len({json.dumps(trial.params) for trial in trials}) == 5


def test_trials_that_another_program_enqueues_are_run_one_by_one(tmp_path: Path) -> None:
    """Optuna's own way to ask for a point, before the study runs and meanwhile."""
    settings = make.compose_settings()
    rates = (5e-5, 6e-5, 7e-5)
    other = optuna.create_study(
        storage=addresses.of_file(tmp_path / "optuna.db"), study_name=settings.study, direction="maximize"
    )
    for rate in rates[:2]:
        other.enqueue_trial(space.reference(settings) | {"train.learning_rate": rate})
    opened = study.Study(settings, tmp_path)
    assert opened.known() == [], "a study begins them as its budget allows"
    trials: list[TrialRecord] = []
    for number in range(2):
        trials.append(dataclasses.replace(opened.ask(number, trials), score=0.5))
    other.enqueue_trial({"train.learning_rate": rates[2]})  # what it lacks is the reference recipe's
    other.enqueue_trial({"train.learning_rate": 0.9, "train.batch_size": 7, "train.what": 1})  # another one is drawn
    for number in range(2, 4):
        trials.append(dataclasses.replace(opened.ask(number, trials), score=0.5))
    assert [trial.params for trial in trials[:3]] == [
        space.reference(settings) | {"train.learning_rate": rate} for rate in rates
    ]
    assert space.point(settings, trials[3].params) == trials[3].params, "it lies in the space"
    again = study.Study(settings, tmp_path)
    assert [(trial.params, trial.state) for trial in again.optuna.trials] == [
        (trial.params, optuna.trial.TrialState.RUNNING) for trial in trials
    ]
    other.enqueue_trial({})
    assert len(again.known()) == 4


def test_a_trial_that_another_program_begins_or_ends_is_taken_as_it_is(tmp_path: Path) -> None:
    settings = make.compose_settings()
    opened = study.Study(settings, tmp_path)
    first = dataclasses.replace(opened.ask(0, []), score=0.5)
    other = study.Study(settings, tmp_path).optuna
    other.ask()
    second = dataclasses.replace(opened.ask(1, [first]), score=0.4)
    assert set(second.params) == set(first.params)
    third = opened.ask(2, [first, second])
    other.tell(0, state=optuna.trial.TrialState.FAIL)
    opened.tell(dataclasses.replace(first, status=Status.PAUSED, rungs={0: 0.5}))
    opened.tell(dataclasses.replace(first, status=Status.COMPLETE))
    opened.tell(dataclasses.replace(second, status=Status.COMPLETE))
    states = [trial.state.name for trial in study.Study(settings, tmp_path).optuna.trials]
    assert states == ["FAIL", "COMPLETE", "RUNNING"]
    assert third.params == study.Study(settings, tmp_path).optuna.trials[2].params


def test_a_lock_that_was_lost_and_taken_again_has_the_database_read_again(tmp_path: Path) -> None:
    opened, taken = study.Study(make.compose_settings(), tmp_path), False
    opened.lock = SimpleNamespace(check=lambda: taken, close=lambda: None)  # type: ignore[assignment]
    assert opened.known() == []
    study.Study(opened.settings, tmp_path).ask(0, [])  # the coordinator that had it meanwhile
    assert opened.known() == []
    taken = True
    assert [trial.number for trial in opened.known()] == [0]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc"])
def test_a_study_that_is_opened_anew_draws_what_it_would_have_drawn(sampler: str, tmp_path: Path) -> None:
    """While trials wait, fail and end with other scores than at their rungs."""
    settings = make.compose_settings(f"sampler={sampler}", "budget.startup_trials=3")
    drawn = []
    for name in ("open", "opened_anew"):
        (tmp_path / name).mkdir()
        opened, trials = study.Study(settings, tmp_path / name), list[TrialRecord]()
        for number in range(14):
            if name == "opened_anew":
                opened.close()
                opened = study.Study(settings, tmp_path / name)
            trials.append(opened.ask(number, trials))
            for one in trials:
                ended, score = Status.FAILED if one.number % 6 == 5 else Status.COMPLETE, 0.5 + one.number * 5 % 7 / 20
                if one.number == number - 1:
                    trials[one.number] = dataclasses.replace(one, status=Status.PAUSED, score=score, rungs={0: score})
                elif one.number == number - 3:
                    trials[one.number] = dataclasses.replace(one, status=ended, score=1.4 - score)
                opened.tell(trials[one.number])
        drawn.append([trial.params for trial in trials])
    assert drawn[0] == drawn[1]


def test_the_database_is_read_once_however_many_trials_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna reads all trials that have not ended each time, and most of a search's trials wait at rungs."""
    opened = study.Study(make.compose_settings(), tmp_path)
    storage, reads = opened.optuna._storage, 0
    read = type(storage).get_all_trials

    def counted(given: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal reads
        reads += given is storage
        return read(given, *args, **kwargs)

    monkeypatch.setattr(type(storage), "get_all_trials", counted)
    trials: list[TrialRecord] = []
    for number in range(12):
        drawn = opened.ask(number, trials)
        trials.append(dataclasses.replace(drawn, status=Status.PAUSED, score=0.5 + number / 100, rungs={0: 0.5}))
        opened.tell(trials[-1])
    assert reads <= 2
    assert [trial.params for trial in opened.known()] == [trial.params for trial in trials]


def test_a_database_that_does_not_answer_is_asked_again_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "RETRY_SECONDS", 0.01)
    settings = make.compose_settings()
    opened = study.Study(settings, tmp_path)
    failing, tell = 3, optuna.storages.RDBStorage.set_trial_state_values

    def locked(*args: Any, **kwargs: Any) -> Any:
        nonlocal failing
        failing -= 1
        if failing >= 0:
            raise optuna.exceptions.StorageInternalError("database is locked")
        return tell(*args, **kwargs)

    monkeypatch.setattr(optuna.storages.RDBStorage, "set_trial_state_values", locked)
    trial = opened.ask(0, [])
    complete = TrialRecord(0, trial.params, Status.COMPLETE, score=0.9)
    opened.tell(complete)
    assert opened.optuna.trials[0].value == 0.9

    failing = 10**9
    second = TrialRecord(1, opened.ask(1, [complete]).params, Status.COMPLETE, score=0.9)
    monkeypatch.setattr(study, "PATIENCE_SECONDS", 0.1)
    with pytest.raises(OutOfReachError, match=r"does not answer \(database is locked\); nothing is lost"):
        opened.tell(second)
    assert opened.away
    monkeypatch.setattr(study, "PATIENCE_SECONDS", 600)
    opened.hurry = True  # a signal has come
    with pytest.raises(OutOfReachError):
        opened.tell(second)


def test_one_coordinator_a_study(tmp_path: Path) -> None:
    lock = locks.Lock(StudyFolder(tmp_path / "s"))
    with pytest.raises(RequestError, match="is being run by process"):
        locks.Lock(StudyFolder(tmp_path / "s"))
    lock.close()
    locks.Lock(StudyFolder(tmp_path / "s")).close()


@pytest.mark.parametrize(
    ("path", "low", "high", "step", "highest"),
    [
        ("train.epochs", 1, 2.5, 0.4, 2.2),
        ("train.epochs", 1, 2.2, 0.4, 2.2),
        ("train.batch_size", 8, 31, 8, 24),
        ("train.batch_size", 8, 32, 8, 32),
    ],
)
def test_a_step_that_does_not_lead_to_high_is_said_by_us_and_not_by_optuna(
    path: str, low: float, high: float, step: float, highest: float
) -> None:
    """Warnings fail the tests, so Optuna has none."""
    dimension = Interval(low=low, high=high, step=step)
    assert dimension.highest == highest
    drawn = optuna.create_study().ask()
    assert low <= suggest(drawn, {path: dimension})[path] <= highest
    assert drawn.distributions[path].high == highest  # type: ignore[attr-defined]
    study_of = SimpleNamespace(settings=with_space({path: dimension}))
    said = [note for note in of_search(study_of, {}, ()) if "lead there" in note]  # type: ignore[arg-type]
    assert len(said) == (highest != high)
    assert all(f"search.space.{path}.high={high:g}" in note and f"so {highest:g}" in note for note in said)
