"""Simple models that every study has beside its winner: which there are. `training/floors.py` fits them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """One of them."""

    name: str
    """In folders, tags and messages."""
    title: str
    """What people call it, with its article."""
    script: str | None
    """File in `serving/` that MLflow runs; None: that of its kind, because it is a model like a trial's."""


WORDS = Floor("words", "a linear model of words", "served_words.py")
FROZEN = Floor("frozen", "a linear head on the frozen encoder", None)
CONSTANT = Floor("constant", "the best constant answer", "served_answers.py")
SENTENCE = Floor("sentence", "the sentence that shares most words with the question", "served_answers.py")
TAGS = Floor("tags", "each word's most frequent tag", "served_tags.py")
