"""What more examples would buy: the line through a study's own runs, and how wide its interval is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpsearch.decisions import curve
from hpsearch.decisions.curve import Run, Slope

errors = st.floats(0.001, 0.9)
sizes = st.integers(100, 1_000_000)


def line(recipe: str, level: float, slope: float, *examples: int, doubt: float = 0.0) -> list[Run]:
    return [Run(recipe, size, math.exp(level - slope * math.log(size)), doubt) for size in examples]


def test_without_runs_the_slope_is_that_of_other_data() -> None:
    assert curve.slope([]) == Slope(pytest.approx(curve.SLOPE), pytest.approx(curve.SLOPES))


def test_one_size_tells_nothing() -> None:
    assert curve.slope(line("a", 0.0, 0.5, 1000, 1000, 1000)) == Slope(
        pytest.approx(curve.SLOPE), pytest.approx(curve.SLOPES)
    )


def test_many_runs_outweigh_what_is_known_of_others() -> None:
    runs = [run for seed in range(200) for run in line(f"recipe {seed}", seed / 100, 0.4, 500, 8000)]
    found = curve.slope(runs)
    assert found.mean == pytest.approx(0.4, abs=0.01)
    assert found.deviation < 0.1 * curve.SLOPES


def test_recipes_are_compared_with_themselves_alone() -> None:
    """A good recipe on few examples and a bad one on many are no curve."""
    runs = [Run("good", 500, 0.1, 0.0), Run("bad", 8000, 0.4, 0.0)]
    assert curve.slope(runs).mean == pytest.approx(curve.SLOPE)


def test_doubtful_runs_weigh_little() -> None:
    sure, unsure = (curve.slope(line("a", 0.0, 0.5, 500, 8000, doubt=doubt)) for doubt in (0.0, 1.0))
    assert curve.SLOPE < unsure.mean < curve.SLOPE + 0.02 < sure.mean < 0.5
    assert sure.deviation < unsure.deviation < curve.SLOPES


@given(errors, sizes, st.floats(1.0, 100.0), st.floats(0.0, 1.0), st.floats(0.01, 0.3))
def test_an_error_falls_and_is_inside_its_interval(
    error: float, examples: int, factor: float, mean: float, deviation: float
) -> None:
    found = curve.expected(error, examples, math.ceil(examples * factor), Slope(mean, deviation))
    assert 0 < found.low < found.error < found.high
    assert found.error <= error * (1 + 1e-9)


def test_the_further_the_wider() -> None:
    near, far = (curve.expected(0.2, 1000, more, Slope(0.2, 0.1)) for more in (2000, 16000))
    assert far.error < near.error
    assert far.high / far.low > near.high / near.low


def test_the_interval_holds_four_of_five_results() -> None:
    """Where slopes and runs vary as is said."""
    draw, covered, repeats = np.random.default_rng(0), 0, 2000
    for _ in range(repeats):
        true = draw.normal(curve.SLOPE, curve.SLOPES)

        def run(examples: int, true: float = true) -> Run:
            noise = draw.normal(0.0, curve.RUN)
            return Run("a", examples, math.exp(-0.3 - true * math.log(examples) + noise), 0.0)

        known = [run(1000) for _ in range(3)] + [run(4000)]
        now, later = run(4000), run(16000)
        found = curve.expected(now.error, 4000, 16000, curve.slope(known))
        covered += found.low <= later.error <= found.high
    assert covered / repeats == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("error", "examples", "wanted"), [(0.5, 100, 0.1), (0.1, 900, 0.1), (0.0, 50, 1.0)])
def test_the_doubt_of_a_share(error: float, examples: int, wanted: float) -> None:
    assert curve.doubt(error, examples) == pytest.approx(wanted)
