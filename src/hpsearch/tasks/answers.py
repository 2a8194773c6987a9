"""Answers as files have them: what is wrong with a cell, and the texts and places that it says are right."""

from collections.abc import Mapping
from typing import Any

from hpsearch.data.examples import missing

Answer = tuple[str, int]  # text, first character in the context


def answers_fault(cell: Any, context: str) -> str | None:
    """What is wrong with the answers of a row, in words that begin a sentence."""
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
    """Checked answers with their places, each once; an answer without a place is taken where it first stands."""
    if cell is None:
        return []
    placed = ((text, begin if begin is not None else context.index(text)) for text, begin in _answers(cell))
    return list(dict.fromkeys((text.strip(), begin + len(text) - len(text.lstrip())) for text, begin in placed))


def _answers(cell: Any) -> list[tuple[Any, Any]]:
    """Answers in any of the layouts in use as (text, answer_start or None). Raises TypeError, KeyError, ValueError."""
    return [(text, _place(begin)) for text, begin in _laid_out(cell)]


def _place(begin: Any) -> Any:
    """A whole number where it is one, however it is written: 12.0 in a column where others are null, "12" in JSON."""
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
    if isinstance(cell, Mapping):  # the hub's layout: lists side by side
        begins = cell["answer_start"] if cell.get("answer_start") is not None else [None] * len(cell["text"])
        return list(zip(cell["text"], begins, strict=True))
    return [(one, None) if isinstance(one, str) else (one["text"], one.get("answer_start")) for one in cell]
