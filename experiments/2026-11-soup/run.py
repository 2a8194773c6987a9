"""Is the mean of the weights of several seeds better than the best of them? Adds rows to table.csv beside this file.

python run.py --data NAME ... [--seeds 4] [--examples N] [--factor 1.5]; the seeds differ in the head's first
weights, the order of the examples and dropout. `mean` has the mean of the weights of all seeds so far, `votes` is the
mean of their outputs, which costs as many models as there are seeds.
"""

import argparse
import csv
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, stack

from hpsearch.config import composition, loading
from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, Part
from hpsearch.training import data, hardware
from hpsearch.training.saved import Said, Saved, ScoreSpec
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

HERE = Path(__file__).parent
COLUMNS = ("data", "examples", "factor", "seeds", "what", "validation", "test", "machine")
SPLITS = ("validation", "test")
SHARED = HERE.parents[2] / "shared" / "data"
R8 = (f"task.files.train={SHARED / 'r8-train.csv'}", f"task.files.test={SHARED / 'r8-test.csv'}")
SOURCES = {
    "rotten_tomatoes": ("task=rotten_tomatoes",),
    "r8": ("task=csv", "task.name=r8", "task.max_length=128", "task.metric=f1", *R8),
}
Row = tuple[str | float, ...]


def main() -> None:
    """Train the seeds of each data set, and score them and their means."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", nargs="+", required=True, choices=list(SOURCES))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--factor", type=float, default=1.5)
    given = parser.parse_args()
    kept = HERE / "table.csv"
    if not kept.exists():
        kept.write_text(",".join(COLUMNS) + "\n")
    for name in given.data:
        with tempfile.TemporaryDirectory() as scratch:
            rows = of_one(name, given, Path(scratch))
        with open(kept, "a", newline="") as file:
            csv.writer(file).writerows(rows)


def of_one(name: str, given: argparse.Namespace, home: Path) -> list[Row]:
    """The rows of a data set."""
    line = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)
    settings = at(name, given, 1)
    where = hardware.resolve(settings.hardware)
    hardware.apply(where)
    warm = Warm(where)
    ref = data.prepare(data.read(settings), settings, home)
    examples = min(given.examples, ref.sizes["train"])
    weights, outputs = list[dict[str, Tensor]](), list[dict[str, Said]]()
    rows, models = list[Row](), list[Path]()

    def row(what: str, scores: dict[str, float], seeds: int) -> None:
        rows.append((name, examples, given.factor, seeds, what, *(f"{scores[s]:.4f}" for s in SPLITS), where.name))
        print(*rows[-1], flush=True)

    def says(model: Path, what: str, seeds: int) -> dict[str, Said]:
        specs = {split: ScoreSpec(0, settings, ref, model, Part(split), {}) for split in SPLITS}
        found = {split: Saved(spec, warm, line).says_of_part() for split, spec in specs.items()}
        row(what, scores_of(found, specs["test"], settings), seeds)
        return found

    for seed in range(1, given.seeds + 1):
        spec = TrialSpec(0, at(name, given, seed), ref, home / f"trial{seed}")
        run_trial(spec, warm, line)
        models.append(TrialFolder(spec.folder).model)
        weights.append(load_file(models[-1] / "model.safetensors"))
        outputs.append(says(models[-1], f"seed {seed}", 1))
        if seed == 1:
            continue
        both = home / f"mean{seed}"
        shutil.copytree(models[0], both)
        mean = {key: stack([one[key].float() for one in weights]).mean(0) for key in weights[0]}
        save_file(mean, both / "model.safetensors", {"format": "pt"})
        says(both, "mean", seed)
        votes = {s: replace(outputs[0][s], outputs=voted([one[s] for one in outputs])) for s in SPLITS}
        row("votes", scores_of(votes, ScoreSpec(0, settings, ref, both, Part("test"), {}), settings), seed)
    return rows


def voted(said: list[Said]) -> list[NDArray[np.float32]]:
    """The mean of what the models say of each piece."""
    return [np.mean([one.outputs[i] for one in said], axis=0) for i in range(len(said[0].outputs))]


def scores_of(found: dict[str, Said], spec: ScoreSpec, settings: Settings) -> dict[str, float]:
    """Of each split; thresholds are fitted on validation."""
    first = found["validation"].scores(spec, {})
    test = found["test"].scores(spec, first.fitted)
    return {"validation": first.metrics[settings.task.metric], "test": test.metrics[settings.task.metric]}


def at(name: str, given: argparse.Namespace, seed: int) -> Settings:
    """The reference recipe."""
    overrides = [*SOURCES[name], "budget=full", "budget.validation_examples=1000", "budget.rung_examples=null"]
    overrides += [f"train.examples={given.examples}", f"train.epochs_factor={given.factor}", f"seed={seed}"]
    return loading.load(composition.compose([*overrides, "search.rungs=[]", "hardware.checkpoint_seconds=100000"]))


if __name__ == "__main__":
    main()
