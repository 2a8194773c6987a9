"""A text as words with tags, and entities from the scores of tags. A served model carries this file.

Training and serving divide a text into the same words. A word is a run of letters, digits and marks. Each sign and each
Chinese or Japanese character is a word of its own. Tags are IOB2: O, then B and I of each class.

IOB2 is that of Ramshaw and Marcus 1995, https://arxiv.org/abs/cmp-lg/9505040, as used by Tjong Kim Sang and De Meulder
2003, https://arxiv.org/abs/cs/0306050.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.text import TOKENISE_AT_ONCE, special_tokens, window_starts

# First and last code points of characters that stand for a word or syllable. No white space divides these scripts.
ALONE = ((0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))


class Piece(NamedTuple):
    """One input of the model: as much of a text as fits, L tokens."""

    ids: NDArray[np.int32]
    """(L,) token ids, special tokens included."""
    places: NDArray[np.int32]
    """(L, 2) begin and end in the text of the word whose first token this is, or of the words that share this token.
    (-1, -1) for all other tokens."""


class Entity(NamedTuple):
    """An entity: text[begin:end] belongs to the class `label`."""

    label: int
    begin: int
    end: int
    score: float
    """Mean probability of the tags of the entity's words."""


def tags(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the tags of the classes, in the order of the model's outputs."""
    return ("O", *(f"{prefix}-{label}" for label in labels for prefix in "BI"))


def words(text: str) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each word, in order."""
    begin = None
    for i, character in enumerate(text):
        how = _how(character)
        if how == "run":
            begin = i if begin is None else begin
            continue
        if begin is not None:
            yield begin, i
            begin = None
        if how == "alone":
            yield i, i + 1
    if begin is not None:
        yield begin, len(text)


@cache
def _how(character: str) -> str:
    if character.isspace():
        return "space"
    if any(first <= ord(character) <= last for first, last in ALONE):
        return "alone"
    # Marks and format characters (joiners, soft hyphens) belong to the letters around them.
    return "run" if unicodedata.category(character)[0] in "LNM" or unicodedata.category(character) == "Cf" else "alone"


def pieces(texts: Sequence[str], tokenizer: Any, max_length: int, stride: int) -> Iterator[list[Piece]]:
    """Yield the pieces of each text, at least one, of at most `max_length` tokens.

    Neighbouring pieces overlap by `stride` tokens. A text without tokens becomes one end-of-text token if the tokenizer
    has no special tokens (GPT-2).
    """
    before, after = special_tokens(tokenizer)
    nothing = [] if before or after else [tokenizer.eos_token_id]
    room = max_length - len(before) - len(after)
    for start in range(0, len(texts), TOKENISE_AT_ONCE):
        chunk = list(texts[start : start + TOKENISE_AT_ONCE])
        made = tokenizer(
            chunk,
            add_special_tokens=False,
            padding=False,
            truncation=False,
            verbose=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
        )
        for text, ids, ranges in zip(chunk, made["input_ids"], made["offset_mapping"], strict=True):
            places = _places(text, ranges) if ids else np.full((len(nothing), 2), -1, dtype=np.int32)
            ids = ids or nothing
            yield [
                Piece(
                    np.array([*before, *ids[begin : begin + room], *after], dtype=np.int32),
                    np.pad(places[begin : begin + room], ((len(before), len(after)), (0, 0)), constant_values=-1),
                )
                for begin in window_starts(len(ids), room, stride)
            ]


def _places(text: str, ranges: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Return `Piece.places` of a whole text, from the range of characters of each token."""
    places = np.full((len(ranges), 2), -1, dtype=np.int32)
    found = list(words(text))
    of_character = np.full(len(text), -1, dtype=np.int32)  # word of each character, -1 for white space
    for word, (begin, end) in enumerate(found):
        of_character[begin:end] = word
    first, last = -1, -1  # the token that began the last word, and that word
    for token, (begin, end) in enumerate(ranges):
        touched = of_character[begin:end]
        touched = touched[touched > last]
        if len(touched) and last >= 0 and begin < found[last][1]:
            # The token begins inside a word that has its first token. Its further words cannot be told from that word.
            last = int(touched[-1])
            places[first, 1] = found[last][1]
        elif len(touched):
            first, last = token, int(touched[-1])
            places[token] = found[int(touched[0])][0], found[last][1]
    return places


def targets(places: NDArray[np.int32], entities: Sequence[tuple[int, int, int]]) -> NDArray[np.int64]:
    """Return the tag of each word of a text, (n,), as an index into `tags`.

    Args:
        places: begin and end of each word, (n, 2), in order.
        entities: (class, begin, end) of each entity, in order; entities do not overlap.
    """
    found = np.zeros(len(places), dtype=np.int64)
    begins = np.array([begin for _, begin, _ in entities], dtype=np.int64)
    before = -1  # index of the entity that the previous word belongs to; -1 if to none
    for word, begin in enumerate(places[:, 0].tolist()):
        here = int(np.searchsorted(begins, begin, side="right")) - 1
        if here >= 0 and begin >= entities[here][2]:
            here = -1
        if here >= 0:
            found[word] = 1 + 2 * entities[here][0] + (here == before)
        before = here
    return found


def chosen(places: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
    """Return the tokens that give the tags of a text's words, in the order of the words.

    They are indices into the tokens of all pieces, end to end. A word in several pieces is read from the piece that has
    more tokens on the word's shorter side. Of two equal pieces, it is read from the first.
    """
    sides = [np.minimum(np.arange(len(each)), np.arange(len(each))[::-1]) for each in places]
    begins, side = np.concatenate(places)[:, 0], np.concatenate(sides)
    order = np.lexsort((-side, begins))
    order = order[begins[order] >= 0]
    _, first = np.unique(begins[order], return_index=True)
    return np.asarray(order[first])


def decode(places: NDArray[np.int32], probabilities: NDArray[np.float64]) -> list[Entity]:
    """Return the entities that the likeliest tags of the words make, in order.

    An I that does not continue an entity of its class begins one, as in the evaluation of CoNLL.

    Args:
        places: begin and end of each word, (n, 2).
        probabilities: of each word's tags, (n, 1 + 2 * classes).
    """
    made: list[list[int]] = []  # indices of the words of each entity
    said = probabilities.argmax(axis=1).tolist()
    before = 0
    for word, tag in enumerate(said):
        if tag and (tag % 2 or (before + 1) // 2 != tag // 2):
            made.append([word])
        elif tag:
            made[-1].append(word)
        before = tag
    return [
        Entity(
            (said[of[0]] - 1) // 2,
            int(places[of[0], 0]),
            int(places[of[-1], 1]),
            float(np.mean([probabilities[word, said[word]] for word in of])),
        )
        for of in made
    ]
