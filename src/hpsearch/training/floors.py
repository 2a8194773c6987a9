"""Fit and score floors: simple models of a study's data, which its winner is compared with.

A floor is fitted on the training examples, or on as many as its time allows. It is saved as a model in its own folder.
The task kind scores its outputs as it scores those of a trial's model.
"""

import math
import os
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import set_seed

from hpsearch.config.settings import Settings
from hpsearch.data.examples import SPLITS
from hpsearch.data.tokens import Tokens
from hpsearch.errors import RequestError
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, FloorFitted, Scored
from hpsearch.state.records import DataRef
from hpsearch.tasks import entities
from hpsearch.tasks.bag_of_words import Bag
from hpsearch.tasks.floor import CONSTANT, FROZEN, SENTENCE, TAGS, WORDS
from hpsearch.tasks.frequent_tags import FrequentTags
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tasks.plain_answers import Answerer
from hpsearch.tasks.texts import pooled
from hpsearch.training import checkpoints, data, heads, models, saved, trainer, trial, words
from hpsearch.training.saved import ScoreSpec
from hpsearch.training.trial import Line, Warm

CANDIDATES, TRIED_ON = 50, 2000  # constant answers that are tried, and training examples that they are tried on
READING, FITTING = 0.7, 0.9  # shares of the time after which no more is read, and no more is fitted
MEASURED = 2  # batches on which the time of a token is measured
LEAST, MOST = 1000, 50_000  # training examples for a head on a frozen encoder: fewest, if train has them, and most

Rows = dict[str, list[Any]]


@dataclass(frozen=True)
class FloorSpec:
    """All that is needed to fit a floor."""

    number: int
    name: str
    settings: Settings  # the study's
    data: DataRef
    folder: Path
    seconds: float  # the time that the fit may take

    @property
    def kind(self) -> Kind:
        """Kind of the study's task."""
        return KINDS[self.settings.task.kind]

    @cached_property
    def train(self) -> Rows:
        """The training examples."""
        return dict(data.load(self.data, "train").to_dict())

    @cached_property
    def validation(self) -> Rows:
        """The validation examples."""
        return dict(data.load(self.data, "validation").to_dict())

    def worth(self, said: Any) -> float:
        """Return how good outputs for validation are by the task's metric; more is better."""
        objective = OBJECTIVES[self.settings.task.metric]
        return objective.worth(self.kind.judge(said, self.validation, None).metrics[objective.name])


@dataclass(frozen=True)
class Made:
    """A floor that is saved in its folder."""

    examples: int  # training examples that it was fitted on
    chosen: dict[str, Any]  # settings that the fit chose, JSON-able
    said: Any  # outputs for validation, as `Kind.judge` takes them


def fit(spec: FloorSpec, warm: Warm) -> FloorFitted:
    """Fit a floor, save it and score it on validation.

    The folder of its model is whole or not there. All errors are raised.
    """
    folder, began = TrialFolder(spec.folder), time.monotonic()
    for old in (folder.model, folder.unfinished_model):
        shutil.rmtree(old, ignore_errors=True)
    folder.unfinished_model.mkdir(parents=True)
    made = FITTERS[spec.name](spec, warm, folder.unfinished_model)
    scores = spec.kind.judge(made.said, spec.validation, None)
    checkpoints.sync(folder.unfinished_model)
    os.replace(folder.unfinished_model, folder.model)
    return FloorFitted(
        number=spec.number,
        examples=made.examples,
        chosen=made.chosen,
        metrics={f"validation_{name}": value for name, value in scores.metrics.items()},
        confusion=scores.confusion,
        fitted=scores.fitted,
        predictions=scores.predictions,
        likelihoods=scores.likelihoods,
        seconds=time.monotonic() - began,
    )


def score(name: str, spec: ScoreSpec, warm: Warm, line: Line) -> Scored:
    """Score a floor, as `saved.score` scores a trial's model."""
    if name not in SAYING:
        return saved.score(spec, warm, line)
    rows, kind = data.load(spec.data, spec.part.split)[: spec.part.examples], KINDS[spec.settings.task.kind]
    start = time.perf_counter()
    said = SAYING[name](spec.model, rows)
    seconds = time.perf_counter() - start
    return saved.scored(spec, spec.part.split, kind.judge(said, rows, spec.fitted), seconds)


# ---- fitting


def _words(spec: FloorSpec, warm: Warm, folder: Path) -> Made:
    rows, classes = spec.train, len(spec.data.labels)
    exclusive = "label" in rows
    of_rows = [[label] for label in rows["label"]] if exclusive else rows["labels"]
    right = np.zeros((len(of_rows), classes), dtype=bool)
    for row, labels in zip(right, of_rows, strict=True):
        row[labels] = True
    given = words.Given(rows["text"], right, exclusive, spec.validation["text"], spec.worth)
    fitted = words.fit(given, spec.seconds)
    fitted.bag.save(folder)
    chosen = {"strength": fitted.strength, "terms": len(fitted.bag.terms), "runs": len(fitted.bag.terms.runs)}
    return Made(fitted.examples, chosen, fitted.validation)


def _frozen(spec: FloorSpec, warm: Warm, folder: Path) -> Made:
    settings, began = spec.settings, time.monotonic()
    train, validation, test = (warm.tokens(spec.data, settings, split) for split in SPLITS)
    tokenizer = warm.tokenizer(settings.model)
    set_seed(settings.seed)  # head layers before the last that the pretrained model lacks stay as drawn
    plain = replace(warm.hardware, compile=False)  # compiling takes longer than the time allows
    model = models.build(settings.model, spec.kind, spec.data.labels, tokenizer, plain)
    model.to(plain.device)
    how = trial.evaluation(settings, plain, _SILENT)
    seconds_a_token = _seconds_a_token(model, validation, how)
    for_test = seconds_a_token * int(test.lengths.sum())
    room = (began + READING * spec.seconds - time.monotonic()) / seconds_a_token - int(validation.lengths.sum())
    examples = min(MOST, _examples_in(train, room))
    least = min(LEAST, train.examples)
    if examples < least or for_test > spec.seconds:
        raise RequestError(
            f"its {spec.seconds:.0f} s are too short: they hold {examples:,} of the {least:,} training examples that "
            f"it needs, and test takes {for_test:.0f} s; more hours give it more time"
        )
    heard = heads.features(model, validation, len(validation), how)
    of_validation = heads.of_examples(heard, validation)
    read = heads.of_examples(heads.features(model, train, train.pieces(examples), how), train)
    right, exclusive = heads.targets(train, examples, len(spec.data.labels))
    deadline = began + FITTING * spec.seconds
    strength = heads.fit(
        model, read, right, exclusive, lambda linear: spec.worth(linear.logits(of_validation)), deadline
    )
    said = pooled(heads.outputs(model, heard, how), validation, validation.examples)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Made(examples, {"strength": strength}, said)


def _seconds_a_token(model: Any, tokens: Tokens, how: trainer.Evaluation) -> float:
    """Return the seconds that a token takes, measured after a first batch has done all one-time work."""
    pieces = min(len(tokens), MEASURED * how.batch_size)
    heads.features(model, tokens, min(pieces, how.batch_size), how)
    began = time.monotonic()
    heads.features(model, tokens, pieces, how)
    return (time.monotonic() - began) / int(tokens.lengths[:pieces].sum())


def _examples_in(train: Tokens, room: float) -> int:
    """Return how many of the first training examples have at most `room` tokens together."""
    pieces = int(np.searchsorted(np.cumsum(train.lengths), max(0.0, room), side="right"))
    return train.examples if pieces == len(train) else int(train.owners[pieces])


def _constant(spec: FloorSpec, warm: Warm, folder: Path) -> Made:
    kind, metric = spec.kind, spec.settings.task.metric
    truths = kind.truths(spec.train, ())[:TRIED_ON]
    said = Counter(text for texts in truths for text in sorted(set(texts) or {""}))
    candidates = sorted(said, key=lambda text: (-said[text], text))[:CANDIDATES]

    def good(text: str) -> float:
        sums = kind.tallies(truths, [text] * len(truths), ()).sum(axis=0)
        return float(kind.of_sums(sums)[metric])

    best = max(candidates, key=good)
    Answerer(best, good(best)).save(folder)
    return Made(len(truths), {"answer": best}, _answers(folder, spec.validation))


def _sentence(spec: FloorSpec, warm: Warm, folder: Path) -> Made:
    Answerer(None, 0.0).save(folder)
    return Made(0, {}, _answers(folder, spec.validation))


def _tags(spec: FloorSpec, warm: Warm, folder: Path) -> Made:
    rows, counts = spec.train, defaultdict[str, Counter[int]](Counter)
    deadline, examples = time.monotonic() + FITTING * spec.seconds, 0
    for text, spans in zip(rows["text"], rows["entities"], strict=True):
        if examples and time.monotonic() > deadline:
            break
        places = np.array(list(entities.words(text)), dtype=np.int32).reshape(-1, 2)
        given = [(span["label"], span["begin"], span["end"]) for span in spans]
        for (begin, end), tag in zip(places, entities.targets(places, given).tolist(), strict=True):
            counts[text[begin:end]][tag] += 1
        examples += 1
    best = {word: min(found, key=lambda tag: (-found[tag], tag)) for word, found in counts.items()}
    shares = {word: (tag, counts[word][tag] / counts[word].total()) for word, tag in best.items()}
    total = sum(found.total() for found in counts.values())
    other = sum(found[0] for found in counts.values()) / max(1, total)
    FrequentTags(len(spec.data.labels), shares, other).save(folder)
    return Made(examples, {"words": len(shares)}, _tagged(folder, spec.validation))


# ---- outputs, computed as the served models do


def _logits(folder: Path, rows: Rows) -> NDArray[np.float64]:
    return Bag.load(folder).logits(rows["text"])


def _answers(folder: Path, rows: Rows) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    answerer = Answerer.load(folder)
    said = [answerer.say(*pair) for pair in zip(rows["question"], rows["context"], strict=True)]
    sure = np.array([one.sure for one in said])
    margins = np.array([-one.sure if one.text else math.inf for one in said])
    return [one.text for one in said], margins, np.stack([sure, 1 - sure])


def _tagged(folder: Path, rows: Rows) -> tuple[list[list[dict[str, Any]]], list[float], int]:
    tagger = FrequentTags.load(folder)
    said = [tagger.say(text) for text in rows["text"]]
    found = [
        [one._asdict() | {"text": text[one.begin : one.end]} for one in of_text]
        for text, (of_text, _) in zip(rows["text"], said, strict=True)
    ]
    return found, [sure for _, sure in said], tagger.classes


# Sends nothing: another thread says that the worker is alive.
_SILENT = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)
FITTERS: dict[str, Callable[[FloorSpec, Warm, Path], Made]] = {
    WORDS.name: _words,
    FROZEN.name: _frozen,
    CONSTANT.name: _constant,
    SENTENCE.name: _sentence,
    TAGS.name: _tags,
}
SAYING: dict[str, Callable[[Path, Rows], Any]] = {
    WORDS.name: _logits,
    CONSTANT.name: _answers,
    SENTENCE.name: _answers,
    TAGS.name: _tagged,
}
