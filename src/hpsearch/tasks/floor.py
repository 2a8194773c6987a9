"""The floors: simple models that a study compares with its winner. `training/floors.py` fits them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Floor:
    """A simple model on the data of the study."""

    name: str
    """Name of the floor in folders, tags and messages."""
    title: str
    """Name of the floor for people, with its article."""
    script: str | None
    """File in `serving/` that MLflow runs. None means the script of the kind, because the model is like a trial's."""


WORDS = Floor("words", "a linear model of words", "served_words.py")
FROZEN = Floor("frozen", "a linear head on the frozen encoder", None)
CONSTANT = Floor("constant", "the best constant answer", "served_answers.py")
SENTENCE = Floor("sentence", "the sentence that shares most words with the question", "served_answers.py")
TAGS = Floor("tags", "each word's most frequent tag", "served_tags.py")
