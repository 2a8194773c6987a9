"""What the hours are spent on, whatever pace, data and hours there are."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpsearch.decisions import plan
from hpsearch.decisions.plan import Asked, Known, Pace, Plan, Recipe, Sizes, Step, of_all, of_confirmation, of_final

FREE = Asked(None, None, None, None, None, final=True)
USUAL = Recipe(seen=6400, least_passes=2, most_passes=20, factor=16 / 15, longest=1.5, share=0.35)
# MiniLM on two cores and on a GPU, texts of 192 tokens.
LAPTOP, GPU = Pace(train=1 / 20, score=1 / 70, trial=4.0), Pace(train=1 / 2000, score=1 / 6000, trial=2.0)
REVIEWS = Known(LAPTOP, Sizes(20_000, 2000, 2000), USUAL, FREE, workers=1, end=77.0)
CLOSE = 1 + 1e-9

paces = st.builds(Pace, st.floats(1e-5, 5.0), st.floats(1e-6, 1.0), st.floats(0.05, 60.0))
sizes = st.builds(Sizes, st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 10**5))
recipes = st.builds(
    lambda seen, least, more, factor, longer, share: Recipe(seen, least, least + more, factor, factor * longer, share),
    st.floats(100, 1e5),
    st.floats(0.25, 5),
    st.sampled_from([0.0, 2.0, 18.0]),  # 0 where epochs are fixed
    st.floats(0.25, 4),
    st.floats(1.0, 3.0),
    st.floats(0.1, 1.0),
)
folds = st.sampled_from([0, 5])
knowns = st.builds(Known, paces, sizes, recipes, st.just(FREE), st.integers(1, 8), st.floats(1, 600), folds=folds)
seconds = st.floats(1, 1e6)
fixed = st.builds(
    Asked,
    st.none() | st.integers(1, 60),
    st.none() | st.integers(1, 10**5),
    st.none() | st.integers(0, 6),
    st.none() | st.integers(1, 6),
    st.none() | st.integers(1, 10**5),
    st.booleans(),
)


def steps(made: Plan) -> list[Step]:
    return [step for step in (made.search, made.confirmation, made.final) if step is not None]


def kept(made: Plan) -> int:
    """Training examples of the model that is kept at the end."""
    return steps(made)[-1].examples


@given(knowns, fixed, seconds)
@settings(max_examples=300)
def test_every_number_of_a_plan_can_be_run(known: Known, asked: Asked, there: float) -> None:
    made = of_all(replace(known, asked=asked), there)
    for step in steps(made):
        assert step.runs >= 1
        assert 1 <= step.examples <= known.sizes.train
        assert 0 < step.passes < float("inf")
        assert step.seconds > 0
    if made.confirmation is not None:
        assert made.confirmation.runs == (made.finalists + 1) * made.seeds
        assert made.confirmation.examples >= min(made.search.examples, asked.confirmation_examples or 10**9)


@given(knowns, st.booleans(), seconds)
@settings(max_examples=500)
def test_no_plan_takes_more_than_there_is_but_for_one_fine_tune(known: Known, final: bool, there: float) -> None:
    made = of_all(replace(known, asked=replace(FREE, final=final)), there)
    if made.alone:
        least = known.end + known.pace.trial + known.scoring + known.pace.train  # one example, seen once
        assert made.seconds <= max(there, least) * CLOSE
    else:
        assert made.seconds <= there * (1 - plan.RESERVE) * CLOSE
        assert made.search.runs >= plan.WORTH_SEARCHING
        assert made.confirmation is not None, "who wins is decided by fresh seeds"


@given(knowns, seconds, st.floats(1, 100))
@settings(max_examples=500)
def test_more_hours_never_plan_fewer_examples_for_the_model_that_is_kept(
    known: Known, there: float, times: float
) -> None:
    assert kept(of_all(known, there)) <= kept(of_all(known, there * times))


@given(knowns, fixed, seconds)
@settings(max_examples=300)
def test_what_is_fixed_by_hand_is_kept(known: Known, asked: Asked, there: float) -> None:
    known = replace(known, asked=asked)
    made, everything = of_all(known, there), known.sizes.train
    assert asked.final or made.final is None
    if made.alone and asked.trials in (None, 1):
        return  # the hours hold one fine-tune, or no more is wanted
    if asked.trials is not None:
        assert made.search.runs == asked.trials
    if asked.search_examples is not None:
        assert made.search.examples == min(asked.search_examples, everything)
    assert (made.confirmation is None) == (asked.finalists == 0)
    if made.confirmation is not None:
        assert made.finalists == asked.finalists or asked.finalists is None
        assert made.seeds == asked.seeds or asked.seeds is None
        if asked.confirmation_examples is not None:
            assert made.confirmation.examples == min(asked.confirmation_examples, everything)


@given(knowns, seconds)
@settings(max_examples=300)
def test_a_trial_has_examples_of_every_class(known: Known, there: float) -> None:
    made = of_all(known, there)
    assert made.alone or made.search.examples >= min(plan.FEWEST, known.sizes.train)


@pytest.mark.parametrize("minutes", [1, 5, 15, 30])
def test_hours_that_hold_one_fine_tune_are_all_for_that(minutes: float) -> None:
    made = of_all(REVIEWS, minutes * 60)
    assert made.alone
    assert (made.finalists, made.confirmation, made.final) == (0, None, None)
    assert (made.search.examples == 20_000) == (minutes == 30), "as many as can be seen once"
    assert made.search.passes == pytest.approx(1.65 if minutes == 30 else 1.0, abs=0.01)


@pytest.mark.parametrize(("folds", "hours"), [(0, 2), (0, 8), (5, 2), (5, 8)])
def test_hours_that_few_examples_do_not_need_are_searched(folds: int, hours: float) -> None:
    """A confirmation of the most points and seeds is over soon then."""
    few = replace(REVIEWS, sizes=Sizes(300, 60, 500), folds=folds)
    made = of_all(few, hours * 3600)
    assert made.search.runs >= plan.WORTH_SEARCHING
    assert 0.9 * hours * 3600 < made.seconds <= hours * 3600


def test_passes_that_do_not_pay_are_not_planned() -> None:
    made = of_all(replace(REVIEWS, pace=GPU, end=10.0), 70)  # on a card one minute holds more passes over all reviews
    assert made.alone
    assert made.search.runs == 2
    assert 2 <= made.search.passes <= plan.MOST_PAYING * USUAL.passes(20_000)
    made = of_all(replace(REVIEWS, sizes=Sizes(300, 60, 200)), 15 * 60)
    assert made.alone
    assert made.search.runs == 2
    assert 20 <= made.search.passes <= plan.MOST_PAYING * 20, "few examples are seen often"


@given(knowns, seconds)
@settings(max_examples=300)
def test_the_reference_recipe_alone_has_all_the_time_in_runs_that_are_long_enough(known: Known, there: float) -> None:
    made = plan.alone(known, there)
    spare, everything = there * (1 - plan.RESERVE) - made.end, known.sizes.train
    assume(known.scoring + known.pace.trial < 0.05 * everything * known.pace.train)  # they cost the same for any length
    assume(known.recipe.passes(everything) >= 1)
    longest = plan.MOST_ALONE * known.run(everything, plan.MOST_PAYING)
    if known.run(everything) < spare < longest:
        assert 0.85 * spare <= made.search.seconds <= spare * CLOSE
        assert made.search.passes >= known.recipe.passes(everything) / CLOSE
        assert made.search.runs % known.workers == 0


@pytest.mark.parametrize(
    ("usual", "runs", "passes"),
    [(1.2, 1, 1.2), (2.9, 1, plan.MOST_PAYING), (3.1, 3, 1.03), (4.4, 3, 1.47), (6.1, 4, 1.5), (9.1, 6, 1.5)],
)
def test_what_is_dearer_than_the_reference_recipe_finds_time_for_a_run_as_long(
    usual: float, runs: int, passes: float
) -> None:
    known = replace(REVIEWS, dearer=2.0, pace=replace(LAPTOP, trial=0.0), sizes=Sizes(20_000, 1, 1))
    there = (REVIEWS.end + usual * known.run(20_000)) / (1 - plan.RESERVE)
    made = plan.alone(known, there)
    assert made.search.runs == runs
    assert made.search.passes / USUAL.passes(20_000) == pytest.approx(passes, rel=0.02)


@pytest.mark.parametrize(("runs", "searched"), [(1.5, False), (7.9, False), (8.1, True), (30, True)])
def test_hours_that_hold_eight_fine_tunes_of_all_the_data_search_there(runs: float, searched: bool) -> None:
    spare = REVIEWS.end + runs * REVIEWS.run(20_000, plan.PAYING)
    made = of_all(REVIEWS, spare / (1 - plan.RESERVE))
    assert made.alone is not searched
    assert made.search.examples == 20_000
    assert (made.search.runs >= plan.WORTH_SEARCHING) is searched


@pytest.mark.parametrize(("runs", "searched"), [(8.1, False), (15.9, False), (16.3, True)])
def test_hours_hold_eight_fine_tunes_of_the_dearest_recipe_before_they_are_searched(
    runs: float, searched: bool
) -> None:
    known = replace(REVIEWS, dearer=2.0)
    spare = REVIEWS.end + runs * REVIEWS.run(20_000, plan.PAYING)
    assert of_all(known, spare / (1 - plan.RESERVE)).alone is not searched


def test_a_search_on_part_of_the_data_trains_its_winner_on_all() -> None:
    made = of_all(replace(REVIEWS, asked=replace(FREE, search_examples=2500)), 2 * 3600)
    assert made.final is not None
    assert made.final.examples == 20_000 > made.search.examples >= 2500
    assert made.search.runs >= plan.WORTH_SEARCHING
    assert made.confirmation is not None
    assert made.confirmation.seconds < made.search.seconds


@pytest.mark.parametrize("pace", [LAPTOP, GPU])
@pytest.mark.parametrize("examples", [200, 1000, 20_000])
def test_a_confirmation_on_all_data_leaves_no_final_model_to_train(pace: Pace, examples: int) -> None:
    made = of_all(replace(REVIEWS, pace=pace, sizes=Sizes(examples, 200, 200)), 100 * 3600)
    assert made.confirmation is not None
    assert made.confirmation.examples == examples
    assert made.final is None
    assert (made.finalists, made.seeds) == (plan.MOST_FINALISTS, plan.MOST_SEEDS)


def test_more_examples_come_before_more_seeds_and_these_before_more_finalists() -> None:
    found = [of_confirmation(REVIEWS, minutes * 60, 2500, 1.0) for minutes in (12, 25, 40, 60, 240, 480, 1200)]
    assert [(finalists, seeds) for finalists, seeds, _ in found] == [
        *((1, 2), (1, 2), (2, 2), (2, 2), (2, 2), (2, 4), (4, 5)),
    ]
    examples = [step.examples for _, _, step in found if step is not None]
    assert examples == [2500, 2500, 2500, 5000, 20_000, 20_000, 20_000]


def test_a_final_model_sees_all_it_can() -> None:
    whole = of_final(REVIEWS, 1e9, 1.0)
    assert (whole.examples, whole.passes) == (20_000, 2)
    assert of_final(REVIEWS, 1e9, 2.0).passes == 4, "as often as the winner's recipe does"
    assert of_final(REVIEWS, 1e9, 0.5).passes == 2, "and as the usual one does at the least"
    part = of_final(REVIEWS, 600, 1.0)
    assert part.passes == 1
    assert part.examples == pytest.approx((600 - 4 - 2000 / 70) * 20, abs=1)
    assert part.seconds <= 600
    assert of_final(REVIEWS, -5.0, 1.0).examples == 1


def test_workers_share_the_search() -> None:
    alone, together = (of_all(replace(REVIEWS, workers=workers), 4 * 3600) for workers in (1, 4))
    assert together.search.runs * together.search.examples > 2 * alone.search.runs * alone.search.examples
    assert replace(REVIEWS, workers=4).step(5, 100).seconds == 2 * REVIEWS.step(1, 100).seconds
