"""Time of training and scoring on this machine, measured with a few updates and a few batches."""

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
from hpsearch.training.order import LengthGroupedOrder
from hpsearch.training.team import After, Task
from hpsearch.training.trial import Line, Warm, evaluation

WARM = 2  # updates before the timed ones
LEAST = 4  # timed updates, at the least
SCORED = 2  # batches in the timed scoring
SCHEDSTAT = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class PaceSpec:
    """Settings and data to measure with."""

    settings: Settings
    data: DataRef
    seconds: float  # approximate time for the updates


def measure(spec: PaceSpec, warm: Warm, line: Line) -> Paced:
    """Measure the time of a model's loading and saving, of updates on random batches, and of scoring."""
    settings, kind = spec.settings, KINDS[spec.settings.task.kind]
    train, validation = (warm.tokens(spec.data, settings, split) for split in ("train", "validation"))
    tokenizer = warm.tokenizer(settings.model)
    everything = settings.train.model_copy(update={"examples": None, "fold": None})
    started = time.perf_counter()
    model = models.build(settings.model, kind, spec.data.labels, tokenizer, warm.hardware)
    loaded = time.perf_counter() - started
    times: list[float] = []
    scheduled: list[tuple[int, int]] = []  # at each of the times

    def on_step(step: int) -> tuple[bool, bool]:
        line.alive()
        times.append(_now(warm.hardware))
        scheduled.append(_scheduled())
        stop = step >= WARM + LEAST and times[-1] - times[WARM - 1] > spec.seconds
        warm.team.go_on(After(save=False, stop=stop, retimed=made.retimed))
        return False, stop

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "trial"
        warm.team.begin(Task(settings.model_copy(update={"train": everything}), spec.data, folder, None))
        made = trainer.make_trainer(settings, kind, model, train, warm.hardware, folder)
        made.add_callback(trainer.Watcher(line.alive, on_step, lambda *_: None))
        trainer.run(made, None)
        warm.team.ended()
        trained = sum(_tokens(made.order, len(times))[WARM:])
        started = time.perf_counter()
        model.save_pretrained(scratch)
        saved = time.perf_counter() - started
    pieces = min(len(validation), SCORED * settings.train.evaluation_batch_size)
    started = _now(warm.hardware)
    trainer.predict(model, validation, range(pieces), evaluation(settings, warm.hardware, line))
    scoring = _now(warm.hardware) - started
    made.accelerator.free_memory()
    ran, waited = (after - before for before, after in zip(scheduled[WARM - 1], scheduled[-1], strict=True))
    return Paced(
        train=(times[-1] - times[WARM - 1]) / trained,
        score=scoring / int(validation.lengths[:pieces].sum()),
        trial=loaded + saved,
        running=ran / (ran + waited) if ran else 1.0,
    )


def _tokens(order: LengthGroupedOrder, steps: int) -> list[int]:
    """Return the number of tokens in each of the first `steps` batches, over as many epochs as needed."""
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
    """Return the time in seconds once the GPU has finished its work, because its calls return before that."""
    if hardware.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _scheduled() -> tuple[int, int]:
    """Return how long this thread has had a processor, and has waited for one, in ns; zeros where nobody says it.

    The kernel of Linux does (`/proc/<pid>/schedstat`).
    """
    try:
        ran, waited, _ = map(int, SCHEDSTAT.read_text().split())
    except (OSError, ValueError):
        return 0, 0
    return ran, waited
