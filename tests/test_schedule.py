"""Rungs: properties over random studies, played out by a simulated set of workers."""

import random

from hypothesis import given
from hypothesis import strategies as st

from hpsearch.decisions import schedule
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES, Objective

MOST, LEAST = OBJECTIVES["accuracy"], Objective("loss", "minimize", share=False)
plans = st.builds(
    schedule.Plan,
    max_trials=st.integers(1, 40),
    rungs=st.sampled_from([(), (0.2,), (0.25,), (0.1, 0.3), (0.2, 0.5)]),
    keep=st.sampled_from([0.25, 0.34, 0.5]),
    at_least=st.integers(1, 4),
    objective=st.sampled_from([MOST, LEAST]),
)


def play(plan: schedule.Plan, seed: int, workers: int, fail: float = 0.0) -> list[TrialRecord]:
    """Run the schedule with so many workers, each trial with a fixed worth, to its end."""
    rng = random.Random(seed)
    trials: dict[int, TrialRecord] = {}
    busy: list[int] = []
    worth: dict[int, float] = {}
    for _ in range(1000):
        while len(busy) < workers:
            action = schedule.next_action(plan, list(trials.values()), may_start=True)
            if isinstance(action, schedule.Start):
                number = len(trials)
                worth[number] = rng.random()
                trials[number] = TrialRecord(number, {}, Status.RUNNING, total_steps=100)
            elif isinstance(action, schedule.Resume):
                number = action.number
                assert trials[number].status is Status.PAUSED
                trials[number] = change(trials[number], status=Status.RUNNING)
            else:
                assert isinstance(action, schedule.Wait) == bool(busy)
                break
            busy.append(number)
        if not busy:
            return list(trials.values())
        number = busy.pop(rng.randrange(len(busy)))
        trial = trials[number]
        rung = len(trial.rungs)
        if rng.random() < fail:
            trials[number] = change(trial, status=Status.FAILED)
        elif rung < len(plan.rungs):
            score = plan.objective.worth(worth[number])
            trials[number] = change(trial, status=Status.PAUSED, rungs=trial.rungs | {rung: score})
        else:
            trials[number] = change(trial, status=Status.COMPLETE)
        for lost in schedule.losers(plan, list(trials.values())):
            trials[lost] = change(trials[lost], status=Status.PRUNED)
    raise AssertionError("the schedule does not end")


def change(trial: TrialRecord, **fields: object) -> TrialRecord:
    values = {name: getattr(trial, name) for name in TrialRecord.__dataclass_fields__} | fields
    return TrialRecord(**values)  # type: ignore[arg-type]


@given(plans, st.integers(0, 10**6), st.integers(1, 4))
def test_a_study_ends_with_as_many_complete_trials_as_planned(plan: schedule.Plan, seed: int, workers: int) -> None:
    trials = play(plan, seed, workers)
    assert len(trials) == plan.max_trials
    complete = [t for t in trials if t.status is Status.COMPLETE]
    expected = schedule.quota(plan, len(plan.rungs) - 1, plan.max_trials) if plan.rungs else plan.max_trials
    assert len(complete) == expected
    assert not any(t.status is Status.RUNNING for t in trials)


@given(plans, st.integers(0, 10**6))
def test_one_worker_completes_exactly_the_best(plan: schedule.Plan, seed: int) -> None:
    trials = play(plan, seed, workers=1)
    if not plan.rungs:
        return
    ranked = sorted(trials, key=lambda t: -plan.objective.worth(t.rungs[0]))
    complete = {t.number for t in trials if t.status is Status.COMPLETE}
    assert complete == {t.number for t in ranked[: len(complete)]}


@given(plans, st.integers(0, 10**6), st.integers(1, 4))
def test_failures_do_not_stop_a_study(plan: schedule.Plan, seed: int, workers: int) -> None:
    trials = play(plan, seed, workers, fail=0.3)
    assert len(trials) == plan.max_trials
    assert all(t.status is not Status.RUNNING for t in trials)


@given(plans, st.integers(0, 10**6))
def test_what_can_go_on_is_bounded(plan: schedule.Plan, seed: int) -> None:
    """Disk: no more paused trials with a checkpoint than the rungs' quotas."""
    trials = play(plan, seed, workers=1)
    paused = [t for t in trials if t.status is Status.PAUSED]
    assert len(paused) <= sum(schedule.quota(plan, rung, plan.max_trials) for rung in range(len(plan.rungs)))


@given(plans)
def test_share_to_train_is_what_is_trained(plan: schedule.Plan) -> None:
    trials = play(plan, 0, workers=1)
    ends = (*plan.rungs, 1.0)
    trained = sum(1.0 if t.status is Status.COMPLETE else ends[max(t.rungs)] for t in trials)
    assert abs(trained - schedule.share_to_train(plan, plan.max_trials)) < 1e-9


def test_the_default_schedule_trains_under_45_percent() -> None:
    plan = schedule.Plan(max_trials=12, rungs=(0.2,), keep=0.25, at_least=1, objective=MOST)
    assert 0.39 < schedule.share_to_train(plan, 12) / 12 < 0.41


def test_a_tie_goes_to_the_earlier_trial() -> None:
    plan = schedule.Plan(max_trials=4, rungs=(0.5,), keep=0.25, at_least=1, objective=MOST)
    trials = [TrialRecord(i, {}, Status.PAUSED, rungs={0: 0.7}) for i in (3, 1, 2, 0)]
    assert schedule.next_action(plan, trials, may_start=True) == schedule.Resume(0)
    assert schedule.losers(plan, trials) == [1, 2, 3]


def test_a_failed_trial_gives_its_place_to_the_next() -> None:
    plan = schedule.Plan(max_trials=4, rungs=(0.5,), keep=0.25, at_least=1, objective=MOST)
    trials = [TrialRecord(0, {}, Status.FAILED, rungs={0: 0.9})]
    trials += [TrialRecord(i, {}, Status.PAUSED, rungs={0: i / 10}) for i in (1, 2, 3)]
    assert schedule.next_action(plan, trials, may_start=True) == schedule.Resume(3)


def test_time_stops_new_trials_while_promotions_still_fit() -> None:
    plan = schedule.Plan(max_trials=12, rungs=(0.2,), keep=0.25, at_least=1, objective=MOST)
    trials = [TrialRecord(i, {}, Status.PAUSED, step=20, total_steps=100, rungs={0: 0.5}) for i in range(4)]
    # 4 trials of 0.2 took 0.8 hours: a whole one takes 1 hour; 5 trials and 1 promotion take 1.8 hours.
    assert schedule.may_start(plan, trials, hours_spent=0.8, max_hours=1.8 + 1e-9)
    assert not schedule.may_start(plan, trials, hours_spent=0.8, max_hours=1.7)
    assert schedule.may_start(plan, trials, hours_spent=0.8, max_hours=None)
    action = schedule.next_action(plan, trials, may_start=False)
    assert action == schedule.Resume(0)


def test_time_is_left_for_the_best_trial_where_it_is_a_long_one() -> None:
    plan = schedule.Plan(max_trials=12, rungs=(0.2,), keep=0.25, at_least=1, objective=MOST)
    minutes = (3, 3, 3, 15)  # of 0.2 of each: a whole one of mean length takes 30 minutes, the last one 75
    trials = [
        TrialRecord(
            i, {}, Status.PAUSED, step=20, total_steps=100, rungs={0: i / 10}, seconds={"training": 60.0 * took}
        )
        for i, took in enumerate(minutes)
    ]
    # 5 trials of 0.2 and 0.8 of one make 1.8 of mean length, 0.9 hours; the best takes 0.8 * 45 minutes more.
    assert schedule.may_start(plan, trials, hours_spent=0.4, max_hours=1.5 + 1e-9)
    assert not schedule.may_start(plan, trials, hours_spent=0.4, max_hours=1.49)
    short = [change(trial, rungs={0: 1 - trial.rungs[0]}) for trial in trials]  # the best is one of the short ones
    assert schedule.may_start(plan, short, hours_spent=0.4, max_hours=0.9 + 1e-9)


def test_of_equal_scores_the_least_loss_is_the_best() -> None:
    def complete(number: int, score: float, loss: float | None) -> TrialRecord:
        metrics = {schedule.LOSS: loss} if loss is not None else {}
        return TrialRecord(number, {}, Status.COMPLETE, score=score, metrics=metrics, validated=100)

    trials = [complete(0, 0.9, 0.4), complete(1, 1.0, 0.3), complete(2, 1.0, 0.1), complete(3, 1.0, None)]
    ranked = schedule.best_first([*trials, complete(4, 1.0, 0.3)], OBJECTIVES["accuracy"])
    assert [trial.number for trial in ranked] == [2, 1, 4, 3, 0]


def test_among_a_few_the_least_loss_near_the_best_score_is_kept() -> None:
    def complete(number: int, score: float, loss: float, validated: int | None = 100) -> TrialRecord:
        metrics = {schedule.LOSS: loss}
        return TrialRecord(number, {}, Status.COMPLETE, score=score, metrics=metrics, validated=validated)

    accuracy = OBJECTIVES["accuracy"]
    near = [complete(0, 0.90, 0.5), complete(1, 0.88, 0.2), complete(2, 0.86, 0.1)]  # one standard error is 0.03
    assert [one.number for one in schedule.kept_first(near, accuracy)] == [1, 0, 2]
    unknown = [complete(0, 0.90, 0.5, None), complete(1, 0.88, 0.2, None)]
    assert [one.number for one in schedule.kept_first(unknown, accuracy)] == [0, 1], "a former version's records"
    without = [TrialRecord(i, {}, Status.COMPLETE, score=0.9 - i / 100, validated=100) for i in range(3)]
    assert [one.number for one in schedule.kept_first(without, accuracy)] == [0, 1, 2], "this kind has no loss"
    assert schedule.kept_first([], accuracy) == []
    by_loss = [complete(0, 0.3, 0.3), complete(1, 0.2, 0.2)]
    assert [one.number for one in schedule.kept_first(by_loss, OBJECTIVES["log_loss"])] == [1, 0]
