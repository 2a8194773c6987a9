"""Answers to questions without a model of language: one for all, or a sentence. A served model carries this file."""

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
    """What is said of one question."""

    text: str
    """"" where there is nothing to say."""
    begin: int
    """Of the text in the context; -1 where it does not stand there."""
    sure: float
    """From 0 to 1."""


def sentences(context: str) -> list[tuple[int, int]]:
    """Begin and end of each sentence, of which something can be seen, without what can't at its ends."""
    cuts = [0, *(match.start() for match in ENDS.finditer(context)), len(context)]
    found = []
    for begin, end in itertools.pairwise(cuts):
        text = bare(context[begin:end])
        if text:
            at = context.index(text, begin)
            found.append((at, at + len(text)))
    return found


def sentence(question: str, context: str) -> Said:
    """The sentence that has the most words of the question; of equal ones the shortest, of these the first."""
    asked = set(normalise(question).split())
    best = Said("", -1, 0.0)
    for begin, end in sentences(context):
        shared = len(asked & set(normalise(context[begin:end]).split())) / max(1, len(asked))
        if best.begin < 0 or (shared, -(end - begin)) > (best.sure, -len(best.text)):
            best = Said(context[begin:end], begin, shared)
    return best


class Answerer:
    """Answers every question alike, or by a sentence of its context."""

    def __init__(self, constant: str | None, sure: float) -> None:
        """`constant` is said of every question, "" to say nothing, and `sure` is how good that is; None: a sentence."""
        self.constant, self.sure = constant, sure

    @staticmethod
    def load(folder: Path) -> "Answerer":
        """What `save` wrote."""
        described, _ = floor_file.load(folder)
        return Answerer(described["constant"], described["sure"])

    def save(self, folder: Path) -> None:
        """Write it into a folder that is there."""
        floor_file.save(folder, {"constant": self.constant, "sure": self.sure}, {})

    def say(self, question: str, context: str) -> Said:
        """Of one question."""
        if self.constant is None:
            return sentence(question, context)
        return Said(self.constant, context.find(self.constant) if self.constant else -1, self.sure)
