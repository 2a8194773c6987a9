"""Every shipped YAML file composes and loads, alone and with the others."""

import itertools
from collections.abc import Sequence

import pytest

from hpsearch.config import loading
from hpsearch.config.composition import compose
from hpsearch.config.dimensions import Interval
from hpsearch.config.settings import Settings
from hpsearch.config.shipped import groups, options, shipped_conf
from hpsearch.report.next_steps import TIMED

CONF = shipped_conf()
# Counted here so that a file nobody looks at, or one that is lost, is noticed.
COUNTS = {
    "budget": 3,
    "cluster": 2,
    "model": 9,
    "optimizer": 3,
    "promotion": 3,
    "sampler": 6,
    "search": 3,
    "task": 9,
    "train": 1,
}
CHOICES = [(group, name) for group in COUNTS for name in options(group, [CONF])]
DEFAULTS = (
    "task=imdb",
    "model=minilm",
    "optimizer=adamw",
    "search=default",
    "sampler=tpe",
    "budget=quick",
    "promotion=better",
)
MANDATORY = {
    "csv": ["task.name=reviews", "task.files.train=reviews.csv"],
    "multilabel": ["task.name=topics", "task.files.train=topics.csv"],
    "qa_files": ["task.name=manuals", "task.files.train=manuals.json"],
    "ner_files": ["task.name=parts", "task.files.train=parts.conll"],
}


def load(overrides: Sequence[str]) -> Settings:
    needed = [MANDATORY[task] for task in MANDATORY if f"task={task}" in overrides]
    return loading.load(compose([*overrides, *itertools.chain(*needed)]))


def test_no_file_is_missed() -> None:
    assert {group: len(options(group, [CONF])) for group in groups(CONF)} == COUNTS
    others = 2  # config.yaml, and the script for SLURM
    assert len(list(CONF.rglob("*"))) == sum(COUNTS.values()) + len(COUNTS) + others


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_loads(group: str, name: str) -> None:
    chosen = load([f"{group}={name}"]).model_dump()[group]
    if group in ("budget", "model", "search", "task") and name not in MANDATORY:
        assert chosen["name"] == name
    if group == "budget":
        assert (chosen["hours"] is None) == (name == "full")
        assert (chosen["max_trials"] is None) == (chosen["confirmation"]["seeds"] is None) == (name != "full")
        assert chosen["startup_trials"] < (chosen["max_trials"] or 8)


def test_the_shipped_times_differ_in_nothing_else() -> None:
    quick, standard = (load([f"budget={name}"]).budget for name in TIMED)
    assert standard == quick.model_copy(update={"name": "standard", "hours": 2.0})


@pytest.mark.parametrize("task", options("task", [CONF]))
@pytest.mark.parametrize("model", options("model", [CONF]))
@pytest.mark.parametrize("search", options("search", [CONF]))
def test_every_combination_loads(task: str, model: str, search: str) -> None:
    loaded = load([f"task={task}", f"model={model}", f"search={search}"])
    assert loaded.study == f"{loaded.task.name}-{model}-{search}"
    assert loaded.train.learning_rate == loaded.model.reference.learning_rate
    rate = loaded.search.space["train.learning_rate"]
    assert isinstance(rate, Interval)
    assert rate.low <= loaded.train.learning_rate <= rate.high


def test_the_defaults_are_those_named_here() -> None:
    assert load([]) == load(DEFAULTS)


@pytest.mark.parametrize("task", ["imdb", "rotten_tomatoes"])
def test_data_that_come_packaged_can_come_from_the_hub(task: str) -> None:
    assert load([f"task={task}", "task.source=hub"]).task.source == "hub"
