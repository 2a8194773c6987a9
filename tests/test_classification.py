"""Labels of texts, one or any number: cells, splits, pieces of long texts, losses, scores."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoTokenizer

import make
import tiny
from hpsearch.config.section import replace
from hpsearch.config.settings import Settings
from hpsearch.data.examples import split
from hpsearch.data.reading import Rows
from hpsearch.data.tokens import Tokens, save
from hpsearch.errors import RequestError
from hpsearch.tasks import metrics
from hpsearch.tasks.classification import NO_LABEL, pooled
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data

ONE, MANY = KINDS["text_classification"], KINDS["multilabel_classification"]
SPLITS = ("train", "validation", "test")
NO_LIMIT = [f"budget.{name}_examples=null" for name in (*SPLITS, "rung")]
BASE = {
    kind.name: make.compose_settings(f"task={group}", "task.name=t", "task.files.train=none.csv", *NO_LIMIT)
    for kind, group in ((ONE, "csv"), (MANY, "multilabel"))
}
SEEDED = st.integers(0, 2**31 - 1)


def settings(kind: str = MANY.name, **task: Any) -> Settings:
    return replace(BASE[kind], {"task": replace(BASE[kind].task, task)})


def on_file(path: Path, kind: str = MANY.name, **task: Any) -> Settings:
    files = dict.fromkeys(SPLITS) | {"train": str(path), "encoding": "utf-8"}
    return settings(kind, files=files, **task)


def jsonl(path: Path, cells: list[Any]) -> Path:
    lines = [json.dumps({"text": f"t{i}", "labels": cell}) for i, cell in enumerate(cells)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def labels_of(corpus: data.Corpus) -> dict[str, list[str]]:
    """The labels of each text, of all splits."""
    return {
        text: [corpus.labels[i] for i in indices]
        for part in corpus.splits.values()
        for text, indices in zip(part["text"], part["labels"], strict=True)
    }


# --- cells with labels ------------------------------------------------------------------------------------------------

# Three kinds of rows, 20 of each: both labels, one, none.
WRITTEN: dict[str, tuple[Any, Any, Any]] = {
    "separated": ("red, blue", "red", ""),
    "separated, untidy": (" blue ,red,, red ", " red,", " , "),
    "JSON in a cell": ('["red", "blue"]', ' ["red"] ', "[]"),
    "mixed": ('["blue", " red "]', "red", "[]"),
}


@pytest.mark.parametrize("layout", WRITTEN)
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_labels_in_a_string(tmp_path: Path, layout: str, suffix: str) -> None:
    cells = WRITTEN[layout] * 20
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        jsonl(path, list(cells))
    else:
        quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
        rows = [f"t{i}{',' if suffix == 'csv' else chr(9)}{cell}" for i, cell in enumerate(quoted)]
        path.write_text("\n".join([rows[0].replace("t0", "text").replace(quoted[0], "labels"), *rows]))
    corpus = data.read(on_file(path))
    assert corpus.labels == ("blue", "red")
    assert labels_of(corpus) == {f"t{i}": (["blue", "red"], ["red"], [])[i % 3] for i in range(60)}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_labels_in_a_list(tmp_path: Path, suffix: str) -> None:
    cells = [["red", "blue"], ["red"], []] * 20
    path = tmp_path / f"a.{suffix}"
    if suffix == "jsonl":
        jsonl(path, cells)
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": [f"t{i}" for i in range(60)], "labels": cells}), path)
    corpus = data.read(on_file(path))
    assert labels_of(corpus) == {f"t{i}": (["blue", "red"], ["red"], [])[i % 3] for i in range(60)}
    assert corpus.facts.rows == {"train": 60}
    classes = corpus.facts.classes
    counts = {name: sum(classes[split][name] for split in SPLITS) for name in ("blue", "red", NO_LABEL)}
    assert counts == {"blue": 20, "red": 40, NO_LABEL: 20}


def test_the_separator_can_be_chosen_and_numbers_are_labels(tmp_path: Path) -> None:
    corpus = data.read(on_file(jsonl(tmp_path / "a.jsonl", ["10|2", "2", 10, [2, 10]] * 15), label_separator="|"))
    assert corpus.labels == ("2", "10")
    assert labels_of(corpus) == {f"t{i}": (["2", "10"], ["2"], ["10"], ["2", "10"])[i % 4] for i in range(60)}


def test_a_separator_is_no_separator_in_a_list(tmp_path: Path) -> None:
    corpus = data.read(on_file(jsonl(tmp_path / "a.jsonl", [["red, dark"], '["blue, dark"]'] * 20)))
    assert corpus.labels == ("blue, dark", "red, dark")


NAMES = ("red", "green", "blue", "grey")
VECTORS = [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]] * 20
NAMED = [["red", "grey"], ["green"], []]  # in the order of NAMES, as labels are
WAYS: dict[str, tuple[Callable[[list[int]], Any], dict[str, Any]]] = {
    "whole numbers": (list, {}),
    "floats": (lambda row: [float(one) for one in row], {}),
    "truths": (lambda row: [bool(one) for one in row], {}),
    "strings": (lambda row: [str(one) for one in row], {}),
    "a list in a string": (str, {}),
    "separated": (lambda row: "; ".join(map(str, row)), {"label_separator": ";"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_vectors_have_the_labels_that_the_task_names(tmp_path: Path, way: str) -> None:
    write, changes = WAYS[way]
    path = jsonl(tmp_path / "a.jsonl", [write(row) for row in VECTORS])
    with pytest.raises(
        RequestError, match=r"a\.jsonl has lists of 4 numbers 0 and 1 .*task\.columns\.labels=labels.*task\."
    ):
        data.read(on_file(path, **changes))
    with pytest.raises(RequestError, match=r"task\.labels=\['a', 'b'\]: a\.jsonl has lists of 4 .* give 4 names"):
        data.read(on_file(path, labels=("a", "b"), **changes))
    corpus = data.read(on_file(path, labels=NAMES, **changes))
    assert corpus.labels == ("red", "green", "grey")
    assert labels_of(corpus) == {f"t{i}": NAMED[i % 3] for i in range(60)}
    assert "no train example has 'blue' of task.labels, so it is left out" in corpus.notes


def test_vectors_of_two_are_told_from_two_labels(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [[1, 0], [0, 1]] * 20)
    with pytest.raises(RequestError, match="lists of 2 numbers 0 and 1"):
        data.read(on_file(path))
    with pytest.raises(RequestError, match="give 2 names, and other ones than 0 and 1"):
        data.read(on_file(path, labels=("0", "1")))
    assert set(map(tuple, labels_of(data.read(on_file(path, labels=("a", "b")))).values())) == {("a",), ("b",)}


@pytest.mark.parametrize(
    "cells", [[[0], [1], [0, 1], [1, 0], []], [["0"], ["1"]], ["1", "0", "0,1"], [[0, 1, 2], [2, 1, 0], [1]]]
)
def test_numbers_may_be_labels_still(tmp_path: Path, cells: list[Any]) -> None:
    corpus = data.read(on_file(jsonl(tmp_path / "a.jsonl", cells * 20)))
    assert set(corpus.labels) == {str(number) for cell in cells for number in str(cell) if number.isdigit()}


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([*VECTORS, [1, 0, 0]], r"a\.jsonl, line 61: most lists .* are of 4 numbers 0 and 1"),
        ([*VECTORS, []], r"a\.jsonl, line 61: most lists .* are of 4 numbers 0 and 1"),
        ([[0.2, 0.9, 0.1], [1.0, 0.0, 0.5]] * 20, r"a\.jsonl: the lists .* hold 0\.2, where a number for each label"),
        ([[1, -1, -1], [-1, -1, 1]] * 20, r"a\.jsonl: the lists .* hold -1, where a number for each label"),
    ],
)
def test_vectors_that_can_mean_several_things_are_refused(tmp_path: Path, cells: list[Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        data.read(on_file(jsonl(tmp_path / "a.jsonl", cells), labels=NAMES))


GOOD_CELLS: list[Any] = [["a"], ["b"]] * 20
BAD_CELLS: dict[str, tuple[Any, str]] = {
    "null": (None, "there is no list of labels"),
    "null in a list": (["a", None], "there is no label"),
    "blank in a list": (["a", " "], "there is no label"),
    "a list in a list": ([["a"]], "there is neither string nor number"),
    "an object": ({"a": 1}, "there is neither string nor number"),
    "an object in a list": ([{"a": 1}], "there is neither string nor number"),
    "brackets without JSON": ("[a, b]", "there are brackets around what is no JSON list"),
    "brackets without end": ("[" * 100_000 + "]", "there are brackets around what is no JSON list"),
    "null in JSON in a cell": ('["a", null]', "there is no label"),
    "half a character": ("a,\ud800", "half a surrogate pair"),
    "half a character in a list": (["a", "\ud800"], "half a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_CELLS)
def test_a_bad_cell_names_its_rows(tmp_path: Path, case: str) -> None:
    cell, fault = BAD_CELLS[case]
    path = jsonl(tmp_path / "a.jsonl", [*GOOD_CELLS, cell, ["a"], cell])
    with pytest.raises(RequestError) as caught:
        data.read(on_file(path))
    assert str(caught.value).startswith(f"a.jsonl, lines 41 and 43: {fault}")
    assert "task.columns.labels=labels" in str(caught.value)
    assert "\n" not in str(caught.value)


BAD_LABELS: dict[str, tuple[list[Any], dict[str, Any], list[str]]] = {
    "none at all": ([[], ""] * 10, {}, ["all 20 rows are without a label", "task.columns.labels", "nothing to learn"]),
    "not in task.labels": (
        [*GOOD_CELLS, ["a", "c"]],
        {"labels": ("a", "b")},
        ["a.jsonl, line 41", "'c'", "task.labels=['a', 'b']"],
    ),
    "never found": (GOOD_CELLS, {"labels": ("a", "b", "c")}, ["no row of a.jsonl has 'c'; found are 'a' and 'b'"]),
    "twice in task.labels": (GOOD_CELLS, {"labels": ("a", "b", "a")}, ["task.labels", "twice"]),
    "role": (GOOD_CELLS, {"columns": {"text": "text", "label": "labels"}}, ["task.columns.label:", "text and labels"]),
    "metric": (GOOD_CELLS, {"metric": "f1_weighted"}, ["task.metric=f1_weighted", "it has f1, f1_micro,"]),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_wrong_labels_get_one_clear_message(tmp_path: Path, case: str) -> None:
    cells, changes, parts = BAD_LABELS[case]
    with pytest.raises(RequestError) as caught:
        data.read(on_file(jsonl(tmp_path / "a.jsonl", cells), **changes))
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_label_is_enough_where_texts_may_have_none(tmp_path: Path) -> None:
    corpus = data.read(on_file(jsonl(tmp_path / "a.jsonl", [["a"], []] * 20)))
    assert corpus.labels == ("a",)


def test_texts_that_contradict_themselves_are_dropped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", GOOD_CELLS)
    extra = [("t0", ["a"]), ("t1", ["a", "b"]), ("t2", "a,a")]
    with open(path, "a", encoding="utf-8") as file:
        file.writelines("\n" + json.dumps({"text": text, "labels": labels}) for text, labels in extra)
    corpus = data.read(on_file(path))
    assert corpus.facts.dropped == {"train": {"duplicates": 2, "conflicting_labels": 2, "in_another_split": 0}}
    assert "t1" not in labels_of(corpus)


# --- splits -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.lists(st.floats(0.02, 0.6), min_size=1, max_size=5))
@example(0, [0.005, 0.01, 0.5])
@hypothesis_settings(max_examples=40, deadline=None)
def test_train_has_every_label_and_the_other_splits_have_those_that_are_not_rare(
    seed: int, shares: list[float]
) -> None:
    rng = np.random.default_rng(seed)
    cells = [[f"l{j}" for j, share in enumerate(shares) if rng.random() < share] for _ in range(200)]
    assume(any(cells))
    made = settings(split={"validation": 0.2, "test": 0.2, "seed": seed})
    rows = Rows("a.jsonl", "line", range(1, 201), {"text": [f"t{i}" for i in range(200)], "labels": cells})
    examples = {"train": MANY.examples(rows, made.task)}
    labels = MANY.labels(examples, {"train": rows}, made.task)
    splits = split(examples, labels, made.task, {"train": rows})
    assert sorted(e.number for part in splits.values() for e in part) == list(range(1, 201))
    assert {label for e in splits["train"] for label in e.classes} == set(labels)
    assert split(examples, labels, made.task, {"train": rows}) == splits
    for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert abs(len(splits[name]) - round(200 * share)) <= len(labels)  # rows that train needs go back
        common = {label for label in labels if sum(label in cell for cell in cells) > 12}
        assert {label for e in splits[name] for label in e.classes} >= common
        for stratum, whole in Counter(e.stratum for e in examples["train"]).items():
            assert abs(sum(e.stratum == stratum for e in splits[name]) - share * whole) <= 3


def test_a_label_of_two_rows_is_trained(tmp_path: Path) -> None:
    corpus = data.read(on_file(jsonl(tmp_path / "a.jsonl", [*GOOD_CELLS, ["a", "c"], ["b", "c"]])))
    assert corpus.facts.classes["train"]["c"] >= 1
    assert any("'c'" in note for note in corpus.notes)


def test_rare_labels_are_shared_out() -> None:
    # "c" always comes with "a": a split by the commonest label might leave it out
    cells = [["a"]] * 100 + [["a", "c"]] * 6 + [["b"]] * 100
    rows = Rows("a", "line", range(206), {"text": [f"t{i}" for i in range(206)], "labels": cells})
    for seed in range(10):
        made = settings(split={"validation": 0.25, "test": 0.25, "seed": seed})
        examples = {"train": MANY.examples(rows, made.task)}
        splits = split(examples, ("a", "b", "c"), made.task, {"train": rows})
        assert all(1 <= sum("c" in e.classes for e in part) <= 4 for part in splits.values())


def test_a_label_that_nearly_always_comes_with_a_rarer_one_hinders_no_split() -> None:
    cells = [["a", "b"]] * 12 + [["b"]] + [["c"]] * 60
    rows = Rows("a", "line", range(73), {"text": [f"t{i}" for i in range(73)], "labels": cells})
    made = settings(split={"validation": 0.2, "test": 0.2, "seed": 0})
    examples = {"train": MANY.examples(rows, made.task)}
    assert {e.stratum for e in examples["train"]} == {"a", "c"}
    splits = split(examples, ("a", "b", "c"), made.task, {"train": rows})
    assert all({label for e in part for label in e.classes} == {"a", "b", "c"} for part in splits.values())


@pytest.mark.parametrize(("unlabelled", "counted"), [(4, {"a": 20, "b": 20}), (20, {"a": 20, "b": 20, NO_LABEL: 20})])
def test_a_handful_without_a_label_need_not_be_in_every_split(
    tmp_path: Path, unlabelled: int, counted: dict[str, int]
) -> None:
    corpus = data.read(on_file(jsonl(tmp_path / "a.jsonl", [*GOOD_CELLS, *[[]] * unlabelled])))
    found: dict[str, int] = {}
    for classes in corpus.facts.classes.values():
        for name, count in classes.items():
            found[name] = found.get(name, 0) + count
    assert found == counted
    assert sum(not labels for labels in labels_of(corpus).values()) == unlabelled


def test_a_budget_that_leaves_a_label_without_a_row_is_refused(tmp_path: Path) -> None:
    made = on_file(jsonl(tmp_path / "a.jsonl", [["a"], ["a"], ["a"], ["a", "b"]] * 30))
    small = replace(made, {"budget": replace(made.budget, {"train_examples": 1})})
    with pytest.raises(
        RequestError, match=r"budget\.train_examples=1: leaves class '\w' without a row; .* at least \d"
    ):
        data.prepare(data.read(made), small, tmp_path / "home")


# --- pieces -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def bert(tiny_model: Callable[[str], Path]) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model("bert"))


def tokens_on(folder: Path, kind: Any, rows: dict[str, list[Any]], tokenizer: Any, made: Settings) -> Tokens:
    folder.mkdir()
    save(kind.encode(rows, tokenizer, made.task), folder)
    return Tokens(folder, kind.padding)


WINDOWS = {"max_length": 12, "truncation": "windows", "stride": 3}
LONG = [" ".join(tiny.OTHER[i % 14] for i in range(n)) for n in (5, 40, 10, 0, 25, 11)]
PIECES = [1, 6, 1, 1, 4, 2]  # of 10 tokens that go on by 7


def test_pieces_owners_and_labels(tmp_path: Path, bert: Any) -> None:
    rows = {"text": LONG, "label": [0, 1, 0, 1, 0, 1]}
    tokens = tokens_on(tmp_path / "one", ONE, rows, bert, settings(ONE.name, **WINDOWS))
    owners = [i for i, count in enumerate(PIECES) for _ in range(count)]
    assert tokens.owners.tolist() == owners
    assert tokens.labels.tolist() == [i % 2 for i in owners]
    assert (len(tokens), tokens.examples, tokens.truncated) == (15, 6, 0)
    assert [tokens.pieces(n) for n in range(7)] == [0, 1, 7, 8, 9, 13, 15]
    assert [len(tokens[i]["input_ids"]) for i in range(15)] == tokens.lengths.tolist()
    assert tokens[0]["input_ids"].tolist() == bert(LONG[0])["input_ids"]
    assert set(tokens[3]) == {"input_ids", "labels"}
    cut = tokens_on(tmp_path / "cut", ONE, rows, bert, settings(ONE.name, **WINDOWS | {"truncation": "head"}))
    assert (len(cut), cut.examples, cut.truncated) == (6, 6, 3)
    assert [cut.pieces(n) for n in range(7)] == list(range(7))


def test_every_piece_has_all_labels_of_its_text(tmp_path: Path, bert: Any) -> None:
    rows = {"text": LONG, "labels": [[0], [0, 2], [], [1], [0, 1, 2], []]}
    tokens = tokens_on(tmp_path / "many", MANY, rows, bert, settings(**WINDOWS))
    hot = np.array([[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    assert tokens.labels.dtype == np.float32
    assert np.array_equal(tokens.labels, hot[tokens.owners])


def made_up_outputs(tokens: Tokens, classes: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(size=(len(tokens), classes)).astype(np.float32))


def test_outputs_of_a_long_text_are_the_mean_of_its_pieces(tmp_path: Path, bert: Any) -> None:
    rows = {"text": LONG, "label": [0, 1, 0, 1, 0, 1]}
    tokens = tokens_on(tmp_path / "one", ONE, rows, bert, settings(ONE.name, **WINDOWS))
    outputs = made_up_outputs(tokens, 2)
    means = [np.mean([outputs[p] for p in range(15) if tokens.owners[p] == i], axis=0) for i in range(6)]
    assert np.allclose(pooled(outputs, tokens, 6), means, atol=1e-6)
    assert np.allclose(pooled(outputs[:8], tokens, 3), means[:3], atol=1e-6)


def test_scores_of_the_first_examples_are_of_their_pieces_alone(tmp_path: Path, bert: Any) -> None:
    labels = [0, 1, 0, 1, 0, 1]
    made = settings(ONE.name, **WINDOWS)
    tokens = tokens_on(tmp_path / "one", ONE, {"text": LONG, "label": labels}, bert, made)
    outputs = made_up_outputs(tokens, 2)
    means = np.array([np.mean([outputs[p] for p in range(15) if tokens.owners[p] == i], axis=0) for i in range(6)])
    for n in (2, 5, 6):
        scores = ONE.score(
            outputs[: tokens.pieces(n)], tokens, {"text": LONG[:n], "label": labels[:n]}, made.task, None
        )
        right = means[:n].argmax(1) == np.array(labels[:n])
        assert scores.predictions == tuple(means[:n].argmax(1).tolist())
        assert scores.confidences == pytest.approx(metrics.softmax(means[:n]).max(1), abs=1e-6)
        assert scores.metrics["accuracy"] == right.mean()
        assert scores.confusion is not None
        assert sum(map(sum, scores.confusion)) == n
        assert scores.fitted == {}


# --- losses and class weights -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), SEEDED)
def test_balanced_weights_have_mean_one_and_make_classes_equal(counts: list[int], seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    weights = ONE.class_weights(labels, len(counts))
    assert weights is not None
    assert weights.dtype == np.float32
    assert np.isclose(weights[labels].mean(), 1, rtol=1e-5)
    assert np.allclose(weights * counts, len(labels) / len(counts), rtol=1e-5)


def test_only_one_label_a_text_has_class_weights() -> None:
    assert MANY.class_weights(np.eye(3), 3) is None


PARTS = st.lists(st.integers(1, 5), min_size=1, max_size=4)  # examples of each micro-batch


@given(PARTS, st.sampled_from([0.0, 0.1]), st.booleans(), SEEDED)
@hypothesis_settings(deadline=None)
def test_losses_of_micro_batches_add_up_to_that_of_the_batch(
    parts: list[int], smoothing: float, weighted: bool, seed: int
) -> None:
    rng = torch.manual_seed(seed)
    n = sum(parts)
    logits, labels = torch.randn(n, 3, generator=rng), torch.randint(3, (n,), generator=rng)
    weights = torch.tensor([0.5, 1.0, 2.5]) if weighted else None
    losses = [
        ONE.loss({"logits": some}, {"labels": of_some}, n, smoothing, weights)
        for some, of_some in zip(logits.split(parts), labels.split(parts), strict=True)
    ]
    each = functional.cross_entropy(logits, labels, weight=weights, reduction="none", label_smoothing=smoothing)
    # Divided by the number of examples, as balanced weights have mean 1: not by the batch's own sum of weights.
    assert torch.isclose(torch.stack(losses).sum(), each.mean(), rtol=1e-5)
    if not weighted:
        assert torch.isclose(
            torch.stack(losses).sum(), functional.cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-5
        )


@given(PARTS, SEEDED)
@hypothesis_settings(deadline=None)
def test_the_loss_of_many_labels_is_the_binary_cross_entropy_of_torch(parts: list[int], seed: int) -> None:
    rng = torch.manual_seed(seed)
    n = sum(parts)
    logits, labels = torch.randn(n, 4, generator=rng), torch.randint(2, (n, 4), generator=rng).float()
    losses = [
        MANY.loss({"logits": some}, {"labels": of_some}, labels.numel(), 0.0, None)
        for some, of_some in zip(logits.split(parts), labels.split(parts), strict=True)
    ]
    expected = functional.binary_cross_entropy_with_logits(logits, labels)
    assert torch.isclose(torch.stack(losses).sum(), expected, rtol=1e-5)


def test_smoothing_draws_targets_towards_one_half() -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    p, q = torch.sigmoid(logits[0]).tolist()
    by_hand = -(0.9 * np.log(p) + 0.1 * np.log(1 - p) + 0.1 * np.log(q) + 0.9 * np.log(1 - q)) / 2
    assert MANY.loss({"logits": logits}, {"labels": labels}, 2, 0.2, None).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("kind", [ONE, MANY], ids=lambda kind: kind.name)
def test_losses_are_computed_in_full_precision(kind: Any) -> None:
    half = torch.tensor([[30.0, -30.0]], dtype=torch.bfloat16)
    labels = torch.tensor([1]) if kind is ONE else torch.tensor([[0.0, 1.0]])
    assert kind.loss({"logits": half}, {"labels": labels}, 1, 0.0, None).dtype == torch.float32


# --- scores -----------------------------------------------------------------------------------------------------------


def f1_of(predicted: np.ndarray, truth: np.ndarray) -> float:
    """0 where nothing is predicted and nothing is true."""
    hits = int((predicted & truth).sum())
    return 2 * hits / max(1, int(predicted.sum()) + int(truth.sum()))


ADJACENT = np.nextafter(0.5, 1)
PROBABILITY = st.one_of(
    st.integers(0, 8).map(lambda i: i / 8), st.floats(0, 1), st.sampled_from([0.5, ADJACENT, np.nextafter(ADJACENT, 1)])
)


@given(st.lists(st.tuples(PROBABILITY, st.booleans()), min_size=1, max_size=10))
@example([(ADJACENT, True), (float(np.nextafter(ADJACENT, 1)), True), (0.5, False)])
@example([(float(np.nextafter(ADJACENT, 1)), True), (ADJACENT, False)])
@example([(0.0, True), (0.0, False)])
@example([(0.95, True), (0.9, False), (0.6, False), (0.58, True)])  # 0.29 is as good as 0.925
@hypothesis_settings(max_examples=300)
def test_thresholds_against_brute_force(column: list[tuple[float, bool]]) -> None:
    probabilities, truth = np.array([p for p, _ in column]), np.array([t for _, t in column])
    (threshold,) = metrics.f1_thresholds(probabilities[:, None], truth[:, None])
    assert 0 <= threshold <= 1
    if not truth.any():
        assert threshold == 0.5
        return
    reached = f1_of(probabilities >= threshold, truth)
    distinct = np.unique(probabilities)
    assert reached == max(f1_of(probabilities >= p, truth) for p in distinct)
    middles = [distinct[0] / 2, *((low + high) / 2 for low, high in pairwise(distinct) if (low + high) / 2 > low)]
    good = [m for m in middles if f1_of(probabilities >= m, truth) == reached]
    assert abs(threshold - 0.5) <= min((abs(m - 0.5) for m in good), default=1) + 1e-15
    backwards = metrics.f1_thresholds(probabilities[::-1, None], truth[::-1, None])
    assert abs(backwards[0] - 0.5) == abs(threshold - 0.5)


def test_each_label_has_a_threshold_of_its_own() -> None:
    probabilities = np.array([[0.9, 0.3, 0.6], [0.8, 0.1, 0.7], [0.2, 0.2, 0.1], [0.1, 0.0, 0.2]])
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    assert metrics.f1_thresholds(probabilities, truth) == pytest.approx([0.5, 0.15, 0.5])


def test_metrics_of_many_labels_by_hand() -> None:
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0]], dtype=bool)
    predicted = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=bool)
    # label 0: 3 right of 3; label 1: 1 hit, 1 false, 1 missed; label 2: 1 false, none true, so nothing to average
    probabilities = np.where(predicted, 0.8, 0.4)
    found = metrics.multilabel(probabilities, predicted, truth)
    sure = [0.8, 0.4, 0.6, 0.8, 0.2, 0.6, 0.6, 0.6, 0.6, 0.8, 0.8, 0.2]
    assert found == pytest.approx(
        {
            "accuracy": 1 / 4,
            "precision": (1 + 1 / 2) / 2,
            "recall": (1 + 1 / 2) / 2,
            "f1": (1 + 1 / 2) / 2,
            "f1_micro": 2 * 4 / (2 * 4 + 2 + 1),
            "log_loss": -np.log(sure).mean(),
            "loss": -np.log(sure).mean(),
        }
    )
    assert set(MANY.headings) | {"loss"} == set(found)


def test_a_single_label_that_texts_may_lack_is_scored_alone() -> None:
    truth = np.array([[True], [False], [True], [False], [False]])
    predicted = np.array([[True], [True], [False], [False], [False]])
    found = metrics.multilabel(np.where(predicted, 0.8, 0.2), predicted, truth)
    # 1 hit, 1 false, 1 missed; that three texts lack the label is no class of its own
    assert [found[name] for name in ("precision", "recall", "f1", "f1_micro")] == [0.5] * 4
    assert found["accuracy"] == 3 / 5
    nobody = metrics.multilabel(np.full((2, 1), 0.2), np.zeros((2, 1), bool), np.zeros((2, 1), bool))
    assert (nobody["f1"], nobody["accuracy"]) == (0.0, 1.0)


def test_metrics_of_one_label_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2]]))
    found = metrics.classification(logits, np.array([0, 0, 1, 1]))
    # class 0: 2 hits, 1 false; class 1: 1 hit, 1 missed; class 2 is neither true nor predicted
    assert found == pytest.approx(
        {
            "accuracy": 3 / 4,
            "precision": (2 / 3 + 1) / 2,
            "recall": (1 + 1 / 2) / 2,
            "f1": (4 / 5 + 2 / 3) / 2,
            "f1_weighted": (2 * 4 / 5 + 2 * 2 / 3) / 4,
            "loss": -np.log([0.7, 0.6, 0.8, 0.3]).mean(),
            "log_loss": -np.log([0.7, 0.6, 0.8, 0.3]).mean(),
        }
    )
    assert set(ONE.headings) | {"loss"} == set(found)
    assert metrics.confusion(logits.argmax(1), np.array([0, 0, 1, 1]), 3) == ((2, 0, 0), (1, 1, 0), (0, 0, 0))


def test_a_certain_mistake_costs_a_finite_loss() -> None:
    found = metrics.multilabel(np.array([[0.0]]), np.array([[False]]), np.array([[True]]))
    assert np.isfinite(found["loss"])


def logit(probability: float) -> float:
    return float(np.log(probability / (1 - probability)))


def test_scores_of_many_labels_and_the_thresholds_that_are_passed_on(tmp_path: Path, bert: Any) -> None:
    made = settings(max_length=64, truncation="head")
    rows: dict[str, list[Any]] = {"text": LONG[:3], "labels": [[0, 1], [0], []]}
    tokens = tokens_on(tmp_path / "many", MANY, rows, bert, made)
    outputs = [np.array([logit(p), logit(q)], dtype=np.float32) for p, q in ((0.9, 0.4), (0.8, 0.2), (0.1, 0.1))]
    fitting = MANY.score(outputs, tokens, rows, made.task, None)
    assert fitting.fitted["thresholds"] == pytest.approx([0.45, 0.3])
    assert fitting.predictions == ([0, 1], [0], [])
    assert fitting.confidences == pytest.approx((0.9 * 0.4, 0.8 * 0.8, 0.9 * 0.9))
    assert fitting.metrics["f1"] == fitting.metrics["accuracy"] == 1.0
    assert fitting.confusion is None
    given = json.loads(json.dumps({"thresholds": [0.85, 0.3]}))
    scores = MANY.score(outputs, tokens, rows, replace(made.task, {"metric": "accuracy"}), given)
    assert scores.fitted == given
    assert scores.predictions == ([0, 1], [], [])
    assert scores.confidences == pytest.approx((0.9 * 0.4, 0.2 * 0.8, 0.9 * 0.9))
    assert scores.metrics["accuracy"] == pytest.approx(2 / 3)
    json.dumps([scores.predictions, scores.confidences, fitting.fitted])


def test_long_texts_are_scored_by_the_mean_of_their_pieces(tmp_path: Path, bert: Any) -> None:
    made = settings(**WINDOWS)
    rows: dict[str, list[Any]] = {"text": LONG, "labels": [[0], [1], [0, 1], [], [0], [1]]}
    tokens = tokens_on(tmp_path / "many", MANY, rows, bert, made)
    outputs = made_up_outputs(tokens, 2)
    means = np.array([np.mean([outputs[p] for p in range(15) if tokens.owners[p] == i], axis=0) for i in range(6)])
    for n in (2, 5, 6):
        first = {name: column[:n] for name, column in rows.items()}
        scores = MANY.score(outputs[: tokens.pieces(n)], tokens, first, made.task, {"thresholds": [0.5, 0.5]})
        assert scores.predictions == tuple(np.flatnonzero(row > 0).tolist() for row in means[:n])


# --- what the kinds refuse --------------------------------------------------------------------------------------------


def test_class_weights_are_refused_where_there_is_no_single_class() -> None:
    made = settings()
    balanced = replace(made, {"train": replace(made.train, {"class_weights": "balanced"})})
    with pytest.raises(RequestError, match=r"train\.class_weights=balanced: .*task\.kind=multilabel_classification"):
        MANY.check(balanced)
    searched = made.model_copy(
        update={"search": replace(made.search, {"space": {"train.class_weights": {"choices": ("none", "balanced")}}})}
    )
    with pytest.raises(RequestError, match=r"train\.class_weights=balanced: "):
        MANY.check(searched)
    one = settings(ONE.name)
    ONE.check(replace(one, {"train": replace(one.train, {"class_weights": "balanced"})}))


def test_a_stride_is_at_most_a_quarter_of_the_shortest_length_that_may_be() -> None:
    ONE.check(settings(ONE.name, truncation="windows", stride=16, max_length=64))
    with pytest.raises(RequestError, match=r"task\.stride=17: must be at most a quarter of task\.max_length=64"):
        ONE.check(settings(ONE.name, truncation="windows", stride=17, max_length=64))
    ONE.check(settings(ONE.name, truncation="head", stride=17, max_length=64))
    made = settings(ONE.name, truncation="windows", stride=16, max_length=64)
    space = {"task.max_length": {"low": 48, "high": 64}}
    with pytest.raises(RequestError, match=r"task\.stride=16: must be at most a quarter of task\.max_length=48"):
        ONE.check(made.model_copy(update={"search": replace(made.search, {"space": space})}))
    space = {"task.truncation": {"choices": ("head", "windows")}}
    cut = settings(ONE.name, truncation="head", stride=17, max_length=64)
    with pytest.raises(RequestError, match=r"task\.stride=17"):
        ONE.check(cut.model_copy(update={"search": replace(cut.search, {"space": space})}))


def test_metrics_of_other_kinds_are_refused() -> None:
    for kind, metric in ((ONE, "f1_micro"), (ONE, "exact_match"), (MANY, "f1_weighted"), (MANY, "exact_match")):
        with pytest.raises(RequestError, match=rf"task\.metric={metric}: task\.kind={kind.name} has no such metric"):
            kind.check(settings(kind.name, metric=metric))
        for known in kind.headings:
            kind.check(settings(kind.name, metric=known))
