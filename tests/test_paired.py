"""Tallies make the metrics that models are scored by; intervals and paired tests are what statistics says they are."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import log_loss, precision_recall_fscore_support

from hpsearch.decisions import paired
from hpsearch.state.measured import ClassScores, Replies
from hpsearch.tasks import metrics, squad
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import LOG_LOSS, OBJECTIVES

ONE, MANY, READER = (KINDS[name] for name in ("text_classification", "multilabel_classification", "question_answering"))
LABELS = ("a", "b", "c")


def index(names: list[str]) -> NDArray[np.int64]:
    return np.array([LABELS.index(name) for name in names])


def sums(kind: Any, truths: list[Any], answers: list[Any]) -> dict[str, float]:
    found = kind.of_sums(kind.tallies(truths, answers, LABELS).sum(0))
    return {name: float(value) for name, value in found.items()}


@given(st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=40))
def test_tallies_of_classes_make_the_metrics(pairs: list[tuple[str, str]]) -> None:
    truths, answers = map(list, zip(*pairs, strict=True))
    scored = metrics.classification(np.eye(3)[index(answers)] * 9, index(truths))
    found = sums(ONE, truths, answers)
    assert set(found) | {"log_loss"} == set(ONE.headings)
    assert found == pytest.approx({name: scored[name] for name in found})
    of_classes = ONE.by_class(ONE.tallies(truths, answers, LABELS).sum(0), LABELS)
    each = precision_recall_fscore_support(truths, answers, labels=LABELS, zero_division=0.0)
    assert of_classes == {
        label: ClassScores(n, *map(pytest.approx, rates)) for label, *rates, n in zip(LABELS, *each, strict=True) if n
    }


SETS = st.lists(st.sampled_from(LABELS), unique=True).map(sorted)


@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=40))
def test_tallies_of_sets_of_labels_make_the_metrics(pairs: list[tuple[list[str], list[str]]]) -> None:
    truths, answers = map(list, zip(*pairs, strict=True))
    truth, said = (np.array([[label in row for label in LABELS] for row in rows]) for rows in (truths, answers))
    scored = metrics.multilabel(said.astype(float), said, truth)
    found = sums(MANY, truths, answers)
    assert set(found) | {"log_loss"} == set(MANY.headings)
    # Without any label there is nothing for sklearn's micro average to divide by, and it says 0 as well.
    assert found == pytest.approx({name: scored[name] for name in found})
    of_labels = MANY.by_class(MANY.tallies(truths, answers, LABELS).sum(0), LABELS)
    each = precision_recall_fscore_support(truth, said, zero_division=0.0)
    assert of_labels == {
        label: ClassScores(n, *map(pytest.approx, rates)) for label, *rates, n in zip(LABELS, *each, strict=True) if n
    }


TEXTS = st.sampled_from(["the red fox", "red fox", "a fox", "blue", ""])


@given(st.lists(st.tuples(st.lists(TEXTS.filter(bool), max_size=2), TEXTS), min_size=1, max_size=30))
def test_tallies_of_answers_make_the_metrics(pairs: list[tuple[list[str], str]]) -> None:
    truths, answers = map(list, zip(*pairs, strict=True))
    exact, f1 = squad.scores(answers, truths)
    assert sums(READER, truths, answers) == pytest.approx({"exact_match": exact.mean(), "f1": f1.mean()})
    assert READER.by_class(READER.tallies(truths, answers, ()).sum(0), ()) == {}


def test_a_class_that_is_unknown_is_wrong() -> None:
    assert sums(ONE, ["a", "b"], ["a", "elsewhere"])["accuracy"] == 0.5
    assert sums(MANY, [["a"], ["b"]], [["a"], ["b", "elsewhere"]])["accuracy"] == 0.5


def said(likelihoods: NDArray[np.float64] | list[float]) -> Replies:
    return Replies(["a"] * len(likelihoods), list(likelihoods))


def evidence(likelihoods: NDArray[np.float64] | list[float]) -> paired.Tallies:
    return ONE.evidence(LOG_LOSS, ["a"] * len(likelihoods), said(likelihoods), LABELS)


LOGITS = st.lists(st.tuples(*[st.floats(-30, 30)] * 3), min_size=2, max_size=30)


@given(LOGITS, st.randoms())
@settings(deadline=None)
def test_the_log_loss_of_classes_is_sklearn_s(rows: list[tuple[float, ...]], rng: random.Random) -> None:
    logits = np.array(rows, dtype=np.float32)
    truth = np.array([rng.randrange(3) for _ in rows])
    probabilities = metrics.softmax(logits)
    expected = log_loss(truth, probabilities.astype(np.float32), labels=range(3))
    assert metrics.classification(logits, truth)["log_loss"] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    likelihoods = metrics.likelihoods(probabilities, truth)
    names = [LABELS[i] for i in truth]
    served = [dict(zip(LABELS, row, strict=True)) for row in probabilities.tolist()]
    assert ONE.likelihoods(names, served, LABELS) == likelihoods.tolist(), "a served model's are the trial's"
    sums = ONE.evidence(LOG_LOSS, names, said(likelihoods), LABELS).sum(0)
    found = float(ONE.sums_to(LOG_LOSS)(sums)["log_loss"])
    assert found == pytest.approx(metrics.classification(logits, truth)["log_loss"], rel=1e-12)


@given(LOGITS, st.randoms())
@settings(deadline=None)
def test_the_log_loss_of_labels_is_the_mean_of_sklearn_s(rows: list[tuple[float, ...]], rng: random.Random) -> None:
    probabilities = metrics.sigmoid(np.array(rows, dtype=np.float32))
    truth = np.array([[rng.random() < 0.5 for _ in LABELS] for _ in rows])
    clipped = np.clip(probabilities, metrics.SURE, 1 - metrics.SURE)
    expected = np.mean([log_loss(truth[:, i], clipped[:, i], labels=[False, True]) for i in range(3)])
    found = metrics.multilabel(probabilities, probabilities > 0.5, truth)["log_loss"]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-7)  # likelihoods have 7 digits
    names = [[label for label, there in zip(LABELS, row, strict=True) if there] for row in truth]
    served = [dict(zip(LABELS, row, strict=True)) for row in probabilities.tolist()]
    assert MANY.likelihoods(names, served, LABELS) == metrics.likelihoods_of_sets(probabilities, truth).tolist()


def test_no_loss_is_infinite_and_a_class_unheard_of_is_the_worst_case() -> None:
    assert metrics.losses([0.0, 1.0]).tolist() == pytest.approx([-np.log(metrics.SURE), 0], abs=1e-6)
    assert ONE.likelihoods(["d", "a"], [{"a": 0.9, "b": 0.1}] * 2, LABELS) == [0.0, 0.9]


@pytest.mark.parametrize("kind", [ONE, MANY])
def test_the_shares_of_the_classes_are_the_best_constant(kind: Any) -> None:
    truths: list[Any] = ["a", "a", "b", "a", "c"] if kind is ONE else [["a"], ["a", "b"], [], ["a"], ["c"]]
    shares = kind.shares(truths, LABELS)
    assert shares == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.2})

    def loss(given: dict[str, float]) -> float:
        return float(metrics.losses(kind.likelihoods(truths, [given] * 5, LABELS)).mean())

    for label in LABELS:
        for step in (-0.05, 0.05):
            other = shares | {label: shares[label] + step}
            whole = sum(other.values()) if kind is ONE else 1.0
            assert loss(shares) < loss({name: share / whole for name, share in other.items()})


def test_of_a_loss_less_is_a_gain() -> None:
    rng = np.random.default_rng(0)
    worse = rng.uniform(0.3, 0.9, 200)
    better = worse + rng.uniform(-0.02, 0.1, 200)
    found = paired.compare(evidence(worse), evidence(better), metrics.mean_loss, LOG_LOSS)
    assert found.challenger == pytest.approx(-np.log(better).mean()), "the scores are as they are"
    assert found.difference == pytest.approx(found.champion - found.challenger)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.001
    back = paired.compare(evidence(better), evidence(worse), metrics.mean_loss, LOG_LOSS)
    assert back.low < back.high < 0
    assert back.p > 0.999
    assert paired.least_gain(evidence(worse), evidence(better), metrics.mean_loss, LOG_LOSS, 0.025) == found.low
    assert (found.test, found.challenger_alone) == ("paired bootstrap", None)


def test_an_interval_of_a_loss_is_of_its_own_size() -> None:
    low, high = paired.intervals(evidence(np.full(50, 0.01)), metrics.mean_loss)["log_loss"]
    assert low == high == pytest.approx(-np.log(0.01)), "it is no share, and may be above 1"
    drawn = np.random.default_rng(0).uniform(0.001, 0.2, 400)
    low, high = paired.intervals(evidence(drawn), metrics.mean_loss)["log_loss"]
    middle, error = -np.log(drawn).mean(), np.log(drawn).std() / 20
    assert (low, high) == pytest.approx((middle - 1.96 * error, middle + 1.96 * error), abs=0.2 * error)


@pytest.mark.parametrize(
    ("kind", "truths", "constant"),
    [
        (ONE, ["b", "a", "b"], "b"),
        (ONE, ["b", "a"], "a"),
        (MANY, [["a", "b"], [], ["a", "b"]], ["a", "b"]),
        (READER, [["x"], [], []], ""),
        (READER, [["x", "y"], ["y"]], "y"),
    ],
)
def test_the_constant_answer(kind: Any, truths: list[Any], constant: Any) -> None:
    assert kind.constant(truths) == constant


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_exact_one_sided_test(better: int, worse: int) -> None:
    expected = stats.binomtest(better, better + worse, alternative="greater").pvalue if better + worse else 1.0
    assert paired.mcnemar(better, worse) == pytest.approx(expected)


def tallies(right: NDArray[np.bool_]) -> NDArray[np.float64]:
    return ONE.tallies(["a"] * len(right), ["a" if one else "b" for one in right], LABELS)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_comparison_counts_and_is_the_mirror_image_of_the_other(pairs: list[tuple[bool, bool]]) -> None:
    ours, theirs = (np.array(side) for side in zip(*pairs, strict=True))
    found = paired.compare(tallies(theirs), tallies(ours), ONE.of_sums, OBJECTIVES["accuracy"])
    other = paired.compare(tallies(ours), tallies(theirs), ONE.of_sums, OBJECTIVES["accuracy"])
    assert (found.challenger_alone, found.champion_alone) == ((ours & ~theirs).sum(), (theirs & ~ours).sum())
    assert found.difference == pytest.approx(ours.mean() - theirs.mean())
    assert found.low <= found.difference + 1e-9
    assert found.high >= found.difference - 1e-9
    step = 1 / len(pairs) + 1e-9  # other draws may end one possible difference away, where the share is near 2.5 %
    assert (found.low, found.high) == (pytest.approx(-other.high, abs=step), pytest.approx(-other.low, abs=step))
    assert found.p == paired.mcnemar(found.challenger_alone or 0, found.champion_alone or 0)
    assert found.p + other.p >= 1.0


def test_equal_answers_are_no_evidence() -> None:
    same = tallies(np.arange(50) % 3 > 0)
    for metric in ("accuracy", "f1"):
        found = paired.compare(same, same, ONE.of_sums, OBJECTIVES[metric])
        assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)
        assert (paired.gains([same], [same], ONE.of_sums, OBJECTIVES[metric]) == 0.0).all()


def test_the_bootstrap_is_that_of_single_examples() -> None:
    """Equal rows are drawn together: the difference spreads as it does when examples are drawn one by one."""
    rng = np.random.default_rng(3)
    f1s = np.clip(rng.normal([0.55, 0.6], 0.3, (300, 2)), 0, 1).round(1)
    champion, challenger = (np.column_stack([side == 1, side, np.ones(300)]) for side in f1s.T)
    found = paired.compare(champion, challenger, READER.of_sums, OBJECTIVES["f1"])
    drawn = rng.integers(300, size=(10_000, 300))
    gains = (f1s[:, 1] - f1s[:, 0])[drawn].mean(1)
    assert found.test == "paired bootstrap"
    assert found.challenger_alone is None
    width = np.ptp(np.percentile(gains, [2.5, 97.5]))
    assert [found.low, found.high] == pytest.approx(np.percentile(gains, [2.5, 97.5]), abs=width / 20)
    assert found.p == pytest.approx((gains <= 0).mean(), abs=0.01)
    twice = paired.gains([champion] * 2, [challenger] * 2, READER.of_sums, OBJECTIVES["f1"])
    assert np.quantile(twice, 0.025) == pytest.approx(found.low, abs=1e-12)


@given(st.lists(st.booleans(), min_size=1, max_size=50))
@settings(deadline=None, max_examples=20)
def test_the_interval_of_accuracy_is_wilsons(right: list[bool]) -> None:
    low, high = paired.intervals(tallies(np.array(right)), ONE.of_sums)["accuracy"]
    assert (low, high) == metrics.wilson(sum(right), len(right))
    assert 0 <= low <= sum(right) / len(right) <= high <= 1


def test_without_a_mistake_there_is_still_an_interval() -> None:
    faultless = READER.tallies([["a fox"]] * 80, ["a fox"] * 80, ())
    assert paired.intervals(faultless, READER.of_sums) == dict.fromkeys(("exact_match", "f1"), metrics.wilson(80, 80))
    low, high = paired.intervals(ONE.tallies(["a", "b"] * 40, ["a", "b"] * 40, LABELS[:2]), ONE.of_sums)["f1"]
    assert 0.9 < low < high == 1.0


def test_rare_classes_do_not_pull_an_interval_below_its_score() -> None:
    """A class of one example is missing in a third of the resamples; with 0 there F1 of 0.99 had 0.64 to 0.94."""
    labels = [f"class {i}" for i in range(20)]
    truths = [label for i, label in enumerate(labels) for _ in range(30 if i < 10 else 1)]
    for kind, form in ((ONE, str), (MANY, lambda label: [label])):
        said = ["class 0" if i == 40 else label for i, label in enumerate(truths)]
        sums = kind.tallies([form(one) for one in truths], [form(one) for one in said], labels)
        score, found = kind.of_sums(sums.sum(0)), paired.intervals(sums, kind.of_sums)
        for name in ("f1", "precision", "recall"):
            low, high = found[name]
            assert 0.98 < low < score[name] <= high
    assert ONE.of_sums(ONE.tallies(["a"], ["a"], LABELS).sum(0))["f1"] == 1.0, "no example says anything of the others"


@pytest.mark.parametrize(("gained", "lost"), [(4, 0), (5, 0), (8, 1), (0, 0)])
def test_few_differences_are_no_proof(gained: int, lost: int) -> None:
    champion, challenger = np.ones((200, 3)), np.ones((200, 3))
    champion[:gained, 0] = 0.0
    challenger[gained : gained + lost, 0] = 0.0
    found = paired.compare(champion, challenger, READER.of_sums, OBJECTIVES["exact_match"])
    assert found.p >= paired.mcnemar(gained, lost)
    bound = paired.least_gain(champion, challenger, READER.of_sums, OBJECTIVES["exact_match"], 0.025)
    most = stats.binomtest(lost, 200).proportion_ci(0.95).high  # of the answers that get worse, as often as 1 in 40
    assert bound <= -most + 1e-9


def test_the_least_gain_is_the_bootstrap_s_where_many_answers_differ() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.random(2000) < 0.9, rng.random(2000) < 0.8
    found = paired.compare(tallies(theirs), tallies(ours), ONE.of_sums, OBJECTIVES["accuracy"])
    assert paired.least_gain(tallies(theirs), tallies(ours), ONE.of_sums, OBJECTIVES["accuracy"], 0.025) == found.low


def test_other_intervals_are_seeded_and_as_wide_as_they_should_be() -> None:
    values = np.random.default_rng(1).random(400)
    many = np.column_stack([values > 0.9, values, np.ones(400)])
    found = paired.intervals(many, READER.of_sums)
    assert found == paired.intervals(many, READER.of_sums)
    half = 1.96 * values.std() / 20
    assert found["f1"] == pytest.approx((values.mean() - half, values.mean() + half), abs=half / 10)
