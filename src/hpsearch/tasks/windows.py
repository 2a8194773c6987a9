"""Question and context as inputs of the model, and answers from the scores of the model.

A context longer than the model reads is cut into overlapping windows, each with the question. The answer is the span
with the highest sum of start and end logit. Source: Devlin et al. 2019, sections 4.2 and 4.3,
https://arxiv.org/abs/1810.04805, and run_squad.py, published with it. A served model carries this file.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hpsearch.data.text import TOKENISE_AT_ONCE, window_starts
from hpsearch.errors import RequestError

# A visible character: neither white space nor a character without width. Without width are soft hyphens, zero-width
# spaces and joiners, marks of direction, and controls. At the end of an answer nobody can see whether they are there.
_SEEN = re.compile("[^\\s\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
N_BEST = 20  # number of spans kept for a question; they share its probability, as in BERT's published evaluation


class Window(NamedTuple):
    """One input of the model: a question and as much of its context as fits, L tokens together."""

    ids: NDArray[np.int32]
    """(L,) token ids, special tokens included."""
    types: NDArray[np.int8]
    """(L,) token types as the tokenizer gives them for a pair; all 0 if it gives none."""
    characters: NDArray[np.int32]
    """(L, 2) begin and end of each token in the context, without white space and characters without width at its ends.

    The range of a token without other characters is empty. A token outside the context has (-1, -1). Accents that the
    tokenizer drops are part of their letter."""
    null: int
    """Index of the token whose scores mean "no answer"; never a token of the context."""


class Span(NamedTuple):
    """A possible answer: context[begin:end]."""

    score: float  # start logit + end logit
    begin: int
    end: int


class Decoded(NamedTuple):
    """Possible answers to one question, with their scores."""

    spans: list[Span]  # best first
    null_score: float  # start logit + end logit of "no answer"


def windows(
    questions: Sequence[str], contexts: Sequence[str], tokenizer: Any, max_length: int, stride: int
) -> list[list[Window]]:
    """Return the windows of each (question, context), at least one each, of at most `max_length` tokens.

    Neighbouring windows overlap by `stride` tokens of the context, and the last window ends where the context ends. The
    first max_length // 2 tokens of a question are kept. The tokenizer's own template gives the tokens before, between
    and after question and context. If it has no special tokens (GPT-2), an end-of-text token follows each of the two.

    Args:
        questions: one for each context.
        contexts: a text that occurs many times is tokenised once.
        tokenizer: a fast tokenizer.
        max_length: at least 32.
        stride: at most max_length // 4.

    Raises:
        RequestError: the tokenizer puts the question last, or has neither special tokens nor an end-of-text token.
    """
    template = _template(tokenizer)
    asked = {text: ids[: max_length // 2] for text, ids, _ in _tokenised(questions, tokenizer)}
    read = {text: (ids, _trimmed(ranges, text)) for text, ids, ranges in _tokenised(contexts, tokenizer)}
    return [
        _cut(asked[question], *read[context], template, max_length, stride)
        for question, context in zip(questions, contexts, strict=True)
    ]


class _Template(NamedTuple):
    """How a tokenizer joins question and context. The arrays are (tokens, 2): id and type."""

    before: NDArray[np.int32]
    question_type: int
    between: NDArray[np.int32]
    context_type: int
    after: NDArray[np.int32]


def _template(tokenizer: Any) -> _Template:
    pair = tokenizer("a", "a", padding=False, truncation=False)
    ids = pair["input_ids"]
    types = pair.get("token_type_ids", [0] * len(ids))  # by default present only if the model reads them
    tokens = np.array([ids, types], dtype=np.int32).T
    part = pair.sequence_ids(0)  # 0 for a token of the question, 1 of the context, None for a special one
    question = [i for i, which in enumerate(part) if which == 0]
    context = [i for i, which in enumerate(part) if which == 1]
    if not question or not context or question[0] > context[0]:
        raise RequestError(
            f"model.path={tokenizer.name_or_path}: its tokenizer does not put a question before its context; "
            "choose another model"
        )
    before, after = tokens[: question[0]], tokens[context[-1] + 1 :]
    between = tokens[question[-1] + 1 : context[0]]
    if not len(before) and not len(after):
        if tokenizer.eos_token_id is None:
            raise RequestError(
                f"model.path={tokenizer.name_or_path}: its tokenizer has neither special tokens around a pair of texts "
                "nor an end-of-text token, one of which must mean 'no answer'; choose another model"
            )
        between = after = np.array([[tokenizer.eos_token_id, 0]], dtype=np.int32)
    return _Template(before, types[question[0]], between, types[context[0]], after)


def _tokenised(texts: Sequence[str], tokenizer: Any) -> Iterator[tuple[str, NDArray[np.int32], NDArray[np.int32]]]:
    """Yield each distinct text with its token ids (tokens,) and their ranges of characters (tokens, 2)."""
    distinct = list(dict.fromkeys(texts))
    for start in range(0, len(distinct), TOKENISE_AT_ONCE):
        chunk = distinct[start : start + TOKENISE_AT_ONCE]
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
            yield text, np.array(ids, dtype=np.int32), np.array(ranges, dtype=np.int32).reshape(-1, 2)


def bare(text: str) -> str:
    """Return the text without white space and characters without width at its ends."""
    seen = [match.start() for match in _SEEN.finditer(text)]
    return text[seen[0] : seen[-1] + 1] if seen else ""


def _trimmed(ranges: NDArray[np.int32], text: str) -> NDArray[np.int32]:
    """Return ranges as `Window.characters` has them.

    Byte-level tokens hold the space before a word. A tokenizer that drops combining marks counts them to no token.
    """
    seen = np.array([match.start() for match in _SEEN.finditer(text)], dtype=np.int64)
    begins = np.append(seen, len(text))[np.searchsorted(seen, ranges[:, 0])]
    ends = np.append(0, seen + 1)[np.searchsorted(seen, ranges[:, 1])]
    ends = np.maximum(begins, ends)
    held = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(held, begins, 1)
    np.add.at(held, ends, -1)
    dropped = seen[held.cumsum()[seen] == 0]
    for place in dropped[[unicodedata.category(text[place])[0] == "M" for place in dropped]]:
        before = int(ends[ends <= place].max(initial=0))  # only marks and characters without width may stand between
        if all(unicodedata.category(between)[0] in "MC" for between in text[before:place]):
            ends[(ends == before) & (ends > begins)] = place + 1
    return np.stack([begins, ends], axis=1).astype(np.int32)


def _cut(
    question: NDArray[np.int32],
    context: NDArray[np.int32],
    ranges: NDArray[np.int32],
    template: _Template,
    max_length: int,
    stride: int,
) -> list[Window]:
    """Return the windows of one question, from the tokens of its context and their ranges of characters."""
    head = np.concatenate([template.before, _typed(question, template.question_type), template.between])
    body = _typed(context, template.context_type)
    room = max_length - len(head) - len(template.after)
    made = []
    for start in window_starts(len(body), room, stride):
        tokens = np.concatenate([head, body[start : start + room], template.after])
        characters = np.full((len(tokens), 2), -1, dtype=np.int32)
        characters[len(head) : len(tokens) - len(template.after)] = ranges[start : start + room]
        null = 0 if len(template.before) else len(tokens) - 1
        made.append(Window(tokens[:, 0].copy(), tokens[:, 1].astype(np.int8), characters, null))
    return made


def _typed(ids: NDArray[np.int32], kind: int) -> NDArray[np.int32]:
    return np.stack([ids, np.full_like(ids, kind)], axis=1)


def held(windows: Sequence[Window], begin: int, end: int) -> tuple[int, int]:
    """Return the part of context[begin:end] from its first to its last character that a token holds.

    It is empty where no token holds a character of it.

    Args:
        windows: all windows of a question.
        begin: index of the first character.
        end: index after the last character.
    """
    ranges = np.concatenate([window.characters for window in windows])
    touching = ranges[np.minimum(ranges[:, 1], end) > np.maximum(ranges[:, 0], begin)]
    if not len(touching):
        return begin, begin
    return max(begin, int(touching[:, 0].min())), min(end, int(touching[:, 1].max()))


def target(window: Window, begin: int, end: int) -> tuple[int, int]:
    """Return the first and last token (inclusive) that overlap the answer context[begin:end].

    The result is (null, null) where the window does not hold all of the answer. Then the answer begins before the
    window's first token of the context, ends after the last, or has no token. A window cannot tell characters that no
    token holds from characters that another window holds. So the answer must have none of these at its ends, as
    `held` gives it.
    """
    begins, ends = window.characters.T
    visible = ends > begins  # without special tokens and tokens of white space and the like
    touched = np.flatnonzero(np.minimum(ends, end) > np.maximum(begins, begin))
    if not len(touched) or begin < begins[visible].min() or end > ends[visible].max():
        return window.null, window.null
    return int(touched[0]), int(touched[-1])


def decode(
    logits: Sequence[NDArray[np.float32]],
    characters: Sequence[NDArray[np.int32]],
    nulls: Sequence[int],
    context: str,
    n_best: int,
    longest: int,
) -> Decoded:
    """Return the best distinct spans over all windows of one question, at most `n_best`, and the score of "no answer".

    The search is exact: tokens are not preselected. A span begins and ends with a visible token of the context. A span
    that is found in several windows, or through several tokens of one character, has its best score. Of equal scores
    the span that begins first is first, then the shortest.

    The score of "no answer" is its lowest in all windows, as in the evaluation that was published with BERT. The reason
    is that a window without the answer rightly says "no answer".

    Args:
        logits: for each window (L, 2), start and end logits, finite.
        characters: for each window, as in `Window`.
        nulls: for each window, as in `Window`.
        context: the text that `characters` refer to.
        n_best: at least 1.
        longest: most tokens of an answer, at least 1.
    """
    band = np.concatenate([_band(*each, longest) for each in zip(logits, characters, strict=True)])
    ranges = np.concatenate(characters)
    null_score = min(float(each[null].sum(dtype=np.float64)) for each, null in zip(logits, nulls, strict=True))
    flat = band.ravel()
    take = min(n_best, flat.size)
    while True:
        least = np.partition(flat, flat.size - take)[flat.size - take]
        chosen = np.flatnonzero((flat >= least) & (flat > -np.inf))
        first, further = np.divmod(chosen, longest)
        spans = _distinct(flat[chosen], ranges[first, 0], ranges[first + further, 1], context, n_best)
        if len(spans) == n_best or take == flat.size:
            return Decoded(spans, null_score)
        take = min(8 * take, flat.size)  # some of the scores belong to the same span


def _band(logits: NDArray[np.float32], ranges: NDArray[np.int32], longest: int) -> NDArray[np.float64]:
    """Return the scores of the spans from token i to i + k, (L, longest); -inf where one cannot end an answer."""
    visible = ranges[:, 1] > ranges[:, 0]
    start, end = np.where(visible, logits.T.astype(np.float64), -np.inf)
    ends = np.concatenate([end, np.full(longest - 1, -np.inf)])
    return np.asarray(start[:, None] + sliding_window_view(ends, longest))


def _distinct(
    scores: NDArray[np.float64], begins: NDArray[np.int32], ends: NDArray[np.int32], context: str, n_best: int
) -> list[Span]:
    """Return the best spans with visible characters, each once."""
    best: dict[tuple[int, int], float] = {}
    for i in np.lexsort((ends, begins, -scores)):
        begin, end = int(begins[i]), int(ends[i])
        if _SEEN.search(context, begin, end):
            best.setdefault((begin, end), float(scores[i]))
        if len(best) == n_best:
            break
    return [Span(score, *where) for where, score in best.items()]


def probabilities(decoded: Decoded) -> tuple[list[float], float]:
    """Return the softmax over the spans and "no answer" together: for each span, and for "no answer"."""
    scores = np.array([*(span.score for span in decoded.spans), decoded.null_score])
    shares = np.exp(scores - scores.max())
    *spans, null = (shares / shares.sum()).tolist()
    return spans, null
