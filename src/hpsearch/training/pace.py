"""What training and scoring take on this machine: a few updates and a few batches, timed."""

import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from hpsearch.config.settings import Settings
from hpsearch.state.messages import Hardware, Paced
from hpsearch.state.records import DataRef
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import models, trainer
from hpsearch.training.trial import Line, Warm, evaluation

WARM = 2  # updates that are not timed
LEAST = 4  # that are
SCORED = 2  # batches


@dataclass(frozen=True)
class PaceSpec:
    """What is timed."""

    settings: Settings
    data: DataRef
    seconds: float  # for the updates, about


def measure(spec: PaceSpec, warm: Warm, line: Line) -> Paced:
    """Time a model's loading and saving, updates on random batches, and scoring."""
    settings, kind = spec.settings, KINDS[spec.settings.task.kind]
    train, validation = (warm.tokens(spec.data, settings, split) for split in ("train", "validation"))
    tokenizer = warm.tokenizer(settings.model)
    started = time.perf_counter()
    model = models.build(settings.model, kind, spec.data.labels, tokenizer, warm.hardware)
    loaded = time.perf_counter() - started
    times: list[float] = []

    def on_step(step: int) -> tuple[bool, bool]:
        line.alive()
        times.append(_now(warm.hardware))
        return False, step >= WARM + LEAST and times[-1] - times[WARM - 1] > spec.seconds

    with tempfile.TemporaryDirectory() as scratch:
        made = trainer.make_trainer(settings, kind, model, train, warm.hardware, Path(scratch) / "trial")
        made.add_callback(trainer.Watcher(line.alive, on_step, lambda *_: None))
        trainer.run(made, None)
        trained = sum(_tokens(made.order, len(times))[WARM:])
        started = time.perf_counter()
        model.save_pretrained(scratch)
        saved = time.perf_counter() - started
    pieces = min(len(validation), SCORED * settings.train.evaluation_batch_size)
    started = _now(warm.hardware)
    trainer.predict(model, validation, pieces, evaluation(settings, warm.hardware, line))
    scoring = _now(warm.hardware) - started
    made.accelerator.free_memory()
    return Paced(
        train=(times[-1] - times[WARM - 1]) / trained,
        score=scoring / int(validation.lengths[:pieces].sum()),
        trial=loaded + saved,
    )


def _tokens(order: trainer.LengthGroupedOrder, steps: int) -> list[int]:
    """Of each of so many steps, over as many epochs as they take."""
    found: list[int] = []
    for epoch in itertools.count():
        order.set_epoch(epoch)
        examples = list(order)
        for start in range(0, len(examples), order.batch_size):
            if len(found) == steps:
                return found
            found.append(int(order.lengths[examples[start : start + order.batch_size]].sum()))
    raise AssertionError("there is an epoch after each")


def _now(hardware: Hardware) -> float:
    """A GPU is still at work when its calls return."""
    if hardware.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
