"""The Optuna study: it is opened or continued, draws points, and receives trials' scores and status."""

import functools
import json
import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.trial import BaseTrial, FixedTrial, FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.config import space
from hpsearch.config.dimensions import SEARCHABLE, Dimension, Interval
from hpsearch.config.settings import SamplerSettings, Settings
from hpsearch.errors import OutOfReachError, RequestError, first_line, redact
from hpsearch.state import addresses
from hpsearch.state.locks import DatabaseLock
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

SAMPLERS = ("TPESampler", "GPSampler", "RandomSampler", "GridSampler", "CmaEsSampler", "QMCSampler")
# Samplers whose points are one sequence, shuffled by the seed: the seed must be the same at each draw.
ONE_SEQUENCE = ("GridSampler", "QMCSampler")
STATES = {Status.COMPLETE: TrialState.COMPLETE, Status.PRUNED: TrialState.PRUNED, Status.FAILED: TrialState.FAIL}
# User attribute of a trial: the state that its sampler left on trial and study, which the next draw needs.
SAMPLER_STATE = "sampler"
NO_STATE: dict[str, Any] = {"trial": {}, "study": {}}  # state of a point that no sampler has drawn
PATIENCE_SECONDS = 90.0  # how long a database that does not answer is asked again: it may be restarting
RETRY_SECONDS = 1.0
FEWEST = 6  # trials from which the importance of parameters is computed

P = ParamSpec("P")
T = TypeVar("T")


def patient(method: "Callable[Concatenate[Study, P], T]") -> "Callable[Concatenate[Study, P], T]":
    """Wrap a method so that it retries a database that does not answer, and then raises OutOfReachError."""

    @functools.wraps(method)
    def call(study: "Study", /, *args: P.args, **kwargs: P.kwargs) -> T:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if study.lock is not None and study.lock.check():
                    study.forget()  # another coordinator may have had the study meanwhile
                return method(study, *args, **kwargs)
            except OutOfReachError:  # another coordinator has the study
                study.away = True
                raise
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                study.forget()  # the database may hold what it could not confirm
                if study.hurry or time.monotonic() > deadline:
                    study.away = True
                    raise _away(error) from None
                time.sleep(RETRY_SECONDS)

    return call


class Seen(FrozenTrial):
    """A trial in the form that the sampler sees.

    Nobody changes more of it than its number in a draw, so Optuna gets the trial itself where it asks for a copy.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "Seen":
        return self


class Study:
    """The Optuna study. The coordinator is its only writer, so it reads the trials once."""

    def __init__(self, settings: Settings, home: Path) -> None:
        """Open or create the study, and take the database's lock where there is one.

        Raises:
            OutOfReachError: the database does not answer.
            RequestError: the study has another direction, or another coordinator runs it.
        """
        self.settings = settings
        self.hurry = False  # whether to raise at once if the database does not answer
        self.away = False  # whether the database did not answer, or another coordinator has the study
        self._there: list[FrozenTrial] | None = None  # the database's trials, by number; None: not read
        self._seen: dict[int, Seen] = {}  # trials as the sampler saw them last, by number
        direction = OBJECTIVES[settings.task.metric].direction
        wanted = optuna.study.StudyDirection[direction.upper()]
        url = settings.storage.uri or addresses.of_file(home / "optuna.db")
        try:
            shared = sqlalchemy.make_url(url).get_backend_name() == "postgresql"
            self.lock = DatabaseLock(url, settings.study) if shared else None
            self._storage = optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
            self.optuna = optuna.create_study(
                storage=self._storage, study_name=settings.study, direction=wanted, load_if_exists=True
            )
        except (SQLAlchemyError, ImportError, ValueError) as error:
            raise _away(error) from None
        if self.optuna.direction is not wanted:
            raise RequestError(
                f"task.metric={settings.task.metric} is to {direction}, but study {settings.study} was opened to "
                f"{self.optuna.direction.name.lower()}; give STUDY=<another name>"
            )

    def close(self) -> None:
        """Close the database, so that another coordinator can have the study."""
        self._storage.remove_session()
        self._storage.engine.dispose()
        if self.lock is not None:
            self.lock.close()

    @patient
    def known(self) -> list[TrialRecord]:
        """Return the trials of the study, each with its status as the study knows it."""
        known = []
        for trial in self._trials():
            if trial.state is not TrialState.WAITING:  # `ask` takes that one up
                status = next((ours for ours, state in STATES.items() if state is trial.state), Status.RUNNING)
                known.append(TrialRecord(number=trial.number, params=trial.params, status=status))
        return known

    @patient
    def ask(self, number: int, trials: Sequence[TrialRecord], point: space.Params | None = None) -> TrialRecord:
        """Return a new trial of this number: first the reference recipe, then points that the sampler draws.

        The sampler sees a paused or pruned trial as one that ended with its last score. Optuna itself would show it a
        running trial, from which nothing is learnt. The draw depends on seed, number and trials alone. A trial of this
        number that the database has already becomes the new one: a crash left it there, or another program added it.

        Args:
            number: number of trials that the study has.
            trials: its trials that can be compared with the new one.
            point: point of the space that is taken in place of a draw; None: draw one.
        """
        there = self._trials()
        if number == len(there) and self._has(number):
            there = self._trials(anew=True)
        if number == len(there):
            params, state = self._draw(number, trials) if point is None else (point, NO_STATE)
            drawn = create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions=distributions(params, self.settings.search.space),
                user_attrs={SAMPLER_STATE: state},
            )
            added = self._storage.get_trial(self._storage.create_new_trial(self.optuna._study_id, drawn))
            if added.number != number:  # another program has added one at the same time
                there = self._trials(anew=True)
            else:
                there.append(added)
        if there[number].state is TrialState.WAITING:
            self.optuna.ask()  # it runs now
            there = self._trials(anew=True)
        return TrialRecord(number=number, params=there[number].params, status=Status.RUNNING)

    @patient
    def tell(self, trial: TrialRecord) -> None:
        """Tell the study a trial's scores at rungs and its final status, as far as it does not know them."""
        there, number = self._trials(), trial.number
        if not _lacks(there[number], trial):
            return
        there[number] = known = self._storage.get_trial(there[number]._trial_id)  # another program may have ended it
        if not _lacks(known, trial):
            return
        for rung, score in sorted(trial.rungs.items()):
            if rung not in known.intermediate_values:
                self._storage.set_trial_intermediate_value(known._trial_id, rung, score)
                known.intermediate_values[rung] = score
        if trial.status.final:
            state, last = STATES[trial.status], known.intermediate_values.get(max(trial.rungs, default=-1))
            value = {TrialState.COMPLETE: trial.score, TrialState.PRUNED: last}.get(state)
            self._storage.set_trial_state_values(known._trial_id, state, [value] if value is not None else None)
            known.state = state

    @patient
    def importance(self, trials: Sequence[TrialRecord]) -> dict[str, float]:
        """Return the share of the scores' variance that each searched parameter explains, by path, largest first.

        The method is functional ANOVA (Hutter, Hoos and Leyton-Brown 2014). It uses the scores at the first rung where
        there is one, because all trials reach it. The result is empty where trials are fewer than FEWEST, or where all
        scores or all points are equal.
        """
        scored = [replace(trial, score=trial.rungs.get(0, trial.score)) for trial in trials]
        scored = [trial for trial in scored if trial.score is not None and trial.status is not Status.FAILED]
        points = {json.dumps(trial.params, sort_keys=True) for trial in scored}
        if len(scored) < FEWEST or len({trial.score for trial in scored}) == 1 or len(points) == 1:
            return {}
        beside = optuna.create_study(direction=self.optuna.direction)
        beside.add_trials([self._as_seen(trial) for trial in scored])
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(beside, evaluator=evaluator))

    def hasten(self) -> None:
        """From now on, raise at once if the database does not answer."""
        self.hurry = True

    def forget(self) -> None:
        """From now on, take the trials that the database has, whatever was known of them."""
        self._there = None

    def _trials(self, anew: bool = False) -> list[FrozenTrial]:
        """Return the database's trials, by number. A running one that was written in part gets what it lacks.

        Args:
            anew: whether to read them, whatever is known of them.
        """
        if self._there is None or anew:
            for trial in self.optuna.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
                self._complete(trial)
            self._there = self.optuna.get_trials(deepcopy=False)
        return self._there

    def _complete(self, trial: FrozenTrial) -> None:
        """Write the parameters that a running trial lacks.

        Its point is the one that another program asked for by `enqueue_trial`. What that leaves out is the reference
        recipe's. If the point lies outside the space, another one is drawn.
        """
        dimensions = self.settings.search.space
        if _whole(trial.params, dimensions):
            return
        try:
            point = space.point(self.settings, trial.system_attrs.get("fixed_params", {}) | trial.params)
        except RequestError:
            beside = optuna.create_study(sampler=sampler(self.settings, trial.number))
            point = suggest(beside.ask(), dimensions)
        for path, distribution in distributions(point, dimensions).items():
            if path not in trial.params:
                value = distribution.to_internal_repr(point[path])
                self._storage.set_trial_param(trial._trial_id, path, value, distribution)

    def _has(self, number: int) -> bool:
        """Return whether the database has a trial of this number, whoever added it."""
        try:
            self._storage.get_trial_id_from_study_id_trial_number(self.optuna._study_id, number)
        except KeyError:
            return False
        return True

    def _draw(self, number: int, trials: Sequence[TrialRecord]) -> tuple[dict[str, Any], dict[str, Any]]:
        first = not trials and self.settings.sampler.name != "GridSampler"  # a grid has each point once
        if first and (params := space.reference_point(self.settings)) is not None:
            return params, NO_STATE
        beside = optuna.create_study(direction=self.optuna.direction, sampler=sampler(self.settings, number))
        for trial in sorted(trials, key=lambda trial: trial.number):
            beside._storage.create_new_trial(beside._study_id, self._as_seen(trial))  # `add_trial` checks it again
            for key, value in self._state(trial.number)["study"].items():
                beside._storage.set_study_system_attr(beside._study_id, key, value)
        asked = beside.ask()
        params = suggest(asked, self.settings.search.space)
        drawn: FrozenTrial = beside.get_trials(deepcopy=False)[asked.number]
        study_state = beside._storage.get_study_system_attrs(beside._study_id)
        return params, {"trial": dict(drawn.system_attrs), "study": dict(study_state)}

    def _state(self, number: int) -> dict[str, Any]:
        """Return the state that the sampler left on trial and study when it drew this trial."""
        state: dict[str, Any] = self._trials()[number].user_attrs.get(SAMPLER_STATE, NO_STATE)
        return state

    def _as_seen(self, trial: TrialRecord) -> Seen:
        """Return a trial in the form that the sampler sees, which is made anew where its score has changed."""
        state = TrialState.RUNNING if trial.score is None else TrialState.COMPLETE
        if trial.status is Status.FAILED:
            state = TrialState.FAIL
        value = trial.score if state is TrialState.COMPLETE else None
        seen = self._seen.get(trial.number)
        if seen is None or (seen.state, seen.value) != (state, value):
            now = datetime.now()
            seen = self._seen[trial.number] = Seen(
                number=trial.number,
                trial_id=trial.number,
                state=state,
                value=value,
                datetime_start=now,
                datetime_complete=now if state.is_finished() else None,
                params=trial.params,
                distributions=self._trials()[trial.number].distributions,
                user_attrs={},
                system_attrs=self._state(trial.number)["trial"],
                intermediate_values={},
            )
        return seen


def suggest(trial: BaseTrial, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Ask Optuna for every dimension that exists for this trial, parents of a condition first."""
    params: dict[str, Any] = {}
    for path in space.parents_first(dimensions):
        if space.exists(dimensions[path], params):
            params[path] = _suggest_one(trial, path, dimensions[path])
    return params


def distributions(params: space.Params, dimensions: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Return the distribution of each parameter of a point, as Optuna has it."""
    fixed = FixedTrial(params)
    suggest(fixed, dimensions)
    return fixed.distributions


def _lacks(known: FrozenTrial, trial: TrialRecord) -> bool:
    """Return whether Optuna must be told something of a trial."""
    return not known.state.is_finished() and (
        trial.status.final or any(rung not in known.intermediate_values for rung in trial.rungs)
    )


def _whole(params: space.Params, dimensions: Mapping[str, Dimension]) -> bool:
    """Return whether a point has a value in each of its dimensions."""
    return all(path in params or not space.exists(dimensions[path], params) for path in dimensions)


def _suggest_one(trial: BaseTrial, path: str, dimension: Dimension) -> Any:
    if not isinstance(dimension, Interval):
        return trial.suggest_categorical(path, dimension.choices)
    if SEARCHABLE[path] is int:
        step = int(dimension.step) if dimension.step is not None else 1
        return trial.suggest_int(path, int(dimension.low), int(dimension.highest), step=step, log=dimension.log)
    return trial.suggest_float(path, dimension.low, dimension.highest, step=dimension.step, log=dimension.log)


def _away(error: Exception) -> OutOfReachError:
    reason = redact(first_line(error))
    return OutOfReachError(
        f"storage.uri: the study database does not answer ({reason}); nothing is lost: start or repair it, "
        "and give the same command to go on"
    )


def sampler(settings: Settings, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler for the draw of one trial. Raises RequestError if it is unknown or refuses its options."""
    chosen: SamplerSettings = settings.sampler
    if chosen.name not in SAMPLERS:
        raise RequestError(f"sampler.name={chosen.name}: no such sampler; there are {', '.join(SAMPLERS)}")
    options: dict[str, Any] = dict(chosen.options)
    if chosen.name == "GridSampler":
        options["search_space"] = space.grid(settings.search.space)
    seed = settings.seed if chosen.name in ONE_SEQUENCE else settings.seed + number
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # we pin the version
            return getattr(optuna.samplers, chosen.name)(seed=seed, **options)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise RequestError(f"sampler.options={chosen.options}: {chosen.name} refuses them: {error}") from None
