"""`Trainer.hyperparameter_search` and our sweep: same reviews, space, number of trials, seeds. Writes table.md.

python run.py [--repeats 3] [--trials 4] [--train 400]; about 17 minutes a repeat on two cores. Each side's time is that
of its command, from nothing to a model and its score on test reviews; Trainer's search leaves no model, so its winner
is trained once more, as its users do. Accuracy is then computed by one loop for both, on more reviews.
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
import torch
import transformers
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from hpsearch import data, loading, metrics, models
from hpsearch.settings import Choice, Settings
from hpsearch.trial import MODEL

HERE = Path(__file__).parent
CONF = HERE.parents[1] / "conf"
VALIDATION, SCORED, COMPARED = 200, 1000, 2000  # reviews; the last two of test: by each side, and for the table


def overrides(given: argparse.Namespace, seed: int, test: int) -> list[str]:
    return [
        "task=imdb",
        "task.max_length=256",
        f"seed={seed}",
        f"budget.max_trials={given.trials}",
        f"budget.train_examples={given.train}",
        f"budget.validation_examples={VALIDATION}",
        f"budget.test_examples={test}",
    ]


def composed(given: argparse.Namespace, seed: int, test: int) -> Settings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return loading.load(compose("config", overrides=overrides(given, seed, test)))


class Rows(torch.utils.data.Dataset):
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
    space = settings.search.space
    rate = space["train.learning_rate"]

    def choices(path: str) -> list[Any]:
        dimension = space[path]
        assert isinstance(dimension, Choice)
        return list(dimension.choices)

    def draw(trial: Any) -> dict[str, Any]:
        return {
            "learning_rate": trial.suggest_float("learning_rate", rate.low, rate.high, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", choices("train.batch_size")
            ),
            "num_train_epochs": trial.suggest_categorical("num_train_epochs", choices("train.epochs")),
        }

    def accuracy(prediction: Any) -> dict[str, float]:
        return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}

    def trainer() -> Trainer:
        arguments = TrainingArguments(
            output_dir=str(home / "trainer"),
            eval_strategy="epoch",
            save_strategy="no",
            report_to=[],
            seed=settings.seed,
        )
        return Trainer(
            None,
            arguments,
            model_init=lambda: transformers.AutoModelForSequenceClassification.from_pretrained(
                models.local_folder(settings.model), num_labels=2, dtype=torch.float32
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
    )
    again = trainer()
    for name, value in best.hyperparameters.items():
        setattr(again.args, name, value)
    again.train()
    again.save_model(str(home / "model"))
    print(again.predict(Rows(settings, home, "test")).metrics)


def right(model: Path, settings: Settings, home: Path) -> NDArray[np.bool_]:
    """Which test reviews a saved model gets right, computed alike for both."""
    rows = Rows(settings, home, "test")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    pad = DataCollatorWithPadding(models.load_tokenizer(settings.model))
    found = np.zeros(len(rows), dtype=bool)
    order = np.argsort(rows.tokens.lengths, kind="stable")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(rows), 32):
            chosen = order[start : start + 32]
            batch = pad([rows[int(i)] for i in chosen])
            labels = batch.pop("labels")
            found[chosen] = (loaded(**batch).logits.argmax(-1) == labels).numpy()
    return found


def timed(command: Sequence[str], environment: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
    return time.perf_counter() - began


def main(given: argparse.Namespace) -> None:
    lines, hits = [], {"trainer": [], "ours": []}
    times = []
    for seed in range(given.repeats):
        settings, compared = composed(given, seed, SCORED), composed(given, seed, COMPARED)
        with tempfile.TemporaryDirectory() as scratch:
            their_home, home = Path(scratch) / "theirs", Path(scratch) / "ours"
            environment = os.environ | {"HPSEARCH_HOME": str(home), "HF_HUB_OFFLINE": "1"}
            options = ["--trials", str(given.trials), "--train", str(given.train)]
            their_seconds = timed(
                [sys.executable, __file__, "--theirs", str(their_home), "--seed", str(seed), *options], environment
            )
            our_seconds = timed(
                [sys.executable, "-m", "hpsearch", "sweep", *overrides(given, seed, SCORED)], environment
            )
            summary = json.loads((home / "studies" / settings.study / "summary.json").read_text())
            best = home / "studies" / settings.study / "trials" / str(summary["best"]["trial"]) / MODEL
            hits["trainer"].append(right(their_home / "model", compared, home))
            hits["ours"].append(right(best, compared, home))
        times.append(their_seconds / our_seconds)
        accuracy = {side: float(found[-1].mean()) for side, found in hits.items()}
        lines.append(
            f"| {seed} | {their_seconds:.0f} | {our_seconds:.0f} | {times[-1]:.1f} "
            f"| {accuracy['trainer']:.3f} | {accuracy['ours']:.3f} |"
        )
        print(lines[-1], flush=True)
        write(given, summary["hardware"], lines, times, hits)


def write(
    given: argparse.Namespace,
    hardware: dict[str, Any],
    lines: list[str],
    times: list[float],
    hits: dict[str, list[Any]],
) -> None:
    gained = np.stack(hits["ours"]).astype(float) - np.stack(hits["trainer"])  # (repeats, reviews)
    low, high = metrics.interval(gained.mean(0).tolist())  # reviews are drawn with all repeats, which share them
    (HERE / "table.md").write_text(
        f"{hardware['name']}, {hardware['threads']} threads, {hardware['precision']}; {given.trials} trials, "
        f"{given.train} training, {VALIDATION} validation and {SCORED:,} test reviews of 256 tokens; "
        f"accuracy on {COMPARED:,}\n\n"
        "| seed | Trainer's search, s | our sweep, s | times as fast | its winner, test accuracy | ours |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(lines)
        + f"\n\nMedian: {np.median(times):.1f} times as fast. Accuracy, ours minus theirs, pooled over "
        f"{gained.size:,} pairs: {gained.mean():+.4f} (95 % interval {low:+.4f} to {high:+.4f}).\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--train", type=int, default=400)
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.theirs:
        theirs(composed(arguments, arguments.seed, SCORED), arguments.theirs)
    else:
        main(arguments)
