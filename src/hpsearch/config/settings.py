"""Typed, frozen settings of all commands, checked as a whole before anything starts.

Defaults are only in the YAML files under `conf/`. No field here has a default.
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
    """Lowest and highest value, both included."""

    low: Positive
    """Lowest value, included."""
    high: Positive
    """Highest value, included."""


class Prior(Section):
    """Ranges of good values for the model. The shipped search spaces use them."""

    learning_rate: Bounds
    """Range of peak learning rates to search."""
    rdrop: Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1)]
    """Values of `train.rdrop` to search; only 0 for a model without dropout."""


class ReferenceRecipe(Section):
    """Recipe of the first trial, either published or measured in `experiments/`."""

    learning_rate: Positive
    """Peak learning rate."""
    batch_size: Count
    """Number of training examples per update."""
    epochs: Positive
    """Number of passes over the training examples."""
    warmup: Probability
    """Share of all steps in which the learning rate rises from 0 to its peak."""
    source: str
    """Where the recipe comes from."""


class ModelSettings(Section):
    """The pretrained model and the facts about it."""

    name: Name
    """Name of the model; part of the study's default name."""
    path: str
    """Id on the hub, local folder, or `package://module/folder` for weights inside an installed package."""
    revision: str | None
    """Branch, tag or commit on the hub; null: the newest version."""
    sha256: str | None
    """SHA-256 checksum of model.safetensors, verified if it is given."""
    family: str
    """Model family, a key of `FAMILIES` in `src/hpsearch/training/models.py`, such as bert. It must agree with
    the model's config.json."""
    license: str | None
    """License of the weights, as their source states it; null: not stated."""
    dropout: Probability
    """Dropout probability of hidden states."""
    attention_dropout: Probability
    """Dropout probability of attention weights. Above 0, the fused attention kernels cannot be used."""
    pooling: Literal["first", "mean"]
    """Output of the encoder that the head of a text classifier reads. first: the first token. mean: the mean of all
    tokens, as in models that were pretrained to embed sentences; only for family bert."""
    prior: Prior
    reference: ReferenceRecipe


class TrainSettings(Section):
    """How one model is fine-tuned."""

    learning_rate: Positive
    """Peak learning rate."""
    batch_size: Count
    """Number of training examples per update."""
    micro_batch_size: Count | None
    """Maximum number of examples in one forward pass of training. A batch is cut into equal parts of up to this
    number is used, and the update stays the same. null: the number that fits in memory."""
    epochs: Annotated[float, Field(gt=0, le=1000)] | None
    """Number of passes over the training examples; may be a fraction. null: model.reference.epochs. The number is
    raised, to at most 20, if fewer than 6,400 examples would be seen in total."""
    epochs_factor: Positive
    """Factor by which epochs is multiplied. The search varies this factor, because it means the same for few and for
    many examples."""
    examples: Count | None
    """Number of training examples that are used, the first ones in the study's stratified order; null: all."""
    fold: tuple[int, int] | None
    """Fold of a cross-validation, as [index from 0, number of folds]. Train and validation examples are divided into
    folds together, and the model is validated on this fold. null: it is validated on the validation split."""
    retimed: tuple[tuple[int, int], ...]
    """Changes of the schedule's length during training, as [step of the change, new total number of steps]. They are
    made if the machine is faster or slower than planned. The learning rate continues from its value at that step."""
    scheduler: Literal["linear", "cosine", "constant", "polynomial"]
    """Course of the learning rate after warm-up. polynomial: it falls with the square of the share of steps left."""
    warmup: Probability
    """Share of all steps in which the learning rate rises from 0 to its peak."""
    weight_decay: Annotated[float, Field(ge=0)]
    """Decoupled weight decay, not applied to biases and layer norms."""
    label_smoothing: Probability
    """Share of the target probability that is spread over all classes."""
    rdrop: Annotated[float, Field(ge=0, le=100)]
    """Weight of R-Drop (Liang et al. 2021, arXiv 2106.14448). Above 0, each batch passes through the model twice with
    different dropout, and the loss grows with the divergence of the two outputs. An update then takes nearly twice as
    long. 0: no R-Drop, one pass."""
    class_weights: Literal["none", "balanced"]
    """Weights of the classes in the loss. balanced: all classes count the same, however many examples they have; only
    for tasks whose examples have one class each. none: all examples count the same."""
    max_grad_norm: Positive
    """Maximum norm of the gradients; larger gradients are clipped to it."""
    evaluation_batch_size: Count
    """Number of examples in one forward pass of evaluation; each piece of a long example counts as one."""
    log_every: Count
    """Number of steps between two log entries of training loss and learning rate."""


class OptimizerSettings(Section):
    """An optimizer, given as a class of `torch.optim`."""

    name: str
    """Name of the class in `torch.optim`."""
    options: dict[str, Scalar | tuple[float | None, ...] | None]
    """Keyword arguments of the class, without lr and weight_decay, which are settings of `train`."""


class SearchSettings(Section):
    """What is searched, and when trials are compared so that only the best continue."""

    name: Name
    """Name of the search; part of the study's default name."""
    rungs: tuple[Share, ...]
    """Shares of a trial's schedule at which it is scored and may be paused, in ascending order."""
    rungs_after: Count
    """Minimum number of training examples that the shortest schedule of the space has seen at its first rung. Earlier
    rungs are moved there. If that is half of this schedule or more, there are no rungs."""
    keep: Share
    """Share of the trials that continue at each rung. The number of these trials is at least
    budget.confirmation.finalists, or 2 if that is null."""
    space: dict[str, Dimension]
    """Search space: the range or the choices of each setting that is searched. It is nested like the settings."""

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
    """The sampler of the search, given as a class of `optuna.samplers`."""

    name: str
    """Name of the class in `optuna.samplers`."""
    options: dict[str, Scalar | None]
    """Keyword arguments of the class, without seed. The sampler's seed is `seed` plus the trial's number. For
    GridSampler and QMCSampler it is `seed` alone."""


class ConfirmationSettings(Section):
    """Runs of the search's best points with fresh seeds. Only these runs decide the winner."""

    finalists: Annotated[int, Field(ge=0)] | None
    """Number of the search's best points that are run again. The reference recipe is run too, if it is not one of them.
    0: no confirmation, and the best trial wins. null: the plan decides."""
    seeds: Count | None
    """Number of fresh seeds for each point. A point that clearly loses gets no more runs. null: the plan decides."""
    confidence: Share
    """Confidence level for the decision that a point is worse than the best one and gets no more runs. The two points
    are compared example by example."""
    examples: Count | None
    """Number of training examples in each of these runs; null: the plan decides."""


class BudgetSettings(Section):
    """Limits of a whole study, over all runs of its command. If hours are given, a plan decides most null values."""

    name: Name
    """Name of the budget, for the record; not part of the study's name."""
    hours: Positive | None
    """Hours for everything, from the start of the command to its end; null: no time limit."""
    max_trials: Count | None
    """Maximum number of search trials in total; null: as many as the hours allow."""
    startup_trials: Count
    """Number of random trials before the sampler learns from results."""
    search_examples: Count | None
    """Number of training examples in a search trial. null: the plan decides; without hours, all."""
    final: bool
    """true: the winner's recipe is trained once more, on as many training examples as the time allows."""
    final_seeds: Count | None
    """Maximum number of seeds for the final model; the best one on validation is kept. null: up to five, as the hours
    allow; without hours, one."""
    train_examples: Count | None
    """Number of training examples that the study may use, a stratified subset; null: all."""
    validation_examples: Count | None
    """Number of validation examples that the study uses, a stratified subset; null: all."""
    rung_examples: Count | None
    """Number of validation examples that are scored at rungs; null: all."""
    test_examples: Count | None
    """Number of test examples that the study uses, a stratified subset; null: all, or as many as the hours hold if the
    machine becomes slower after the training, but at least 500."""
    floors: bool
    """true: simple models (floors) are fitted on the same data before the first trial and scored beside the winner.
    They take at most a twentieth of the hours in all; without hours, 10 minutes."""
    blend: bool
    """true: in tasks that classify texts, the winner is combined with the floor `words`, a linear model, if both
    together are better on validation."""
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
    """What a challenger must show to replace the champion, on the same test examples."""

    name: Name
    """Name of the rule."""
    alpha: Share
    """One-sided significance level of the comparison with the champion. Without a champion, the challenger is compared
    with the best constant answer."""
    margin: Probability
    """How much worse than the champion the challenger may be, in the task's metric. 0: it must be significantly
    better."""
    cost: Share | None
    """Maximum size or time per example of the challenger, as a share of the champion's. It must meet one of the two
    limits. null: no limit."""
    reference_margin: Probability
    """How much worse than the reference recipe the task's first champion may be, in the task's metric."""
    class_margin: Share | None
    """How much the recall of any class may fall; null: no limit. Only for tasks with classes."""


class HardwareSettings(Section):
    """Where trials run. Each `auto` is replaced by a value for the machine, which is printed and recorded."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    """Device that trains the models. auto: a GPU if there is one, else the CPU."""
    precision: Literal["auto", "float32", "tf32", "bfloat16", "float16"]
    """Number format of forward and backward passes; weights and optimizer stay float32. auto: bfloat16 if a CPU or
    NVIDIA GPU has it in hardware, else float16 on an NVIDIA GPU and float32 elsewhere."""
    compile: bool
    """true: torch.compile compiles the model for an NVIDIA GPU, once for each of a few lengths that batches are padded
    to. This takes minutes at first, so it is useful only if trials are long."""
    workers: Count | Literal["auto"]
    """Number of workers. auto: one for each GPU, or for each group of GPUs where several processes train a trial; one
    without a GPU. If there are more workers than GPUs, they share the GPUs and their memory."""
    threads: Count | Literal["auto"]
    """Number of CPU threads of each worker, or of each of its processes. auto: the cores that this process may use,
    divided among them."""
    checkpoint_seconds: Positive
    """Seconds between two checkpoints of a trial, apart from those at rungs. A crash costs at most this much work."""
    hang_seconds: Positive
    """Seconds without a training step or an evaluated batch after which a worker is ended. Its trial continues in a new
    worker."""
    max_attempts: Count
    """Maximum number of attempts at a trial. The trial fails when this number of workers have died while training
    it."""


class ClusterSettings(Section):
    """Where the workers run."""

    name: Literal["local", "ray"]
    """local: processes of this machine, as `hardware` says. ray: actors of a Ray cluster."""
    address: str | None
    """Address of the cluster's head, `<host>:<port>`. null: the environment variable RAY_ADDRESS. Without both, Ray is
    started on this machine."""
    workers: Count | None
    """Number of workers on the cluster. null: as many as have room, while nodes come and go."""
    cpus: Count | None
    """Processor cores of one worker. null: as many as all workers can have alike. If the number of workers is null too,
    there is one for each node, or for each part of a GPU."""
    gpus: Annotated[float, Field(ge=0, le=1)] | None
    """GPUs of one worker, or of each of its processes. 0.25: four workers share one GPU. null: one if the nodes have
    any, else none."""
    processes_per_trial: Count
    """Processes that train one trial together, on one machine, each on its part of every batch: the updates are those
    of one process. On GPUs, each has its own. A worker's cores are divided among them."""
    resources: dict[str, Annotated[float, Field(gt=0)]]
    """Custom resources of one worker, by the names that nodes have for them in Ray."""
    shared: bool
    """Whether all nodes see the state folder at the same path. If not, data, models and checkpoints are sent."""
    autoscaling: bool
    """Whether the cluster starts nodes for workers that wait for room, and ends nodes without work. Needs `workers` and
    `cpus`, because nodes that are not there can't be counted."""
    environment: Literal["none", "package"]
    """none: the nodes have hpsearch and its libraries. package: Ray brings this code, and pip installs the libraries in
    the coordinator's versions, in an environment of its own on each node."""

    @field_validator("resources")
    @classmethod
    def _are_custom(cls, value: dict[str, float]) -> dict[str, float]:
        if own := sorted(value.keys() & {"CPU", "GPU", "memory", "object_store_memory"}):
            raise ValueError(f"{own[0]} is no custom resource; give cluster.cpus and cluster.gpus")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "ClusterSettings":
        asked, cpus, gpus = self.processes_per_trial, self.cpus, self.gpus
        if asked > 1 and gpus is not None and 0 < gpus < 1:
            raise ValueError(f"processes_per_trial={asked}, gpus={gpus:g}: each process needs a whole GPU, or none")
        if cpus is not None and cpus < asked:
            raise ValueError(f"processes_per_trial={asked}, cpus={cpus}: each process needs a core")
        if self.autoscaling and (self.workers is None or self.cpus is None):
            raise ValueError(
                "autoscaling=true: nodes that are not there can't be counted; give cluster.workers and cluster.cpus"
            )
        return self


class TrackingSettings(Section):
    """Where MLflow stores runs and models."""

    uri: str | None
    """Address of an MLflow server or database; null: SQLite in the state folder."""


class StorageSettings(Section):
    """Where Optuna stores studies."""

    uri: str | None
    """URL of a database; null: SQLite in the state folder."""


class Settings(Section):
    """All settings of a command."""

    study: Name
    """Name of the study. A command with the same name continues it."""
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    """Seed of the sampler, the weights of the new head, dropout and the batch order."""
    task: TaskSettings
    model: ModelSettings
    train: TrainSettings
    optimizer: OptimizerSettings
    search: SearchSettings
    sampler: SamplerSettings
    budget: BudgetSettings
    promotion: PromotionSettings
    hardware: HardwareSettings
    cluster: ClusterSettings
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
    """Return the values that a setting may take in a sweep.

    These are its choices or its two bounds. The fixed value is added if the setting is searched only conditionally. A
    setting that is not searched has only its fixed value.
    """
    dimension = settings.search.space.get(path)
    section, field = path.split(".")
    fixed = (getattr(getattr(settings, section), field),)
    if dimension is None:
        return fixed
    sampled = dimension.choices if isinstance(dimension, Choice) else (dimension.low, dimension.high)
    return (*sampled, *fixed) if dimension.when else sampled


def digest(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of `value`, shortened to 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
