"""Settings and records for tests: the shipped configuration, with overrides."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from hpsearch.config import loading
from hpsearch.config.composition import quoted
from hpsearch.config.settings import Settings
from hpsearch.state.records import DataRef
from hpsearch.training import data

CONF = Path(__file__).parents[1] / "conf"


def toy_settings(file: Path, model: Path, family: str, *overrides: str, task: str = "csv") -> Settings:
    """A toy task on a tiny model: 2 epochs of 128 sentences, one rung at half of the schedule, 8 trials, no hours."""
    return compose_settings(
        f"task={task}",
        "budget=full",
        "task.name=toy",
        f"task.files.train={quoted(str(file))}",
        "task.max_length=48",
        f"task.truncation={'windows' if task in ('qa_files', 'ner_files') else 'head'}",
        "task.split.validation=0.2",
        "task.split.test=0.2",
        f"model.path={quoted(str(model))}",
        f"model.family={family}",
        "model.sha256=null",
        "model.name=tiny",
        "model.pooling=first",
        "train.learning_rate=0.01",
        "train.epochs=2",
        "train.log_every=2",
        "search.rungs=[0.5]",
        "search.rungs_after=1",
        "~search.space.train.epochs_factor",
        "~search.space.train.rdrop",
        "+search.space.train.epochs.choices=[1,2]",
        "hardware.device=cpu",
        "hardware.precision=float32",  # the same on every machine
        "hardware.threads=1",
        "budget.max_trials=8",
        "budget.startup_trials=4",
        "budget.final=false",
        "budget.final_seeds=1",
        "budget.train_examples=null",
        "budget.validation_examples=null",
        "budget.rung_examples=20",
        "budget.test_examples=null",
        "budget.floors=false",  # tests of them turn them on
        "budget.confirmation.finalists=0",
        "budget.confirmation.seeds=2",
        *overrides,
    )


def compose_settings(*overrides: str) -> Settings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return loading.load(compose("config", overrides=list(overrides)))


def prepared(settings: Settings, home: Path) -> DataRef:
    return data.prepare(data.read(settings), settings, home)
