"""Named entities: words and tags, strict spans, reading of lists and CoNLL columns, and a sweep from file to server."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.coordinator import sweep
from hpsearch.data.tokens import Tokens, collate, save
from hpsearch.errors import RequestError
from hpsearch.fsck import fsck
from hpsearch.registry.promotion import promote
from hpsearch.serving import packaging
from hpsearch.tasks import entities
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.token_classification import entities_of, tags_fault, text_of
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data
from test_sweep import OVERRIDES, Swept, swept_version

NER = KINDS["token_classification"]
Model = Callable[[str], Path]
PER, LOC = "PER", "LOC"
ROW = {"tokens": ["Ada", "Lovelace", "left", "London", "."], "tags": ["B-PER", "I-PER", "O", "B-LOC", "O"]}


def settings(*overrides: str) -> Settings:
    files = ("task=ner_files", "task.name=toy", "task.files.train=none.jsonl")
    return make.compose_settings(*files, "task.max_length=16", "task.stride=4", *overrides)


def on_file(path: Path, *overrides: str) -> Settings:
    half = ("task.split.validation=0.3", "task.split.test=0.3")
    return make.compose_settings("task=ner_files", "task.name=toy", f"task.files.train={path}", *half, *overrides)


def said(*found: tuple[str, int, int]) -> list[dict[str, Any]]:
    return [{"label": label, "begin": begin, "end": end} for label, begin, end in found]


# --- words and tags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "": [],
        " \n ": [],
        "Ada Lovelace.": ["Ada", "Lovelace", "."],
        "U.S. (1,5 %)": ["U", ".", "S", ".", "(", "1", ",", "5", "%", ")"],
        "l'été d\u2019Oscar-Manet": ["l", "'", "été", "d", "\u2019", "Oscar", "-", "Manet"],
        "cafe\u0301 हिन्दी": ["cafe\u0301", "हिन्दी"],  # marks belong to their letters
        "東京へ go": ["東", "京", "へ", "go"],
        "snake_case @x": ["snake", "_", "case", "@", "x"],
        "👍🏽ok": ["👍", "🏽", "ok"],
    }.items(),
)
def test_words(text: str, expected: list[str]) -> None:
    assert [text[begin:end] for begin, end in entities.words(text)] == expected


@given(st.text(max_size=40))
def test_words_cover_all_that_can_be_seen(text: str) -> None:
    ranges = list(entities.words(text))
    assert all(begin < end for begin, end in ranges)
    assert all(before <= begin for (_, before), (begin, _) in itertools.pairwise(ranges))
    covered = {i for begin, end in ranges for i in range(begin, end)}
    assert covered == {i for i, character in enumerate(text) if not character.isspace()}


def test_tags_are_in_the_order_of_the_outputs() -> None:
    assert entities.tags([LOC, PER]) == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def decoded(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Entities of one-character words with these tags."""
    names = entities.tags([LOC, PER])
    probabilities = np.full((len(tags), len(names)), 0.05)
    probabilities[np.arange(len(tags)), [names.index(tag) for tag in tags]] = 0.8
    places = np.array([(2 * i, 2 * i + 1) for i in range(len(tags))], dtype=np.int32).reshape(-1, 2)
    found = entities.decode(places, probabilities)
    assert all(one.score == pytest.approx(0.8) for one in found)
    return [((LOC, PER)[one.label], one.begin, one.end) for one in found]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", []),
        ("O O", []),
        ("B-PER", [(PER, 0, 1)]),
        ("B-PER I-PER O B-LOC", [(PER, 0, 3), (LOC, 6, 7)]),
        ("B-PER B-PER I-PER", [(PER, 0, 1), (PER, 2, 5)]),
        ("O I-PER I-PER", [(PER, 2, 5)]),  # as in the evaluation of CoNLL
        ("B-LOC I-PER", [(LOC, 0, 1), (PER, 2, 3)]),
        ("I-LOC O I-LOC", [(LOC, 0, 1), (LOC, 4, 5)]),
    ],
)
def test_tags_make_entities(tags: str, expected: list[tuple[str, int, int]]) -> None:
    assert decoded(tags.split()) == expected


def test_of_two_windows_the_one_with_more_context_speaks_for_a_word() -> None:
    none, begins = (-1, -1), [(i, i + 1) for i in range(7)]
    first = np.array([none, *begins[:5], none], dtype=np.int32)  # words 0 to 4
    second = np.array([none, *begins[2:], none], dtype=np.int32)  # words 2 to 6
    # Word 2 is third of five in the first window, and first in the second; word 3 is second from an end in both.
    assert entities.chosen([first, second]).tolist() == [1, 2, 3, 4, 7 + 3, 7 + 4, 7 + 5]


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
@hypothesis_settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(0, 4))
def test_each_word_has_one_place_in_any_text(family: str, tiny_model: Model, text: str, stride: int) -> None:
    """Whatever the windows: places are in order, do not overlap, and hold words whole."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(family))
    made = {}
    for length in (16, 64):
        (pieces,) = entities.pieces([text], tokenizer, length, stride)
        assert all(len(piece.ids) == len(piece.places) <= length for piece in pieces)
        places = [piece.places for piece in pieces]
        made[length] = np.concatenate(places)[entities.chosen(places)].tolist()
    if len(tokenizer(text)["input_ids"]) <= 64:
        assert made[16] == made[64]
    begins, ends = ({edge[i] for edge in entities.words(text)} for i in (0, 1))
    assert all(begin in begins and end in ends for begin, end in made[16])
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(made[16]))
    if family != "bert":  # whose tokenizer drops control characters
        assert [text[b:e] for b, e in made[16]] or not text.strip()


# --- strict spans ----------------------------------------------------------------------------------------------------

TRUTH = said((PER, 0, 12), (LOC, 18, 24))
CASES = {
    "both right": (TRUTH, (2, 0, 0, 1)),
    "in another order": (TRUTH[::-1], (2, 0, 0, 1)),
    "nothing said": ([], (0, 0, 2, 0)),
    "one said": (TRUTH[:1], (1, 0, 1, 0)),
    "one too many": ([*TRUTH, *said((LOC, 30, 31))], (2, 1, 0, 0)),
    "begins too late": (said((PER, 4, 12), (LOC, 18, 24)), (1, 1, 1, 0)),
    "ends too early": (said((PER, 0, 3), (LOC, 18, 24)), (1, 1, 1, 0)),
    "another class": (said((LOC, 0, 12), (LOC, 18, 24)), (1, 1, 1, 0)),
    "a class that there is not": (said(("ORG", 0, 12), (LOC, 18, 24)), (1, 1, 1, 0)),
    "divided": (said((PER, 0, 3), (PER, 4, 12), (LOC, 18, 24)), (1, 2, 1, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_an_entity_is_right_if_begin_end_and_class_are(case: str) -> None:
    answer, (found, excess, missed, right) = CASES[case]
    sums = NER.tallies([TRUTH], [answer], [LOC, PER]).sum(axis=0)
    metrics = {name: float(value) for name, value in NER.of_sums(sums).items()}
    precision = found / (found + excess) if found + excess else 0.0
    recall = found / (found + missed)
    assert metrics == pytest.approx(
        {
            "precision": precision,
            "recall": recall,
            "f1": 2 * found / (2 * found + excess + missed),
            "accuracy": right,
        }
    )


def test_all_entities_of_all_examples_count_alike() -> None:
    truths = [TRUTH, said((PER, 0, 3)), []]
    answers = [TRUTH[:1], said((PER, 0, 3), (PER, 9, 10)), []]
    tallies = NER.tallies(truths, answers, [LOC, PER])
    metrics = NER.of_sums(tallies.sum(axis=0))
    assert metrics["f1"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    classes = NER.by_class(tallies.sum(axis=0), [LOC, PER])
    assert (classes[LOC].n, classes[LOC].recall, classes[PER].n) == (1, 0.0, 2)
    assert classes[PER].precision == pytest.approx(2 / 3)
    assert NER.of_sums(tallies[2])["f1"] == 0.0  # and an example without entities is no mistake
    assert NER.of_sums(tallies)[NER.wrong_at_zero].tolist() == [0.0, 0.0, 1.0]


def test_people_see_entities_with_their_classes() -> None:
    truth = [one | {"text": text} for one, text in zip(TRUTH, ("Ada Lovelace", "London"), strict=True)]
    assert NER.shown(truth) == "Ada Lovelace (PER), London (LOC)"
    assert NER.shown([]) == "(no entity)"


def test_the_constant_answer_is_that_there_is_nothing() -> None:
    assert NER.constant([TRUTH, TRUTH, []]) == []


# --- reading ---------------------------------------------------------------------------------------------------------


def test_tokens_become_a_text_with_entities_in_it() -> None:
    text = text_of(ROW["tokens"])
    assert text == "Ada Lovelace left London ."
    spans = entities_of(ROW["tokens"], ROW["tags"])
    assert [(span["label"], text[span["begin"] : span["end"]]) for span in spans] == [
        (PER, "Ada Lovelace"),
        (LOC, "London"),
    ]


def test_both_layouts_say_the_same(tmp_path: Path) -> None:
    rows = tiny.tagged(60, 0)
    files = [tiny.write_jsonl(tmp_path / "a.jsonl", rows), tiny.write_conll(tmp_path / "a.conll", rows)]
    read = [data.read(on_file(path)) for path in files]
    assert read[0].labels == read[1].labels == ("colour", "metal")
    texts = [{row["text"]: row["entities"] for split in each.splits.values() for row in split} for each in read]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 60


def test_columns_between_token_and_tag_are_passed_over(tmp_path: Path) -> None:
    sentence = "Ada\tNNP\tx\tB-PER\r\nof New York\tNNP\tx\tB-LOC\r\n\r\n"
    path = tmp_path / "a.bio"
    path.write_text("-DOCSTART-\t-X-\t-\tO\n\n" + "".join(sentence.replace("Ada", f"Ada{i}") for i in range(20)))
    corpus = data.read(on_file(path))
    row = corpus.splits["train"][0]
    assert row["text"].endswith(" of New York")
    assert [row["text"][e["begin"] : e["end"]] for e in row["entities"]] == [row["text"].split()[0], "of New York"]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (
            ["I-PER", "O"],
            "token 1 ('Ada') has the tag 'I-PER', but the tag before it is 'O': an entity begins with B-PER",
        ),
        (["B-LOC", "I-PER"], "the tag before it is 'B-LOC': an entity begins with B-PER"),
        (["S-PER", "O"], "tags are O, B-<class> and I-<class> (IOB2; convert BIOES"),
        (["B-", "O"], "has the tag 'B-'"),
        ([1, 0], "has the tag 1"),
        (["O"], "there are 2 tokens and 1 tags"),
        ("O O", "there are 2 tokens and no list of tags"),
    ],
)
def test_wrong_tags_are_refused_with_rule_and_remedy(tmp_path: Path, tags: Any, said: str) -> None:
    fault = tags_fault(tags, ["Ada", "left"])
    assert fault is not None
    assert said in fault
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [ROW, {"tokens": ["Ada", "left"], "tags": tags}])
    with pytest.raises(RequestError) as caught:
        data.read(on_file(path))
    assert f"a.jsonl, line 2: {fault}" in str(caught.value)
    assert "task.columns.tags=tags; correct or remove these rows" in str(caught.value)


@pytest.mark.parametrize("tokens", [None, [], "Ada left", ["Ada", 1], ["Ada", " "], ["Ada", None], ["\ud83d", "x"]])
def test_wrong_tokens_are_refused(tmp_path: Path, tokens: Any) -> None:
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [{"tokens": tokens, "tags": ["O", "O"]}])
    with pytest.raises(RequestError, match=r"a\.jsonl, line 1: .*token.*task\.columns\.tokens=tokens"):
        data.read(on_file(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Ada B-PER\n\nleft\n", "a.conll, line 3: 1 columns, where there must be 2, as above"),
        ("Ada\nleft\n", "a.conll, line 1: 1 columns, where there must be at least two"),
        ("Ada B-PER\nleft\tO\tO\n", "a.conll, line 2: 3 columns"),
        ("x O\n\nAda B-PER\nleft I-LOC\n", "a.conll, line 3: token 2 ('left') has the tag 'I-LOC'"),
    ],
)
def test_faults_of_columns_name_the_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "a.conll"
    path.write_text(text)
    with pytest.raises(RequestError) as caught:
        data.read(on_file(path))
    assert said in str(caught.value)


def test_a_conll_file_has_no_other_columns(tmp_path: Path) -> None:
    path = tiny.write_conll(tmp_path / "a.conll", tiny.tagged(9, 0))
    with pytest.raises(RequestError, match=r"task\.columns\.tags=ner_tags: a\.conll has no such column; it has"):
        data.read(on_file(path, "task.columns.tags=ner_tags"))


def test_rows_that_contradict_each_other_are_dropped(tmp_path: Path) -> None:
    rows = tiny.tagged(60, 0)
    first = next(row for row in rows if set(row["tags"]) != {"O"})
    path = tiny.write_jsonl(tmp_path / "a.jsonl", [*rows, first | {"tags": ["O"] * len(first["tags"])}])
    assert data.read(on_file(path)).facts.dropped["train"]["conflicting_labels"] == 2


@pytest.mark.parametrize(
    ("override", "rule"),
    [
        ("task.truncation=head", r"task\.truncation=head: .* must be windows"),
        ("+search.space.task.truncation.choices=[windows,head]", "must be windows, and not searched"),
        ("task.clean=html", r"task\.clean=html: .* must be none"),
        ("train.class_weights=balanced", r"train\.class_weights=balanced"),
        ("task.stride=5", r"task\.stride=5: must be at most a quarter"),
        ("task.metric=f1_weighted", r"it has f1, precision, recall and accuracy"),
        ("+task.columns.label=label", r"task\.columns\.label: task\.kind=token_classification has no such role"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override: str, rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        NER.check(settings(override))


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(RequestError, match=r"task\.kind=token_clasification: there is no such kind; there are text_"):
        data.read(settings("task.kind=token_clasification"))


# --- tokens, loss, scores --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Any]]:
    """As stored: longer than a window, with signs, with two entities side by side, and without a word."""
    given = [*tiny.tagged(40, 3, longest=60), ROW, {"tokens": ["Ada", "London"], "tags": ["B-PER", "B-LOC"]}]
    labels = ("LOC", "PER", "colour", "metal")
    spans = [entities_of(row["tokens"], row["tags"]) for row in given]
    return {
        "text": [*(text_of(row["tokens"]) for row in given), "\u200b"],
        "entities": [*([span | {"label": labels.index(span["label"])} for span in each] for each in spans), []],
    }


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def tokens(
    request: pytest.FixtureRequest, tiny_model: Model, rows: dict[str, list[Any]], tmp_path_factory: Any
) -> Tokens:
    folder = tmp_path_factory.mktemp(request.param)
    save(NER.encode(rows, AutoTokenizer.from_pretrained(tiny_model(request.param)), settings().task), folder)
    return Tokens(folder, NER.padding)


def test_entities_that_words_cannot_give_are_counted_and_said(tmp_path: Path, tiny_model: Model) -> None:
    text = "the film was lovely \ue000 and moving e\u0301"  # BERT drops what is private, and accents of their letters
    spans = [("film", 0), ("ovely", 1), ("\ue000", 0), ("moving e\u0301", 1)]
    given = [{"label": label, "begin": text.index(one), "end": text.index(one) + len(one)} for one, label in spans]
    rows = {"id": ["a", "b"], "text": [text, "a film"], "entities": [given, []]}
    save(NER.encode(rows, AutoTokenizer.from_pretrained(tiny_model("bert")), settings().task), tmp_path)
    tokens = Tokens(tmp_path, NER.padding)
    assert tokens.by_example("lost").tolist() == [2, 0]
    (remark,) = NER.remarks(tokens, "test", settings().task)
    assert remark.startswith("2 entities of test begin or end within a word")


def test_entities_of_whole_words_are_all_given(tokens: Tokens) -> None:
    assert list(NER.remarks(tokens, "train", settings().task)) == []


def perfect(tokens: Tokens, classes: int = 4) -> list[np.ndarray]:
    """Outputs of a model that knows the labels."""
    found = []
    for i in range(len(tokens)):
        labels = tokens.of_piece("labels", i)
        logits = np.zeros((len(labels), 1 + 2 * classes), dtype=np.float32)
        logits[np.arange(len(labels)), labels.clip(0)] = 9.0
        found.append(logits)
    return found


def test_labels_say_all_entities_over_windows(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    assert len(tokens) > tokens.examples == len(rows["text"])
    scores = NER.score(perfect(tokens), tokens, rows, settings().task, None)
    assert scores.metrics["f1"] == scores.metrics["accuracy"] == 1.0
    assert scores.metrics["loss"] < 0.01
    truths = NER.truths(rows, ("LOC", "PER", "colour", "metal"))
    answers = NER.answers(scores.predictions, ("LOC", "PER", "colour", "metal"))
    bare = [[{name: one[name] for name in ("label", "text", "begin", "end")} for one in each] for each in answers]
    assert bare == truths
    assert json.loads(json.dumps(scores.predictions)) == list(scores.predictions)
    assert all(0 < sure <= 1 for sure in scores.confidences)


def test_only_a_word_s_first_token_has_a_label(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    for i in range(len(tokens)):
        places, labels = tokens.of_piece("places", i), tokens.of_piece("labels", i)
        assert ((places[:, 0] < 0) == (labels == -100)).all()
        assert len(set(places[places[:, 0] >= 0][:, 0].tolist())) == (places[:, 0] >= 0).sum()


def test_wrong_outputs_cost_what_they_should(tokens: Tokens, rows: dict[str, list[Any]]) -> None:
    blind = [np.zeros_like(each) for each in perfect(tokens)]
    scores = NER.score(blind, tokens, rows, settings().task, None)
    assert scores.metrics["f1"] == 0.0
    assert scores.metrics["loss"] == pytest.approx(np.log(9))
    assert scores.metrics["accuracy"] == pytest.approx(np.mean([not each for each in rows["entities"]]))


def test_the_loss_is_the_mean_over_words(tokens: Tokens) -> None:
    batch = collate([tokens[i] for i in range(8)], 0, types=False, padding=NER.padding)
    assert batch["labels"].shape == batch["input_ids"].shape
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    torch.manual_seed(0)
    logits = torch.randn(*batch["labels"].shape, 9, requires_grad=True)
    words = batch["labels"] >= 0
    expected = -logits.log_softmax(-1)[words].gather(1, batch["labels"][words][:, None]).mean()
    items = words.sum()
    loss = NER.loss({"logits": logits}, batch, items, 0.0, None)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    parts = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 3), slice(3, 8))]
    split = sum(
        NER.loss({"logits": logits[part]}, half, items, 0.0, None)
        for part, half in zip((slice(0, 3), slice(3, 8)), parts, strict=True)
    )
    assert float(torch.as_tensor(split).detach()) == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[~words] == 0).all()


def test_a_batch_without_a_word_has_no_loss() -> None:
    batch = {"labels": torch.full((2, 3), -100)}
    assert NER.loss({"logits": torch.randn(2, 3, 5)}, batch, 0, 0.0, None).item() == 0.0


# --- from file to server ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_entities_are_swept_promoted_and_served(
    tmp_path: Path, tiny_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.write_conll(tmp_path / "toy.conll", tiny.tagged(300, 0))
    longer = (
        "search.space.train.epochs.choices=[16]",
        "budget.max_trials=3",
        "search.space.train.learning_rate.low=0.008",
        "budget.confirmation={finalists: 1, seeds: 2}",
    )
    windows = ("task.max_length=16", "task.stride=4")
    made = make.toy_settings(path, tiny_model("bert"), "bert", *OVERRIDES, *longer, *windows, task="ner_files")
    done = Swept(made, tmp_path / "home", sweep.run_sweep(made, tmp_path / "home"))
    test = done.summary.test
    assert done.summary.labels == ("colour", "metal")
    assert test.value > 0.8
    assert test.low < test.value <= test.high
    assert set(test.classes) == {"colour", "metal"}
    assert test.confusion is None
    assert "F1 (entities)" in (done.folder / "report.html").read_text()
    assert fsck(made, done.home, repair=False).endswith(": clean")
    assert "the task's first" in promote(made, done.home)
    uri = f"models:/hpsearch-toy/{swept_version(made, done.home)}"
    mlflow.set_tracking_uri(Tracking(made, done.home).uri)
    texts = ["the film,(gold metal)was RED!", "", "a plot " * 20 + "iron"]
    found = mlflow.pyfunc.load_model(uri).predict(texts)["entities"].tolist()
    assert found[1] == []
    for text, spans in zip(texts, found, strict=True):
        assert all(text[one["begin"] : one["end"]] == one["text"] for one in spans)
    assert [(one["label"], one["text"]) for one in found[0]] == [("metal", "gold metal"), ("colour", "RED")]
    assert [(one["label"], one["begin"]) for one in found[2]] == [("metal", 140)]
    check_answers(made, done, uri)
    for suffix in ("jsonl", "csv", "parquet"):
        check_file(tmp_path, uri, suffix, texts, found)


def check_answers(made: Settings, done: Swept, uri: str) -> None:
    """Run on the test texts, as a champion is on a challenger's, the served model is what was scored."""
    ref = data.prepare(data.read(made), made, done.home)
    rows = data.load(ref, "test").to_dict()
    answers, _ = packaging.answers(uri, made, {role: rows[role] for role in NER.inputs})
    sums = NER.tallies(NER.truths(rows, ref.labels), answers, ref.labels).sum(axis=0)
    assert NER.of_sums(sums)["f1"] == pytest.approx(done.summary.test.value)


def check_file(folder: Path, uri: str, suffix: str, texts: list[str], found: list[Any]) -> None:
    import pandas as pd

    source, target = folder / f"in.{suffix}", folder / f"out.{suffix}"
    frame = pd.DataFrame({"id": range(len(texts)), "text": texts})
    {
        "jsonl": lambda: frame.to_json(source, orient="records", lines=True),
        "csv": lambda: frame.to_csv(source, index=False),
        "parquet": lambda: frame.to_parquet(source),
    }[suffix]()
    assert packaging.predict_file(uri, source, target, NER.name, NER.asked(settings().task), "auto") == len(texts)
    if suffix == "jsonl":
        given_back = [json.loads(line)["entities"] for line in target.read_text().splitlines()]
    elif suffix == "csv":
        given_back = [json.loads(cell) for cell in pd.read_csv(target)["entities"]]
    else:
        given_back = [list(cell) for cell in pd.read_parquet(target)["entities"]]
    assert given_back == found
