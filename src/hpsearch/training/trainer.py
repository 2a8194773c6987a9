"""A Hugging Face `Trainer` made from settings, with the few changes that a search needs.

The order of batches depends on seed and epoch alone, so that a trial paused in mid-epoch continues bit for bit. The
loss is weighted by items, so that accumulation gives the update of the full batch. Evaluation draws no random numbers.
Checkpoints are sealed. A loss that is not finite ends the trial.
"""

import contextlib
import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from hpsearch.config.settings import Settings, TrainSettings
from hpsearch.data.tokens import Tokens, collate, model_inputs
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Hardware
from hpsearch.tasks.kind import IGNORED, Kind
from hpsearch.training import checkpoints, rdrop
from hpsearch.training.hardware import COMPILED_LENGTH, DTYPES, alone, out_of_memory
from hpsearch.training.models import FAMILIES
from hpsearch.training.optimizers import optimizer_class
from hpsearch.training.order import LengthGroupedOrder, Parts
from hpsearch.training.parts import LONGEST, examples_at_once, passes_of_batch, place, planned_steps, slice_size

IDLE = "idle"  # in a batch: it holds no example of the process

SCHEDULERS = {
    "linear": "linear",
    "cosine": "cosine",
    "constant": "constant_with_warmup",
    "polynomial": "polynomial",
}
SCHEDULER_OPTIONS = {"polynomial": {"power": 2.0}}  # transformers' default, 1, gives the linear schedule


class NotFiniteError(Exception):
    """A loss or an output is NaN or infinite: the trial has diverged."""


def padded_lengths(tokens: Tokens, hardware: Hardware) -> list[int]:
    """Return the lengths that batches are padded to where each costs a compilation, else an empty list."""
    if not hardware.compile:
        return []
    longest = int(tokens.lengths.max())
    return [*range(COMPILED_LENGTH, longest, COMPILED_LENGTH), longest]


def rung_steps(rungs: tuple[float, ...], total: int) -> tuple[int, ...]:
    """Return the step of each rung. In a schedule too short for a rung, that rung is at the first step."""
    return tuple(min(total, max(1, round(rung * total))) for rung in rungs)


def autocast(hardware: Hardware) -> contextlib.AbstractContextManager[Any]:
    """Return a context that sets the precision of forward passes."""
    if DTYPES[hardware.precision] is torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(hardware.device, dtype=DTYPES[hardware.precision])


@dataclass(frozen=True)
class Evaluation:
    """Options for computing outputs."""

    kind: Kind
    hardware: Hardware
    types: bool
    """Whether the model takes token types."""
    batch_size: int
    """Pieces in a forward pass."""
    alive: Callable[[], None]
    """Function that is called before every batch, to say that the worker is alive."""


def predict(model: PreTrainedModel, tokens: Tokens, pieces: range, how: Evaluation) -> list[NDArray[np.float32]]:
    """Return the outputs of these pieces, each (C,) or (its tokens, C).

    Batches are sorted by length and no random number is drawn. If a batch does not fit in memory, it and all later
    ones are halved. The worker alone computes them, and its helpers wait.

    Raises:
        NotFiniteError: the model's outputs are not finite.
    """
    pad = int(model.config.pad_token_id)
    lengths, batch_size = padded_lengths(tokens, how.hardware), how.batch_size
    order = np.argsort(-tokens.lengths[pieces.start : pieces.stop], kind="stable")
    results: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(pieces)
    model.eval()
    start = 0
    with torch.inference_mode(), autocast(how.hardware), alone(how.hardware):
        while start < len(order):
            how.alive()
            rows = order[start : start + batch_size]
            batch = collate([tokens[pieces[i]] for i in rows], pad, how.types, how.kind.padding, lengths)
            inputs = {name: tensor.to(model.device) for name, tensor in model_inputs(batch).items()}
            try:
                outputs = how.kind.outputs(model(**inputs)).float().cpu().numpy()
            except Exception as error:
                if batch_size == 1 or not out_of_memory(error):
                    raise
                batch_size = -(-batch_size // 2)
                continue
            if not np.isfinite(outputs).all():
                raise NotFiniteError("the model's outputs are not finite")
            for i, output in zip(rows, outputs, strict=True):
                results[i] = output[: tokens.lengths[pieces[i]]] if output.ndim == 2 else output
            start += len(rows)
    return results


def try_update(
    settings: Settings, kind: Kind, model: PreTrainedModel, tokens: Tokens, hardware: Hardware, micro: int
) -> None:
    """Make two updates on the `micro` longest pieces, with as much memory as a trial with such micro-batches can need.

    Only the second has the optimizer's moments in memory beside all that a forward pass keeps. It also keeps the
    gradients of the first, as the later parts of a batch keep those of the earlier ones. Each of several processes also
    keeps copies of its gradients, to add them up.
    """
    longest = np.argsort(-tokens.lengths, kind="stable")[:micro]
    types = FAMILIES[settings.model.family].types
    batch = collate([tokens[int(i)] for i in longest], int(model.config.pad_token_id), types, kind.padding)
    batch = {name: tensor.to(hardware.device) for name, tensor in batch.items()}
    model.to(hardware.device).train()
    chosen: Any = optimizer_class(settings.optimizer)
    optimizer = chosen(model.parameters(), lr=settings.train.learning_rate, **settings.optimizer.options)
    loss_of = partial(kind.loss, label_smoothing=0.0, class_weights=None)
    copies = [torch.empty_like(weight) for weight in model.parameters()] if hardware.processes > 1 else []
    for _ in range(2):
        with autocast(hardware):
            outputs = [model(**model_inputs(batch)) for _ in range(passes_of_batch(settings.train))]
        loss: Any = rdrop.loss(outputs, batch, batch["labels"].numel(), settings.train.rdrop, kind, loss_of)
        loss.backward()
        optimizer.step()
    del copies


class SearchTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """`Trainer` with its own order of batches, the task kind's loss and sealed checkpoints."""

    compute_loss_func: Callable[..., torch.Tensor]

    settings: TrainSettings
    kind: Kind
    seed: int
    order: LengthGroupedOrder
    trial_folder: Path
    planned: int
    """Number of updates that the schedule has at its start."""
    retimed: tuple[tuple[int, int], ...]
    """`train.retimed`, with the changes of length made during training."""
    rung_score: float | None = None  # score of the next checkpoint; None away from rungs
    pausing: bool = False  # the trial pauses at the next checkpoint, so it must not be lost
    saving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext  # context for saving

    def get_train_dataloader(self) -> Any:
        """Return this process's micro-batches. Trainer calls this. Its own loader would repeat examples."""
        micro, rank = self.args.per_device_train_batch_size, self.args.process_index
        loader: Any = DataLoader(
            self.train_dataset,
            batch_sampler=Parts(self.order, micro, rank, self.args.world_size),
            collate_fn=self._collated,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return prepare_data_loader(loader, self.args.device, num_processes=1, process_index=0, put_on_device=True)

    def _collated(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return a micro-batch. An empty one holds an example that does not count, because all processes must work."""
        if items:
            return dict(self.data_collator(items))
        return dict(self.data_collator([self.train_dataset[0]])) | {IDLE: torch.ones(1)}

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        """Return the items of the batch in all processes. Trainer calls this."""
        mine = torch.zeros((), dtype=torch.long, device=device)
        for batch in batch_samples:
            if IDLE not in batch:
                mine += batch["labels"].ne(IGNORED).sum()
        return self.accelerator.gather(mine).sum()

    @property
    def total(self) -> int:
        """Number of updates that the schedule has now."""
        return self.retimed[-1][1] if self.retimed else self.planned

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Make a scheduler that follows changes of length. Trainer calls this, with an upper limit of the steps."""
        scheduler: Any = super().create_scheduler(self.planned, optimizer)

        def at_its_place(rate: Callable[[float], float]) -> Callable[[int], float]:
            return lambda step: rate(place(step, self.planned, self.retimed))

        scheduler.lr_lambdas = [at_its_place(rate) for rate in scheduler.lr_lambdas]
        return scheduler

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the task kind's loss of a micro-batch. Trainer calls this. The model never sees the labels.

        The update takes the mean of the gradients of all processes, and a loss is a share of the whole batch's.
        """
        outputs = [model(**model_inputs(inputs)) for _ in range(passes_of_batch(self.settings))]
        assert num_items_in_batch is not None, "Trainer counts them"
        weight = self.settings.rdrop
        loss = rdrop.loss(outputs, inputs, num_items_in_batch, weight, self.kind, self.compute_loss_func)
        loss = loss * (0 if IDLE in inputs else self.args.world_size)
        return (loss, outputs[0]) if return_outputs else loss

    def _load_rng_state(self, checkpoint: str) -> None:
        """Go on with the random numbers of a checkpoint. Trainer calls this.

        A checkpoint of another number of processes has none for this one, which then draws new ones.
        """
        name = f"rng_state_{self.args.process_index}.pth" if self.args.world_size > 1 else "rng_state.pth"
        if (Path(checkpoint) / name).exists():
            super()._load_rng_state(checkpoint)
        else:
            set_seed(_seed(self.seed, self.args.process_index, self.state.global_step))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Let Trainer write a checkpoint under `output_dir`, then seal it. Trainer calls this when one is due.

        On a full disk a trial that is not pausing continues and keeps its former checkpoints.
        """
        step, saved = self.state.global_step, True
        unsealed = Path(self.args.output_dir) / f"checkpoint-{step}"
        with self.saving():
            checkpoints.settle()  # at most one unsealed checkpoint is on the disk
            try:
                super()._save_checkpoint(model, trial)
            except Exception:
                if self.pausing or not checkpoints.disk_full(self.trial_folder):
                    raise
                checkpoints.print_fault()
                saved = False
            by_each = self.accelerator.gather(torch.tensor(int(saved), device=self.args.device))
            if self.args.process_index > 0:
                return
            if bool(by_each.min()):  # each process has written its random numbers
                checkpoints.seal(unsealed, self.trial_folder, step, self.rung_score)
            else:
                shutil.rmtree(unsealed, ignore_errors=True)


class Watcher(TrainerCallback):  # type: ignore[misc]
    """Callback that reports each micro-batch, step and point of the curves, and saves and stops when asked to."""

    def __init__(
        self,
        on_part: Callable[[], None],
        on_step: Callable[[int], tuple[bool, bool]],
        on_point: Callable[[int, dict[str, float]], None],
    ):
        self.on_part, self.on_step, self.on_point = on_part, on_step, on_point

    def on_substep_end(self, *_: Any, **__: Any) -> None:
        """Report a micro-batch. Trainer calls this after each one but an update's last."""
        self.on_part()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Report a step, and save or stop when asked to. Trainer calls this after each update."""
        save, stop = self.on_step(state.global_step)
        control.should_save = save
        control.should_training_stop = control.should_training_stop or stop
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Report a point of the curves. Trainer calls this every `logging_steps`."""
        if logs and "loss" in logs:
            if not math.isfinite(logs["loss"]):
                raise NotFiniteError(f"the training loss is {logs['loss']} at step {state.global_step}")
            self.on_point(state.global_step, {"train_loss": logs["loss"], "learning_rate": logs["learning_rate"]})


def _seed(*parts: int) -> int:
    """Return a seed that is another one for other parts."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _arguments(settings: Settings, hardware: Hardware, folder: Path, planned: int) -> TrainingArguments:
    train, micro = settings.train, examples_at_once(settings.train, hardware.processes)
    return TrainingArguments(
        output_dir=str(TrialFolder(folder).unsealed),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=math.ceil(slice_size(train.batch_size, hardware.processes) / micro),
        learning_rate=train.learning_rate,
        lr_scheduler_type=SCHEDULERS[train.scheduler],
        lr_scheduler_kwargs=SCHEDULER_OPTIONS.get(train.scheduler, {}),
        warmup_steps=round(train.warmup * planned),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        max_steps=LONGEST * planned,  # an upper limit: the Watcher stops earlier
        logging_steps=train.log_every,
        logging_nan_inf_filter=False,  # the filter hides NaN
        save_strategy="no",  # the Watcher decides when to save
        eval_strategy="no",  # `predict` evaluates, without random numbers
        seed=settings.seed,
        use_cpu=hardware.device == "cpu",
        bf16=hardware.precision == "bfloat16",
        fp16=hardware.precision == "float16",
        dataloader_pin_memory=hardware.device == "cuda",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )


def make_trainer(
    settings: Settings, kind: Kind, model: PreTrainedModel, tokens: Tokens, hardware: Hardware, folder: Path
) -> SearchTrainer:
    """Return a Trainer for one trial, whose folder is `folder`.

    Memory limits the micro-batch. The batch, and with it the update, is as it was sampled.
    """
    train = settings.train
    planned = planned_steps(settings, len(tokens))
    balanced = train.class_weights == "balanced"
    weights = kind.class_weights(tokens.labels, model.config.num_labels) if balanced else None
    trainer = SearchTrainer(
        model=model,
        args=_arguments(settings, hardware, folder, planned),
        train_dataset=tokens,
        data_collator=partial(
            collate,
            pad_token_id=int(model.config.pad_token_id),
            types=FAMILIES[settings.model.family].types,
            padding=kind.padding,
            lengths=padded_lengths(tokens, hardware),
        ),
        optimizer_cls_and_kwargs=(
            optimizer_class(settings.optimizer),
            {"lr": train.learning_rate, **settings.optimizer.options},
        ),
        compute_loss_func=partial(
            kind.loss,
            label_smoothing=train.label_smoothing,
            class_weights=torch.from_numpy(weights).to(hardware.device) if weights is not None else None,
        ),
    )
    trainer.model_accepts_loss_kwargs = False  # the loss is computed here, not in the model
    trainer.remove_callback(PrinterCallback)
    trainer.settings, trainer.kind = train, kind
    trainer.order, trainer.seed = LengthGroupedOrder(tokens.lengths, train.batch_size, settings.seed), settings.seed
    trainer.trial_folder, trainer.planned, trainer.retimed = folder, planned, train.retimed
    if (rank := trainer.args.process_index) > 0:  # else all processes would drop the same units
        set_seed(_seed(settings.seed, rank))
    return trainer


def run(trainer: SearchTrainer, resume: checkpoints.Checkpoint | None) -> int:
    """Train until the schedule ends or the Watcher stops, and return the step reached."""
    if resume and resume.step >= trainer.total:  # in mid-epoch Trainer would add a step
        trainer._load_from_checkpoint(str(resume.folder))
        trainer.state.global_step = resume.step
        return resume.step
    with warnings.catch_warnings():
        # Trainer restores the scheduler before the first optimizer step of the process; the order is right.
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    return int(trainer.state.global_step)
