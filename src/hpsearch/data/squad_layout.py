"""Questions in the published layout of SQuAD: data > paragraphs > qas."""

import json
from typing import Any

from hpsearch.data.text_files import parse, repeated
from hpsearch.errors import RequestError

ARTICLE = "title"
COLUMNS = ("id", ARTICLE, "context", "question", "answers")  # those of its copy on the hub
IMPOSSIBLE = "is_impossible"
READ = {"data", "paragraphs", "qas", ARTICLE, "context", "question", "answers", IMPOSSIBLE, "text", "answer_start"}


def questions(text: str, name: str) -> dict[str, list[Any]]:
    """A column for each of `COLUMNS`, a value in it for each question; none of an impossible one's answers.

    Args:
        text: of the file.
        name: of the file, as messages call it.

    Raises:
        RequestError: it is no JSON, not in the layout, or says one thing twice.
    """
    columns: dict[str, list[Any]] = {column: [] for column in COLUMNS}
    where = "data"
    try:
        content = parse(text)
        for i, article in enumerate(content["data"]):
            where = f"data[{i}]"
            for j, paragraph in enumerate(article["paragraphs"]):
                where = f"data[{i}].paragraphs[{j}]"
                for qa in paragraph["qas"]:
                    number = len(columns[ARTICLE]) + 1
                    answers = [] if _impossible(qa.get(IMPOSSIBLE), f"{name}, question {number}") else qa["answers"]
                    row = (qa["id"], article[ARTICLE], paragraph["context"], qa["question"], answers)
                    for column, value in zip(COLUMNS, row, strict=True):
                        columns[column].append(value)
    except (ValueError, RecursionError) as error:
        remedy = "write it anew"
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            remedy = "if it holds an object on each line, rename it to .jsonl"
        raise RequestError(f"{name}: not JSON ({error}); {remedy}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{name}, {where}: not in the layout of SQuAD ({type(error).__name__}: {error}), which is "
            "data: [{title, paragraphs: [{context, qas: [{id, question, answers: [{text, answer_start}]}]}]}]; "
            "or give JSONL or Parquet with a row for each question"
        ) from None
    if (twice := repeated(content, READ)) is not None:
        raise RequestError(f"{name}: an object in it has {twice!r} twice; remove one")
    return columns


def _impossible(flag: object, where: str) -> bool:
    """Whether a question is said to have no answer. A text is no truth value: "False" would be one that is true."""
    if flag is None or (isinstance(flag, int | float) and flag in (0, 1)):
        return bool(flag)
    raise RequestError(f"{where}: {IMPOSSIBLE} is {flag!r}, and must be true or false; correct it")
