"""`Trainer.hyperparameter_search` and our sweep: same reviews, space, number of trials, seeds. Writes table.md.

python run.py [--repeats 3] [--trials 3] [--train 400] [--length 512]; 30 to 40 minutes a repeat. Both search the rate
and the batch size at two epochs: how many epochs are drawn would otherwise decide who takes how long. Each side's time
is that of its command, from nothing to a model and its score on test reviews; Trainer's search leaves no model, so its
winner is trained once more, as its users do. Ours goes without its confirmation, for which Trainer has no counterpart.
Accuracy is then computed by one loop for both, on more reviews. A side of a repeat that is there is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import transformers
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from hpsearch.config import loading
from hpsearch.config.dimensions import Choice, Interval
from hpsearch.config.settings import Settings
from hpsearch.serving.inference import Inference
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, folders, hardware, models

HERE = Path(__file__).parent
SIDES = ("trainer", "ours")
SIZE = ("trials", "train", "length")  # of a repeat
CONF = HERE.parents[1] / "conf"
EPOCHS = 2
RATES = (5e-5, 6e-4)
VALIDATION, SCORED, COMPARED = 200, 500, 2000  # reviews; the last two of test: by each side, and for the table


def overrides(given: argparse.Namespace, seed: int, test: int) -> list[str]:
    return [
        "task=imdb",
        f"task.max_length={given.length}",
        f"seed={seed}",
        f"budget.max_trials={given.trials}",
        f"budget.train_examples={given.train}",
        f"budget.validation_examples={VALIDATION}",
        f"budget.test_examples={test}",
        "budget.hours=null",
        "budget.confirmation.finalists=0",
        "budget.confirmation.seeds=1",
        "budget.final=false",
        "~search.space.train.epochs_factor",
        f"train.epochs={EPOCHS}",
        f"search.space.train.learning_rate.low={RATES[0]}",
        f"search.space.train.learning_rate.high={RATES[1]}",
        "train.warmup=0.0",  # as Trainer has it
    ]


def composed(given: argparse.Namespace, seed: int, test: int) -> Settings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return loading.load(compose("config", overrides=overrides(given, seed, test)))


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Reviews as Hugging Face's collator takes them."""

    def __init__(self, settings: Settings, home: Path, split: str) -> None:
        ref = data.prepare(data.read(settings), settings, home)
        self.tokens = data.tokenised(ref, settings, models.load_tokenizer(settings.model), split)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, Any]:
        ids = self.tokens.of_piece("ids", i).tolist()
        return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": int(self.tokens.labels[i])}


def theirs(settings: Settings, home: Path) -> None:
    """Search as the documentation of transformers has it, then train the winner; leaves `home/model`."""
    train, validation = Rows(settings, home, "train"), Rows(settings, home, "validation")
    tokenizer = models.load_tokenizer(settings.model)
    rate, size = settings.search.space["train.learning_rate"], settings.search.space["train.batch_size"]
    assert isinstance(rate, Interval)
    assert isinstance(size, Choice)

    def draw(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate.low, rate.high, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", list(size.choices)),
        }

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    def trainer(**given: Any) -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(home / "trainer"),
            eval_strategy="epoch",
            save_strategy="no",
            num_train_epochs=EPOCHS,
            report_to=[],
            seed=settings.seed,
            **given,
        )
        return Trainer(
            None,
            arguments,
            model_init=lambda: transformers.AutoModelForSequenceClassification.from_pretrained(
                folders.local_folder(settings.model), num_labels=2, dtype=torch.float32
            ),
            train_dataset=train,
            eval_dataset=validation,
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=accuracy,
        )

    best = trainer().hyperparameter_search(
        hp_space=draw,
        compute_objective=lambda metrics: metrics["eval_accuracy"],
        n_trials=settings.budget.max_trials,
        direction="maximize",
        backend="optuna",
        sampler=optuna.samplers.TPESampler(seed=settings.seed),  # Optuna's default, but for the seed
    )
    again = trainer(**best.hyperparameters)  # a batch size set on a Trainer that is there would be ignored
    again.train()
    again.save_model(str(home / "model"))
    print(again.predict(Rows(settings, home, "test")).metrics)


def right(model: Path, settings: Settings, home: Path) -> NDArray[np.bool_]:
    """Which test reviews a saved model gets right, computed alike for both; each with the pooling that it has."""
    rows = Rows(settings, home, "test").tokens
    ids = [rows.of_piece("ids", i) for i in range(len(rows))]
    logits = Inference(model, KINDS[settings.task.kind].head).run(ids, None, ["logits"])
    return np.asarray(np.stack(logits).argmax(-1) == rows.labels)


def timed(command: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return time.perf_counter() - began


def raced(side: str, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """A side's search: where, seconds, and which test reviews its winner gets right."""
    settings, compared = composed(given, seed, SCORED), composed(given, seed, COMPARED)
    chosen = hardware.resolve(settings.hardware)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        environment = os.environ | {"HPSEARCH_HOME": scratch, "HF_HUB_OFFLINE": "1"}
        if side == "trainer":
            options = [f"--{name}={getattr(given, name)}" for name in SIZE]
            command = [sys.executable, __file__, "--theirs", scratch, "--seed", str(seed), *options]
        else:
            command = [sys.executable, "-m", "hpsearch", "sweep", *overrides(given, seed, SCORED)]
        seconds, model, steps = timed(command, environment), home / "model", 1.0
        if side == "ours":
            study = StudyFolder.of(home, settings.study)
            summary = read_summary(study)
            assert summary is not None
            model = study.named(summary.winner.folder).model
            steps = summary.steps.trained / summary.steps.all_to_the_end
        return {
            "hardware": f"{chosen.name}, {chosen.threads} threads, {chosen.precision}",
            "seconds": seconds,
            "steps": steps,
            "hits": right(model, compared, home).astype(int).tolist(),
        }


def path_of(side: str, given: argparse.Namespace, seed: int) -> Path:
    return (
        HERE / "repeats" / f"{given.trials}-trials-{given.train}-reviews-{given.length}-tokens-seed-{seed}-{side}.json"
    )


def main(given: argparse.Namespace) -> None:
    for seed in range(given.repeats):
        for side in SIDES:
            path = path_of(side, given, seed)
            if not path.exists():  # repeats take long: they may be run on several days
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(raced(side, given, seed)))
        write(given, seed + 1)


def write(given: argparse.Namespace, repeats: int) -> None:
    found = {side: [json.loads(path_of(side, given, seed).read_text()) for seed in range(repeats)] for side in SIDES}
    pairs = list(zip(found["trainer"], found["ours"], strict=True))
    times = [theirs["seconds"] / ours["seconds"] for theirs, ours in pairs]
    gained = np.mean(
        [np.subtract(ours["hits"], theirs["hits"]) for theirs, ours in pairs], axis=0
    )  # of each review, which all share
    values, counts = np.unique(gained, return_counts=True)  # few, so resamples of reviews are cheap
    drawn = np.random.default_rng(0).multinomial(len(gained), counts / len(gained), 200_000)
    resampled = drawn @ values / len(gained)
    low, high = np.percentile(resampled, [2.5, 97.5])
    lines = [
        f"| {seed} | {ours['hardware']} | {theirs['seconds']:.0f} | {ours['seconds']:.0f} | {ratio:.1f} "
        f"| {ours['steps']:.0%} | {np.mean(theirs['hits']):.3f} | {np.mean(ours['hits']):.3f} |"
        for seed, ((theirs, ours), ratio) in enumerate(zip(pairs, times, strict=True))
    ]
    (HERE / "table.md").write_text(
        f"{given.trials} trials, {given.train} training, {VALIDATION} validation and {SCORED:,} test reviews of "
        f"{given.length} tokens, {EPOCHS} epochs; accuracy on {COMPARED:,}\n\n"
        "| seed | machine | Trainer's search, s | our sweep, s | times as fast | our steps, of all to the end "
        "| its winner, test accuracy | ours |\n| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(lines)
        + f"\n\nMedian: {np.median(times):.1f} times as fast. Accuracy, ours minus theirs, pooled over "
        f"{len(gained) * repeats:,} pairs: {gained.mean():+.4f} (95 % interval over reviews {low:+.4f} to "
        f"{high:+.4f}).\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theirs:
        theirs(composed(arguments, arguments.seed, SCORED), arguments.theirs)
    else:
        main(arguments)
