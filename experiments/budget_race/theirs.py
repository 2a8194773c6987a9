"""transformers' own sides of the race: one fine-tune by `Trainer` as it comes, and `Trainer.hyperparameter_search`.

run.py starts this in a process of its own. It has what `hpsearch` has: the same splits and tokens, the same space and
reference recipe, and the same minutes for everything, from reading the data to the score on test. All arguments of
`Trainer` that nothing below names are as they come: float32, random order, dynamic padding, 8 examples a batch of
evaluation, a linear schedule.
"""

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from cells import Evidence
from numpy.typing import NDArray
from tasks import settings_of
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from hpsearch.config.dimensions import Choice, Interval
from hpsearch.config.settings import Settings
from hpsearch.data.tokens import MODEL_INPUTS, Tokens
from hpsearch.state import codec
from hpsearch.state.records import DataRef
from hpsearch.tasks.kind import Kind, Scores
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.training import data, folders, models

TIMED = 0.03  # of the minutes: for the updates that tell the pace
WARM, LEAST = 2, 6  # updates that are not timed, and that are, unless they take too long
MOST = 3.0  # times TIMED: too long
SCORED = 64  # examples that tell what scoring takes
SPARE = 0.03  # of what is left, for a pace that changes
FEWEST = 5  # trials of a search; where the time holds fewer on all examples, they have a share of these
LEAST_VALIDATION = 100  # examples, of such a share


@dataclass(frozen=True)
class Field:
    """What both sides run on."""

    settings: Settings
    kind: Kind
    ref: DataRef
    tokenizer: Any
    tokens: dict[str, Tokens]
    home: Path
    until: float
    """Seconds since 1970."""

    @property
    def left(self) -> float:
        return self.until - time.time()


@dataclass(frozen=True)
class Pace:
    """Seconds of a piece that is trained or scored, and of a model's loading."""

    train: float
    score: float
    load: float


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Pieces as Hugging Face's collator and models take them."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Any]:
        item = self.tokens[i]
        inputs: dict[str, Any] = {name: item[name].tolist() for name in MODEL_INPUTS if name in item}
        inputs["attention_mask"] = [1] * len(inputs["input_ids"])
        labels = item["labels"]
        if labels.ndim == 0:
            return inputs | {"labels": int(labels)}
        return inputs | {"start_positions": int(labels[0]), "end_positions": int(labels[1])}


class Timer(TrainerCallback):  # type: ignore[misc]
    """Ends a training once its updates have told the pace."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.times = seconds, list[float]()

    def on_step_end(self, *given: Any, **_: Any) -> None:
        self.times.append(time.perf_counter())
        timed, took = len(self.times) - WARM, self.times[-1] - self.times[0]
        given[2].should_training_stop = timed >= 1 and took >= (self.seconds if timed >= LEAST else MOST * self.seconds)

    @property
    def of_update(self) -> float:
        """The median: other work on the machine may hold up a few."""
        return float(np.median(np.diff(self.times[WARM - 1 :])))


def make(field: Field, train: Tokens, validation: Tokens, **given: Any) -> Trainer:
    """A Trainer as it comes; what is given are its arguments. Without them it has the reference recipe's."""
    recipe = field.settings.model.reference
    chosen = {
        "learning_rate": recipe.learning_rate,
        "per_device_train_batch_size": recipe.batch_size,
        "num_train_epochs": recipe.epochs,
    } | given
    arguments = TrainingArguments(
        output_dir=str(field.home / "trainer"),
        warmup_steps=recipe.warmup,  # a share
        save_strategy="no",
        report_to=[],
        seed=field.settings.seed,
        disable_tqdm=True,
        **chosen,
    )

    def model() -> Any:
        return getattr(transformers, field.kind.head).from_pretrained(
            folders.local_folder(field.settings.model),
            dtype=torch.float32,
            **field.kind.head_config(field.ref.labels),
        )

    return Trainer(
        None,
        arguments,
        model_init=model,
        train_dataset=Rows(train),
        eval_dataset=Rows(validation),
        data_collator=DataCollatorWithPadding(field.tokenizer),
        compute_metrics=lambda found: scored(field, "validation", validation, found.predictions).metrics,
    )


def scored(field: Field, split: str, tokens: Tokens, predictions: Any) -> Scores:
    """How good predictions of the first examples of a split are, by our own code."""
    outputs: Sequence[NDArray[np.float32]] = list(predictions)
    if isinstance(predictions, tuple):  # start and end logits, padded
        both = np.stack(predictions, axis=-1)
        outputs = [both[i, :length] for i, length in enumerate(tokens.lengths)]
    rows = data.load(field.ref, split)[: tokens.examples]
    return field.kind.score(list(outputs), tokens, rows, field.settings.task, None)


def measure(field: Field) -> Pace:
    """Some updates and some batches of scoring, timed."""
    train, few = field.tokens["train"], field.tokens["validation"].first(SCORED)
    timer = Timer(TIMED * field.left)
    began = time.perf_counter()
    trainer = make(field, train, few, num_train_epochs=1000)
    load = time.perf_counter() - began
    trainer.add_callback(timer)
    trainer.train()
    began = time.perf_counter()
    trainer.predict(Rows(few))
    score = (time.perf_counter() - began) / len(few)
    return Pace(timer.of_update / field.settings.model.reference.batch_size, score, load)


def spare(field: Field, pace: Pace) -> float:
    """Seconds that are left beside the scoring of test."""
    return (1 - SPARE) * (field.left - len(field.tokens["test"]) * pace.score - pace.load)


def trained(field: Field, pace: Pace, most: float, **given: Any) -> tuple[Trainer, str]:
    """One fine-tune for all the time that is left: so many passes over all examples, or one over some of them.

    Args:
        field: what it runs on.
        pace: as measured.
        most: passes.
        given: arguments of Trainer.
    """
    train = field.tokens["train"]
    passes = max(1.0, spare(field, pace) / pace.train) / len(train)
    if passes < 1:
        train, passes = train.first(int(train.owners[int(passes * len(train))]) + 1), 1.0
    passes = min(passes, most)
    trainer = make(field, train, field.tokens["validation"], num_train_epochs=passes, **given)
    trainer.train()
    return trainer, f"{train.examples:,} examples, {passes:.2g} passes (planned at {1 / pace.train:.3g} pieces/s)"


def fine_tune(field: Field, pace: Pace) -> tuple[Trainer, str]:
    return trained(field, pace, math.inf)


def search(field: Field, pace: Pace) -> tuple[Trainer, str]:
    """As the documentation of transformers has it: a search, and its winner trained once more, in half of the time.

    A trial has the length of the reference recipe. Where half of the time does not hold FEWEST trials on all examples,
    they are on as large a share of these as it holds. A winner that needs less than half leaves the rest to the search.
    """
    settings, train, validation = field.settings, field.tokens["train"], field.tokens["validation"]
    epochs, objective = settings.model.reference.epochs, OBJECTIVES[settings.task.metric]
    rate, size = settings.search.space["train.learning_rate"], settings.search.space["train.batch_size"]
    assert isinstance(rate, Interval)
    assert isinstance(size, Choice)
    winner = epochs * len(train) * pace.train + pace.load
    whole = winner + len(validation) * pace.score
    left = max(1.0, spare(field, pace))
    seconds = left - min(winner, left / 2)
    trials, share = max(FEWEST, int(seconds / whole)), min(1.0, seconds / whole / FEWEST)
    if share < 1:
        validation = validation.first(max(LEAST_VALIDATION, math.ceil(share * validation.examples)))
        of_trial = seconds / FEWEST - len(validation) * pace.score - pace.load
        pieces = max(settings.model.reference.batch_size, int(of_trial / (epochs * pace.train)))
        train = train.first(int(train.owners[min(pieces, len(train) - 1)]) + 1)

    tried: set[int] = set()

    def draw(trial: Any) -> dict[str, Any]:
        tried.add(trial.number)
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate.low, rate.high, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", list(size.choices)),
        }

    began = time.time()
    trainer = make(field, train, validation)
    best = trainer.hyperparameter_search(
        hp_space=draw,
        compute_objective=lambda metrics: metrics[f"eval_{objective.name}"],
        n_trials=trials,
        direction=objective.direction,
        backend="optuna",
        timeout=seconds,
    )
    took = time.time() - began
    again, what = trained(field, pace, epochs, **best.hyperparameters)
    return again, f"{len(tried)} trials of {train.examples:,} examples in {took:.0f} s, then {what}"


def main(given: argparse.Namespace) -> None:
    settings = settings_of(given.settings)
    kind, tokenizer = KINDS[settings.task.kind], models.load_tokenizer(settings.model)
    ref = data.prepare(data.read(settings), settings, given.home)
    tokens = {split: data.tokenised(ref, settings, tokenizer, split) for split in ref.sizes}
    field = Field(settings, kind, ref, tokenizer, tokens, given.home, given.until)
    pace = measure(field)
    trainer, what = SIDES[given.side](field, pace)
    trainer.compute_metrics = None  # they are of validation
    rows = data.load(ref, "test")[:]
    found = scored(field, "test", tokens["test"], trainer.predict(Rows(tokens["test"])).predictions)
    truths, said = kind.truths(rows, ref.labels), kind.answers(found.predictions, ref.labels)
    evidence = Evidence.of(settings.task.metric, rows["id"], truths, said, ref.labels)
    given.out.write_text(json.dumps({"what": what, "evidence": codec.plain(evidence)}))


SIDES = {"trainer": fine_tune, "trainer_search": search}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("home", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("until", type=float)
    parser.add_argument("settings", nargs="+")
    main(parser.parse_args())
