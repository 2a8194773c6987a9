"""Answers to questions without a language model: one for all, or a sentence. A served model carries this file."""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

from hpsearch.tasks import floor_file
from hpsearch.tasks.squad import normalise
from hpsearch.tasks.windows import bare

ENDS = re.compile(r"(?<=[.!?])\s+|(?<=[\u3002\uff01\uff1f])|\n+")  # where one sentence ends and the next begins


@dataclass(frozen=True)
class Said:
    """The answer to one question."""

    text: str
    """Text of the answer; "" means no answer."""
    begin: int
    """Index of the text's first character in the context; -1 where the context does not contain it."""
    sure: float
    """Confidence in the answer, from 0 to 1."""


def sentences(context: str) -> list[tuple[int, int]]:
    """Return begin and end of each sentence with visible characters, without invisible characters at its ends."""
    cuts = [0, *(match.start() for match in ENDS.finditer(context)), len(context)]
    found = []
    for begin, end in itertools.pairwise(cuts):
        text = bare(context[begin:end])
        if text:
            at = context.index(text, begin)
            found.append((at, at + len(text)))
    return found


def sentence(question: str, context: str) -> Said:
    """Return the sentence with the most words of the question; of equal ones the shortest, of these the first."""
    asked = set(normalise(question).split())
    best = Said("", -1, 0.0)
    for begin, end in sentences(context):
        shared = len(asked & set(normalise(context[begin:end]).split())) / max(1, len(asked))
        if best.begin < 0 or (shared, -(end - begin)) > (best.sure, -len(best.text)):
            best = Said(context[begin:end], begin, shared)
    return best


class Answerer:
    """A model that gives every question the same answer, or a sentence of its context."""

    def __init__(self, constant: str | None, sure: float) -> None:
        """Store the constant answer and its confidence.

        Args:
            constant: the answer to every question, "" for no answer. None means a sentence of the context.
            sure: how good the constant answer is, from 0 to 1.
        """
        self.constant, self.sure = constant, sure

    @staticmethod
    def load(folder: Path) -> "Answerer":
        """Load the model that `save` wrote."""
        described, _ = floor_file.load(folder)
        return Answerer(described["constant"], described["sure"])

    def save(self, folder: Path) -> None:
        """Write the model into an existing folder."""
        floor_file.save(folder, {"constant": self.constant, "sure": self.sure}, {})

    def say(self, question: str, context: str) -> Said:
        """Return the answer to one question."""
        if self.constant is None:
            return sentence(question, context)
        return Said(self.constant, context.find(self.constant) if self.constant else -1, self.sure)
