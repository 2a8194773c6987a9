"""A trial in a worker: build or resume, train to the next rung, report, pause or continue, validate."""

import gc
import os
import shutil
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase, set_seed

from hpsearch.config.settings import ModelSettings, Settings
from hpsearch.data.tokens import Tokens
from hpsearch.errors import first_line
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Decision,
    Fits,
    Hardware,
    Progress,
    Retime,
    Retimed,
    RungReport,
    TrialResult,
)
from hpsearch.state.records import DataRef, Status
from hpsearch.tasks.floor import WORDS
from hpsearch.tasks.kind import Scores
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.training import checkpoints, data, folds, models, trainer
from hpsearch.training.hardware import out_of_memory
from hpsearch.training.parts import LONGEST, with_change
from hpsearch.training.team import After, Task, Team


@dataclass(frozen=True)
class TrialSpec:
    """Everything needed to train a trial, or to continue it from the newest checkpoint in `folder`."""

    number: int
    settings: Settings  # with the trial's parameters applied
    data: DataRef
    folder: Path


@dataclass(frozen=True)
class FitSpec:
    """Everything needed to try whether an update fits in memory with micro-batches of this size."""

    settings: Settings
    data: DataRef
    micro: int  # examples in a forward pass


@dataclass
class Warm:
    """Hardware, helpers, tokenizers and tokens that a worker keeps from one trial to the next."""

    hardware: Hardware
    team: Team = field(default_factory=Team)
    tokenizers: dict[str, PreTrainedTokenizerBase] = field(default_factory=dict)
    tokenised: dict[tuple[Path, str, int, str], Tokens] = field(default_factory=dict)

    def tokenizer(self, model: ModelSettings) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer, loaded once."""
        if model.path not in self.tokenizers:
            self.tokenizers[model.path] = models.load_tokenizer(model)
        return self.tokenizers[model.path]

    def tokens(self, ref: DataRef, settings: Settings, split: str) -> Tokens:
        """Return a split's tokens, loaded once."""
        key = (ref.folder, split, settings.task.max_length, settings.task.truncation)
        if key not in self.tokenised:
            self.tokenised[key] = data.tokenised(ref, settings, self.tokenizer(settings.model), split)
        return self.tokenised[key]


@dataclass(frozen=True)
class Line:
    """Functions by which a trial communicates with the coordinator."""

    point: Callable[[Progress], None]  # reports a point of the curves
    rung: Callable[[RungReport], Decision]  # reports at a rung and waits for the decision
    heard: Callable[[], Decision | Retime | None]  # PAUSE, a new length or None; called after steps without a rung
    alive: Callable[[], None]  # called at every micro-batch, and every batch of an evaluation
    retimed: Callable[[Retimed], None]  # reports the step from which the schedule has another length


def run_trial(spec: TrialSpec, warm: Warm, line: Line) -> TrialResult:
    """Train a trial until it is complete or paused, from its newest checkpoint if it has one.

    A trial whose loss or outputs are not finite ends FAILED with the reason. Other errors are raised.
    """
    trial = _Trial(spec, warm, line)
    try:
        with trial.seconds("training"):
            step = trainer.run(trial.trainer, trial.resume)
        warm.team.ended()
        if step < trial.total:
            return trial.result(Status.PAUSED, step)
        scores, outputs = trial.choose_weights()
        trial.save_model(outputs)
        return trial.result(Status.COMPLETE, step, scores)
    except trainer.NotFiniteError as error:
        warm.team.ended()
        return trial.result(Status.FAILED, trial.trainer.state.global_step, reason=str(error))
    finally:
        trial.release()


class _Trial:
    """A trial that this process trains."""

    def __init__(self, spec: TrialSpec, warm: Warm, line: Line) -> None:
        self.spec, self.line, self.hardware = spec, line, warm.hardware
        self.settings = settings = spec.settings
        self.kind = KINDS[settings.task.kind]
        self.spent: dict[str, float] = defaultdict(float)
        spec.folder.mkdir(parents=True, exist_ok=True)
        with self.seconds("setup"):
            train, self.validation = tokens_of(settings, spec.data, warm)
            self.tokenizer = warm.tokenizer(settings.model)
            line.alive()
            self.resume = checkpoints.newest(spec.folder)
            shutil.rmtree(TrialFolder(spec.folder).unsealed, ignore_errors=True)  # files that a crash left
            self.team = warm.team
            self.team.begin(Task(settings, spec.data, spec.folder, self.resume))
            set_seed(settings.seed)  # for the new head
            self.model = models.build(settings.model, self.kind, spec.data.labels, self.tokenizer, warm.hardware)
            line.alive()
            self.trainer = trainer.make_trainer(settings, self.kind, self.model, train, warm.hardware, spec.folder)
        rungs = trainer.rung_steps(settings.search.rungs, self.trainer.planned)
        self.rungs = {step: i for i, step in enumerate(rungs)}
        fold = settings.train.fold
        self.rows = data.load(spec.data, "validation").to_dict() if fold is None else folds.rows(spec.data, fold)
        self.on_rung = min(self.validation.examples, settings.budget.rung_examples or self.validation.examples)
        self.last_point = (self.resume.step if self.resume else 0, time.perf_counter(), 0.0)
        self.last_save = time.perf_counter()
        self.trainer.add_callback(trainer.Watcher(line.alive, self.on_step, self.on_point))
        self.trainer.saving = lambda: self.seconds("checkpoint")

    @property
    def total(self) -> int:
        """Number of updates that the schedule has now."""
        return self.trainer.total

    def on_step(self, step: int) -> tuple[bool, bool]:
        """Return whether to save and whether to stop. The Watcher calls this after each update."""
        self.line.alive()
        try:
            save, stop = self._after(step)
        except Exception:
            self.team.abandon()
            raise
        stop = stop or step >= self.total
        self.team.go_on(After(save, stop, self.trainer.retimed))
        return save, stop

    def _after(self, step: int) -> tuple[bool, bool]:
        if step not in self.rungs:
            pause = self._pauses(step)
            due = time.perf_counter() - self.last_save > self.settings.hardware.checkpoint_seconds
            self.trainer.rung_score, self.trainer.pausing = None, pause
            if pause or due:
                self.last_save = time.perf_counter()
            return pause or due, pause
        scores = self.scores(self.outputs(self.on_rung), self.on_rung).metrics
        score = self.trainer.rung_score = scores[self.settings.task.metric]
        self.last_save = time.perf_counter()
        report = RungReport(self.spec.number, self.rungs[step], step, self.total, score, _validation(scores))
        decision = self.line.rung(report)
        self.trainer.pausing = decision is Decision.PAUSE
        return decision is not Decision.STOP, decision is not Decision.CONTINUE

    def _pauses(self, step: int) -> bool:
        """Return whether the coordinator asks for a pause. If it sends another length, apply that from `step` on."""
        heard = self.line.heard()
        if isinstance(heard, Retime):
            former, total = self.total, min(max(step, heard.total_steps), LONGEST * self.trainer.planned)
            self.trainer.retimed = with_change(self.trainer.retimed, step, total)
            self.line.retimed(Retimed(self.spec.number, step, total, former))
        return heard is Decision.PAUSE

    def on_point(self, step: int, values: dict[str, float]) -> None:
        """Report training loss, learning rate and examples per second. Time of evaluation does not count."""
        before, then, evaluating = self.last_point
        now = time.perf_counter()
        busy = max(now - then - (self.spent["evaluation"] - evaluating), 1e-9)
        rate = (step - before) * self.settings.train.batch_size / busy
        self.last_point = (step, now, self.spent["evaluation"])
        self.line.point(Progress(self.spec.number, step, self.total, values | {"examples_per_second": rate}))

    def outputs(self, examples: int) -> list[NDArray[np.float32]]:
        """Return the model's outputs for the pieces of the first `examples` validation examples."""
        with self.seconds("evaluation"):
            pieces = range(self.validation.pieces(examples))
            how = evaluation(self.settings, self.hardware, self.line)
            return trainer.predict(self.model, self.validation, pieces, how)

    def scores(self, outputs: list[NDArray[np.float32]], examples: int) -> Scores:
        """Return the scores of the first `examples` validation examples. `outputs` may hold those of more."""
        with self.seconds("evaluation"):
            rows = {name: column[:examples] for name, column in self.rows.items()}
            needed = outputs[: self.validation.pieces(examples)]
            return self.kind.score(needed, self.validation, rows, self.settings.task, None)

    def choose_weights(self) -> tuple[Scores, list[NDArray[np.float32]]]:
        """Score the final weights on all validation examples, and go back to the last rung's where those are better.

        The rung's weights are tried only if they beat the final ones on the examples that both were scored on.

        Returns:
            Scores and outputs of the weights that the model now has.
        """
        objective = OBJECTIVES[self.settings.task.metric]
        everything = self.validation.examples
        outputs = self.outputs(everything)
        scores = self.scores(outputs, everything)
        same = self.scores(outputs, self.on_rung).metrics[objective.name]
        earlier = checkpoints.newest(self.spec.folder, scored=True)
        if earlier is None or earlier.score is None or not objective.better(earlier.score, same):
            return scores, outputs
        final = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
        self.model.load_state_dict(load_file(earlier.weights), strict=False)
        earlier_outputs = self.outputs(everything)
        earlier_scores = self.scores(earlier_outputs, everything)
        if objective.better(earlier_scores.metrics[objective.name], scores.metrics[objective.name]):
            return earlier_scores, earlier_outputs
        self.model.load_state_dict(final)
        return scores, outputs

    def save_model(self, outputs: list[NDArray[np.float32]]) -> None:
        """Write weights, config and tokenizer, and the outputs for validation where a blend may need them.

        The folder is either complete or absent.

        Checkpoints stay until the coordinator has the result on disk. A crash before that costs the work after them.
        """
        with self.seconds("checkpoint"):
            folder = TrialFolder(self.spec.folder)
            target, beside = folder.model, folder.unfinished_model
            for old in (target, beside):
                shutil.rmtree(old, ignore_errors=True)
            self.model.save_pretrained(beside)
            self.tokenizer.save_pretrained(beside)
            budget = self.settings.budget
            if budget.blend and budget.floors and WORDS in self.kind.floors:
                np.save(beside / folder.outputs.name, np.stack(outputs))
            checkpoints.sync(beside)
            os.replace(beside, target)

    def result(
        self,
        status: Status,
        step: int,
        scores: Scores | None = None,
        reason: str | None = None,
    ) -> TrialResult:
        """Return the result of this part of the trial, for the coordinator."""
        return TrialResult(
            number=self.spec.number,
            status=status,
            step=step,
            total_steps=self.total,
            score=scores.metrics[self.settings.task.metric] if scores else None,
            metrics=_validation(scores.metrics) if scores else {},
            confusion=scores.confusion if scores else None,
            fitted=scores.fitted if scores else {},
            predictions=scores.predictions if scores else (),
            reason=reason,
            seconds=dict(self.spent),
            likelihoods=scores.likelihoods if scores else None,
        )

    @contextmanager
    def seconds(self, phase: str) -> Iterator[None]:
        """Time a phase. Time in a phase inside it counts for the inner one alone."""
        start, others = time.perf_counter(), sum(self.spent.values())
        try:
            yield
        finally:
            inside = sum(self.spent.values()) - others
            self.spent[phase] += time.perf_counter() - start - inside

    def release(self) -> None:
        """Free the memory. Trainer and its callbacks refer to each other, so only garbage collection frees them."""
        self.trainer.accelerator.free_memory()
        del self.trainer, self.model
        gc.collect()


def tokens_of(settings: Settings, ref: DataRef, warm: Warm) -> tuple[Tokens, Tokens]:
    """Return the tokens that a trial trains on, and those that it validates on."""
    train, validation = (warm.tokens(ref, settings, split) for split in ("train", "validation"))
    if settings.train.fold is not None:
        return folds.tokens({"train": train, "validation": validation}, settings.train.fold)
    return train.first(settings.train.examples), validation


def fits(spec: FitSpec, warm: Warm) -> Fits:
    """Return whether an update on the longest training pieces fits in memory."""
    settings, kind = spec.settings, KINDS[spec.settings.task.kind]
    try:
        tokenizer, tokens = warm.tokenizer(settings.model), warm.tokens(spec.data, settings, "train")
        model = models.build(settings.model, kind, spec.data.labels, tokenizer, warm.hardware)
        trainer.try_update(settings, kind, model, tokens, warm.hardware, spec.micro)
    except Exception as error:
        traceback.print_exc()
        fault = None if out_of_memory(error) else f"{type(error).__name__}: {first_line(error)}"
        return Fits(fits=False, fault=fault)
    return Fits(fits=True)


def evaluation(settings: Settings, hardware: Hardware, line: Line) -> trainer.Evaluation:
    """Return the options for computing a model's outputs."""
    types, size = models.FAMILIES[settings.model.family].types, settings.train.evaluation_batch_size
    return trainer.Evaluation(KINDS[settings.task.kind], hardware, types, size, line.alive)


def _validation(scores: dict[str, float]) -> dict[str, float]:
    return {f"validation_{name}": value for name, value in scores.items()}
