"""The packaged qa_demo: its size, its layout, and that every gold answer stands where it says."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import hpsearch

DEMO = Path(hpsearch.__file__).parent / "demo"
TEXT = (DEMO / "qa_demo.json").read_text(encoding="utf-8")
SQUAD: dict[str, Any] = json.loads(TEXT)
ARTICLES: list[dict[str, Any]] = SQUAD["data"]
PARAGRAPHS: list[dict[str, Any]] = [paragraph for article in ARTICLES for paragraph in article["paragraphs"]]
QUESTIONS: list[dict[str, Any]] = [question for paragraph in PARAGRAPHS for question in paragraph["qas"]]


def test_counts() -> None:
    assert len(ARTICLES) == 20
    assert len(PARAGRAPHS) == 60
    assert len(QUESTIONS) == 418
    assert Counter(question["is_impossible"] for question in QUESTIONS) == {False: 278, True: 140}
    assert sum(len(question["answers"]) for question in QUESTIONS) == 504
    assert {len(article["paragraphs"]) for article in ARTICLES} == {3}


def test_it_says_what_it_is() -> None:
    assert (SQUAD["version"], SQUAD["name"]) == ("v2.0", "qa_demo: a demonstration, not a benchmark")
    assert f"SPDX-License-Identifier: {SQUAD['license']}\n" in (DEMO / "LICENSE").read_text(encoding="utf-8")


def test_file_is_readable_and_in_its_canonical_form() -> None:
    assert json.dumps(SQUAD, ensure_ascii=False, indent=1) + "\n" == TEXT
    assert not TEXT.isascii()  # offsets count characters, and a reader that counts bytes must fail on it


def test_every_gold_is_whole_words_at_its_offset() -> None:
    for paragraph in PARAGRAPHS:
        context = paragraph["context"]
        for question in paragraph["qas"]:
            for gold in question["answers"]:
                start, end = gold["answer_start"], gold["answer_start"] + len(gold["text"])
                assert gold["text"], question["id"]
                assert context[start:end] == gold["text"], question["id"]
                assert not context[max(start - 1, 0) : start].isalnum(), question["id"]
                assert not context[end : end + 1].isalnum(), question["id"]


def test_impossible_means_no_answer() -> None:
    for question in QUESTIONS:
        assert question["is_impossible"] == (question["answers"] == []), question["id"]
        golds = [(gold["text"], gold["answer_start"]) for gold in question["answers"]]
        assert len(golds) == len(set(golds)) <= 3, question["id"]


def test_nothing_stands_twice() -> None:
    assert len({question["id"] for question in QUESTIONS}) == len(QUESTIONS)
    assert len({article["title"] for article in ARTICLES}) == len(ARTICLES)
    assert len({paragraph["context"] for paragraph in PARAGRAPHS}) == len(PARAGRAPHS)
    for paragraph in PARAGRAPHS:
        asked = [question["question"].casefold() for question in paragraph["qas"]]
        assert len(set(asked)) == len(asked), paragraph["context"]


def test_ids_name_article_paragraph_and_place() -> None:
    for article in ARTICLES:
        slug = article["title"].lower().replace(" ", "-")
        for i, paragraph in enumerate(article["paragraphs"], start=1):
            places = [f"{slug}-{i}-{n}" for n in range(1, len(paragraph["qas"]) + 1)]
            assert [question["id"] for question in paragraph["qas"]] == places


def test_paragraphs_are_short_and_ask_both_kinds() -> None:
    for paragraph in PARAGRAPHS:
        assert 60 <= len(paragraph["context"].split()) <= 120, paragraph["context"]
        counts = Counter(question["is_impossible"] for question in paragraph["qas"])
        assert counts[False] in (4, 5), paragraph["context"]
        assert counts[True] in (2, 3), paragraph["context"]
