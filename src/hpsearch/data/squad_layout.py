"""Reader of questions in the published layout of SQuAD: data > paragraphs > qas."""

import json
from typing import Any

from hpsearch.data.text_files import parse, repeated
from hpsearch.errors import RequestError

ARTICLE = "title"
COLUMNS = ("id", ARTICLE, "context", "question", "answers")  # as in the copy of SQuAD on the hub
IMPOSSIBLE = "is_impossible"
READ = {"data", "paragraphs", "qas", ARTICLE, "context", "question", "answers", IMPOSSIBLE, "text", "answer_start"}


def questions(text: str, name: str) -> dict[str, list[Any]]:
    """Return the columns of `COLUMNS` with one value per question. An impossible question has no answers.

    Args:
        text: Content of the file.
        name: Name of the file in messages.

    Raises:
        RequestError: The file is not JSON, does not have the layout, or has a key twice in one object.
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
        remedy = "write it again"
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
    """Return whether a question is marked as having no answer.

    A text such as "False" raises RequestError, because Python would take it as true.
    """
    if flag is None or (isinstance(flag, int | float) and flag in (0, 1)):
        return bool(flag)
    raise RequestError(f"{where}: {IMPOSSIBLE} is {flag!r}, and must be true or false; correct it")
