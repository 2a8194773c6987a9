"""Sources: what users hand in, and what they are told when it is wrong."""

import csv
import hashlib
import importlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

import make
import tiny
from hpsearch.config.settings import Settings
from hpsearch.config.task import TaskSettings
from hpsearch.data import reading
from hpsearch.errors import RequestError
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data

REAL = Path(__file__).parents[2] / "shared" / "data" / "squad-v2.0-half-dev.json"
GOOD_ROWS = [(f"text {i}", "pos" if i % 2 else "neg") for i in range(20)]


def task(**changes: Any) -> TaskSettings:
    files = changes.pop("files", {})
    if files is not None:
        files = {"train": None, "validation": None, "test": None, "encoding": "utf-8"} | files
    return TaskSettings.model_validate(
        {
            "name": "t",
            "kind": "text_classification",
            "source": "files",
            "packaged": None,
            "hub": None,
            "files": files,
            "columns": {"text": "text", "label": "label"},
            "labels": None,
            "label_separator": ",",
            "quoting": "auto",
            "clean": "none",
            "split": {"validation": 0.2, "test": 0.2, "seed": 0},
            "metric": "accuracy",
            "max_length": 16,
            "truncation": "head",
            "stride": 0,
            "license": None,
            "longest_answer": None,
        }
        | changes
    )


BASE = make.compose_settings("task=csv", "task.name=t", "task.files.train=none.csv")


def settings(**changes: Any) -> Settings:
    return BASE.model_copy(update={"task": task(**changes)})


def questions(**changes: Any) -> dict[str, Any]:
    """Changes that make it a task of questions."""
    return {
        "kind": "question_answering",
        "columns": {"question": "question", "context": "context", "answers": "answers"},
        "metric": "f1",
        "max_length": 48,
        "truncation": "windows",
        "stride": 8,
        "license": None,
        "longest_answer": 30,
    } | changes


def hub(path: Path | str, **changes: Any) -> dict[str, Any]:
    names = {"train_split": "train", "validation_split": None, "test_split": None}
    return {"source": "hub", "hub": {"path": str(path), "config": None, "revision": None} | names | changes}


def table(rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label"), **options: Any) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, **options).writerows([header, *rows])
    return buffer.getvalue().encode()


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    return buffer.getvalue()


def parquet_of(columns: list[tuple[str, list[Any]]]) -> bytes:
    """A name may stand twice."""
    arrays = [pyarrow.array(values) for _, values in columns]
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(arrays, names=[name for name, _ in columns]), buffer)
    return buffer.getvalue()


ROWS = {"text": [text for text, _ in GOOD_ROWS], "label": [label for _, label in GOOD_ROWS]}
CONTENT = {
    "csv": table(GOOD_ROWS),
    "tsv": table(GOOD_ROWS, delimiter="\t"),
    "jsonl": jsonl([{"text": text, "label": label, "more": None} for text, label in GOOD_ROWS]),
    "parquet": parquet(ROWS),
}


@pytest.mark.parametrize("suffix", [*CONTENT, "CSV"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"reviews.{suffix}"
    path.write_bytes(CONTENT[suffix.lower()])
    rows = reading.read(task(files={"train": str(path)}))["train"]
    assert rows.columns == ROWS
    assert list(rows.numbers) == list(range(1, 21) if suffix in ("jsonl", "parquet") else range(2, 22))


BAD_UTF8 = pyarrow.array([b"x", b"caf\xe9"]).view(pyarrow.string())
UNREAD: dict[str, bytes] = {
    "a.csv": b"note,text,note,label\n1,x,2,a\n3,y,4,b\n",
    "a.tsv": b"note\ttext\tnote\tlabel\n1\tx\t2\ta\n3\ty\t4\tb\n",
    "a.jsonl": b'{"note": 1, "text": "x", "label": "a", "note": {"a": 1, "a": "\\ud83d"}}\n'
    b'{"text": "y", "label": "b"}\n',
    "a.parquet": parquet_of([("note", BAD_UTF8), ("text", ["x", "y"]), ("note", [1, None]), ("label", ["a", "b"])]),
}


@pytest.mark.parametrize("name", UNREAD)
def test_columns_that_are_not_read_may_be_as_they_like(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(UNREAD[name])
    rows = reading.read(task(files={"train": str(tmp_path / name)}))["train"]
    assert rows.columns == {"text": ["x", "y"], "label": ["a", "b"]}


def test_imdb_reviews_file_works_as_it_is(tmp_path: Path) -> None:
    path = tiny.write_csv(tmp_path / "IMDb_reviews.csv", 40, columns=("review", "sentiment"))
    corpus = data.read(settings(files={"train": str(path)}, columns={"text": "review", "label": "sentiment"}))
    assert corpus.facts.labels == {"negative": 0, "positive": 1}
    assert {name: len(split) for name, split in corpus.splits.items()} == {"train": 24, "validation": 8, "test": 8}


def read_back(content: bytes, suffix: str, quoting: str = "auto") -> reading.Rows:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"
        path.write_bytes(content)
        return reading.read(task(files={"train": str(path)}, quoting=quoting))["train"]


# Any character but the surrogates, which UTF-8 cannot hold; the writer below and Python's own agree on the rest.
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]))
def test_csv_with_any_text_comes_back(rows: list[tuple[str, str]], end: str) -> None:
    written = table(rows, lineterminator=end, quoting=csv.QUOTE_ALL).decode()
    back = read_back(written.encode(), "csv", "double")
    assert list(zip(back.columns["text"], back.columns["label"], strict=True)) == rows
    # The line numbers are those at which an editor shows the rows.
    lines = list(io.StringIO(written, newline=""))
    for number, (text, _) in zip(back.numbers, rows, strict=True):
        escaped = '"' + text.replace('"', '""')
        assert lines[number - 1].startswith(next(iter(io.StringIO(escaped, newline=""))))


@given(st.lists(st.tuples(TEXT, st.one_of(TEXT, st.integers(), st.booleans())), min_size=1, max_size=8))
def test_jsonl_with_any_text_comes_back(rows: list[tuple[str, Any]]) -> None:
    text = "\n".join(json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows)
    back = read_back(text.encode(), "jsonl")
    assert list(zip(back.columns["text"], back.columns["label"], strict=True)) == rows


# Quotes are characters here: rows 1 to 4 are four texts.
SWALLOWED = ['"good start\tpos', "plain\tneg", "plain two\tneg", 'ends here"\tpos']


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_that_quotes_may_swallow_are_refused_until_it_is_said_what_quotes_are(suffix: str, end: str) -> None:
    lines = ["text\tlabel", "one\tpos", "", *SWALLOWED, "last\tneg"]
    content = (end.join(lines) + end).replace("\t", "," if suffix == "csv" else "\t").encode()
    with pytest.raises(RequestError) as caught:
        read_back(content, suffix)
    for part in (f"a.{suffix}, line 4: ", "(1 such in the file)", "task.quoting=none", "task.quoting=double"):
        assert part in str(caught.value)
    plain = read_back(content, suffix, "none")
    assert plain.columns["text"] == ["one", '"good start', "plain", "plain two", 'ends here"', "last"]
    assert plain.columns["label"] == ["pos", "pos", "neg", "neg", "pos", "neg"]
    assert list(plain.numbers) == [2, 4, 5, 6, 7, 8]
    assert len(read_back(content, suffix, "double").columns["text"]) == 3


def test_quotes_that_are_doubled_say_that_they_quote() -> None:
    content = b'text\tlabel\n"a\tb\n""c""\td"\tpos\nx\tneg\n'
    assert read_back(content, "tsv").columns["text"] == ['a\tb\n"c"\td', "x"]


def test_a_csv_file_with_texts_of_lines_is_read_as_ever_and_doubtful_ones_are_said() -> None:
    letter = '"Dear all,\nthanks, and bye,\nJo",pos\n'  # one of its lines has two commas
    assert read_back(f"text,label\n{letter}x,neg\n".encode(), "csv").notes == ()
    doubtful = '"Dear all,\nand bye, Jo\nmore",pos\n'
    rows = read_back(f'text,label\n"a, b",neg\n{doubtful}x,neg\n'.encode(), "csv")
    assert rows.columns["text"] == ["a, b", "Dear all,\nand bye, Jo\nmore", "x"]
    (note,) = rows.notes
    assert note.startswith("a.csv, line 3: ")
    assert "task.quoting=none" in note
    assert read_back(f'text,label\n"a, b",neg\n{doubtful}x,neg\n'.encode(), "csv", "double").notes == ()


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1), min_size=1))
def test_without_quoting_a_line_is_a_row_whatever_quotes_it_has(texts: list[str]) -> None:
    content = "".join(f"{line}\n" for line in ["label\ttext", *(f"a\t{text}" for text in texts)])
    assert read_back(content.encode(), "tsv", "none").columns["text"] == texts


def test_without_quoting_a_text_with_a_delimiter_is_told_so() -> None:
    with pytest.raises(
        RequestError, match=r"line 2: the number of fields is 3, .* no text may hold '\\t' with task\.quot"
    ):
        read_back(b'text\tlabel\n"a\tb"\tpos\n', "tsv", "none")


def test_a_quoted_field_may_span_lines_and_blank_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"one\r\n\r\ntwo",a\r\n\r\n"x, ""y""",b\r\n')
    rows = reading.read(task(files={"train": str(path)}))["train"]
    assert rows.columns == {"text": ["one\r\n\r\ntwo", 'x, "y"'], "label": ["a", "b"]}
    assert list(rows.numbers) == [2, 6]


def test_a_text_longer_than_the_limit_of_the_csv_module_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(table([("x" * 200_000, "a"), ("y", "b")]))
    assert len(reading.read(task(files={"train": str(path)}))["train"].columns["text"][0]) == 200_000


def test_other_encodings_are_read_when_named(tmp_path: Path) -> None:
    for encoding in ("cp1252", "utf-16"):
        path = tmp_path / f"{encoding}.csv"
        path.write_bytes("text,label\ncafé,a\n".encode(encoding))
        rows = reading.read(task(files={"train": str(path), "encoding": encoding}))["train"]
        assert rows.columns["text"] == ["café"]


BAD_FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("a.csv", b"", ["task.files.train=", "a.csv", "empty"]),
    "only white space": ("a.jsonl", b" \n\n", ["a.jsonl", "empty"]),
    "only a byte-order mark": ("a.csv", b"\xef\xbb\xbf", ["a.csv", "empty"]),
    "header only": ("a.csv", b"text,label\n", ["a.csv", "not a single row"]),
    "parquet without rows": ("a.parquet", parquet({"text": [], "label": []}), ["a.parquet", "not a single row"]),
    "ragged": ("a.csv", b'text,label\n"x\ny",a\nb\n', ["a.csv, line 4", "number of fields is 1, but the header has 2"]),
    "comma outside quotes": ("a.csv", b"text,label\nx, y,a\n", ["line 2", "fields is 3", "double quotes"]),
    "open quote": ("a.csv", b'text,label\nx,a\n"y,b\nz,a\n', ["a.csv, line 3", "double quote", "task.quoting=none"]),
    "quote not doubled": ("a.csv", b'text,label\nx,a\n"y" z,b\n', ["a.csv, line 3", "written twice"]),
    "wrong encoding": ("a.csv", b"text,label\nx,a\ncaf\xe9,b\n", ["line 3", "byte 19 (0xe9)", "task.files.encoding"]),
    "utf-16": ("a.csv", "text,label\nx,a\n".encode("utf-16"), ["a.csv, line 1", "utf-16"]),
    "unknown suffix": ("a.xlsx", b"PK", ["a.xlsx", ".csv, .tsv, .jsonl", ".parquet", ".json for questions"]),
    "no suffix": ("reviews", b"text", ["(none)", ".csv"]),
    "missing column": ("a.csv", b"Text ,label\nx,a\n", ["task.columns.text=text", "'Text '", "did you mean 'Text '?"]),
    "semicolons": ("a.csv", b"text;label\nx;a\n", ["'text;label'", "separated by ','"]),
    "column twice": ("a.csv", b"text,label,label\nx,a,b\n", ["task.columns.label=label", "2 columns of that name"]),
    "not JSON": ("a.jsonl", b'{"text": "x", "label": 1}\n\n{"text": \n', ["a.jsonl, line 3", "JSON"]),
    "JSON too deep": ("a.jsonl", b"[" * 100_000, ["a.jsonl, line 1", "JSON"]),
    "key twice": (
        "a.jsonl",
        b'{"text": "x", "label": 1}\n{"text": "y", "label": 0, "text": "z"}',
        ["a.jsonl, line 2", "task.columns.text=text", "2 columns of that name"],
    ),
    "parquet column twice": (
        "a.parquet",
        parquet_of([("text", ["x"]), ("label", ["a"]), ("label", ["b"])]),
        ["task.columns.label=label", "2 columns of that name"],
    ),
    "no object": ("a.jsonl", b'["x", 1]\n', ["a.jsonl, line 1", '{"text": "...", "label": "..."}']),
    "empty object": ("a.jsonl", b"{}\n", ["a.jsonl, line 1", "task.columns.text", "it has none"]),
    "row lacks the field": (
        "a.jsonl",
        jsonl([{"text": "x", "label": 1}, {"text": "y"}]),
        ["line 2", "task.columns.label"],
    ),
    "no parquet": ("a.parquet", b"PAR1 not really", ["a.parquet", "Parquet"]),
    "parquet column": (
        "a.parquet",
        parquet({"txt": ["x"], "label": [1]}),
        ["task.columns.text", "did you mean 'txt'?"],
    ),
    # checked row by row
    "null text": ("a.jsonl", jsonl([{"text": None, "label": 1}, {"text": "y", "label": 0}]), ["line 1", "no text"]),
    "text is a number": ("a.parquet", parquet({"text": [1, 2], "label": [0, 1]}), ["rows 1 and 2", "no string"]),
    "half a character": ("a.jsonl", b'{"text": "\\ud800", "label": 1}', ["line 1", "surrogate"]),
    "empty label": (
        "a.csv",
        b"text,label\nx,a\ny,\nz, \nw,b",
        ["lines 3 and 4", "no label", "task.columns.label=label"],
    ),
    "null label": ("a.parquet", parquet({"text": ["x", "y"], "label": [1, None]}), ["a.parquet, row 2", "no label"]),
    "NaN label": ("a.parquet", parquet({"text": ["x", "y"], "label": [1.0, float("nan")]}), ["row 2", "no label"]),
    "text is no UTF-8": (
        "a.parquet",
        parquet_of([("text", BAD_UTF8), ("label", ["a", "b"])]),
        ["a.parquet", "task.columns.text=text", "UTF-8"],
    ),
    "label is a list": ("a.jsonl", jsonl([{"text": "x", "label": [1]}]), ["line 1", "neither string nor number"]),
    "one class": ("a.csv", table([("x", "a"), ("y", "a")]), ["a.csv", "all 2 rows", "'a'", "two classes"]),
    "many bad rows": ("a.csv", table([(f"t{i}", "") for i in range(9)]), ["lines 2, 3, 4, 5, 6 and 4 more"]),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_gets_one_clear_message_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, content, parts = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError) as caught:
        data.read(settings(files={"train": name}))
    assert caught.value.exit_code == 2
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_file_a_folder_and_an_unknown_encoding_are_named(tmp_path: Path) -> None:
    tiny.write_csv(tmp_path / "mail.csv")
    with pytest.raises(RequestError, match=r"train=.*mial\.csv: there is no such file .*; did you mean 'mail\.csv'\?"):
        reading.read(task(files={"train": str(tmp_path / "mial.csv")}))
    with pytest.raises(RequestError, match=r"task\.files\.test=.*gone\.csv: there is no such file"):
        reading.read(task(files={"train": str(tiny.write_csv(tmp_path / "a.csv")), "test": str(tmp_path / "gone.csv")}))
    with pytest.raises(RequestError, match=r"task\.files\.train=.*: Is a directory"):
        reading.read(task(files={"train": str(tmp_path)}))
    with pytest.raises(RequestError, match=r"task\.files\.encoding=utf-9"):
        reading.read(task(files={"train": str(tmp_path / "a.csv"), "encoding": "utf-9"}))
    with pytest.raises(RequestError, match=r"task\.files\.train: is required"):
        reading.read(task())


# --- questions --------------------------------------------------------------------------------------------------------


def squad_json(version: str, articles: int = 5) -> dict[str, Any]:
    """A file in a published layout: two paragraphs an article, two questions a paragraph, in v2.0 one impossible."""
    data: list[dict[str, Any]] = []
    for a in range(articles):
        paragraphs = []
        for p in range(2):
            context = f"The film {a}-{p} was good; its plot was dull, näively so."
            begin = context.index("dull")
            known = {
                "id": f"{a}{p}k",
                "question": f"How was the plot of {a}-{p}?",
                "answers": [{"text": "dull", "answer_start": begin}, {"text": "dull", "answer_start": begin}],
            }
            other = {
                "id": f"{a}{p}o",
                "question": f"Who acted in {a}-{p}?",
                "answers": [{"text": f"{a}-{p}", "answer_start": 9}],
            }
            if version == "v2.0":
                known["is_impossible"] = False
                other |= {"is_impossible": True, "answers": [], "plausible_answers": other["answers"]}
            paragraphs.append({"context": context, "qas": [known, other]})
        data.append({"title": f"Film {a}", "paragraphs": paragraphs})
    return {"version": version, "data": data}


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_the_published_layouts_of_squad_are_read(tmp_path: Path, version: str) -> None:
    path = tmp_path / "train.JSON"
    path.write_text("\ufeff" + json.dumps(squad_json(version), ensure_ascii=False), encoding="utf-8")
    rows = reading.read(task(**questions(), files={"train": str(path)}))["train"]
    assert rows.where([1, 20]) == "train.JSON, questions 1 and 20"
    assert list(rows.numbers) == list(range(1, 21))
    assert rows.columns["title"] == [f"Film {i // 4}" for i in range(20)]
    assert rows.columns["id"][:5] == ["00k", "00o", "01k", "01o", "10k"]
    assert rows.columns["context"][2] == "The film 0-1 was good; its plot was dull, näively so."
    assert rows.columns["question"][3] == "Who acted in 0-1?"
    assert rows.columns["answers"][2] == [{"text": "dull", "answer_start": 36}] * 2
    assert rows.columns["answers"][3] == ([] if version == "v2.0" else [{"text": "0-1", "answer_start": 9}])


def test_answers_that_are_only_plausible_are_none(tmp_path: Path) -> None:
    content = squad_json("v2.0")
    content["data"][0]["paragraphs"][0]["qas"][1]["answers"] = [{"text": "film", "answer_start": 4}]
    content["data"][0]["paragraphs"][1]["qas"][1].pop("answers")
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    rows = reading.read(task(**questions(), files={"train": str(path)}))["train"]
    assert rows.columns["answers"][1] == rows.columns["answers"][3] == []


@pytest.mark.parametrize("flag", [None, 0, 0.0, False])
def test_an_answer_is_not_lost_for_how_a_flag_is_written(tmp_path: Path, flag: Any) -> None:
    content = squad_json("v2.0")
    content["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = flag
    content["data"][0]["paragraphs"][0]["qas"][1]["is_impossible"] = 1
    (tmp_path / "train.json").write_text(json.dumps(content))
    answers = reading.read(task(**questions(), files={"train": str(tmp_path / "train.json")}))["train"].columns[
        "answers"
    ]
    assert [len(cell) for cell in answers[:2]] == [2, 0]


def damaged(change: Any) -> bytes:
    content = squad_json("v2.0")
    change(content)
    return json.dumps(content).encode()


LAYOUT = ["not in the layout of SQuAD", "data: [{title, paragraphs: [{context", "JSONL or Parquet"]
BAD_SQUAD: dict[str, tuple[bytes, list[str]]] = {
    "no JSON": (b'{"data": [', ["a.json: not JSON"]),
    "JSON lines": (b'{"text": "x"}\n{"text": "y"}\n', ["a.json: not JSON", "rename it to .jsonl"]),
    "JSON too deep": (b"[" * 100_000, ["a.json: not JSON"]),
    "no data": (b'{"version": "v2.0"}', ["a.json, data: ", "KeyError: 'data'", *LAYOUT]),
    "a list": (b"[]", ["a.json, data: ", *LAYOUT]),
    "data is null": (b'{"data": null}', ["a.json, data: ", *LAYOUT]),
    "data is no list of articles": (b'{"data": {"title": "x"}}', ["a.json, data[0]: ", *LAYOUT]),
    "no question at all": (b'{"data": []}', ["a.json: there is not a single row"]),
    "no paragraphs": (damaged(lambda c: c["data"][1].pop("paragraphs")), ["a.json, data[1]: ", "'paragraphs'"]),
    "no title": (damaged(lambda c: c["data"][2].pop("title")), ["a.json, data[2].paragraphs[0]: ", "'title'"]),
    "no context": (
        damaged(lambda c: c["data"][3]["paragraphs"][1].pop("context")),
        ["a.json, data[3].paragraphs[1]: ", "'context'", *LAYOUT],
    ),
    "no questions": (
        damaged(lambda c: c["data"][3]["paragraphs"][0].update(qas=None)),
        ["a.json, data[3].paragraphs[0]: ", *LAYOUT],
    ),
    "a question is a string": (
        damaged(lambda c: c["data"][0]["paragraphs"][1].update(qas=["Who?"])),
        ["a.json, data[0].paragraphs[1]: ", *LAYOUT],
    ),
    "no answers, but not impossible": (
        damaged(lambda c: c["data"][4]["paragraphs"][1]["qas"][0].pop("answers")),
        ["a.json, data[4].paragraphs[1]: ", "'answers'", *LAYOUT],
    ),
    "context twice": (
        json.dumps(squad_json("1.1")).replace('"context"', '"context": "", "context"', 1).encode(),
        ["a.json: an object in it has 'context' twice"],
    ),
    # checked question by question
    "a truth that is a text": (
        damaged(lambda c: c["data"][0]["paragraphs"][1]["qas"][0].update(is_impossible="False")),
        ["a.json, question 3: is_impossible is 'False'", "true or false"],
    ),
    "a truth that is a list": (
        damaged(lambda c: c["data"][0]["paragraphs"][1]["qas"][1].update(is_impossible=[])),
        ["a.json, question 4: is_impossible is []", "true or false"],
    ),
    "answers are no list": (
        damaged(lambda c: c["data"][0]["paragraphs"][1]["qas"][0].update(answers=3)),
        ["a.json, question 3: there is neither a list of answers nor", "task.columns.answers=answers"],
    ),
    "counted in bytes": (
        damaged(lambda c: c["data"][0]["paragraphs"][1]["qas"][0].update(answers=[{"text": "so", "answer_start": 51}])),
        ["a.json, question 3: there is an answer that does not stand at its answer_start"],
    ),
    "blank question": (
        damaged(lambda c: c["data"][1]["paragraphs"][0]["qas"][1].update(question=" ")),
        ["a.json, question 6: there is no text", "task.columns.question=question"],
    ),
    "context is a number": (
        damaged(lambda c: c["data"][1]["paragraphs"][0].update(context=7)),
        ["a.json, questions 5 and 6: there is no string", "task.columns.context=context"],
    ),
}


@pytest.mark.parametrize("case", BAD_SQUAD)
def test_a_broken_layout_names_the_place(tmp_path: Path, case: str) -> None:
    content, parts = BAD_SQUAD[case]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(RequestError) as caught:
        data.read(settings(**questions(), files={"train": str(tmp_path / "a.json")}))
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_is_for_questions_only(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(squad_json("1.1")))
    with pytest.raises(
        RequestError, match=r"task\.columns\.text=text: a\.json has no such column; it has 'id', 'title'"
    ):
        reading.read(task(files={"train": str(tmp_path / "a.json")}))


def test_real_questions_are_read_whole() -> None:
    if not REAL.exists():
        pytest.skip(f"{REAL.name} is not there")
    made = task(**questions(), files={"train": str(REAL)})
    rows = reading.read(made)["train"]
    assert len(rows.numbers) == len(set(rows.columns["id"])) == 6078
    assert len(set(rows.columns["title"])) == 16
    assert len(set(rows.columns["context"])) == 646
    examples = KINDS["question_answering"].examples(rows, made)
    assert sum(not example.values["answers"] for example in examples) == 3168
    for example in examples:
        for answer in example.values["answers"]:
            assert example.values["context"].startswith(answer["text"], answer["begin"])


QUESTIONS = [
    {"question": "What?", "context": "The film was good.", "answers": [{"text": "good", "answer_start": 13}]},
    {"question": "Who?", "context": "The film was good.", "answers": []},
]


def test_an_answer_that_says_a_thing_twice_is_refused(tmp_path: Path) -> None:
    line = json.dumps(QUESTIONS[0]).replace('"text"', '"text": "film", "text"')
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(QUESTIONS[1])}\n{line}\n")
    with pytest.raises(RequestError, match=r"a\.jsonl, line 2: 'answers' holds an object with two 'text'; remove one"):
        reading.read(task(**questions(), files={"train": str(tmp_path / "a.jsonl")}))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rows_with_answers_are_read_from_files_of_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    columns = {name: [row[name] for row in QUESTIONS] for name in QUESTIONS[0]}
    path.write_bytes(jsonl(QUESTIONS) if suffix == "jsonl" else parquet(columns))
    made = task(**questions(), files={"train": str(path)})
    rows = reading.read(made)["train"]
    assert rows.columns == columns
    examples = KINDS["question_answering"].examples(rows, made)
    assert [example.values["answers"] for example in examples] == [[{"text": "good", "begin": 13}], []]


# --- packages and hub -------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A package with a CSV, which fails when it is imported."""
    folder = tmp_path / "toy_reviews"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    content = table([(f"t{i}", i % 2, "imdb" if i < 12 else "other") for i in range(20)], ("text", "label", "source"))
    (folder / "data" / "all.csv").write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    return {
        "package": "toy_reviews",
        "file": "data/all.csv",
        "sha256": hashlib.sha256(content).hexdigest(),
        "where": {"source": "imdb"},
        "classes": {"0": "neg", "1": "pos"},
        "note": "toy",
    }


def test_packaged_rows_are_found_without_importing_the_package(package: dict[str, Any]) -> None:
    corpus = data.read(settings(source="packaged", packaged=package))
    assert "toy_reviews" not in sys.modules
    assert corpus.facts.source == "packaged: toy_reviews/data/all.csv (source=imdb)"
    assert corpus.facts.note == "toy"
    assert corpus.facts.rows == {"train": 12}
    assert corpus.labels == ("neg", "pos")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": {"0": "neg"}}, r"task\.packaged\.classes=.*no name for label '1'; add it"),
        ({"sha256": "0" * 64}, r"task\.packaged\.sha256=0{64}: .*all\.csv has [0-9a-f]{64}"),
        ({"package": "no_such_package"}, r"task\.packaged\.package=no_such_package: no such package is installed"),
        ({"package": "toy_reviews.data"}, r"task\.packaged\.package=toy_reviews\.data: no such package"),
        ({"package": ""}, r"task\.packaged\.package=: no such package"),
        ({"package": "csv"}, r"task\.packaged\.package=csv: no such package"),
        ({"file": "data/none.csv"}, r"task\.packaged\.file=data/none\.csv: there is no such file"),
        ({"where": {"sauce": "imdb"}}, r"task\.packaged\.where\.sauce=sauce: .*did you mean 'source'\?"),
        ({"where": {"source": "IMDB"}}, r"task\.packaged\.where=\{'source': 'IMDB'\}: no row of all\.csv matches"),
    ],
)
def test_packaged_data_that_is_not_as_pinned_is_refused(
    package: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        reading.read(task(source="packaged", packaged=package | change))


@pytest.fixture
def hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in a local folder, which load_dataset reads as it reads one of the hub."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "toy"
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    for split in ("train", "test", "unlabelled"):
        labels = [-1 if split == "unlabelled" else i % 2 for i in range(20)]
        rows = datasets.Dataset.from_dict({"text": [f"{split} {i}" for i in range(20)], "label": labels}, features)
        (folder / split).mkdir(parents=True)
        pyarrow.parquet.write_table(rows.data.table, folder / split / "0.parquet")
    return folder


def test_hub_labels_take_their_names_and_the_official_test_split_stays(hub_folder: Path) -> None:
    corpus = data.read(settings(**hub(hub_folder, test_split="test")))
    assert corpus.labels == ("neg", "pos")
    assert corpus.splits["test"]["text"] == [f"test {i}" for i in range(20)]
    assert corpus.splits["test"]["label"] == [i % 2 for i in range(20)]
    assert corpus.facts.split_by == {"train": "source", "validation": "hpsearch", "test": "source"}


def test_hub_lists_of_labels_take_their_names(hub_folder: Path) -> None:
    import datasets

    names = datasets.List(datasets.ClassLabel(names=["neg", "pos"]))
    features = datasets.Features({"text": datasets.Value("string"), "labels": names})
    columns = {"text": ["a", "b", "c"], "labels": [[0, 1], [], [1]]}
    written = datasets.Dataset.from_dict(columns, features).data.table
    (hub_folder.parent / "lists" / "train").mkdir(parents=True)
    pyarrow.parquet.write_table(written, hub_folder.parent / "lists" / "train" / "0.parquet")
    made = task(kind="multilabel_classification", columns={"text": "text", "labels": "labels"}, metric="f1")
    made = made.model_copy(update={"source": "hub", "hub": task(**hub(hub_folder.parent / "lists")).hub})
    assert reading.read(made)["train"].columns["labels"] == [["neg", "pos"], [], ["pos"]]


def test_hub_answers_come_as_the_hub_has_them(hub_folder: Path) -> None:
    import datasets

    answers = {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
    text = {name: datasets.Value("string") for name in ("id", "title", "context", "question")}
    columns = {
        "id": ["1", "2"],
        "title": ["T", "T"],
        "context": ["The film was good.", "It was dull."],
        "question": ["What?", "Who?"],
        "answers": [{"text": ["good", "film"], "answer_start": [13, 4]}, {"text": [], "answer_start": []}],
    }
    written = datasets.Dataset.from_dict(columns, datasets.Features(text | {"answers": answers})).data.table
    (hub_folder.parent / "squad" / "train").mkdir(parents=True)
    pyarrow.parquet.write_table(written, hub_folder.parent / "squad" / "train" / "0.parquet")
    made = settings(**questions(), **hub(hub_folder.parent / "squad"))
    rows = reading.read(made.task)["train"]
    assert rows.columns == {name: columns[name] for name in ("question", "context", "answers")}
    examples = KINDS["question_answering"].examples(rows, made.task)
    assert [example.values["answers"] for example in examples] == [
        [{"text": "good", "begin": 13}, {"text": "film", "begin": 4}],
        [],
    ]


def test_a_hub_split_that_does_not_exist_is_named(hub_folder: Path) -> None:
    with pytest.raises(
        RequestError, match=r"task\.hub\.validation_split=tset: .*it has train and test(?: and .*)?; did you mean"
    ):
        reading.read(task(**hub(hub_folder, validation_split="tset")))


def test_an_unlabelled_hub_split_is_named(hub_folder: Path) -> None:
    (hub_folder / "unlabelled").rename(hub_folder / "validation")
    with pytest.raises(RequestError, match=r"split validation, rows 1, 2, 3, 4, 5 and 15 more: there is no label"):
        data.read(settings(**hub(hub_folder, validation_split="validation")))


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize(
    ("files", "remedy"),
    [(None, ["your own files", "TASK=csv"]), ({}, ["published files", "task.source=files"])],
)
def test_a_hub_out_of_reach_is_told_at_once_with_what_to_do(
    package: dict[str, Any], monkeypatch: pytest.MonkeyPatch, offline: bool, files: Any, remedy: list[str]
) -> None:
    import huggingface_hub

    if not offline:
        monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
        # Nothing listens on port 9 of the loopback.
        api = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        # It retries a name that does not resolve for a long time, so it must not be asked.
        monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("the hub is known to be away"))
    with pytest.raises(RequestError) as caught:
        reading.read(task(**hub("nobody/nothing"), packaged=package, files=files))
    assert "qa_demo" not in str(caught.value)
    for part in ("task.hub.path=nobody/nothing", "task.source=packaged", *remedy, "HF_HUB_OFFLINE=1"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_listed_says_how_many_it_leaves_out() -> None:
    assert reading.listed([1]) == "1"
    assert reading.listed([1, 2]) == "1 and 2"
    assert reading.listed(range(1, 6)) == "1, 2, 3, 4 and 5"
    assert reading.listed(range(1, 8)) == "1, 2, 3, 4, 5 and 2 more"
