"""A text on its way to the model: cleaned, cut to length, as token ids. A served model carries this file."""

import html
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import RequestError

TOKENISE_AT_ONCE = 1000  # texts; bounds the memory of the Python lists that tokenizers return


def clean(text: str, how: str) -> str:
    """The text as the model sees it: `how` is `task.clean`.

    html drops the tags of known elements and leaves other angle brackets ("a < b", "<3", "<sigh>") alone;
    html and whitespace fold runs of white space. No word is removed: these models were trained on whole sentences.
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
# Attributes must have values: otherwise "a <b and c> d" would lose its middle.
_TAG = re.compile(
    rf"""<!--.*?-->|</?(?:{_ELEMENTS})(?:\s+[\w:-]+\s*=\s*(?:"[^"]*"|'[^']*'|[^\s<>"']+))*\s*/?>""",
    re.IGNORECASE | re.DOTALL,
)
# With the semicolon only: html.unescape alone turns "black&notwhite" into "black¬white".
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


class Encoded(NamedTuple):
    """Texts as pieces of tokens."""

    pieces: list[NDArray[np.int32]]
    owners: list[int]
    """Index of the text that each piece is of."""
    truncated: int
    """Texts that lost tokens."""


def encode(texts: Sequence[str], tokenizer: Any, max_length: int, truncation: str, stride: int) -> Encoded:
    """Token ids of each text in pieces of at most `max_length` with the special tokens, which are never cut.

    `truncation` is `task.truncation`: a text is one piece, cut where it is longer, or, with `windows`, as many as it
    needs, neighbours overlapping by `stride` tokens. A text without tokens, of a tokenizer without special tokens
    (GPT-2), becomes one end-of-text token: a model cannot read nothing.
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
    """Pieces of at most `room` of ids that are more than that."""
    if truncation == "windows":
        return [ids[begin : begin + room] for begin in window_starts(len(ids), room, stride)]
    head = {"head": room, "tail": 0, "head_tail": room // 4}[truncation]
    return [ids[:head] + ids[len(ids) - (room - head) :]]


def window_starts(length: int, room: int, stride: int) -> range:
    """Where windows of `room` tokens begin that overlap by `stride` and reach the end of `length` tokens.

    A window that began `stride` tokens before the end, or later, would lie in the one before it.
    """
    return range(0, max(1, length - stride), room - stride)


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer's own template puts before and after a single text."""
    inner = tokenizer("a", add_special_tokens=False, padding=False, truncation=False)["input_ids"]
    outer = tokenizer("a", padding=False, truncation=False)["input_ids"]
    for start in range(len(outer) - len(inner) + 1):
        if inner and outer[start : start + len(inner)] == inner:
            return outer[:start], outer[start + len(inner) :]
    raise RequestError(f"model.path={tokenizer.name_or_path}: its tokenizer does not put special tokens around a text")
