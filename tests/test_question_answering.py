"""Questions on contexts: layouts of answers, splits by article, windows, the loss, scores and the threshold."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoTokenizer

import make
from hpsearch.config.section import replace
from hpsearch.config.settings import Settings
from hpsearch.data.tokens import Tokens, collate, save
from hpsearch.errors import RequestError
from hpsearch.state.facts import Overlap
from hpsearch.tasks import squad
from hpsearch.tasks.question_answering import INEXACT, LOST, NO_ANSWER, QuestionAnswering, answers_fault, answers_of
from hpsearch.training import data

QA = QuestionAnswering()
SPLITS = ("train", "validation", "test")
NO_LIMIT = [f"budget.{name}_examples=null" for name in (*SPLITS, "rung")]
BASE = make.compose_settings("task=qa_files", "task.name=t", "task.files.train=none.json", *NO_LIMIT)
SEEDED = st.integers(0, 2**31 - 1)


def settings(**task: Any) -> Settings:
    return replace(BASE, {"task": replace(BASE.task, {"max_length": 48, "stride": 8} | task)})


def on_files(files: dict[str, Path], **task: Any) -> Settings:
    given: dict[str, Any] = dict.fromkeys(SPLITS) | {"encoding": "utf-8"}
    return settings(files=given | {name: str(path) for name, path in files.items()}, **task)


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


# --- layouts of answers -----------------------------------------------------------------------------------------------

CONTEXT = "The film was good, the plot was very good."
LAYOUTS: dict[str, tuple[Any, list[tuple[str, int]]]] = {
    "the hub's": ({"text": ["film", "good"], "answer_start": [4, 37]}, [("film", 4), ("good", 37)]),
    "the hub's, none": ({"text": [], "answer_start": []}, []),
    "the hub's without places": ({"text": ["good", "plot"]}, [("good", 13), ("plot", 23)]),
    "the hub's, places null": ({"text": ["good"], "answer_start": None}, [("good", 13)]),
    "the hub's, a place null": ({"text": ["good", "good"], "answer_start": [None, 37]}, [("good", 13), ("good", 37)]),
    "one object": ({"text": "good", "answer_start": 37}, [("good", 37)]),
    "one object without a place": ({"text": "good"}, [("good", 13)]),
    "objects": ([{"text": "good", "answer_start": 37}, {"text": "film"}], [("good", 37), ("film", 4)]),
    "objects with more in them": ([{"text": "good", "answer_start": 13, "answer_id": 7}], [("good", 13)]),
    "strings": (["very good", "good"], [("very good", 32), ("good", 13)]),
    "strings and objects": (["good", {"text": "good", "answer_start": 37}], [("good", 13), ("good", 37)]),
    "a string": ("plot", [("plot", 23)]),
    "an empty string": ("", []),
    "white space": (" \n", []),
    "null": (None, []),
    "an empty list": ([], []),
    "places as floats": ({"text": ["film", "good"], "answer_start": [4.0, 37.0]}, [("film", 4), ("good", 37)]),
    "a place is NaN": ({"text": ["good", "good"], "answer_start": [float("nan"), 37.0]}, [("good", 13), ("good", 37)]),
    "a place as a string": ([{"text": "good", "answer_start": "37"}], [("good", 37)]),
    "twice the same": (["good", "good", {"text": "good", "answer_start": 13}], [("good", 13)]),
    "white space around": (
        [{"text": " good, ", "answer_start": 12}, {"text": "plot ", "answer_start": 23}],
        [("good,", 13), ("plot", 23)],
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_answers(layout: str) -> None:
    cell, expected = LAYOUTS[layout]
    assert answers_fault(cell, CONTEXT) is None
    assert answers_of(cell, CONTEXT) == expected
    assert all(CONTEXT.startswith(text, begin) for text, begin in expected)


NO_LAYOUT = "there is neither a list of answers nor"
NO_PLACE = "there is an answer_start that is no whole number"
FAULTS: dict[str, tuple[Any, str]] = {
    "a number": (3, NO_LAYOUT),
    "a list of numbers": ([3], NO_LAYOUT),
    "a list of null": ([None], NO_LAYOUT),
    "a list of lists": ([["good", 13]], NO_LAYOUT),
    "another key": ({"answer": "good"}, NO_LAYOUT),
    "an object of another key": ([{"answer": "good"}], NO_LAYOUT),
    "more texts than places": ({"text": ["good", "plot"], "answer_start": [13]}, NO_LAYOUT),
    "text null": ({"text": None, "answer_start": None}, NO_LAYOUT),
    "NaN": (float("nan"), NO_LAYOUT),
    "a text is a number": ([{"text": 3, "answer_start": 3}], "there is an answer whose text is no string"),
    "a text is null": ([{"text": None, "answer_start": 3}], "there is an answer without text"),
    "no text": ([{"text": "", "answer_start": 0}], "there is an answer without text"),
    "white space only": ({"text": [" "], "answer_start": [3]}, "there is an answer without text"),
    "not in the context": ("dull", "there is an answer that does not stand in the context"),
    "other case": (["Good"], "there is an answer that does not stand in the context"),
    "one of two": (["good", "dull"], "there is an answer that does not stand in the context"),
    "elsewhere": ([{"text": "good", "answer_start": 14}], "there is an answer that does not stand at its answer_start"),
    "beyond the end": ({"text": ["good"], "answer_start": [99]}, "there is an answer that does not stand at its"),
    "counted from the end": ({"text": ["good"], "answer_start": [-5]}, "there is an answer that does not stand at its"),
    "a place is another string": (
        [{"text": "good", "answer_start": "14"}],
        "there is an answer that does not stand at",
    ),
    "a place is a word": ([{"text": "good", "answer_start": "1e1"}], f"{NO_PLACE}, '1e1',"),
    "a place is half a number": ({"text": ["good"], "answer_start": [13.5]}, f"{NO_PLACE}, '13.5',"),
    "a place is a truth": ([{"text": "he film", "answer_start": True}], f"{NO_PLACE}, 'True',"),
    "a place is a list": ([{"text": "good", "answer_start": [13]}], f"{NO_PLACE}, '[13]',"),
    "a place is infinite": ([{"text": "good", "answer_start": float("inf")}], f"{NO_PLACE}, 'inf',"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_of_answers_names_the_rows(tmp_path: Path, case: str) -> None:
    cell, fault = FAULTS[case]
    found = answers_fault(cell, CONTEXT)
    assert found is not None
    assert found.startswith(fault)
    if case == "NaN":  # is no JSON
        return
    rows = [{"question": f"q{i}?", "context": CONTEXT, "answers": cell if i in (1, 3) else ["good"]} for i in range(5)]
    with pytest.raises(RequestError) as caught:
        data.read(on_files({"train": jsonl(tmp_path / "a.jsonl", rows)}))
    assert str(caught.value).startswith(f"a.jsonl, lines 2 and 4: {fault}")
    assert "task.columns.answers=answers" in str(caught.value)


def test_a_row_for_each_annotator_becomes_one_question_with_all_answers(tmp_path: Path) -> None:
    """Those who found an answer and those who found none contradict each other."""
    given = [("q0?", ["film"]), ("q0?", ["plot"]), ("q0?", ["film"]), ("q1?", ["good"]), ("q1?", []), ("q2?", [])]
    given += [("q2?", []), *((f"r{i}?", ["good"]) for i in range(40))]
    rows = [{"question": question, "context": CONTEXT, "answers": answers} for question, answers in given]
    rows += [{"question": f"other{i}?", "context": f"{CONTEXT} {i}", "answers": ["good"]} for i in range(40)]
    corpus = data.read(
        on_files({"train": jsonl(tmp_path / "a.jsonl", rows)}, split={"validation": 0.2, "test": 0.2, "seed": 0})
    )
    assert corpus.facts.dropped["train"] == {"duplicates": 3, "conflicting_labels": 2, "in_another_split": 0}
    read = {
        question: [answer["text"] for answer in answers]
        for name in SPLITS
        for question, answers in zip(corpus.splits[name]["question"], corpus.splits[name]["answers"], strict=True)
    }
    assert read["q0?"] == ["film", "plot"]
    assert "q1?" not in read
    assert read["q2?"] == []


@given(st.text("ab \n", min_size=1, max_size=12), st.integers(0, 11), st.integers(1, 12))
def test_answers_are_spans_without_white_space_around(context: str, begin: int, length: int) -> None:
    text = context[begin : begin + length]
    if not text.strip():
        assert answers_fault([{"text": text, "answer_start": begin}], context) is not None
        return
    ((found, at),) = answers_of([{"text": text, "answer_start": begin}], context)
    assert found == text.strip()
    assert context[at : at + len(found)] == found
    assert begin <= at


# --- examples and splits ----------------------------------------------------------------------------------------------


def on_context(number: int, questions: int = 4, **more: Any) -> list[dict[str, Any]]:
    """Questions on one context, every second without an answer."""
    context = f"Film {number} was good."
    return [
        {"question": f"What of {number}, {i}?", "context": context, "answers": ["good"] if i % 2 else []} | more
        for i in range(questions)
    ]


def articles(path: Path, n: int, titles: Callable[[int], Any] = lambda a: f"Article {a}") -> Path:
    """The layout of SQuAD: 3 contexts an article."""
    content = []
    for a in range(n):
        paragraphs = []
        for p in range(3):
            context = f"Film {a}-{p} was good."
            qas = [
                {"id": f"{a}{p}{i}", "question": f"What {i}?", "answers": answers}
                for i, answers in enumerate(([], [{"text": "good", "answer_start": context.index("good")}]))
            ]
            paragraphs.append({"context": context, "qas": qas})
        content.append({"title": titles(a), "paragraphs": paragraphs})
    path.write_text(json.dumps({"data": content}), encoding="utf-8")
    return path


def contexts_of(corpus: data.Corpus) -> dict[str, set[str]]:
    return {name: set(part["context"]) for name, part in corpus.splits.items()}


def apart(sets: dict[str, set[str]]) -> bool:
    return sum(map(len, sets.values())) == len(set().union(*sets.values()))


def test_questions_are_kept_as_they_are(tmp_path: Path) -> None:
    context = " Naïve\u00a0film;\n\tit was  good. "
    at = context.index("good")
    rows = [row for number in range(10) for row in on_context(number)]
    rows += [{"question": " How? ", "context": context, "answers": [{"text": " good", "answer_start": at - 1}]}]
    corpus = data.read(on_files({"train": jsonl(tmp_path / "a.jsonl", rows)}))
    found = [row for part in corpus.splits.values() for row in part if row["id"] == "train-41"]
    answers = [{"text": "good", "begin": at}]
    assert found == [{"id": "train-41", "question": "How?", "context": context, "answers": answers}]
    assert corpus.labels == ()
    strata: dict[str, int] = {}
    for counts in corpus.facts.classes.values():
        for stratum, count in counts.items():
            strata[stratum] = strata.get(stratum, 0) + count
    assert strata == {"answerable": 21, "unanswerable": 20}


@given(st.lists(st.integers(1, 6), min_size=10, max_size=25), st.integers(0, 1000))
@hypothesis_settings(max_examples=20, deadline=None)
def test_questions_on_one_context_are_never_divided(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], seed: int
) -> None:
    rows = [row for number, size in enumerate(sizes) for row in on_context(number, 2 * size)]
    made = on_files(
        {"train": jsonl(tmp_path_factory.mktemp("qa") / "a.jsonl", rows)},
        split={"validation": 0.2, "test": 0.2, "seed": seed},
    )
    corpus = data.read(made)
    contexts = contexts_of(corpus)
    assert apart(contexts)
    assert corpus.facts.groups == {name: len(contexts[name]) for name in SPLITS}
    assert sum(len(part) for part in corpus.splits.values()) == len(rows)
    assert all({bool(answers) for answers in part["answers"]} == {True, False} for part in corpus.splits.values())


def test_questions_on_one_article_are_never_divided(tmp_path: Path) -> None:
    made = on_files({"train": articles(tmp_path / "a.json", 12)})
    assert "group" not in made.task.columns
    corpus = data.read(made)
    of_articles = {name: {c.split("-")[0] for c in contexts} for name, contexts in contexts_of(corpus).items()}
    assert apart(of_articles)
    assert corpus.facts.groups == {name: len(of_articles[name]) for name in SPLITS}
    assert sum(corpus.facts.groups.values()) == 12


@pytest.mark.parametrize(
    "titles", [lambda a: "", lambda a: None, lambda a: "T" if a % 2 else None], ids=["empty", "null", "every other"]
)
def test_without_titles_contexts_are_kept_apart(tmp_path: Path, titles: Callable[[int], Any]) -> None:
    corpus = data.read(on_files({"train": articles(tmp_path / "a.json", 12, titles)}))
    assert apart(contexts_of(corpus))
    untitled = sum(not titles(a) for a in range(12))
    assert sum(corpus.facts.groups.values()) == 3 * untitled + (untitled < 12)


def test_a_column_called_title_that_holds_something_else_does_not_group(tmp_path: Path) -> None:
    rows = [{"title": row.pop("question"), **row} for number in range(20) for row in on_context(number)]
    columns = {"question": "title", "context": "context", "answers": "answers"}
    corpus = data.read(on_files({"train": jsonl(tmp_path / "a.jsonl", rows)}, columns=columns))
    assert apart(contexts_of(corpus))
    assert sum(corpus.facts.groups.values()) == 20


def test_a_column_of_groups_comes_before_titles_and_contexts(tmp_path: Path) -> None:
    rows = [row for number in range(20) for row in on_context(number, author=f"a{number // 2}")]
    columns = {"question": "question", "context": "context", "answers": "answers", "group": "author"}
    corpus = data.read(on_files({"train": jsonl(tmp_path / "a.jsonl", rows)}, columns=columns))
    authors = {name: {str(int(c.split()[1]) // 2) for c in contexts} for name, contexts in contexts_of(corpus).items()}
    assert apart(authors)
    assert sum(corpus.facts.groups.values()) == 10
    columns["group"] = "context"
    by_context = on_files({"train": articles(tmp_path / "a.json", 4)}, columns=columns)
    assert sum(data.read(by_context).facts.groups.values()) == 12


def test_given_splits_that_share_articles_or_questions_are_reported(tmp_path: Path) -> None:
    train, test = articles(tmp_path / "train.json", 10), articles(tmp_path / "test.json", 2)
    content = json.loads(test.read_text())
    content["data"][0]["paragraphs"] = content["data"][0]["paragraphs"][:1]
    content["data"][0]["paragraphs"][0]["qas"][0]["question"] = "Another?"
    content["data"][1]["title"] = "Article 77"
    test.write_text(json.dumps(content))
    corpus = data.read(on_files({"train": train, "test": test}))
    assert corpus.facts.overlap == {"train and test": Overlap(rows=7, rows_of_shared_groups=2)}
    assert corpus.facts.dropped["train"]["in_another_split"] == 7
    assert corpus.splits["test"]["id"] == [f"test-{i}" for i in range(1, 9)]


REFUSED: dict[str, tuple[Callable[[Path], Path], list[str]]] = {
    "one context": (
        lambda path: jsonl(path / "a.jsonl", on_context(1, 40)),
        ["all 40 rows", "one group, 'Film 1 was good.'", "never divided"],
    ),
    "one article": (
        lambda path: articles(path / "a.json", 1),
        ["all 6 rows", "one group, 'Article 0'", "never divided"],
    ),
    "one long context": (
        lambda path: jsonl(
            path / "a.jsonl", [{"question": f"{i}?", "context": "good " * 99, "answers": "good"} for i in range(9)]
        ),
        ["all 9 rows", f"'{'good ' * 10}'"],
    ),
    "no answer at all": (
        lambda path: jsonl(path / "a.jsonl", [row | {"answers": []} for n in range(9) for row in on_context(n)]),
        ["a.jsonl: not one of its 36 questions has an answer", "task.columns.answers=answers", "nothing to learn"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_data_without_anything_to_learn_or_to_split_is_refused(tmp_path: Path, case: str) -> None:
    write, parts = REFUSED[case]
    with pytest.raises(RequestError) as caught:
        data.read(on_files({"train": write(tmp_path)}))
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"truncation": "head"}, r"task\.truncation=head: .* must be windows"),
        ({"clean": "html"}, r"task\.clean=html: .* must be none"),
        ({"labels": ("a", "b")}, r"task\.labels=\('a', 'b'\): .* must be null"),
        ({"longest_answer": None}, r"task\.longest_answer=null: .* must be given"),
        ({"max_length": 31, "stride": 0}, r"task\.max_length=31: .* must be at least 32"),
        ({"stride": 13}, r"task\.stride=13: must be at most a quarter of task\.max_length=48"),
        ({"metric": "accuracy"}, r"task\.metric=accuracy: task\.kind=question_answering has no such metric"),
        ({"columns": {"question": "question", "context": "context"}}, r"task\.columns\.answers: is required"),
    ],
)
def test_settings_that_mean_nothing_to_questions_are_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        QA.check(settings(**task))
    with pytest.raises(RequestError, match=message):
        data.read(settings(**task))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"task.truncation": {"choices": ("windows", "head")}}, r"task\.truncation=.* must be windows"),
        ({"task.max_length": {"low": 16, "high": 64}}, r"task\.(max_length|stride)="),
        ({"task.max_length": {"choices": (31, 64)}}, r"task\.(max_length|stride)="),
        ({"train.class_weights": {"choices": ("none", "balanced")}}, r"train\.class_weights=balanced: "),
    ],
)
def test_what_is_searched_is_checked_too(space: dict[str, Any], message: str) -> None:
    made = settings()
    QA.check(made)
    with pytest.raises(RequestError, match=message):
        QA.check(made.model_copy(update={"search": replace(made.search, {"space": space})}))


def test_class_weights_are_refused() -> None:
    made = settings()
    with pytest.raises(RequestError, match=r"train\.class_weights=balanced: .*task\.kind=question_answering"):
        QA.check(replace(made, {"train": replace(made.train, {"class_weights": "balanced"})}))


# --- tokens -----------------------------------------------------------------------------------------------------------

WORDS = ["the", "film", "was", "a", "story", "of", "its", "actor", "scene", "and", "plot", "very"]


def context_of(number: int, words: int) -> str:
    return " ".join(WORDS[(number + i * (1 + i // 7)) % 12] for i in range(words))


def spans(context: str, *places: tuple[int, int]) -> list[dict[str, Any]]:
    """Answers from word to word, the last one included."""
    words = context.split()
    return [
        {"text": " ".join(words[first : last + 1]), "begin": len(" ".join([*words[:first], ""]))}
        for first, last in places
    ]


SIZES = [10, 90, 20, 120, 35, 60]


def rows_of_questions() -> dict[str, list[Any]]:
    """Six questions, on contexts short and long; the second and the fifth have no answer, the third has two."""
    contexts = [context_of(i, size) for i, size in enumerate(SIZES)]
    answers = [
        spans(contexts[0], (2, 4)),
        [],
        spans(contexts[2], (5, 5), (11, 13)),
        spans(contexts[3], (100, 103)),
        [],
        spans(contexts[5], (30, 31)),
    ]
    return {"question": ["what was good"] * 6, "context": contexts, "answers": answers}


@pytest.fixture
def rows() -> dict[str, list[Any]]:
    return rows_of_questions()


@pytest.fixture(params=["bert", "gpt2"])
def tokens(request: pytest.FixtureRequest, tmp_path: Path, rows: Any, tiny_model: Callable[[str], Path]) -> Tokens:
    folder = tmp_path / "tokens"
    folder.mkdir()
    save(QA.encode(rows, AutoTokenizer.from_pretrained(tiny_model(request.param)), settings().task), folder)
    return Tokens(folder, QA.padding)


def test_pieces_are_windows_whose_labels_point_at_the_first_answer(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    assert tokens.examples == 6
    assert tokens.truncated == 0
    assert sorted(set(tokens.owners.tolist())) == list(range(6))
    assert len(tokens) > 10
    found = [0] * 6
    for i in range(len(tokens)):
        item = tokens[i]
        assert set(item) == {"input_ids", "token_type_ids", "candidates", "labels"}
        assert len(item["input_ids"]) == len(item["candidates"]) == tokens.lengths[i] <= 48
        first, last = item["labels"]
        assert item["candidates"][[first, last]].all()
        assert item["candidates"][tokens.by_piece("nulls")[i]]
        if first == tokens.by_piece("nulls")[i]:
            assert last == first
            continue
        characters = tokens.of_piece("characters", i)
        owner = int(tokens.owners[i])
        answer = rows["answers"][owner][0]
        assert characters[first][0] == answer["begin"]
        assert characters[last][1] == answer["begin"] + len(answer["text"])
        found[owner] += 1
    assert [count > 0 for count in found] == [True, False, True, True, False, True]


def encoded(folder: Path, rows: dict[str, list[Any]], tokenizer: Any, **task: Any) -> Tokens:
    folder.mkdir()
    save(QA.encode(rows, tokenizer, settings(**task).task), folder)
    return Tokens(folder, QA.padding)


MARK, ZERO_WIDTH = "\u0301", "\u200b"


@pytest.mark.parametrize("end", [MARK, f"{MARK}\u0323", ZERO_WIDTH, f"{MARK}{ZERO_WIDTH}", "\ufe0f"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_answers_that_end_in_what_a_tokenizer_drops_are_learnt_and_right(
    family: str, end: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(family))
    texts = [f"good{end}", f"lovely{end} film{end}", f"film{end}", "good", f"plot{end}"]
    contexts = [
        f"the film was good{end}",
        f"a lovely{end} film{end} of its actor",
        f"film{end}",
        f"it was good{ZERO_WIDTH if ZERO_WIDTH in end else ''} and very moving",  # the same, and the answer without it
        f"the {'film was very moving and the ' * 12}plot{end}",
    ]
    answers = [[{"text": text, "begin": context.rindex(text)}] for text, context in zip(texts, contexts, strict=True)]
    rows = {"question": ["which film"] * 5, "context": contexts, "answers": answers}
    tokens = encoded(tmp_path / "t", rows, tokenizer)
    taught = {int(tokens.owners[i]) for i in range(len(tokens)) if tokens.labels[i][0] != tokens.by_piece("nulls")[i]}
    assert taught == set(range(len(rows["question"])))
    outputs = []
    for i in range(len(tokens)):  # a reader that says what it was taught
        outputs.append(np.zeros((int(tokens.lengths[i]), 2), dtype=np.float32))
        for column, place in enumerate(tokens.labels[i]):
            outputs[-1][place, column] = 9
    scores = QA.score(outputs, tokens, rows, settings().task, None)
    assert scores.metrics == {"exact_match": 1.0, "f1": 1.0}
    assert QA.tallies(QA.truths(rows, ()), QA.answers(scores.predictions, ()), ()).min() == 1.0
    assert list(QA.remarks(tokens, "train", settings().task)) == []


def test_answers_that_cannot_be_given_are_counted_and_said(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    long = " ".join(["very"] * 60)
    of_questions = [
        ("the film was good", [("film", 4)]),
        ("the film was unfunny", [("funny", 15)]),  # un ##f...: some of its letters are tokens of their own
        ("the \ue000 was good", [("\ue000", 4)]),  # dropped whole
        (f"the film was {long} good", [(f"{long} good", 13)]),  # longer than a window
        ("the film was very good", [("the film was very good", 0)]),
        ("the film was very good", [("the film was very good", 0), ("very good", 13)]),
        ("the film was very \ue000", [("very \ue000", 13)]),  # all but its end
        ("the film", []),
    ]
    rows = {
        "question": ["which film"] * 8,
        "context": [context for context, _ in of_questions],
        "answers": [[{"text": text, "begin": begin} for text, begin in answers] for _, answers in of_questions],
    }
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
    tokens = encoded(tmp_path / "t", rows, tokenizer)
    assert tokens.by_example("reach").tolist() == [1, 5, LOST, LOST, 5, 2, INEXACT, NO_ANSWER]
    lost, inexact, long_ones = QA.remarks(tokens, "train", settings(longest_answer=4).task)
    assert lost.startswith(
        "2 of 8 train questions have an answer that no window of task.max_length=48 tokens holds; they"
    )
    assert "trained as 'no answer'" in lost
    assert inexact.startswith("1 of 8 train questions have an answer that no span of tokens gives exactly")
    assert long_ones.startswith("2 of 8 train questions have answers of more than task.longest_answer=4 tokens only")
    assert "trained" not in next(QA.remarks(tokens, "test", settings().task))
    assert len(list(QA.remarks(tokens, "test", settings(longest_answer=5).task))) == 2


def test_of_several_answers_one_that_can_be_given_is_learnt(tmp_path: Path, tiny_model: Callable[[str], Path]) -> None:
    context = "the film was very \ue000 and good"
    answers = [{"text": "\ue000", "begin": 18}, {"text": "very \ue000", "begin": 13}, {"text": "good", "begin": 24}]
    rows = {"question": ["which film"], "context": [context], "answers": [answers]}
    tokens = encoded(tmp_path / "t", rows, AutoTokenizer.from_pretrained(tiny_model("bert")))
    first, last = tokens.labels[0]
    assert tokens.of_piece("characters", 0)[[first, last]].tolist() == [[24, 28]] * 2
    assert tokens.by_example("reach").tolist() == [1]


def test_question_and_special_tokens_but_one_are_no_candidates(tokens: Tokens) -> None:
    for i in range(len(tokens)):
        inside = tokens.of_piece("characters", i)[:, 0] >= 0
        assert tokens[i]["candidates"].sum() == inside.sum() + 1
        assert not inside[tokens.by_piece("nulls")[i]]
        assert not inside[1:4].any()  # the question


# --- loss -------------------------------------------------------------------------------------------------------------


def batch_of(
    tokens: Tokens, pieces: list[int], seed: int = 0
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A batch, and made-up outputs for it that are the same for a token in any batch."""
    batch = collate([tokens[i] for i in pieces], 0, types=True, padding=QA.padding)
    length = batch["input_ids"].shape[1]
    outputs = {name: torch.full((len(pieces), length), 50.0) for name in ("start_logits", "end_logits")}
    for row, i in enumerate(pieces):
        drawn = torch.randn(2, int(tokens.lengths[i]), generator=torch.manual_seed(seed + i))
        outputs["start_logits"][row, : tokens.lengths[i]], outputs["end_logits"][row, : tokens.lengths[i]] = drawn
    return batch, outputs


def loss_of(tokens: Tokens, pieces: list[int], items: int, smoothing: float = 0.0) -> torch.Tensor:
    batch, outputs = batch_of(tokens, pieces)
    return QA.loss(outputs, batch, items, smoothing, None)


def test_the_loss_is_the_log_softmax_over_the_candidates(tokens: Tokens) -> None:
    for smoothing in (0.0, 0.1):
        expected = []
        for i in range(len(tokens)):
            _, outputs = batch_of(tokens, [i])
            allowed = np.flatnonzero(tokens[i]["candidates"])
            for name, label in zip(("start_logits", "end_logits"), tokens[i]["labels"], strict=True):
                place = torch.from_numpy(np.flatnonzero(allowed == label))
                logits = outputs[name][0, allowed]
                expected.append(functional.cross_entropy(logits[None], place, label_smoothing=smoothing))
        everything = list(range(len(tokens)))
        loss = loss_of(tokens, everything, 2 * len(tokens), smoothing)
        assert torch.isclose(loss, torch.stack(expected).mean(), rtol=1e-5)


def test_padding_does_not_change_the_loss(tokens: Tokens) -> None:
    shortest, longest = int(tokens.lengths.argmin()), int(tokens.lengths.argmax())
    assert tokens.lengths[shortest] < tokens.lengths[longest]
    for smoothing in (0.0, 0.1):
        alone = loss_of(tokens, [shortest], 4, smoothing) + loss_of(tokens, [longest], 4, smoothing)
        assert torch.isclose(loss_of(tokens, [shortest, longest], 4, smoothing), alone, rtol=1e-6)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.sampled_from([0.0, 0.1]), SEEDED)
@hypothesis_settings(deadline=None)
def test_losses_of_micro_batches_add_up_to_that_of_the_batch(parts: list[int], smoothing: float, seed: int) -> None:
    rng = torch.manual_seed(seed)
    n = sum(parts)
    start, end = torch.randn(2, n, 7, generator=rng)
    candidates = torch.rand(n, 7, generator=rng) > 0.4
    candidates[:, 0] = True
    labels = torch.multinomial(candidates.float(), 2, replacement=True, generator=rng)
    batch = {"labels": labels, "candidates": candidates}
    whole = QA.loss({"start_logits": start, "end_logits": end}, batch, labels.numel(), smoothing, None)
    split = [each.split(parts) for each in (start, end, labels, candidates)]
    losses = [
        QA.loss(
            {"start_logits": s, "end_logits": e}, {"labels": of_some, "candidates": c}, labels.numel(), smoothing, None
        )
        for s, e, of_some, c in zip(*split, strict=True)
    ]
    assert torch.isclose(torch.stack(losses).sum(), whole, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_and_gradients_are_finite_and_zero_outside_the_candidates(smoothing: float) -> None:
    logits = torch.tensor([[60.0, -60.0, 3.0, 500.0], [0.0, 1.0, 2.0, -500.0]], dtype=torch.bfloat16)
    outputs = {name: logits.clone().requires_grad_() for name in ("start_logits", "end_logits")}
    candidates = torch.tensor([[True, True, True, False], [True, False, False, False]])
    batch = {"labels": torch.tensor([[1, 0], [0, 0]]), "candidates": candidates}
    loss = QA.loss(outputs, batch, 4, smoothing, None)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    for given_logits in outputs.values():
        assert given_logits.grad is not None
        assert torch.isfinite(given_logits.grad).all()
        assert (given_logits.grad[~candidates] == 0).all()


# --- scores -----------------------------------------------------------------------------------------------------------


def perfect(tokens: Tokens, rows: dict[str, list[Any]], which: int = 0) -> list[np.ndarray]:
    """Outputs (tokens, 2) of a reader that knows the answers, of several the one at `which`."""
    outputs = []
    for i in range(len(tokens)):
        scores = np.zeros((int(tokens.lengths[i]), 2), dtype=np.float32)
        characters = tokens.of_piece("characters", i)
        answers = rows["answers"][tokens.owners[i]]
        answer = answers[min(which, len(answers) - 1)] if answers else None
        first = np.flatnonzero(characters[:, 0] == answer["begin"]) if answer else np.array([])
        last = np.flatnonzero(characters[:, 1] == answer["begin"] + len(answer["text"])) if answer else np.array([])
        if len(first) and len(last):
            scores[first[0], 0] = scores[last[-1], 1] = 10.0
        else:
            scores[tokens.by_piece("nulls")[i]] = 5.0
        outputs.append(scores)
    return outputs


def test_a_perfect_reader_scores_one_with_and_without_answers(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    scores = QA.score(perfect(tokens, rows), tokens, rows, settings().task, None)
    assert scores.predictions == tuple(a[0]["text"] if a else "" for a in rows["answers"])
    assert all(0.5 < sure <= 1 for sure in scores.confidences)
    assert scores.metrics == dict.fromkeys((*QA.headings, *QA.details), 1.0)
    assert scores.confusion is None
    assert isinstance(scores.fitted["no_answer_threshold"], float)
    json.dumps([scores.predictions, scores.confidences, scores.fitted])


def test_of_several_answers_the_best_counts(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    scores = QA.score(perfect(tokens, rows, which=1), tokens, rows, settings().task, None)
    assert scores.predictions[2] == rows["answers"][2][1]["text"]
    assert scores.metrics["f1"] == scores.metrics["exact_match"] == 1.0


def test_without_unanswerable_questions_there_is_no_threshold(
    tmp_path: Path, rows: dict[str, list[Any]], tiny_model: Callable[[str], Path]
) -> None:
    answerable = {name: [column[i] for i in (0, 2, 3, 5)] for name, column in rows.items()}
    folder = tmp_path / "answerable"
    folder.mkdir()
    save(QA.encode(answerable, AutoTokenizer.from_pretrained(tiny_model("bert")), settings().task), folder)
    tokens = Tokens(folder, QA.padding)
    outputs = perfect(tokens, answerable)
    for i in range(len(tokens)):
        outputs[i][tokens.by_piece("nulls")[i]] = 100.0  # sure that there is no answer, and yet it must give one
    scores = QA.score(outputs, tokens, answerable, settings().task, None)
    assert scores.fitted == {"no_answer_threshold": None}
    assert scores.metrics == {"exact_match": 1.0, "f1": 1.0}
    assert scores.predictions == tuple(a[0]["text"] for a in answerable["answers"])


def test_a_threshold_that_was_fitted_is_used_as_it_is(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    outputs = perfect(tokens, rows)
    fitted = QA.score(outputs, tokens, rows, settings().task, None).fitted
    again = QA.score(outputs, tokens, rows, settings().task, json.loads(json.dumps(fitted)))
    assert again.fitted == fitted
    assert again.metrics["f1"] == 1.0
    never = QA.score(outputs, tokens, rows, settings().task, {"no_answer_threshold": -1e9})
    assert never.fitted == {"no_answer_threshold": -1e9}
    assert never.predictions == ("",) * 6
    assert never.metrics == pytest.approx(
        {
            "exact_match": 2 / 6,
            "f1": 2 / 6,
            "has_answer_exact_match": 0.0,
            "has_answer_f1": 0.0,
            "no_answer_accuracy": 1.0,
        }
    )
    # The margin of the two without an answer is 2 * 5 - 0.
    for threshold, right in ((10.0, 0.0), (9.999, 1.0)):
        at = QA.score(outputs, tokens, rows, settings().task, {"no_answer_threshold": threshold})
        assert at.metrics["no_answer_accuracy"] == right
    for always in ({"no_answer_threshold": 1e9}, {"no_answer_threshold": None}):
        said = QA.score(outputs, tokens, rows, settings().task, always)
        assert all(said.predictions)
        assert said.metrics["has_answer_f1"] == 1.0
        assert said.metrics["no_answer_accuracy"] == 0.0
        assert said.metrics["f1"] == pytest.approx(4 / 6)


def made_up(tokens: Tokens, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(int(n), 2)).astype(np.float32) for n in tokens.lengths]


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_squad_on_what_is_said(tokens: Tokens, rows: dict[str, list[Any]], seed: int) -> None:
    golds = [[answer["text"] for answer in answers] for answers in rows["answers"]]
    scores = QA.score(made_up(tokens, seed), tokens, rows, settings().task, None)
    exact, f1 = squad.scores(scores.predictions, golds)
    has = np.array([bool(gold) for gold in golds])
    assert scores.metrics == pytest.approx(
        {
            "exact_match": exact.mean(),
            "f1": f1.mean(),
            "has_answer_exact_match": exact[has].mean(),
            "has_answer_f1": f1[has].mean(),
            "no_answer_accuracy": f1[~has].mean(),
        }
    )
    for said, context in zip(scores.predictions, rows["context"], strict=True):
        assert said in context
        assert len(said.split()) <= 30


@pytest.mark.parametrize("seed", range(3))
def test_the_fitted_threshold_is_the_best_there_is(tokens: Tokens, rows: dict[str, list[Any]], seed: int) -> None:
    outputs = made_up(tokens, seed)
    best = QA.score(outputs, tokens, rows, settings().task, None).metrics["f1"]
    for threshold in np.linspace(-20, 20, 161):
        other = QA.score(outputs, tokens, rows, settings().task, {"no_answer_threshold": float(threshold)})
        assert other.metrics["f1"] <= best + 1e-9


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_scores_of_the_first_questions_are_of_all_their_windows(
    tokens: Tokens, rows: dict[str, list[Any]], n: int
) -> None:
    outputs, fitted = made_up(tokens, 7), {"no_answer_threshold": 0.5}
    everything = QA.score(outputs, tokens, rows, settings().task, fitted)
    pieces = tokens.pieces(n)
    assert (tokens.owners[:pieces] < n).all()
    assert (tokens.owners[pieces:] >= n).all()
    first = {name: column[:n] for name, column in rows.items()}
    some = QA.score(outputs[:pieces], tokens, first, settings().task, fitted)
    assert some.predictions == everything.predictions[:n]


def test_prepared_questions_are_tokenised_with_their_windows_together(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    rows = [
        {
            "question": f"what was {i} good",
            "context": context_of(number, 20 + 9 * number),
            "answers": [context_of(number, 3)] if i else [],
        }
        for number in range(12)
        for i in range(4)
    ]
    made = on_files({"train": jsonl(tmp_path / "a.jsonl", rows)})
    ref = data.prepare(data.read(made), made, tmp_path / "home")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
    for split in SPLITS:
        tokens, stored = data.tokenised(ref, made, tokenizer, split), data.load(ref, split).to_dict()
        assert set(stored) == {"id", "question", "context", "answers"}
        assert tokens.examples == ref.sizes[split] == len(stored["id"])
        for n in range(tokens.examples + 1):
            assert tokens.pieces(n) == sum(tokens.owners < n)
        if split != "train":
            scores = QA.score(perfect(tokens, stored), tokens, stored, made.task, None)
            assert scores.metrics["exact_match"] == 1.0
