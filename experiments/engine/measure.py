"""One measurement in a process of its own: python measure.py <side> <work> <steps> [setting=value ...]; prints JSON.

side: ours, or trainer: Hugging Face's Trainer as it comes. work: train-256, train-512, evaluate-256, questions-384.
questions needs SQUAD, the path of a file in SQuAD's layout.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hydra import compose, initialize_config_dir
from transformers import Trainer, TrainerCallback, TrainingArguments

from hpsearch.config import loading
from hpsearch.config.settings import Settings
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, folders, hardware, models
from hpsearch.training.trainer import Evaluation, make_trainer, predict
from hpsearch.training.trial import Warm

CONF = Path(__file__).parents[2] / "conf"
EVALUATED = 512  # examples
GPU = torch.cuda.is_available()
FIRST = 30 if GPU else 2  # steps that are not timed


def now() -> float:
    """Seconds, when all that was asked of a GPU is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """Times the steps after the first ones, and stops after `steps`."""

    def __init__(self, steps: int) -> None:
        self.steps, self.began, self.ended, self.counting = steps, 0.0, 0.0, False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step == FIRST:
            self.began, self.counting = now(), True
        if state.global_step == FIRST + self.steps:
            self.ended = now()
            self.counting, control.should_training_stop = False, True
        return control


class Counter:
    """A collator that counts what is timed: the loader makes a batch when the step before has begun, or later."""

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.batches: list[Any] = []

    def __call__(self, items: Any) -> Any:
        batch = self.collator(items)
        lengths = batch["attention_mask"].sum(1)
        self.batches.append(
            (len(lengths), int(lengths.sum()), batch["attention_mask"].numel(), int((lengths**2).sum()))
        )
        return batch


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokens as Hugging Face's collators take them."""

    def __init__(self, tokens: Any, questions: bool, count: int) -> None:
        self.tokens, self.questions, self.count = tokens, questions, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        ids = self.tokens.of_piece("ids", i).tolist()
        row: dict[str, Any] = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        if self.questions:
            row["token_type_ids"] = self.tokens.of_piece("types", i).tolist()
            row["start_positions"], row["end_positions"] = (int(place) for place in self.tokens.labels[i])
        else:
            row["labels"] = int(self.tokens.labels[i])
        return row


def composed(work: str, side: str, given: list[str]) -> Settings:
    name, length = work.split("-")
    overrides = [f"task.max_length={length}", "budget.train_examples=1600", "train.batch_size=16", "train.epochs=3"]
    if name == "questions":
        overrides += ["task=squad_v2", "task.source=files", f"task.files.train={os.environ['SQUAD']}", "task.stride=96"]
    if side == "trainer":  # what transformers does by itself
        overrides += ["model.attention_dropout=0.1", "hardware.precision=float32"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return loading.load(compose("config", overrides=overrides + given))


def of_trainer(settings: Settings, model: Any, tokens: Any, tokenizer: Any, folder: Path, questions: bool) -> Trainer:
    """Defaults of TrainingArguments but for batch size, rate, and what is written where."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.train.batch_size,
        learning_rate=settings.train.learning_rate,
        num_train_epochs=settings.train.epochs,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
    )
    # Question answering as its example script has it: every window padded to the longest there can be.
    pad = {"padding": "max_length", "max_length": settings.task.max_length} if questions else {}
    collator = transformers.DataCollatorWithPadding(tokenizer, **pad)
    return Trainer(model, arguments, train_dataset=Rows(tokens, questions, len(tokens)), data_collator=collator)


def plain_model(settings: Settings, questions: bool) -> Any:
    head = transformers.AutoModelForQuestionAnswering if questions else transformers.AutoModelForSequenceClassification
    return head.from_pretrained(folders.local_folder(settings.model), dtype=torch.float32, num_labels=2)


def main(side: str, work: str, steps: int, given: list[str]) -> None:
    settings, questions, evaluating = composed(work, side, given), "questions" in work, "evaluate" in work
    kind, chosen = KINDS[settings.task.kind], hardware.resolve(settings.hardware)
    hardware.apply(chosen)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(os.environ.get("BENCH_CACHE", scratch))
        ref, warm = data.prepare(data.read(settings), settings, home), Warm(chosen)
        tokens, tokenizer = warm.tokens(ref, settings, "train"), warm.tokenizer(settings.model)
        transformers.set_seed(settings.seed)
        if side == "ours":
            model = models.build(settings.model, kind, ref.labels, tokenizer, chosen)
            trainer: Trainer = make_trainer(settings, kind, model, tokens, chosen, Path(scratch))
        else:
            model = plain_model(settings, questions)
            trainer = of_trainer(settings, model, tokens, tokenizer, Path(scratch), questions)
        if evaluating:
            seconds, batches = evaluate(side, settings, kind, model, tokens, chosen, trainer)
        else:
            watch, counter = Stopwatch(steps), Counter(trainer.data_collator)
            trainer.data_collator = counter
            trainer.add_callback(watch)
            trainer.train()
            seconds, batches = watch.ended - watch.began, counter.batches[FIRST : FIRST + steps]
    counts = np.array(batches).sum(0)
    peak = (
        torch.cuda.max_memory_reserved() / 2**20 if GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
    names = ("examples", "tokens", "padded", "squares")
    size = {"layers": model.config.num_hidden_layers, "width": model.config.hidden_size}
    print(json.dumps({"seconds": seconds, "peak_mib": peak, **size, **dict(zip(names, counts.tolist(), strict=True))}))


def evaluate(
    side: str, settings: Settings, kind: Any, model: Any, tokens: Any, chosen: Any, trainer: Trainer
) -> tuple[float, list[Any]]:
    lengths = tokens.lengths[:EVALUATED]
    if GPU:  # its libraries are loaded by the first batch
        trainer.model.to(chosen.device)
        trainer.predict(Rows(tokens, False, 32))
    began = now()
    if side == "ours":
        types, size = models.FAMILIES[settings.model.family].types, settings.train.evaluation_batch_size
        predict(model, tokens, range(EVALUATED), Evaluation(kind, chosen, types, size, lambda: None))
    else:
        trainer.predict(Rows(tokens, False, EVALUATED))
    counts = (EVALUATED, int(lengths.sum()), int(lengths.sum()), int((lengths**2).sum()))
    return now() - began, [counts]


def matmul_limit(given: list[str]) -> None:
    """Billions of operations a second that a product of large matrices reaches, in each side's precision."""
    chosen = hardware.resolve(composed("train-256", "ours", given).hardware)
    hardware.apply(chosen)
    side, reached = 8192 if GPU else 2048, {}
    for name in dict.fromkeys(("float32", chosen.precision)):
        a, b = (torch.randn(side, side, device=chosen.device).to(hardware.DTYPES[name]) for _ in range(2))
        a @ b
        best = 1e9
        for _ in range(6):
            began = now()
            a @ b
            best = min(best, now() - began)
        reached[name] = 2 * side**3 / best / 1e9
    print(json.dumps(reached))


if __name__ == "__main__":
    if sys.argv[1] == "limit":
        matmul_limit(sys.argv[2:])
    else:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
