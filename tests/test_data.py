"""From rows to batches: cleaning, duplicates, splits, subsets, tokens."""

import json
import pickle
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from transformers import AutoTokenizer

import make
import tiny
from hpsearch.config.loading import load, tuples
from hpsearch.config.settings import Settings
from hpsearch.data.text import clean
from hpsearch.data.text import encode as encode_texts
from hpsearch.data.tokens import collate
from hpsearch.errors import RequestError
from hpsearch.state import codec
from hpsearch.state.facts import Facts, Overlap
from hpsearch.tasks import texts
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.training import data

CONF = Path(__file__).parents[1] / "conf"
SPLITS = ("train", "validation", "test")


def settings(task: dict[str, Any], **budget: int | None) -> Settings:
    """Shipped settings with the task and budget of a test."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["task=csv", "task.name=t", "task.files.train=none.csv"])
    return load(OmegaConf.merge(config, {"task": task, "budget": {**NO_LIMIT, **budget}}))


NO_LIMIT = {f"{name}_examples": None for name in (*SPLITS, "rung")}
BASE = settings({})


def changed(task: dict[str, Any], **budget: int | None) -> Settings:
    changes = {"task": BASE.task.model_dump() | task, "budget": BASE.budget.model_dump() | budget}
    return Settings.model_validate(BASE.model_dump() | changes)


def settings_on(folder: Path, splits: dict[str, list[tuple[Any, ...]]], **changes: Any) -> Settings:
    """A task of JSONL files with these rows: (text, label), or (text, label, group)."""
    files: dict[str, Any] = dict.fromkeys(SPLITS) | {"encoding": "utf-8"}
    for name, rows in splits.items():
        files[name] = str(folder / f"{name}.jsonl")
        lines = [json.dumps(dict(zip(("text", "label", "group"), row, strict=False))) for row in rows]
        Path(files[name]).write_text("\n".join(lines), encoding="utf-8")
    return changed({"files": files, "clean": "none"} | changes)


def rows_of(corpus: data.Corpus, split: str) -> list[tuple[str, str]]:
    part = corpus.splits[split]
    return [(text, corpus.labels[label]) for text, label in zip(part["text"], part["label"], strict=True)]


def toy(tmp_path: Path, n: int = 200, **budget: int | None) -> tuple[data.Corpus, Settings]:
    path = tiny.write_csv(tmp_path / "toy.csv", n)
    made = changed({"files": {**dict.fromkeys(SPLITS), "train": str(path), "encoding": "utf-8"}}, **budget)
    return data.read(made), made


# --- cleaning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("Great.<br /><br />Really", "Great. Really"),
        ("a<BR>b</p><p class=\"x\" id='y' data-n=3>c <!-- d\n --> e", "a b c e"),
        ("<a href='http://x.org/?a=1&amp;b=2'>link</a>", "link"),
        (
            "a < b, c > d, <3, </3, <=8, >:-(, <grin>",
            "a < b, c > d, <3, </3, <=8, >:-(, <grin>",
        ),
        ("a <b and c> d", "a <b and c> d"),
        ("caf&eacute; &amp; R&D &#8217; &nbsp; &lt;br&gt;", "café & R&D ’ <br>"),  # noqa: RUF001
        ("black&notwhite x?a=1&copy=2 &nosuch; &A;", "black&notwhite x?a=1&copy=2 &nosuch; &A;"),
        (" \t a\u00a0\r\n b ", "a b"),
        ("NA", "NA"),
        ("<br />", ""),
    ],
)
def test_html_is_dropped_and_text_is_not(raw: str, cleaned: str) -> None:
    assert clean(raw, "html") == cleaned


def test_the_other_ways_of_cleaning() -> None:
    assert clean(" a<br />\n &amp; ", "whitespace") == "a<br /> &amp;"
    assert clean(" a<br />\n &amp; ", "none") == " a<br />\n &amp; "


# Without "&" and tags of elements there is nothing to drop but white space.
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="&")))
@example("<" * 50 + "3")
def test_cleaning_keeps_whatever_is_no_markup(text: str) -> None:
    assume("<!--" not in text)
    without_elements = text.replace("<", "< ")
    assert clean(without_elements, "html").split() == without_elements.split()


# --- reading ----------------------------------------------------------------------------------------------------------


def test_texts_that_look_missing_stay_texts(tmp_path: Path) -> None:
    odd = ["", "NA", "null", "None", "nan", "0", "1.0", "true"]
    rows = [(text, "a") for text in odd] + [(f"t{i}", "b") for i in range(8)]
    corpus = data.read(settings_on(tmp_path, {"train": rows}))
    assert sorted(row for name in SPLITS for row in rows_of(corpus, name)) == sorted(rows)
    assert corpus.facts.empty_texts == {"train": 1}


@pytest.mark.parametrize(
    ("raw", "labels"),
    [
        ([2, 10, 1], ("1", "2", "10")),
        (["2", "10", "-1"], ("-1", "2", "10")),
        ([True, False], ("False", "True")),
        (["pos", " neg"], ("neg", "pos")),
        (["x", "10", "9", "nan"], ("9", "10", "nan", "x")),
    ],
)
def test_labels_are_strings_and_numbers_sort_as_such(tmp_path: Path, raw: list[Any], labels: tuple[str, ...]) -> None:
    corpus = data.read(settings_on(tmp_path, {"train": [(f"t{i}", raw[i % len(raw)]) for i in range(60)]}))
    assert corpus.labels == labels
    assert corpus.facts.labels == {label: i for i, label in enumerate(labels)}
    for name in SPLITS:
        expected = {f"t{i}": str(raw[i % len(raw)]).strip() for i in range(60)}
        assert all(expected[text] == label for text, label in rows_of(corpus, name))


def test_the_order_of_the_labels_can_be_given(tmp_path: Path) -> None:
    corpus = data.read(settings_on(tmp_path, {"train": [(f"t{i}", "ab"[i % 2]) for i in range(40)]}, labels=("b", "a")))
    assert corpus.labels == ("b", "a")
    assert all(corpus.labels[label] == "ab"[int(text[1:]) % 2] for text, label in zip(*columns(corpus), strict=True))


def columns(corpus: data.Corpus) -> tuple[list[str], list[int]]:
    train = corpus.splits["train"]
    return list(train["text"]), list(train["label"])


def test_duplicates_and_contradictions_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2]) for i in range(40)]
    extra = [("t0", "a"), ("t0", "a"), ("t1", "a"), (" t2 ", "a")]  # t1 is "b" above; " t2 " is t2 once cleaned
    corpus = data.read(settings_on(tmp_path, {"train": rows + extra}, clean="whitespace"))
    assert corpus.facts.dropped == {"train": {"duplicates": 3, "conflicting_labels": 2, "in_another_split": 0}}
    found = Counter(text for name in SPLITS for text, _ in rows_of(corpus, name))
    assert found == Counter({f"t{i}": 1 for i in range(40) if i != 1})


def test_given_splits_stay_whole_and_their_texts_leave_train(tmp_path: Path) -> None:
    train = [(f"t{i}", "ab"[i % 2]) for i in range(40)]
    validation = [(f"v{i}", "ab"[i % 2]) for i in range(10)] + [("t3", "b"), ("x0", "a"), ("v0", "a"), ("v1", "a")]
    test = [(f"x{i}", "ab"[i % 2]) for i in range(10)] + [("x0", "b"), ("x1", "b"), ("t2", "a")]
    corpus = data.read(settings_on(tmp_path, {"train": train, "validation": validation, "test": test}))
    assert rows_of(corpus, "test") == test
    assert rows_of(corpus, "validation") == validation
    assert rows_of(corpus, "train") == [row for row in train if row[0] not in ("t2", "t3")]
    assert corpus.facts.dropped == {"train": {"duplicates": 0, "conflicting_labels": 0, "in_another_split": 2}}
    assert corpus.splits["train"]["id"] == [f"train-{i + 1}" for i in range(40) if i not in (2, 3)]
    for name, rows in (("validation", validation), ("test", test)):
        assert corpus.splits[name]["id"] == [f"{name}-{i + 1}" for i in range(len(rows))]


@given(
    counts=st.lists(st.integers(12, 60), min_size=2, max_size=4),
    validation=st.sampled_from([0.1, 0.2, 0.3]),
    test=st.sampled_from([0.1, 0.25]),
    seed=st.integers(0, 1000),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_splits_are_disjoint_complete_stratified_and_seeded(
    counts: list[int], validation: float, test: float, seed: int
) -> None:
    rows = [(f"{label} {i}", str(label)) for label, count in enumerate(counts) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        made = settings_on(Path(folder), {"train": rows}, split={"validation": validation, "test": test, "seed": seed})
        corpus, again = data.read(made), data.read(made)
    assert corpus.facts == again.facts
    texts = [text for name in SPLITS for text, _ in rows_of(corpus, name)]
    assert sorted(texts) == sorted(text for text, _ in rows)
    for name, share in (("validation", validation), ("test", test)):
        assert len(corpus.splits[name]) == round(share * len(rows))
        for label, count in enumerate(counts):
            # One row for the rounding here, one for that of the split taken off before.
            assert abs(corpus.facts.classes[name][str(label)] - share * count) <= 2


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2]) for i in range(60)]
    splits = [{"validation": 0.2, "test": 0.2, "seed": seed} for seed in (0, 1)]
    tests = [rows_of(data.read(settings_on(tmp_path, {"train": rows}, split=split)), "test") for split in splits]
    assert tests[0] != tests[1]


GROUPED = {"columns": {"text": "text", "label": "label", "group": "group"}}


@given(
    sizes=st.lists(st.integers(2, 12), min_size=10, max_size=40),
    validation=st.sampled_from([0.1, 0.2, 0.3]),
    test=st.sampled_from([0.1, 0.25]),
    seed=st.integers(0, 1000),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_groups_are_never_divided_and_shares_are_met_as_they_allow(
    sizes: list[int], validation: float, test: float, seed: int
) -> None:
    rows = [(f"{group} {i}", "ab"[i % 2], group) for group, size in enumerate(sizes) for i in range(size)]
    with tempfile.TemporaryDirectory() as folder:
        shares = {"validation": validation, "test": test, "seed": seed}
        made = settings_on(Path(folder), {"train": rows}, split=shares, **GROUPED)
        corpus, again = data.read(made), data.read(made)
    assert corpus.facts == again.facts
    assert sorted(text for name in SPLITS for text, _ in rows_of(corpus, name)) == sorted(text for text, *_ in rows)
    found = {name: {text.split()[0] for text, _ in rows_of(corpus, name)} for name in SPLITS}
    assert not found["train"] & found["validation"]
    assert not found["train"] & found["test"]
    assert not found["validation"] & found["test"]
    assert corpus.facts.groups == {name: len(found[name]) for name in SPLITS}
    pool = len(rows)
    for name, share in (("test", test), ("validation", validation)):
        wanted = share * len(rows)
        fold = pool / max(2, round(pool / round(wanted)))  # the share of so many folds is the nearest to what is wanted
        assert abs(len(corpus.splits[name]) - wanted) <= abs(fold - wanted) + max(sizes)
        pool -= len(corpus.splits[name])


def test_groups_are_split_with_the_classes_in_proportion(tmp_path: Path) -> None:
    rows = [(f"{group} {i}", "b" if group % 4 == 0 else "a", f"g{group}") for group in range(80) for i in range(3)]
    corpus = data.read(settings_on(tmp_path, {"train": rows}, **GROUPED))
    assert corpus.facts.classes == {
        "train": {"a": 144, "b": 48},
        "validation": {"a": 18, "b": 6},
        "test": {"a": 18, "b": 6},
    }
    assert corpus.facts.groups == {"train": 64, "validation": 8, "test": 8}


def test_groups_are_no_part_of_what_is_stored_and_none_are_counted_without_a_column(tmp_path: Path) -> None:
    rows = [(f"{group} {i}", "ab"[i % 2], group) for group in range(20) for i in range(4)]
    grouped, plain = (
        data.read(settings_on(tmp_path, {"train": rows}, **GROUPED)),
        data.read(settings_on(tmp_path, {"train": rows})),
    )
    assert grouped.splits["train"].column_names == plain.splits["train"].column_names == ["id", "text", "label"]
    assert plain.facts.groups == {"train": 0, "validation": 0, "test": 0}
    assert plain.facts.digests != grouped.facts.digests


def test_what_given_splits_share_is_reported_and_stays_in_them(tmp_path: Path) -> None:
    train = [(f"t{i}", "ab"[i % 2], f"g{i // 4}") for i in range(40)]
    validation = [("v0", "a", "h"), ("v1", "b", "h"), ("t5", "b", "g9"), ("t5", "b", "new")]
    test = [("x0", "a", "i"), ("x1", "b", "g0"), ("v0", "b", "h"), ("t0", "a", "i")]
    splits = {"train": train, "validation": validation, "test": test}
    corpus = data.read(settings_on(tmp_path, splits, **GROUPED))
    assert corpus.facts.overlap == {
        "train and validation": Overlap(rows=2, rows_of_shared_groups=1),
        "train and test": Overlap(rows=1, rows_of_shared_groups=1),
        "validation and test": Overlap(rows=1, rows_of_shared_groups=1),
    }
    assert rows_of(corpus, "validation") == [row[:2] for row in validation]
    assert rows_of(corpus, "test") == [row[:2] for row in test]
    assert rows_of(corpus, "train") == [row[:2] for row in train if row[0] not in ("t0", "t5")]
    assert data.read(settings_on(tmp_path, splits)).facts.overlap["validation and test"] == Overlap(
        rows=1, rows_of_shared_groups=0
    )
    apart = {"train": train[:20], "test": [("x0", "a", "i"), ("x1", "b", "i")]}
    assert data.read(settings_on(tmp_path, apart, **GROUPED)).facts.overlap == {}


def test_a_validation_split_is_taken_off_train_beside_a_given_test_split(tmp_path: Path) -> None:
    train = [(f"t{i}", "ab"[i % 2], f"g{i // 4}") for i in range(80)]
    test = [("t1", "a", "g0"), ("x", "b", "g19")]
    corpus = data.read(settings_on(tmp_path, {"train": train, "test": test}, **GROUPED))
    assert corpus.facts.dropped["train"]["in_another_split"] == 1
    assert corpus.facts.split_by == {"train": "source", "validation": "hpsearch", "test": "source"}
    assert all(row_id.startswith("train-") for name in ("train", "validation") for row_id in corpus.splits[name]["id"])
    assert corpus.splits["test"]["id"] == ["test-1", "test-2"]
    of_group = {f"train-{i + 1}": f"g{i // 4}" for i in range(80)}
    sides = [{of_group[row_id] for row_id in corpus.splits[name]["id"]} for name in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(corpus.splits["validation"]) == 8


def test_ids_and_digests_are_the_same_at_each_reading_and_tell_the_rows(tmp_path: Path) -> None:
    rows = [(f"t{i}", "ab"[i % 2]) for i in range(40)]
    corpus = data.read(settings_on(tmp_path, {"train": rows}))
    again = data.read(settings_on(tmp_path, {"train": rows}))
    for name in SPLITS:
        part = corpus.splits[name]
        assert again.splits[name].to_dict() == part.to_dict()
        for row_id, text in zip(part["id"], part["text"], strict=True):
            assert rows[int(row_id.removeprefix("train-")) - 1][0] == text
    assert again.facts.digests == corpus.facts.digests
    given = {"train": rows, "validation": [("v0", "a"), ("v1", "b")], "test": [("x0", "a"), ("x1", "b")]}
    # Pinned: a study goes on only where its data are found unchanged.
    assert data.read(settings_on(tmp_path, given)).facts.digests == {
        "train": "0e0a51c77ebf104f",
        "validation": "785251daf1048b8b",
        "test": "c5096a162a6d6dec",
    }


def test_facts_are_json_and_reading_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hf"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    corpus, _ = toy(tmp_path)
    assert codec.read(Facts, codec.write(corpus.facts), "facts", "") == corpus.facts
    assert [path.name for path in tmp_path.iterdir()] == ["toy.csv"]
    assert corpus.facts.rows == {"train": 200}
    assert corpus.facts.split_by == {"train": "source", "validation": "hpsearch", "test": "hpsearch"}


AB = [(f"t{i}", "ab"[i % 2]) for i in range(40)]
BAD_DATA: dict[str, tuple[dict[str, list[tuple[str, Any]]], dict[str, Any], list[str]]] = {
    "role missing": ({"train": AB}, {"columns": {"text": "text"}}, ["task.columns.label: is required"]),
    "role unknown": (
        {"train": AB},
        {"columns": {"text": "text", "lable": "label"}},
        ["task.columns.lable", "text_classification", "text and label", "may have group", "did you mean 'label'?"],
    ),
    "label not in labels": (
        {"train": [*AB, ("x", "c"), ("y", "c")]},
        {"labels": ("a", "b")},
        ["train.jsonl, lines 41 and 42", "'c'", "task.labels=['a', 'b']"],
    ),
    "labels never found": ({"train": AB}, {"labels": ("a", "b", "c")}, ["task.labels", "no row", "'c'", "'a' and 'b'"]),
    "labels twice": ({"train": AB}, {"labels": ("a", "b", "a")}, ["task.labels", "twice"]),
    "test label unknown": (
        {"train": AB, "test": [("x", "a"), ("y", "B")]},
        {},
        ["test.jsonl, line 2", "'B'", "labels of the train split", "did you mean 'b'?"],
    ),
    "shares add up to one": (
        {"train": AB},
        {"split": {"validation": 0.5, "test": 0.5, "seed": 0}},
        ["task.split.validation=0.5", "task.split.test=0.5", "less than 1"],
    ),
    "one group": (
        {"train": [(text, label, "g") for text, label in AB]},
        GROUPED,
        ["task.columns.group=group", "all 40 rows", "one group, 'g'", "never divided"],
    ),
    "one group left for validation": (
        {"train": [(text, label, i // 20) for i, (text, label) in enumerate(AB)]},
        GROUPED,
        ["task.columns.group=group", "one group", "never divided"],
    ),
    "no group in a row": (
        {"train": [(text, label, None if i == 3 else 1) for i, (text, label) in enumerate(AB)]},
        GROUPED,
        ["train.jsonl, line 4: there is no group", "task.columns.group=group"],
    ),
    "no column of groups": ({"train": AB}, GROUPED, ["train.jsonl, line 1", "task.columns.group=group"]),
    "train is test": ({"train": AB, "test": AB}, {}, ["train.jsonl: the 0 rows that stay", "too few for train; add"]),
    "all rows of a class are in test": (
        {"train": AB, "test": [("x", "a"), *(row for row in AB if row[1] == "b")]},
        {},
        ["train.jsonl: of the 20 rows that stay", "none has the label 'b'", "add rows of that class"],
    ),
    "one row": (
        {"train": [("x", "a"), ("y", "b")]},
        {},
        ["the 2 rows that stay", "too few for validation", "add rows"],
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_gets_one_clear_message_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    splits, changes, parts = BAD_DATA[case]
    made = settings_on(tmp_path, splits, **changes)
    with pytest.raises(RequestError) as caught:
        data.read(made)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.jsonl" for name in splits}


RARE: dict[str, tuple[list[tuple[Any, ...]], dict[str, Any], dict[str, dict[str, int]]]] = {
    "four rows of eight classes": (
        [(f"t{i}", f"c{i % 7}") for i in range(296)] + [(f"r{i}", "rare") for i in range(4)],
        {},
        {"train": {"rare": 2}, "validation": {"rare": 1}, "test": {"rare": 1}},
    ),
    "one row": ([*AB, ("x", "c")], {}, {"train": {"c": 1}, "validation": {"c": 0}, "test": {"c": 0}}),
    "two rows": ([*AB, ("x", "c"), ("y", "c")], {}, {"train": {"c": 1}, "test": {"c": 1}}),
    "more classes than rows of a split": (
        [(f"t{i}", f"c{i % 60}") for i in range(180)],
        {},
        {},
    ),
    "a class in one group": (
        [(f"{g} {i}", "b" if g == 3 else "a", g) for g in range(10) for i in range(4)],
        GROUPED,
        {"train": {"b": 4}, "validation": {"b": 0}, "test": {"b": 0}},
    ),
    "every class in two groups": ([(f"t{g}", f"c{g % 15}", g) for g in range(30)], GROUPED, {}),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("case", RARE)
def test_a_rare_class_is_trained_and_scored_as_far_as_it_can_be(tmp_path: Path, case: str, seed: int) -> None:
    rows, changes, expected = RARE[case]
    split = {"split": {"validation": 0.1, "test": 0.1, "seed": seed}}
    made = settings_on(tmp_path, {"train": rows}, **changes | split)
    corpus, again = data.read(made), data.read(made)
    assert corpus.facts == again.facts
    assert sorted(text for name in SPLITS for text, _ in rows_of(corpus, name)) == sorted(row[0] for row in rows)
    labels = {row[1] for row in rows}
    assert set(corpus.facts.classes["train"]) == labels
    for name, counts in expected.items():
        assert {label: corpus.facts.classes[name].get(label, 0) for label in counts} == counts
    for name in ("validation", "test"):
        absent = labels - set(corpus.facts.classes[name])
        said = [note for note in corpus.notes if note.startswith(f"no {name} example has ")]
        assert len(said) == bool(absent)
    if changes is not GROUPED:
        assert len(corpus.splits["test"]) == round(0.1 * len(rows))
        assert len(corpus.splits["validation"]) == round(0.1 * len(rows))


def test_given_splits_may_lack_a_class_and_it_is_said(tmp_path: Path) -> None:
    given = {"train": AB, "validation": [("v", "a"), ("w", "b")], "test": [("x", "a")]}
    corpus = data.read(settings_on(tmp_path, given))
    assert rows_of(corpus, "test") == [("x", "a")]
    assert "no test example has 'b', so test scores say nothing of it" in corpus.notes
    assert not any(note.startswith("no validation") for note in corpus.notes)


def test_a_class_whose_rows_all_contradict_themselves_is_none(tmp_path: Path) -> None:
    corpus = data.read(settings_on(tmp_path, {"train": [*AB, ("x", "c"), ("x", "a")]}))
    assert corpus.labels == ("a", "b")
    assert "all rows of 'c' contradict themselves, so it is no class" in corpus.notes
    with pytest.raises(RequestError, match="none has the label 'c'"):
        data.read(settings_on(tmp_path, {"train": [(f"t{i}", "a") for i in range(40)] + [("t0", "c")]}))


def test_classes_are_listed_and_those_that_look_alike_are_said(tmp_path: Path) -> None:
    alike = ["0", "0.0", "1", "cafe\u0301", "café", "Pos", "pos", "pos\u200b", "yes", "no"]
    corpus = data.read(settings_on(tmp_path, {"train": [(f"t{i}", alike[i % 10]) for i in range(200)]}))
    assert len(corpus.labels) == 10, "they are not merged"
    first, *others = corpus.notes
    assert first.startswith("10 classes, with their train examples: '0' 16, ")
    assert [note.split(": ")[1].split(";")[0] for note in others] == [
        "'0' (16 in train) and '0.0' (16 in train)",
        "'Pos' (16 in train) and 'pos' (16 in train) and 'pos\\u200b' (16 in train)",
        "'cafe\\u0301' (16 in train) and 'caf\\xe9' (16 in train)",
    ]
    many = data.read(settings_on(tmp_path, {"train": [(f"t{i}", f"c{i % 40 % 37}") for i in range(400)]}))
    (listed,) = many.notes
    assert listed.startswith("37 classes, with their train examples: 'c0' 16, 'c1' 16, 'c2' 16, ")
    assert "27 more between" in listed


# --- preparing --------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(0, 2**31 - 1))
@hypothesis_settings(max_examples=60)
def test_every_prefix_of_the_order_is_stratified(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    order = data.stratified_order(labels, seed)
    assert sorted(order) == list(range(len(labels)))
    seen = np.cumsum(labels[order][:, None] == np.arange(len(counts)), axis=0)
    due = np.arange(1, len(labels) + 1)[:, None] * np.array(counts) / len(labels)
    assert np.abs(seen - due).max() < 1 + len(counts) / 2


def test_the_order_is_shuffled_by_the_seed() -> None:
    labels = np.repeat([0, 1], 50)
    assert data.stratified_order(labels, 0).tolist() == data.stratified_order(labels, 0).tolist()
    assert data.stratified_order(labels, 0).tolist() != data.stratified_order(labels, 1).tolist()


def test_prepared_rows_come_back_and_smaller_budgets_are_nested(tmp_path: Path) -> None:
    corpus, unlimited = toy(tmp_path)
    whole = data.prepare(corpus, unlimited, tmp_path / "home")
    assert whole.folder.parent == tmp_path / "home" / "cache" / "data"
    assert (
        whole.sizes
        == {name: len(corpus.splits[name]) for name in SPLITS}
        == {"train": 160, "validation": 20, "test": 20}
    )
    for name in SPLITS:
        assert set(data.load(whole, name)["id"]) == set(corpus.splits[name]["id"])
    part = data.prepare(corpus, changed({}, train_examples=30, test_examples=10**6), tmp_path / "home")
    assert part.sizes == {"train": 30, "validation": 20, "test": 20}
    assert data.load(part, "train").to_dict() == data.load(whole, "train").select(range(30)).to_dict()
    assert Counter(data.load(part, "train")["label"]) == {0: 15, 1: 15}
    assert part.digests["test"] == whole.digests["test"]
    assert part.digests["train"] != whole.digests["train"]
    known = {text: label for name in SPLITS for text, label in rows_of(corpus, name)}
    assert all(known[row["text"]] == whole.labels[row["label"]] for row in data.load(whole, "test"))


def test_preparing_again_changes_nothing_and_mends_what_a_killed_process_left(tmp_path: Path) -> None:
    corpus, made = toy(tmp_path)
    ref = data.prepare(corpus, made, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in ref.folder.iterdir()}
    assert data.prepare(corpus, made, tmp_path) == ref
    assert {path: path.stat().st_mtime_ns for path in ref.folder.iterdir()} == before
    left = ref.folder.with_name(ref.folder.name + ".tmp")
    ref.folder.rename(left)
    (left / "train.arrow").write_bytes(b"half")
    assert data.prepare(corpus, made, tmp_path) == ref
    assert len(data.load(ref, "train")) == 160
    assert not left.exists()


def test_two_that_prepare_at_once_do_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus, made = toy(tmp_path)
    writers = []
    arrow_writer = data.ArrowWriter

    def slow_writer(**options: Any) -> Any:
        writers.append(options["stream"].name)
        time.sleep(0.05)  # long enough for the other to come
        return arrow_writer(**options)

    monkeypatch.setattr(data, "ArrowWriter", slow_writer)
    with ThreadPool(2) as pool:
        first, second = pool.map(lambda _: data.prepare(corpus, made, tmp_path / "home"), range(2))
    assert first == second
    assert len(writers) == 3
    assert len(data.load(first, "train")) == 160


def test_the_digest_tells_other_texts_labels_and_names_of_labels(tmp_path: Path) -> None:
    other_texts, renamed = [(f"{text}!", label) for text, label in AB], [(text, label * 2) for text, label in AB]
    digests = [
        data.prepare(data.read(settings_on(tmp_path, {"train": rows}, **changes)), BASE, tmp_path / "home").digests[
            "train"
        ]
        for rows, changes in ((AB, {}), (other_texts, {}), (renamed, {}), (AB, {"labels": ("b", "a")}), (AB, {}))
    ]
    assert len(set(digests)) == 4
    assert digests[0] == digests[-1]


@pytest.mark.parametrize(
    ("budget", "least"), [("train_examples", 2), ("validation_examples", 2), ("test_examples", 2), ("rung_examples", 2)]
)
def test_a_budget_that_leaves_a_class_without_a_row_is_refused(tmp_path: Path, budget: str, least: int) -> None:
    corpus, _ = toy(tmp_path)
    with pytest.raises(RequestError, match=rf"budget\.{budget}=1: leaves class '\w+' .* at least {least}"):
        data.prepare(corpus, changed({}, **{budget: 1}), tmp_path / "home")
    assert not (tmp_path / "home").exists()
    data.prepare(corpus, changed({}, **{budget: least}), tmp_path / "home")


def test_a_subset_has_a_row_of_each_class_as_far_as_it_can(tmp_path: Path) -> None:
    rows = [(f"t{i}", f"c{i % 2}") for i in range(400)] + [(f"r{i}", f"rare{i % 3}") for i in range(9)]
    made = settings_on(tmp_path, {"train": rows}, split={"validation": 0.2, "test": 0.2, "seed": 0})
    corpus = data.read(made)
    sizes = {"train_examples": 40, "validation_examples": 12, "test_examples": 5, "rung_examples": 4}
    small = data.prepare(corpus, changed({}, **sizes), tmp_path / "home")
    larger = data.prepare(corpus, changed({}, **sizes | {"train_examples": 60}), tmp_path / "home")
    for name, size in (("train", 40), ("validation", 12), ("test", 5)):
        part = data.load(small, name)
        assert len(part) == len(set(part["text"])) == size
        assert len(set(part["label"])) == len(corpus.facts.classes[name])
    assert set(data.load(small, "train")["text"]) < set(data.load(larger, "train")["text"])
    with pytest.raises(RequestError, match=r"budget\.train_examples=4: leaves class 'rare\d' without .* at least 5"):
        data.prepare(corpus, changed({}, train_examples=4), tmp_path / "home")
    assert data.prepare(corpus, changed({}, validation_examples=2, rung_examples=2), tmp_path / "home")


@given(st.lists(st.sampled_from("aaaaabbc"), min_size=1, max_size=60), st.integers(1, 60))
def test_an_order_changes_only_where_a_class_is_late(labels: list[str], asked: int) -> None:
    order = data.stratified_order(labels, 0)
    changed_order = data.with_each_class(order, asked, [(label,) for label in labels])
    assert sorted(changed_order) == list(range(len(labels)))
    first = [labels[i] for i in order[:asked]]
    if set(first) == set(labels):
        assert changed_order.tolist() == order.tolist()
    assert len({labels[i] for i in changed_order[:asked]}) == min(asked, len(set(labels)))


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=tiny.FAMILIES)
def tokenizer(request: pytest.FixtureRequest, tiny_model: Callable[[str], Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model(request.param))


@given(
    texts=st.lists(
        st.one_of(st.lists(st.sampled_from(tiny.GOOD + tiny.OTHER), max_size=40).map(" ".join), st.text(max_size=20)),
        min_size=1,
        max_size=5,
    ),
    max_length=st.integers(8, 32),
    truncation=st.sampled_from(["head", "tail", "head_tail"]),
)
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_truncation_keeps_special_tokens_and_the_right_part(
    tokenizer: Any, texts: list[str], max_length: int, truncation: str
) -> None:
    encoded = encode_texts(texts, tokenizer, max_length, truncation, 0)
    assert encoded.owners == list(range(len(texts)))
    truncated = 0
    for text, ids in zip(texts, encoded.pieces, strict=True):
        whole = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id]
        assert 1 <= len(ids) <= max_length
        truncated += len(whole) > max_length
        if len(whole) <= max_length:
            assert ids.tolist() == whole
            continue
        assert len(ids) == max_length
        before, after = ([], []) if tokenizer.cls_token_id is None else (whole[:1], whole[-1:])
        inner = whole[len(before) : len(whole) - len(after)]
        room = max_length - len(before) - len(after)
        kept = {
            "head": inner[:room],
            "tail": inner[-room:],
            "head_tail": inner[: room // 4] + inner[-(room - room // 4) :],
        }[truncation]
        assert ids.tolist() == before + kept + after
    assert encoded.truncated == truncated


@given(
    texts=st.lists(
        st.one_of(st.lists(st.sampled_from(tiny.GOOD + tiny.OTHER), max_size=90).map(" ".join), st.text(max_size=20)),
        min_size=1,
        max_size=5,
    ),
    max_length=st.integers(8, 32),
    share=st.floats(0, 0.25),
)
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_windows_hold_every_token_and_overlap_by_the_stride(
    tokenizer: Any, texts: list[str], max_length: int, share: float
) -> None:
    stride = int(share * max_length)
    encoded = encode_texts(texts, tokenizer, max_length, "windows", stride)
    assert encoded.truncated == 0
    assert sorted(set(encoded.owners)) == list(range(len(texts)))
    assert encoded.owners == sorted(encoded.owners)
    for i, text in enumerate(texts):
        pieces = [piece.tolist() for piece, owner in zip(encoded.pieces, encoded.owners, strict=True) if owner == i]
        whole = tokenizer(text)["input_ids"] or [tokenizer.eos_token_id]
        if len(whole) <= max_length:
            assert pieces == [whole]
            continue
        before, after = ([], []) if tokenizer.cls_token_id is None else (whole[:1], whole[-1:])
        inner = [piece[len(before) : len(piece) - len(after)] for piece in pieces]
        assert [before + piece + after for piece in inner] == pieces
        assert all(len(piece) == max_length for piece in pieces[:-1])
        assert stride + len(before) + len(after) < len(pieces[-1]) <= max_length  # else it would add nothing
        assert all(one[len(one) - stride :] == other[:stride] for one, other in pairwise(inner))
        assert before + inner[0] + [token for piece in inner[1:] for token in piece[stride:]] + after == whole


def test_windows_by_hand(tiny_model: Callable[[str], Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model("bert"))
    words = [*tiny.GOOD, *tiny.BAD[:3]]
    encoded = encode_texts(["good", " ".join(words), " ".join(words[:6])], tokenizer, 8, "windows", 2)
    pieces = [tokenizer.decode(piece) for piece in encoded.pieces]
    assert pieces == [
        "[CLS] good [SEP]",
        "[CLS] good great superb lovely moving funny [SEP]",
        "[CLS] moving funny bad awful dull [SEP]",
        "[CLS] good great superb lovely moving funny [SEP]",
    ]
    assert encoded.owners == [0, 1, 1, 2]


def test_tokens_are_those_of_the_prepared_rows(tmp_path: Path, tokenizer: Any) -> None:
    corpus, made = toy(tmp_path)
    made = made.model_copy(update={"task": made.task.model_copy(update={"max_length": 12, "truncation": "head"})})
    ref = data.prepare(corpus, made, tmp_path / "home")
    tokens = data.tokenised(ref, made, tokenizer, "validation")
    rows = data.load(ref, "validation")
    expected = tokenizer(list(rows["text"]), truncation=True, max_length=12)["input_ids"]
    assert len(tokens) == len(rows) == 20
    assert [tokens[i]["input_ids"].tolist() for i in range(20)] == expected
    assert [tokens[i]["labels"] for i in range(20)] == list(rows["label"]) == tokens.labels.tolist()
    assert tokens.lengths.tolist() == [len(ids) for ids in expected]
    assert tokens.truncated == sum(len(ids) > 12 for ids in tokenizer(list(rows["text"]))["input_ids"]) > 0
    copy = pickle.dumps(tokens)
    assert len(copy) < 500
    assert pickle.loads(copy)[3]["input_ids"].tolist() == expected[3]


@pytest.mark.parametrize("task", ["csv", "qa_files", "ner_files"])  # one piece each, windows, labels by token
def test_the_first_examples_are_the_same_and_no_more(
    task: str, tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    file = {
        "csv": lambda: tiny.write_csv(tmp_path / "a.csv", 60),
        "qa_files": lambda: tiny.write_jsonl(tmp_path / "a.jsonl", tiny.questions(60, 0)),
        "ner_files": lambda: tiny.write_conll(tmp_path / "a.conll", tiny.tagged(60, 0)),
    }[task]()
    windows = () if task == "csv" else (f"task.max_length={32 if task == 'qa_files' else 20}", "task.stride=5")
    settings = make.toy_settings(file, tiny_model("bert"), "bert", *windows, task=task)
    ref = make.prepared(settings, tmp_path / "home")
    whole = data.tokenised(ref, settings, AutoTokenizer.from_pretrained(settings.model.path), "train")
    assert (len(whole) > whole.examples) == (task != "csv")
    assert whole.first(None) is whole.first(10**6) is whole
    for part in (whole.first(7), pickle.loads(pickle.dumps(whole.first(7)))):
        assert part.examples == 7
        assert len(part) == whole.pieces(7) < len(whole)
        assert part.lengths.tolist() == whole.lengths[: len(part)].tolist()
        assert part.first(3).examples == 3
        assert part.first(9) is part
        for i in range(len(part)):
            one, other = part[i], whole[i]
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)


def test_each_class_is_among_the_first_examples_that_a_trial_can_have(tmp_path: Path) -> None:
    rows = [(f"t{i}", f"c{i % 2}") for i in range(3000)] + [(f"r{i}", f"rare{i % 30}") for i in range(120)]
    made = settings_on(tmp_path, {"train": rows}, split={"validation": 0.2, "test": 0.2, "seed": 0})
    corpus = data.read(made)
    plain = data.stratified_order([example.stratum for example in corpus.examples["train"]], 0)
    classes = [corpus.examples["train"][i].classes[0] for i in plain]
    assert len(set(classes[: data.FEWEST])) < len(corpus.labels) == 32, "else there is nothing to see"
    ref = data.prepare(corpus, made, tmp_path / "home")
    assert ref.sizes["train"] == len(corpus.splits["train"])
    stored = data.load(ref, "train")
    assert len(set(stored["label"][: data.FEWEST])) == 32
    moved = sum(text != corpus.splits["train"]["text"][i] for text, i in zip(stored["text"], plain, strict=True))
    assert moved == 2 * (32 - len(set(classes[: data.FEWEST]))), "nothing else has another place"
    for split in ("validation", "test"):  # studies of before have these in this order, and their digests
        order = data.stratified_order([example.stratum for example in corpus.examples[split]], 0)
        assert data.load(ref, split)["text"] == [corpus.splits[split]["text"][i] for i in order]


def test_tokens_are_made_once_for_a_tokenizer_a_length_and_a_truncation(
    tmp_path: Path, tiny_model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, made = toy(tmp_path)
    ref = data.prepare(corpus, made, tmp_path / "home")
    calls = []
    monkeypatch.setattr(texts, "encode", lambda *given: calls.append(given[2:]) or encode_texts(*given))

    def tokenise(folder: Path, split: str = "test", **task: Any) -> None:
        data.tokenised(ref, changed(task), AutoTokenizer.from_pretrained(folder), split)

    bert = tiny_model("bert")
    tokenise(bert)
    tokenise(bert)
    tokenise(shutil.copytree(bert, tmp_path / "copy"))  # the content counts, not the name
    assert len(calls) == 1
    tokenise(tiny_model("gpt2"))
    tokenise(bert, max_length=9)
    tokenise(bert, truncation="tail")
    tokenise(bert, truncation="windows", stride=4)
    tokenise(bert, truncation="windows", stride=8)
    tokenise(bert, "train")
    assert len(calls) == 7


def test_truncation_and_padding_baked_into_a_tokenizer_file_are_turned_off(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    corpus, made = toy(tmp_path)
    ref = data.prepare(corpus, made, tmp_path / "home")
    plain = data.tokenised(ref, made, AutoTokenizer.from_pretrained(tiny_model("bert")), "test")
    baked = AutoTokenizer.from_pretrained(tiny_model("bert"))
    baked.backend_tokenizer.enable_truncation(6)
    baked.backend_tokenizer.enable_padding(length=40)
    baked.save_pretrained(tmp_path / "baked")
    baked = AutoTokenizer.from_pretrained(tmp_path / "baked")
    texts = list(data.load(ref, "test")["text"])
    assert [ids.tolist() for ids in encode_texts(texts, baked, 128, "head", 0).pieces] == [
        plain[i]["input_ids"].tolist() for i in range(len(plain))
    ]
    fresh = AutoTokenizer.from_pretrained(tmp_path / "baked")
    assert data.tokenised(ref, made, fresh, "test").lengths.tolist() == plain.lengths.tolist()
    assert len([path for path in (ref.folder / "tokens").iterdir() if path.is_dir()]) == 1


def test_a_slow_tokenizer_is_refused(tmp_path: Path) -> None:
    class Slow:
        is_fast = False
        name_or_path = "old"

    corpus, made = toy(tmp_path)
    ref = data.prepare(corpus, made, tmp_path / "home")
    with pytest.raises(RequestError, match=r"model\.path=old: its tokenizer"):
        data.tokenised(ref, made, Slow(), "test")


@pytest.mark.parametrize("types", [True, False])
def test_collate_pads_on_the_right_and_draws_nothing(types: bool) -> None:
    state = torch.get_rng_state()
    long, short = np.array([5, 6, 7]), np.array([8])
    batch = collate(
        [{"input_ids": long, "labels": np.int64(1)}, {"input_ids": short, "labels": np.int64(0)}], 9, types, {}
    )
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert torch.equal(torch.get_rng_state(), state)


def test_collate_pads_token_types_and_candidates_with_nothing() -> None:
    items = [
        {
            "input_ids": np.arange(5, 5 + n),
            "token_type_ids": np.ones(n, dtype=np.int64),
            "candidates": np.ones(n, dtype=bool),
            "labels": np.array([0, n - 1]),
        }
        for n in (1, 3)
    ]
    batch = collate(items, 0, types=True, padding={"candidates": False})
    assert batch["token_type_ids"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["candidates"].tolist() == [[True, False, False], [True, True, True]]
    assert batch["labels"].tolist() == [[0, 0], [0, 2]]
    assert batch["candidates"].dtype == torch.bool
    assert collate(items, 0, types=False, padding={"candidates": False}).keys() == batch.keys() - {"token_type_ids"}


def test_every_task_kind_is_declared_whole() -> None:
    import transformers

    of_texts = ["text_classification", "multilabel_classification"]
    assert list(KINDS) == [*of_texts, "question_answering", "token_classification"]
    for name, kind in KINDS.items():
        assert kind.name == name
        assert hasattr(transformers, kind.head)
        assert kind.inputs
        if name == "token_classification":  # it is trained on words and served texts
            assert not set(kind.inputs) & set(kind.roles)
        else:
            assert set(kind.inputs) < set(kind.roles)
        assert "id" in kind.features
        assert set(kind.headings) <= set(OBJECTIVES)
        assert not set(kind.headings) & set(kind.details)
    assert {metric for kind in KINDS.values() for metric in kind.headings} == set(OBJECTIVES)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "duplicates"), [("imdb", (19922, 2490, 2490), 98), ("rotten_tomatoes", (5971, 853, 1706), 0)]
)
def test_the_shipped_packaged_tasks_read(name: str, sizes: tuple[int, ...], duplicates: int) -> None:
    task = OmegaConf.to_container(OmegaConf.load(CONF / "task" / f"{name}.yaml"))
    corpus = data.read(changed(tuples(task)))
    assert tuple(len(corpus.splits[split]) for split in SPLITS) == sizes
    assert corpus.facts.dropped["train"] == {
        "duplicates": duplicates,
        "conflicting_labels": 0,
        "in_another_split": 0,
    }
    assert not any("<br" in text for text in corpus.splits["train"]["text"])
