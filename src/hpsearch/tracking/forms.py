"""A study's facts and results in the forms that MLflow takes: flat names, data sets, figures, tables."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from hpsearch.config.settings import Settings
from hpsearch.data import reading
from hpsearch.state import codec
from hpsearch.state.facts import Facts
from hpsearch.state.outcome import Summary
from hpsearch.state.records import DataRef, Points, TrialRecord


@dataclass(frozen=True)
class KeptTrial:
    """A trial with its curves."""

    record: TrialRecord
    points: tuple[tuple[int, dict[str, float]], ...]
    """Points of its curves: (step, metrics)."""


@dataclass(frozen=True)
class KeptTrials:
    """The trials of the search, as `trials.json` holds them."""

    trials: tuple[KeptTrial, ...]


@dataclass(frozen=True)
class Kept:
    """A finished study as its MLflow run holds it."""

    settings: str
    """The study's settings, as YAML."""
    summary: Summary
    trials: list[tuple[TrialRecord, Points]]
    """The trials of the search, with their curves."""


def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, leaf) of nested values, in characters that MLflow takes in a name."""
    for key, child in value.items():
        path = prefix + re.sub(r"[^\w. /:-]", "_", str(key))
        if isinstance(child, dict):
            yield from flat(child, f"{path}.")
        else:
            yield path, child


def without_labels(facts: Facts) -> dict[str, Any]:
    """Return facts as plain values, with no label as a key.

    MLflow refuses some texts as names, and there may be thousands of labels.
    """
    by_label = {"labels": json.dumps(facts.labels), "classes": json.dumps(facts.classes)}
    return {**codec.plain(facts), **by_label}


def dataset(settings: Settings, split: str, ref: DataRef) -> DatasetInput:
    """Return a split of a study's data as an MLflow data set, with its digest and size."""
    source = json.dumps({"source": reading.describe(settings.task)})
    profile = json.dumps({"num_rows": ref.sizes[split]})
    dataset = Dataset(settings.task.name, ref.digests[split], settings.task.source, source, profile=profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", split)])


def figures(summary: Summary) -> Iterator[tuple[str, float]]:
    """Yield a summary's numbers as metrics: `test_accuracy`, `best_validation_accuracy`, `trials_pruned`, ..."""
    test = summary.test
    yield from ((f"test_{name}", value) for name, value in test.all.items())
    yield f"test_{test.metric}_low", test.low
    yield f"test_{test.metric}_high", test.high
    yield f"best_validation_{summary.metric}", summary.best.validation
    yield from ((f"trials_{name}", value) for name, value in asdict(summary.trials).items())
    yield from ((f"seconds_{name}", value) for name, value in summary.seconds.items())
    for floor in summary.floors:
        yield f"floor_{floor.name}_test_{test.metric}", floor.test.value
        yield f"floor_{floor.name}_validation_{test.metric}", floor.validation[f"validation_{test.metric}"]
        yield f"floor_{floor.name}_seconds", floor.seconds
    if (blend := summary.blend) is not None:
        yield f"fine_tune_alone_test_{test.metric}", blend.test.value
        yield f"fine_tune_alone_validation_{test.metric}", blend.validation[f"validation_{test.metric}"]


def leaderboard(records: Sequence[TrialRecord]) -> dict[str, Any]:
    """Return a table with a row for each trial, in the layout of MLflow's tables."""
    params = sorted({name for record in records for name in record.params})
    rows = [
        [r.number, str(r.status), r.score, r.step, r.total_steps, *(r.params.get(name) for name in params), r.reason]
        for r in sorted(records, key=lambda record: record.number)
    ]
    return {"columns": ["trial", "status", "score", "step", "total_steps", *params, "reason"], "data": rows}
