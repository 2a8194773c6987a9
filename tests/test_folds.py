"""Few labels: train and validation together, in parts that are validated on in turn."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import make
import tiny
from hpsearch.coordinator.sweep import run_sweep
from hpsearch.decisions.paired import gains
from hpsearch.decisions.racing import Rule, Run, out
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import TrialRecord
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.training import data, folds, hardware
from hpsearch.training.trial import Warm

Models = Callable[[str], Path]
ACCURACY = OBJECTIVES["accuracy"]


def test_each_example_is_validated_on_once_and_never_trained_on_then(tiny_model: Models, tmp_path: Path) -> None:
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv", n=103), tiny_model("bert"), "bert")
    ref, warm = make.prepared(settings, tmp_path), Warm(hardware.resolve(settings.hardware))
    whole = {split: warm.tokens(ref, settings, split) for split in ("train", "validation")}
    seen: Counter[str] = Counter()
    for which in range(5):
        train, validation = folds.tokens(whole, (which, 5))
        rows = folds.rows(ref, (which, 5))
        assert len(rows["id"]) == validation.examples == len(validation)
        assert train.examples + validation.examples == ref.sizes["train"] + ref.sizes["validation"]
        assert validation.labels.tolist() == rows["label"]
        encoded = KINDS[settings.task.kind].encode(rows, warm.tokenizer(settings.model), settings.task)
        assert (
            np.concatenate([validation[i]["input_ids"] for i in range(len(validation))]).tolist()
            == encoded["ids"].tolist()
        )
        held = {tuple(validation[i]["input_ids"]) for i in range(len(validation))}
        assert not held & {tuple(train[i]["input_ids"]) for i in range(len(train))}
        assert abs(np.mean(validation.labels) - 0.5) < 0.1, "stratified"
        seen.update(rows["id"])
    assert set(seen.values()) == {1}
    assert set(seen) == {name for split in whole for name in data.load(ref, split)["id"]}


def test_seeds_with_examples_of_their_own_are_compared_on_all_of_them() -> None:
    """One is better on each fold by little: no fold shows it, all together do."""
    kind, rng = KINDS["text_classification"], np.random.default_rng(0)

    def run(seed: int, right: float) -> Run:
        hits = rng.permutation(np.arange(40) < 40 * right).astype(float)
        return Run(seed, float(hits.mean()), np.column_stack([hits, 1 - hits, 1 - hits]), 1.0)

    runs = {"good": [run(seed, 0.85) for seed in range(5)], "bad": [run(seed, 0.6) for seed in range(5)]}
    together = Rule(kind.of_sums, ACCURACY, 0.95, apart=True)
    assert "bad" in out(runs, range(6), together, {})
    stacked = [np.vstack([one.tallies for one in runs[name]]) for name in ("good", "bad")]
    assert np.quantile(gains([stacked[0]], [stacked[1]], kind.of_sums, ACCURACY), 0.975) < 0


@pytest.mark.slow
@pytest.mark.parametrize("n", [150])
def test_a_study_of_few_labels_is_confirmed_by_cross_validation(n: int, tiny_model: Models, tmp_path: Path) -> None:
    csv = tiny.write_csv(tmp_path / "toy.csv", n=n)
    settings = make.toy_settings(
        csv,
        tiny_model("bert"),
        "bert",
        *("budget.max_trials=2", "budget.confirmation.finalists=1", "budget.confirmation.seeds=5", "budget.final=true"),
        *("search.rungs=[]", "task.split.validation=0.1", "budget.rung_examples=null"),
    )
    summary = run_sweep(settings, tmp_path / "home")
    folder = StudyFolder.of(tmp_path / "home", settings.study)
    runs = [TrialRecord.load(one.path) for one in folder.trials("confirmation")]
    assert {run.fold for run in runs} <= {(which, 5) for which in range(5)}
    by_entrant: dict[str, list[TrialRecord]] = {}
    for one in runs:
        by_entrant.setdefault(str(one.entrant), []).append(one)
    for found in by_entrant.values():
        assert [one.fold for one in found] == [(which, 5) for which in range(len(found))]
    [final] = [TrialRecord.load(one.path) for one in folder.trials("final")]
    assert final.fold is None
    assert summary.winner.folder == "final/0"
    assert replace(final, told=True) == final
