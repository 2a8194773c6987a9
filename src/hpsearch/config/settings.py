"""Typed, frozen settings: everything a command may be told, checked whole before anything starts.

Defaults live in the YAML files under `conf/` and nowhere else: no field here has one.
"""

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hpsearch.config.dimensions import Choice, Dimension, flatten
from hpsearch.config.dimensions import faults as dimension_faults
from hpsearch.config.section import Count, Name, Positive, Probability, Scalar, Section, Share
from hpsearch.config.task import TaskSettings


class Bounds(Section):
    """Inclusive."""

    low: Positive
    high: Positive


class Prior(Section):
    """Where good values lie for a model; the shipped search spaces refer to it."""

    learning_rate: Bounds
    rdrop: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    """Values of `train.rdrop`; 0 alone for a model without dropout."""


class ReferenceRecipe(Section):
    """What the first trial runs: a published recipe, or one measured in `experiments/`."""

    learning_rate: Positive
    """At its peak."""
    batch_size: Count
    """Examples an update."""
    epochs: Positive
    """Passes over the training examples."""
    warmup: Probability
    """Share of all steps."""
    source: str
    """Where the recipe comes from."""


class ModelSettings(Section):
    """A pretrained model and what is known of its family."""

    name: Name
    """Part of the study's default name."""
    path: str
    """A hub id, a local folder, or `package://module/folder` for weights an installed package carries."""
    revision: str | None
    """Branch, tag or commit on the hub; null: the newest."""
    sha256: str | None
    """Checksum of model.safetensors, verified where given."""
    family: str
    """A key of `models.FAMILIES`; it must agree with the model's config.json."""
    license: str | None
    """Of the weights, as their source states it; null: not stated."""
    dropout: Probability
    """Of hidden states."""
    attention_dropout: Probability
    """Of attention weights; above 0 the fused attention kernels are out of reach."""
    pooling: Literal["first", "mean"]
    """What the head of a text classification reads of an encoder: its first token, or the mean of all tokens, as models
    were pretrained that embed sentences. Family bert only."""
    prior: Prior
    reference: ReferenceRecipe


class TrainSettings(Section):
    """One fine-tune."""

    learning_rate: Positive
    """At its peak."""
    batch_size: Count
    """Examples an update."""
    micro_batch_size: Count | None
    """Examples a forward pass, at most: the largest divisor of the batch size is taken. null: as many as fit in memory.
    The update is the same."""
    epochs: Annotated[float, Field(gt=0, le=1000)] | None
    """Passes over the training examples; need not be whole. null: model.reference.epochs, or where examples are few as
    many as make 6,400 in all, 20 at the most."""
    epochs_factor: Positive
    """Multiple of epochs: what is searched, because it means the same for few and for many examples."""
    examples: Count | None
    """The first so many of the study's training examples, which are in stratified order; null: all."""
    fold: tuple[int, int] | None
    """Cross-validation: which part of train and validation examples together is validated on, from 0, and of how many;
    null: the validation split is."""
    retimed: tuple[tuple[int, int], ...]
    """Changes of a schedule's length while it ran, because the machine was faster or slower than planned: the step at
    which each was made, and the steps in all from there on. The learning rate goes on from where it was."""
    scheduler: Literal["linear", "cosine", "constant", "polynomial"]
    """How the learning rate goes on after warm-up; polynomial: as the square of the share of steps that is left."""
    warmup: Probability
    """Share of all steps in which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Decoupled; not of biases and layer norms."""
    label_smoothing: Probability
    """Share of the target that is spread over all classes."""
    rdrop: Annotated[float, Field(ge=0, le=100)]
    """Weight of R-Drop (Liang et al. 2021, arXiv 2106.14448), where it is above 0: each batch passes the model twice,
    with other dropout, and the loss grows with the divergence of what the two passes say. An update takes nearly
    twice as long. 0: one pass."""
    class_weights: Literal["none", "balanced"]
    """balanced: in the loss all classes weigh alike, however many examples each has, which is one."""
    max_grad_norm: Positive
    """Gradients are clipped to this norm."""
    evaluation_batch_size: Count
    """Examples a forward pass in evaluation."""
    log_every: Count
    """Steps between two reports of training loss and learning rate."""


class OptimizerSettings(Section):
    """A class of `torch.optim`."""

    name: str
    """Name of the class."""
    options: dict[str, Scalar | tuple[float | None, ...] | None]
    """Its keyword arguments except lr and weight_decay, which are settings of `train`."""


class SearchSettings(Section):
    """What is searched, and when a trial must show what it is worth."""

    name: Name
    """Part of the study's default name."""
    rungs: tuple[Share, ...]
    """Shares of a trial's own schedule at which it reports and may be paused; ascending."""
    rungs_after: Count
    """Training examples that the shortest schedule has seen before the first rung, which is moved there; no rung where
    that is half of it or more."""
    keep: Share
    """Share of the trials that goes on at each rung; no fewer than budget.confirmation.finalists."""
    space: dict[str, Dimension]
    """Path into the settings: what to sample. Written nested, as the settings are."""

    @field_validator("space", mode="before")
    @classmethod
    def _flatten(cls, value: object) -> object:
        return dict(flatten(value, "")) if isinstance(value, dict) else value

    @field_validator("rungs")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"rungs must ascend, and they are {list(value)}")
        return value


class SamplerSettings(Section):
    """A class of `optuna.samplers`."""

    name: str
    """Name of the class."""
    options: dict[str, Scalar | None]
    """Its keyword arguments except seed, which is `seed` + the trial's number."""


class ConfirmationSettings(Section):
    """Runs of the search's best points with fresh seeds, which alone decide who wins."""

    finalists: Annotated[int, Field(ge=0)] | None
    """Best points of the search that are run again, and with them the reference recipe where it is none of them; 0: no
    confirmation, and the best trial wins; null: as the plan has it."""
    seeds: Count | None
    """Fresh seeds for each, until it clearly loses; null: as the plan has it."""
    confidence: Share
    """With which a point must lose to the best one, example by example, to be run no more."""
    examples: Count | None
    """Training examples of these runs; null: as the plan has it."""


class BudgetSettings(Section):
    """How much a study may spend, in total, over all runs of the command. What is null follows from the hours."""

    name: Name
    """For the record; no part of the study's name."""
    hours: Positive | None
    """Of everything, from the start of the command to its end; null: however long it takes."""
    max_trials: Count | None
    """Search trials in total; null: as many as the hours hold."""
    startup_trials: Count
    """Random trials before the sampler learns."""
    search_examples: Count | None
    """Training examples of a search trial; null: as the plan has it, or all where there are no hours."""
    final: bool
    """Whether the winner's recipe is trained once more, on all training examples that the time holds."""
    final_seeds: Count | None
    """Seeds of that at the most, of which the best on validation is kept; null: five, if the hours hold them;
    one where there are none."""
    train_examples: Count | None
    """Stratified subset of the training rows that the study may use; null: all."""
    validation_examples: Count | None
    """Stratified subset of the validation rows; null: all."""
    rung_examples: Count | None
    """Part of the validation examples, scored at rungs; null: all."""
    test_examples: Count | None
    """Stratified subset of the test rows; null: all."""
    floors: bool
    """Fit simple models on the same data before the first trial, in at most a twentieth of the hours, and score them
    beside the winner."""
    blend: bool
    """Keep the winner of a task of texts together with the linear model of words, where both together are better on
    validation."""
    confirmation: ConfirmationSettings

    @model_validator(mode="after")
    def _has_an_end(self) -> "BudgetSettings":
        if self.hours is None:
            needed = {
                "max_trials": self.max_trials,
                "confirmation.finalists": self.confirmation.finalists,
                "confirmation.seeds": self.confirmation.seeds,
            }
            if missing := [f"budget.{name}" for name, value in needed.items() if value is None]:
                raise ValueError(
                    f"budget.hours is null, so {' and '.join(missing)} must be a number; or give hours, as BUDGET=15m"
                )
        return self


class PromotionSettings(Section):
    """What a challenger must show, on the champion's own test examples, to take its place."""

    name: Name
    """Of the rule."""
    alpha: Share
    """One-sided level of significance."""
    margin: Probability
    """How much worse in the task's metric is as good; 0: it must be significantly better."""
    cost: Share | None
    """Share of the champion's size, or of its time an example, that the challenger may take; null: any."""
    reference_margin: Probability
    """How much the task's first champion may lose to the reference recipe, in the task's metric."""
    class_margin: Share | None
    """How much less of any class may be found; null: any; for classes."""


class HardwareSettings(Section):
    """Where trials run; each `auto` is resolved by what the machine has, printed and recorded."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    """auto: a GPU where there is one."""
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"]
    """Of the forward and backward pass; weights and optimizer stay float32."""
    compile: bool
    """Have torch.compile translate the model for an NVIDIA GPU, once for each of a few lengths that batches are padded
    to. It takes minutes at first, so it pays where trials are long."""
    workers: Count | Literal["auto"]
    """Worker processes; auto: one for each GPU, one without. More than there are GPUs share them and their memory."""
    threads: Count | Literal["auto"]
    """CPU threads of a worker; auto: the cores this process may use, shared out."""
    checkpoint_seconds: Positive
    """Time between two checkpoints of a trial, apart from those at rungs: the most work that a crash can cost."""
    hang_seconds: Positive
    """A worker that trains no step and evaluates no batch for so long is ended; its trial goes on in a fresh one."""
    max_attempts: Count
    """How often a trial is given to a worker before a worker that dies with it makes it a failure."""


class TrackingSettings(Section):
    """Where MLflow keeps runs and models."""

    uri: str | None
    """An MLflow server or database; null: SQLite in the state folder."""


class StorageSettings(Section):
    """Where Optuna keeps studies."""

    uri: str | None
    """A database URL; null: SQLite in the state folder."""


class Settings(Section):
    """All of it."""

    study: Name
    """Name of the study; the same name continues it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Of sampler, weights of the new head, dropout and batch order."""
    task: TaskSettings
    model: ModelSettings
    train: TrainSettings
    optimizer: OptimizerSettings
    search: SearchSettings
    sampler: SamplerSettings
    budget: BudgetSettings
    promotion: PromotionSettings
    hardware: HardwareSettings
    tracking: TrackingSettings
    storage: StorageSettings

    @model_validator(mode="after")
    def _space_names_settings(self) -> "Settings":
        faults, space = [], self.search.space
        for path, dimension in space.items():
            faults += [
                f"search.space.{path}: {fault}" for fault in dimension_faults(path, dimension, self.search.space, self)
            ]
        if faults:
            raise ValueError("; ".join(faults))
        return self


def possible(settings: Settings, path: str) -> tuple[Any, ...]:
    """The values a setting may take in a sweep: its choices or its bounds, and the fixed one where that can hold."""
    dimension = settings.search.space.get(path)
    section, field = path.split(".")
    fixed = (getattr(getattr(settings, section), field),)
    if dimension is None:
        return fixed
    sampled = dimension.choices if isinstance(dimension, Choice) else (dimension.low, dimension.high)
    return (*sampled, *fixed) if dimension.when else sampled


def digest(value: object) -> str:
    """sha256 of the canonical JSON of `value`, shortened to 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
