"""Is a fine-tune better together with the linear model of words? Writes table.md beside this file.

python run.py [--cells NAME ...]; one fine-tune of the reference recipe a cell, and one in cells.json is not run again.
Both models say log probabilities of each class; two weights for them are fitted on validation by log loss, and the
blend is scored on test beside both.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from hpsearch.config import loading
from hpsearch.config.settings import Settings
from hpsearch.decisions import paired
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tasks.texts import pooled
from hpsearch.training import data, hardware, models, trainer, words
from hpsearch.training.trial import Line, TrialSpec, Warm, evaluation, run_trial

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "data"
R8 = (
    *("task=csv", "task.name=r8", "task.max_length=128", "task.metric=f1"),
    *(f"task.files.train={SHARED / 'r8-train.csv'}", f"task.files.test={SHARED / 'r8-test.csv'}"),
)
CELLS: dict[str, tuple[str, ...]] = {
    "rotten_tomatoes": ("task=rotten_tomatoes",),
    "r8, 1,000 texts": (*R8, "budget.train_examples=1000"),
    "imdb, 1,000 reviews": ("task=imdb", "budget.train_examples=1000"),
    "imdb, 4,000 reviews": ("task=imdb", "budget.train_examples=4000"),
    "imdb": ("task=imdb",),
}
WORDS_SECONDS = 60.0
Floats = NDArray[np.float64]
LINE = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)


@dataclass(frozen=True)
class Said:
    """Log probabilities (examples, classes) of one model."""

    validation: Floats
    test: Floats


def settings_of(cell: str) -> Settings:
    given = [*CELLS[cell], "budget=full", "search.rungs=[]", "hardware.checkpoint_seconds=100000"]
    given.sort(key=lambda word: not word.startswith(("task=", "budget=")))  # choices first
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        return loading.load(compose("config", overrides=given))


def fitted(validation: Sequence[Floats], truth: NDArray[np.integer]) -> Floats:
    """Weights of models, none below 0, by the log loss on validation."""

    def loss(weights: Floats) -> float:
        mixed = log_softmax(sum(w * one for w, one in zip(weights, validation, strict=True)), axis=1)
        return -float(mixed[np.arange(len(truth)), truth].mean())

    found = minimize(loss, np.full(len(validation), 0.5), bounds=[(0.0, 10.0)] * len(validation))
    weights: Floats = found.x
    return weights


def run(cell: str) -> dict[str, Any]:
    """Fine-tune, fit words, blend, score."""
    settings = settings_of(cell)
    where = hardware.resolve(settings.hardware)
    hardware.apply(where)
    warm, kind = Warm(where), KINDS[settings.task.kind]
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        ref = data.prepare(data.read(settings), settings, home)
        rows = {split: data.load(ref, split).to_dict() for split in ref.sizes}
        result = run_trial(TrialSpec(0, settings, ref, home / "trial"), warm, LINE)
        saved = settings.model.model_copy(update={"path": str(TrialFolder(home / "trial").model)})
        model = models.build(saved, kind, ref.labels, warm.tokenizer(settings.model), where)

        def tuned(split: str) -> Floats:
            tokens = warm.tokens(ref, settings, split)
            outputs = trainer.predict(model, tokens, range(len(tokens)), evaluation(settings, where, LINE))
            return log_softmax(pooled(outputs, tokens, tokens.examples), axis=1)  # type: ignore[no-any-return]

        fine = Said(tuned("validation"), tuned("test"))
    truth = {split: np.array(rows[split]["label"]) for split in rows}
    right = np.eye(len(ref.labels), dtype=bool)[truth["train"]]
    objective = OBJECTIVES[settings.task.metric]

    def worth(logits: Floats) -> float:
        return objective.worth(kind.judge(logits, rows["validation"], None).metrics[objective.name])

    given = words.Given(rows["train"]["text"], right, True, rows["validation"]["text"], worth)
    bag = words.fit(given, WORDS_SECONDS)
    simple = Said(log_softmax(bag.validation, axis=1), log_softmax(bag.bag.logits(rows["test"]["text"]), axis=1))
    weights = fitted([fine.validation, simple.validation], truth["validation"])
    blend = weights[0] * fine.test + weights[1] * simple.test
    truths = [ref.labels[one] for one in truth["test"]]
    names = {"fine-tune": fine.test, "words": simple.test, "blend": blend}
    tallies = {name: kind.tallies(truths, _named(said, ref.labels), ref.labels) for name, said in names.items()}
    scores = {name: float(kind.of_sums(one.sum(0))[objective.name]) for name, one in tallies.items()}
    better = max(("fine-tune", "words"), key=lambda name: objective.worth(scores[name]))
    drawn = paired.gains([tallies[better]], [tallies["blend"]], kind.of_sums, objective)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "cell": cell,
        "metric": objective.name,
        "machine": where.name,
        "train": ref.sizes["train"],
        "test": ref.sizes["test"],
        "steps": result.step,
        "scores": scores,
        "weights": [round(float(one), 2) for one in weights],
        "gain": [objective.gain(scores["blend"], scores[better]), float(low), float(high)],
    }


def _named(said: Floats, labels: Sequence[str]) -> list[str]:
    return [labels[int(one)] for one in said.argmax(axis=1)]


def write(cells: list[dict[str, Any]]) -> None:
    lines = [
        f"{cells[-1]['machine']}; MiniLM, one seed; 95 % intervals over test examples",
        "",
        "| data | training examples | metric | fine-tune | words | blend | over the better of both | weights |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        gain, low, high = (f"{100 * one:+.1f}" for one in cell["gain"])
        scores = " | ".join(f"{cell['scores'][name]:.4f}" for name in ("fine-tune", "words", "blend"))
        weights = ", ".join(f"{one:g}" for one in cell["weights"])
        lines.append(
            f"| {cell['cell']} | {cell['train']:,} | {cell['metric']} | {scores} | {gain} points ({low} to {high}) "
            f"| {weights} |"
        )
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    kept = HERE / "cells.json"
    cells = json.loads(kept.read_text()) if kept.exists() else []
    for name in parser.parse_args().cells:
        if name not in {cell["cell"] for cell in cells}:
            cells.append(run(name))
            kept.write_text(json.dumps(cells, indent=1) + "\n")
            write(cells)


if __name__ == "__main__":
    main()
