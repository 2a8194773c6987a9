"""SQuAD's scores: cases worked out by hand from the published definitions, properties, thresholds by brute force."""

import itertools
import random
import string

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hpsearch.tasks import squad

WORDS = ["Paris", "river", "the", "a", "an", "The", "1066", "x-ray", "U.S.", "naïve", "–", "don't", "anthem"]  # noqa: RUF001
SENTENCES = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
TEXTS = st.one_of(SENTENCES, st.text(max_size=12))
MORE = hypothesis_settings(max_examples=200, deadline=None)


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("", ""),
        ("the", ""),
        (" The  A an ", ""),
        ("The Norman  Conquest", "norman conquest"),
        ("well-known", "wellknown"),
        ("U.S.A.", "usa"),
        ("don't", "dont"),
        ("theatre, another banana", "theatre another banana"),
        ("a.", ""),
        ("a-b", "ab"),  # punctuation goes first, so that no article is left
        ("a–b", "–b"),  # noqa: RUF001 - this dash stays, and ends a word
        ("“the” end", "“ ” end"),
        ("l’an 1066", "l’ 1066"),  # noqa: RUF001
        ("$1,600.50 (about)", "160050 about"),
        (string.punctuation, ""),
        ("tab\tand\nline\u00a0and\u2003wide", "tab and line and wide"),
        ("ÉCOLE Straße", "école straße"),
        ("日本 the 👩🏽‍🚀", "日本 👩🏽‍🚀"),
        ("e\u0301 and é", "e\u0301 and é"),  # no Unicode normalisation
        ("thé the", "thé"),
        ("__a__", ""),
    ],
)
def test_normalised(text: str, normalised: str) -> None:
    assert squad.normalise(text) == normalised


@pytest.mark.parametrize(
    ("prediction", "golds", "exact", "overlap"),
    [
        ("The Normans", ["Normans"], 1.0, 1.0),
        ("10th and 11th centuries", ["in the 10th and 11th centuries", "10th and 11th centuries"], 1.0, 1.0),
        ("10th and 11th centuries", ["in the 10th and 11th centuries"], 0.0, 8 / 9),  # 4 of 4 and 4 of 5
        ("Norse, Viking", ["Viking Norse"], 0.0, 1.0),  # order counts for one of the two
        ("Paris", ["London"], 0.0, 0.0),
        ("Paris", ["London", "Paris France"], 0.0, 2 / 3),
        ("well known", ["well-known"], 0.0, 0.0),
        ("wellknown", ["well-known"], 1.0, 1.0),
        ("very very good", ["very good good"], 0.0, 2 / 3),  # of a word said twice, each counts
        ("", [], 1.0, 1.0),
        ("the", [], 1.0, 1.0),
        ("Paris", [], 0.0, 0.0),
        ("", ["Paris"], 0.0, 0.0),
        ("", ["the", "Paris"], 0.0, 0.0),  # "the" is no answer, but "Paris" is one
        ("Paris", ["the", "Paris"], 1.0, 1.0),
        ("...", ["the", "!"], 1.0, 1.0),  # no gold answer is left
        ("Paris", ["the"], 0.0, 0.0),
        ("“Paris”", ["Paris"], 0.0, 0.0),
        ("1914–1918", ["1914-1918"], 0.0, 0.0),  # noqa: RUF001
    ],
)
def test_scores_by_hand(prediction: str, golds: list[str], exact: float, overlap: float) -> None:
    assert squad.exact_match(prediction, golds) == exact
    assert squad.f1(prediction, golds) == pytest.approx(overlap)


def test_scores_of_many_questions() -> None:
    exact, overlap = squad.scores(["The Normans", "", "x y"], [["Normans"], ["Paris"], ["x z", "w"]])
    assert exact.tolist() == [1.0, 0.0, 0.0]
    assert overlap.tolist() == [1.0, 0.0, 0.5]
    assert [part.shape for part in squad.scores([], [])] == [(0,), (0,)]
    with pytest.raises(ValueError, match="shorter"):
        squad.scores(["x", "y"], [["x"]])


@given(TEXTS, st.lists(TEXTS, max_size=4))
@MORE
def test_bounds(prediction: str, golds: list[str]) -> None:
    exact, overlap = squad.exact_match(prediction, golds), squad.f1(prediction, golds)
    assert exact in (0.0, 1.0)
    assert exact <= overlap <= 1.0
    assert np.array(squad.scores([prediction], [golds])).tolist() == [[exact], [overlap]]


@given(TEXTS, TEXTS)
@MORE
def test_f1_of_one_gold_answer_is_symmetric_and_the_harmonic_mean(one: str, other: str) -> None:
    assert squad.f1(one, [other]) == squad.f1(other, [one])
    said, gold = squad.normalise(one).split(), squad.normalise(other).split()
    shared = sum(min(said.count(word), gold.count(word)) for word in set(said))
    if shared:
        precision, recall = shared / len(said), shared / len(gold)
        assert squad.f1(one, [other]) == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert squad.f1(one, [other]) == float(not said and not gold)


@given(TEXTS, st.lists(TEXTS, max_size=3))
@MORE
def test_a_gold_answer_is_right(text: str, others: list[str]) -> None:
    assume(squad.normalise(text) or not any(map(squad.normalise, others)))
    assert squad.exact_match(text, [*others, text]) == squad.f1(text, [*others, text]) == 1.0


@given(TEXTS, st.lists(TEXTS.filter(squad.normalise), min_size=1, max_size=4), st.randoms(use_true_random=False))
@MORE
def test_the_best_gold_answer_counts_wherever_it_stands(prediction: str, golds: list[str], rng: random.Random) -> None:
    assert squad.f1(prediction, golds) == max(squad.f1(prediction, [gold]) for gold in golds)
    assert squad.exact_match(prediction, golds) == max(squad.exact_match(prediction, [gold]) for gold in golds)
    shuffled = [*golds, "the"]  # "the" is dropped
    rng.shuffle(shuffled)
    assert squad.f1(prediction, shuffled) == squad.f1(prediction, golds)
    assert squad.exact_match(prediction, shuffled) == squad.exact_match(prediction, golds)


@given(TEXTS, st.lists(SENTENCES, max_size=3), st.randoms(use_true_random=False))
@MORE
def test_case_articles_punctuation_and_spaces_do_not_count(text: str, golds: list[str], rng: random.Random) -> None:
    words = text.split()
    for _ in range(rng.randrange(3)):
        words.insert(rng.randint(0, len(words)), rng.choice(["a", "An", "THE", "\t"]))
    changed = list(" ".join(words).translate({ord(c): c.swapcase() for c in string.ascii_letters}))
    for _ in range(rng.randrange(4)):
        changed.insert(rng.randint(0, len(changed)), rng.choice(string.punctuation))
    assert squad.normalise("".join(changed)) == squad.normalise(text)
    assert squad.f1("".join(changed), golds) == squad.f1(text, golds)
    assert squad.exact_match("".join(changed), golds) == squad.exact_match(text, golds)


@given(TEXTS)
@MORE
def test_what_is_normalised_holds_no_capital_no_punctuation_no_article_and_single_spaces(text: str) -> None:
    normalised = squad.normalise(text)
    assert not set(normalised) & set(string.punctuation + string.ascii_uppercase)
    assert not set(normalised.split()) & {"a", "an", "the"}
    assert normalised == " ".join(normalised.split())


# --- threshold --------------------------------------------------------------------------------------------------------


def mean_score(t: float, margin: np.ndarray, answered: np.ndarray, silent: np.ndarray) -> float:
    return float(np.where(margin > t, silent, answered).mean())


@pytest.mark.parametrize(
    ("margin", "answered", "silent", "threshold"),
    [
        ([-2.0, 4.0], [1.0, 0.0], [0.0, 1.0], 1.0),  # midway
        ([-2.0, 4.0], [1.0, 1.0], [0.0, 0.0], 5.0),  # always answer
        ([-2.0, 4.0], [0.0, 0.0], [1.0, 1.0], -3.0),  # never answer
        ([4.0, -2.0, 4.0], [0.0, 1.0, 1.0], [1.0, 0.0, 0.0], 1.0),  # two of one margin go together; as good as 5
        ([0.0, 1.0, 2.0, 3.0], [0.3, 0.0, 0.1, 0.2], [0.0, 0.3, 0.0, 0.0], 0.5),  # 4 is better by rounding only
        ([-3.0, 3.0], [0.5, 0.5], [0.5, 0.5], 0.0),
        ([-1.0, 1.0], [0.0, 1.0], [1.0, 0.0], -2.0),  # 2 is as good and as near
        ([np.inf, 2.0, 6.0, -np.inf], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], 4.0),
        ([np.inf], [1.0], [0.0], 0.0),
        ([], [], [], 0.0),
    ],
)
def test_threshold_by_hand(margin: list[float], answered: list[float], silent: list[float], threshold: float) -> None:
    assert squad.no_answer_threshold(np.array(margin), np.array(answered), np.array(silent)) == threshold


def test_neighbouring_floats_are_told_apart() -> None:
    for low in (1.0, np.nextafter(1.0, 2), -1.0):  # of the first two, one's middle is rounded up
        margin = np.array([low, np.nextafter(low, np.inf)])
        t = squad.no_answer_threshold(margin, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
        assert mean_score(t, margin, np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


MARGINS = st.one_of(st.integers(-4, 4).map(float), st.floats(-50, 50, width=32), st.sampled_from([np.inf, -np.inf]))
SCORES = st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 1.0])


@given(st.lists(st.tuples(MARGINS, SCORES, SCORES), min_size=1, max_size=12))
@MORE
def test_threshold_against_brute_force(questions: list[tuple[float, float, float]]) -> None:
    margin, answered, silent = np.array(questions).T
    t = squad.no_answer_threshold(margin, answered, silent)
    assert np.isfinite(t)
    assert t == squad.no_answer_threshold(margin[::-1], answered[::-1], silent[::-1])
    finite = sorted({float(m) for m in margin if np.isfinite(m)})
    middles = [(low + high) / 2 for low, high in itertools.pairwise(finite)]
    candidates = [finite[0] - 1, *middles, finite[-1] + 1] if finite else [0.0]
    score = mean_score(t, margin, answered, silent)
    for candidate in [*candidates, *finite, 0.0]:
        assert score >= mean_score(candidate, margin, answered, silent) - 1e-9
    good = [c for c in candidates if mean_score(c, margin, answered, silent) > score - 1e-9]
    assert t == min(good, key=lambda c: (abs(c), c))
