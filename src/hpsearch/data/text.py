"""Texts made ready for the model: cleaned, cut to length, as token ids. A served model contains this file."""

import html
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import RequestError

TOKENISE_AT_ONCE = 1000  # texts; limits the memory for the Python lists that tokenizers return


def clean(text: str, how: str) -> str:
    """Return the text as the model sees it.

    No word is removed, because these models were trained on whole sentences.

    Args:
        text: The text.
        how: `task.clean`. html drops the tags of known HTML elements and decodes entities. It keeps other angle
            brackets ("a < b", "<3", "<sigh>"). html and whitespace fold runs of white space. none changes nothing.
    """
    if how == "none":
        return text
    if how == "html":
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), _TAG.sub(" ", text))
    return " ".join(text.split())


_ELEMENTS = (
    "a|abbr|acronym|address|area|article|aside|audio|b|base|big|blockquote|body|br|button|canvas|caption|center|cite|"
    "code|col|colgroup|dd|del|details|dfn|dir|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|form|frame|"
    "frameset|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|label|legend|li|link|main|map|mark|menu|meta|nav|"
    "object|ol|option|p|param|picture|pre|q|s|samp|script|section|select|small|source|span|strike|strong|style|sub|"
    "summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|time|title|tr|tt|u|ul|var|video|wbr"
)
# Attributes must have values. Otherwise "a <b and c> d" would lose its middle.
_TAG = re.compile(
    rf"""<!--.*?-->|</?(?:{_ELEMENTS})(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s<>"']+))*\s*/?>""",
    re.IGNORECASE | re.DOTALL,
)
# An entity must end with a semicolon. html.unescape alone turns "black&notwhite" into "black¬white".
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class Encoded(NamedTuple):
    """Texts as pieces of tokens."""

    pieces: list[NDArray[np.int32]]
    owners: list[int]
    """Index of the text that each piece belongs to."""
    truncated: int
    """Number of texts that lost tokens."""


def encode(texts: Sequence[str], tokenizer: Any, max_length: int, truncation: str, stride: int) -> Encoded:
    """Return the token ids of each text in pieces of at most `max_length` tokens.

    The length includes the special tokens, which are never cut. Some tokenizers (GPT-2) have no special tokens. Then a
    text without tokens becomes one end-of-text token, because a model cannot read an empty input.

    Args:
        texts: The texts, cleaned.
        tokenizer: The model's tokenizer.
        max_length: Maximum number of tokens in a piece.
        truncation: `task.truncation`. With `windows` a text has as many pieces as it needs, else one, cut to length.
        stride: Number of tokens that neighbouring windows share.
    """
    plain = {"padding": False, "truncation": False, "return_attention_mask": False, "verbose": False}
    before, after = special_tokens(tokenizer)
    nothing = [] if before or after else [tokenizer.eos_token_id]
    room = max_length - len(before) - len(after)
    pieces, owners, truncated = [], [], 0
    for start in range(0, len(texts), TOKENISE_AT_ONCE):
        chunk = list(texts[start : start + TOKENISE_AT_ONCE])
        for i, ids in enumerate(tokenizer(chunk, add_special_tokens=False, **plain)["input_ids"], start):
            for kept in [ids or nothing] if len(ids) <= room else _cut(ids, room, truncation, stride):
                pieces.append(np.array([*before, *kept, *after], dtype=np.int32))
                owners.append(i)
            truncated += len(ids) > room and truncation != "windows"
    return Encoded(pieces, owners, truncated)


def _cut(ids: list[int], room: int, truncation: str, stride: int) -> list[list[int]]:
    """Return pieces of at most `room` tokens from a list of ids that is longer."""
    if truncation == "windows":
        return [ids[begin : begin + room] for begin in window_starts(len(ids), room, stride)]
    head = {"head": room, "tail": 0, "head_tail": room // 4}[truncation]
    return [ids[:head] + ids[len(ids) - (room - head) :]]


def window_starts(length: int, room: int, stride: int) -> range:
    """Return the starts of windows of `room` tokens that overlap by `stride` and cover `length` tokens.

    A window that began `stride` tokens before the end, or later, would lie inside the window before it.
    """
    return range(0, max(1, length - stride), room - stride)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer's own template puts before and after a single text."""
    inner = tokenizer("a", add_special_tokens=False, padding=False, truncation=False)["input_ids"]
    outer = tokenizer("a", padding=False, truncation=False)["input_ids"]
    for start in range(len(outer) - len(inner) + 1):
        if inner and outer[start : start + len(inner)] == inner:
            return outer[:start], outer[start + len(inner) :]
    raise RequestError(f"model.path={tokenizer.name_or_path}: its tokenizer does not put special tokens around a text")
