"""Floors one by one: what they learn, what they say, that their time holds, that they are kept as they are."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import FloorFitted, Part
from hpsearch.state.records import DataRef
from hpsearch.tasks import bag_of_words, entities
from hpsearch.tasks.bag_of_words import Bag, Terms, runs
from hpsearch.tasks.bag_of_words import words as words_of
from hpsearch.tasks.frequent_tags import FrequentTags
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.plain_answers import Answerer, sentence, sentences
from hpsearch.training import data, floors, hardware, words
from hpsearch.training.floors import FloorSpec
from hpsearch.training.saved import ScoreSpec
from hpsearch.training.trial import Warm
from hpsearch.training.words import Counted

Models = Callable[[str], Path]


class Fitting:
    """Toy data of a kind, on which floors are fitted in this process."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.settings, self.home = settings, home
        self.ref: DataRef = make.prepared(settings, home)
        self.warm = Warm(hardware.resolve(settings.hardware))

    def fit(self, name: str, seconds: float = 60.0) -> FloorFitted:
        return floors.fit(FloorSpec(0, name, self.settings, self.ref, self.home / name, seconds), self.warm)

    def score(self, name: str, split: str, fitted: dict[str, Any]) -> Any:
        spec = ScoreSpec(0, self.settings, self.ref, TrialFolder(self.home / name).model, Part(split), fitted)
        return floors.score(name, spec, self.warm, floors._SILENT)

    def rows(self, split: str) -> dict[str, list[Any]]:
        return dict(data.load(self.ref, split).to_dict())


def texts(tmp_path: Path, tiny_model: Models, *overrides: str, n: int = 240) -> Fitting:
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv", n=n), tiny_model("bert"), "bert", *overrides)
    return Fitting(settings, tmp_path / "home")


def of_task(task: str, rows: list[dict[str, Any]], tmp_path: Path, tiny_model: Models, *overrides: str) -> Fitting:
    path = tiny.write_jsonl(tmp_path / "toy.jsonl", rows)
    settings = make.toy_settings(path, tiny_model("bert"), "bert", *overrides, task=task)
    return Fitting(settings, tmp_path / "home")


def test_every_kind_has_floors_and_each_can_be_fitted() -> None:
    assert {name: [floor.name for floor in kind.floors] for name, kind in KINDS.items()} == {
        "text_classification": ["words", "frozen"],
        "multilabel_classification": ["words", "frozen"],
        "question_answering": ["constant", "sentence"],
        "token_classification": ["tags"],
    }
    every = {floor for kind in KINDS.values() for floor in kind.floors}
    assert {floor.name for floor in every} == floors.FITTERS.keys()
    assert {floor.name for floor in every if floor.script is not None} == floors.SAYING.keys()


# --- texts -----------------------------------------------------------------------------------------------------------


def test_words_are_learnt_and_scored_as_they_were_on_validation(tmp_path: Path, tiny_model: Models) -> None:
    toy = texts(tmp_path, tiny_model)
    found = toy.fit("words")
    assert found.examples == toy.ref.sizes["train"]
    assert found.metrics["validation_accuracy"] > 0.9
    again = toy.score("words", "validation", found.fitted)
    assert again.predictions == found.predictions
    assert again.likelihoods == pytest.approx(found.likelihoods, abs=1e-5)
    assert again.metrics["accuracy"] == found.metrics["validation_accuracy"]
    assert toy.score("words", "test", found.fitted).metrics["accuracy"] > 0.9
    assert [path.name for path in TrialFolder(tmp_path / "home" / "words").model.iterdir()] == ["model.safetensors"]


def test_several_labels_have_their_thresholds(tmp_path: Path, tiny_model: Models) -> None:
    toy = of_task("multilabel", tiny.labelled(300, 0), tmp_path, tiny_model)
    found = toy.fit("words")
    assert len(found.fitted["thresholds"]) == 3
    tested = toy.score("words", "test", found.fitted)
    assert tested.metrics["f1"] > 0.9
    again = toy.score("words", "validation", found.fitted)
    assert again.predictions == found.predictions


def test_a_linear_head_is_a_model_like_a_trial_s(tmp_path: Path, tiny_model: Models) -> None:
    toy = texts(tmp_path, tiny_model)
    found = toy.fit("frozen")
    assert found.metrics["validation_accuracy"] > 0.6
    model = TrialFolder(tmp_path / "home" / "frozen").model
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in model.iterdir()}
    again = toy.score("frozen", "validation", found.fitted)
    assert again.predictions == found.predictions
    assert again.likelihoods == pytest.approx(found.likelihoods, abs=1e-3)


def test_a_head_for_which_there_is_no_time_is_left_out(tmp_path: Path, tiny_model: Models) -> None:
    toy = texts(tmp_path, tiny_model)
    with pytest.raises(
        Exception, match=r"its 0 s are too short: they hold 0 of the \d+ training examples that it needs, and test"
    ):
        toy.fit("frozen", seconds=0.0)
    assert not TrialFolder(tmp_path / "home" / "frozen").model.exists()


def test_a_class_of_one_row_and_one_that_only_validation_has(tmp_path: Path, tiny_model: Models) -> None:
    """The first texts that are read have neither: there is no time for more."""
    toy = texts(tmp_path, tiny_model)
    rows = toy.rows("train")
    right = np.zeros((len(rows["label"]), 4), dtype=bool)
    right[np.arange(len(right)), rows["label"]] = True
    right[5] = [False, False, True, False]

    def worth(logits: np.ndarray) -> float:
        assert logits.shape == (48, 4)
        assert np.isfinite(logits).all()
        return float((logits.argmax(axis=1) == toy.rows("validation")["label"]).mean())

    given = words.Given(rows["text"], right, True, toy.rows("validation")["text"], worth)
    found = words.fit(given, 60.0)
    assert (found.validation.argmax(axis=1) < 2).mean() > 0.9
    assert worth(found.validation) > 0.8


@pytest.mark.parametrize("seconds", [0.0, 1.0, 3.0])
def test_the_time_of_words_holds(seconds: float) -> None:
    rows = tiny.sentences(20_000, 0, shortest=80, longest=120)
    right = np.array([[label == "positive", label == "negative"] for _, label in rows])
    validation, truth = [text for text, _ in rows[:300]], right[:300]

    def worth(logits: np.ndarray) -> float:
        return float((logits.argmax(axis=1) == truth.argmax(axis=1)).mean())

    began = time.monotonic()
    found = words.fit(words.Given([text for text, _ in rows], right, True, validation, worth), seconds)
    assert time.monotonic() - began < 1.5 * seconds + 2.0
    assert words.SMALLEST <= found.examples <= (len(rows) if seconds else words.SMALLEST)
    assert worth(found.validation) > (0.6 if seconds else 0.0)


def test_no_more_is_read_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny.sentences(1000, 0, shortest=10, longest=10)
    right = np.array([[label == "positive", label == "negative"] for _, label in rows])
    given = words.Given([text for text, _ in rows], right, True, ["good", "bad"], lambda _: 0.0)
    monkeypatch.setattr(words, "MOST_WORDS", 12 * 400)
    found = words.fit(given, 60.0)
    assert found.examples == 400
    assert found.bag.terms.runs
    monkeypatch.setattr(words, "MOST_COUNTS", 10)
    assert not words.fit(given, 60.0).bag.terms.runs


def test_a_text_has_the_same_terms_alone_and_among_others() -> None:
    given = [text for text, _ in tiny.sentences(60, 0)] + ["", "??? !", "a a a b", "ÄÖ straße 東京 don't"]
    said = [words_of(text) for text in given]
    counted = Counted.of(said)
    terms, plain = words.plain(counted, 10_000)
    terms, more = words.with_runs(terms, counted, 10_000)
    both = np.hstack([plain.toarray(), more.toarray()])
    unseen = ["a story that was never told", "the", "zzz", *given]
    among = words.weighed(Counted.of([words_of(text) for text in unseen]), terms).toarray()
    np.testing.assert_allclose(among[3:], both, atol=1e-6)
    for row, text in zip(among, unseen, strict=True):
        alone = np.zeros(len(terms))
        numbers, weights = terms.in_text(text)
        assert len(set(numbers.tolist())) == len(numbers)
        alone[numbers] = weights
        np.testing.assert_allclose(alone, row, atol=1e-6)


def test_terms_are_words_signs_neighbours_and_runs() -> None:
    counted = Counted.of([words_of("Good film!"), words_of("good film")])
    terms, matrix = words.plain(counted, 100)
    names = list(terms.words)
    assert sorted(names) == ["!", "film", "good"]
    found = {(names[key // bag_of_words.BASE], names[key % bag_of_words.BASE]) for key in terms.pairs.tolist()}
    assert found == {("good", "film"), ("film", "!")}
    assert (np.diff(terms.pairs) > 0).all()
    lengths = np.sqrt((matrix.toarray() ** 2).sum(axis=1))
    np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    assert runs("ab") == [" ab", "ab ", " ab "]
    assert runs("a") == [" a "]
    rarity = dict(zip(names, terms.rarity.tolist(), strict=False))
    assert rarity["good"] == pytest.approx(1.0)
    assert rarity["!"] == pytest.approx(np.log(3 / 2) + 1)


def test_with_enough_texts_a_term_must_stand_in_two_and_the_most_frequent_are_kept() -> None:
    many = [["a", "b", f"once{i}"] for i in range(words.ENOUGH)]
    assert list(words.plain(Counted.of(many), 1000)[0].words) == ["a", "b"]
    few = words.plain(Counted.of([["a"], ["a", "b"], ["a", "b", "c"]]), 2)[0]
    assert list(few.words) == ["a"], (
        "b and the pair of a and b are as frequent as each other, and there is room for one"
    )


def test_a_bag_is_read_as_it_was_written(tmp_path: Path) -> None:
    terms = Terms(["a", "ß"], np.array([bag_of_words.BASE]), [" a "], np.array([1, 2, 1.5, 1], dtype=np.float32))
    bag = Bag(terms, np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0.5, -0.5], dtype=np.float32))
    bag.save(tmp_path)
    given = ["a ß", "ß a", "", "A", "unknown"]
    found = Bag.load(tmp_path).logits(given)
    np.testing.assert_array_equal(found, bag.logits(given))
    np.testing.assert_allclose(found[2], bag.bias)
    assert not np.allclose(found[0], found[1]), "the pair is one of them only"


# --- questions and entities ------------------------------------------------------------------------------------------


QA = ("task.max_length=40", "task.stride=8")


def test_the_best_constant_answer_is_none_where_most_questions_have_none(tmp_path: Path, tiny_model: Models) -> None:
    rows = tiny.questions(300, 0)
    for row in rows[::2]:
        row["answers"] = []
    toy = of_task("qa_files", rows, tmp_path, tiny_model, *QA)
    found = toy.fit("constant")
    assert found.chosen == {"answer": ""}
    assert set(found.predictions) == {""}
    tested = toy.score("constant", "test", found.fitted)
    assert tested.metrics["f1"] == pytest.approx(np.mean([not answers for answers in toy.rows("test")["answers"]]))


def test_the_constant_answer_is_the_best_of_those_that_are_given(tmp_path: Path, tiny_model: Models) -> None:
    rows = [row for row in tiny.questions(400, 0) if row["answers"]]
    toy = of_task("qa_files", rows, tmp_path, tiny_model, *QA)
    found = toy.fit("constant")
    assert found.chosen["answer"] in [*tiny.METALS, *tiny.COLOURS]
    assert 0.05 < found.metrics["validation_f1"] < 0.4


def test_the_sentence_with_most_words_of_the_question() -> None:
    context = "Ada wrote to Babbage. The engine was never built!  Who built the second engine?\nNobody knows."
    assert [context[begin:end] for begin, end in sentences(context)] == [
        "Ada wrote to Babbage.",
        "The engine was never built!",
        "Who built the second engine?",
        "Nobody knows.",
    ]
    said = sentence("Was the engine built?", context)
    assert (said.text, said.sure) == ("The engine was never built!", 1.0)
    assert context[said.begin :].startswith(said.text)
    assert sentence("xyz", context).text == "Nobody knows.", "of equal ones the shortest"
    assert sentence("the", "one. two.").text == "one.", "of these the first"
    assert sentence("anything", " ").begin == -1


def test_a_sentence_beats_nothing_where_it_is_the_answer(tmp_path: Path, tiny_model: Models) -> None:
    rows = []
    for i in range(80):
        facts = [f"the {metal} of {colour} plot {i} is here." for metal, colour in zip("abcd", "wxyz", strict=True)]
        asked = i % 4
        where = " ".join(facts)
        answers = [{"text": facts[asked], "answer_start": where.index(facts[asked])}] if i % 5 else []
        question = f"which is the {'abcd'[asked]} of {'wxyz'[asked]} plot" if answers else "no such thing at all"
        rows.append({"question": f"{question} {i}", "context": where, "answers": answers})
    toy = of_task("qa_files", rows, tmp_path, tiny_model, *QA)
    found = toy.fit("sentence")
    assert isinstance(found.fitted["no_answer_threshold"], float)
    tested = toy.score("sentence", "test", found.fitted)
    assert tested.metrics["f1"] > 0.9
    assert tested.metrics["no_answer_accuracy"] == 1.0


def test_an_answerer_is_read_as_it_was_written(tmp_path: Path) -> None:
    for constant in (None, "", "gold"):
        Answerer(constant, 0.25).save(tmp_path)
        found = Answerer.load(tmp_path)
        assert (found.constant, found.sure) == (constant, 0.25)
    said = Answerer("gold", 0.25).say("which?", "all is gold here")
    assert (said.begin, said.text) == (7, "gold")
    assert Answerer("gold", 0.25).say("which?", "silver").begin == -1


def test_words_have_the_tag_that_they_have_most_often(tmp_path: Path, tiny_model: Models) -> None:
    toy = of_task("ner_files", tiny.tagged(200, 0), tmp_path, tiny_model, "task.stride=8")
    found = toy.fit("tags")
    assert found.metrics["validation_f1"] > 0.8
    again = toy.score("tags", "validation", found.fitted)
    assert again.predictions == found.predictions
    for text, spans in zip(toy.rows("validation")["text"], found.predictions, strict=True):
        ends = [0]
        for one in spans:
            assert one["text"] == text[one["begin"] : one["end"]]
            assert one["begin"] >= ends[-1], "entities follow each other"
            ends.append(one["end"])


def test_tags_are_read_as_they_were_written(tmp_path: Path) -> None:
    tagger = FrequentTags(2, {"Ada": (1, 0.75), "Lovelace": (2, 0.5), "left": (0, 1.0)}, 0.875)
    tagger.save(tmp_path)
    found = FrequentTags.load(tmp_path)
    assert (found.classes, found.tags, found.other) == (tagger.classes, tagger.tags, tagger.other)
    [(entity), *more], sure = found.say("Ada Lovelace left us")
    assert not more
    assert (entity.label, entity.begin, entity.end) == (0, 0, 12)
    assert sure == pytest.approx(0.75 * 0.5 * 0.875)
    assert found.say("") == ([], 1.0)
    assert [one.begin for one in found.say("Lovelace alone")[0]] == [0], "an I that follows nothing begins an entity"
    assert entities.tags(("a", "b"))[2] == "I-a"
