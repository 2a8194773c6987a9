"""Answers in files: check a cell, and read the right texts and their places from it."""

from collections.abc import Mapping
from typing import Any

from hpsearch.data.examples import missing

Answer = tuple[str, int]  # the text, and the index of its first character in the context


def answers_fault(cell: Any, context: str) -> str | None:
    """Return what is wrong with the answers of a row, in words that begin a sentence; None if nothing is."""
    if cell is None:
        return None
    try:
        answers = list(_answers(cell))
    except (TypeError, KeyError, ValueError):
        return 'there is neither a list of answers nor {"text": [...], "answer_start": [...]}'
    for text, begin in answers:
        if text is not None and not isinstance(text, str):
            return "there is an answer whose text is no string"
        if text is None or not text.strip():
            return "there is an answer without text"
        if begin is None and text not in context:
            return "there is an answer that does not stand in the context"
        if begin is not None and (isinstance(begin, bool) or not isinstance(begin, int)):
            return f"there is an answer_start that is no whole number, {str(begin)[:50]!r},"
        if begin is not None and not (begin >= 0 and context.startswith(text, begin)):
            return "there is an answer that does not stand at its answer_start in the context"
    return None


def answers_of(cell: Any, context: str) -> list[Answer]:
    """Return the checked answers with their places, each once.

    An answer without a place gets the first place in the context where its text stands.
    """
    if cell is None:
        return []
    placed = ((text, begin if begin is not None else context.index(text)) for text, begin in _answers(cell))
    return list(dict.fromkeys((text.strip(), begin + len(text) - len(text.lstrip())) for text, begin in placed))


def _answers(cell: Any) -> list[tuple[Any, Any]]:
    """Return the answers of a cell, in any of the layouts in use, as (text, answer_start or None).

    Raises TypeError, KeyError or ValueError for a cell in another layout.
    """
    return [(text, _place(begin)) for text, begin in _laid_out(cell)]


def _place(begin: Any) -> Any:
    """Return a place as an int, however the file writes the number; None for an empty cell.

    A column in which other cells are null has 12.0, and JSON may have "12". Any other value is returned as it is.
    """
    if missing(begin):
        return None
    if isinstance(begin, str) and begin.isascii() and begin.isdecimal():
        return int(begin)
    return int(begin) if isinstance(begin, float) and begin.is_integer() else begin


def _laid_out(cell: Any) -> list[tuple[Any, Any]]:
    if isinstance(cell, str):
        return [(cell, None)] if cell.strip() else []
    if isinstance(cell, Mapping) and isinstance(cell["text"], str):
        cell = [cell]
    if isinstance(cell, Mapping):  # the layout of the hub: two lists side by side
        begins = cell["answer_start"] if cell.get("answer_start") is not None else [None] * len(cell["text"])
        return list(zip(cell["text"], begins, strict=True))
    return [(one, None) if isinstance(one, str) else (one["text"], one.get("answer_start")) for one in cell]
