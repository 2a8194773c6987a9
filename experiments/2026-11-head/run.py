"""How a fine-tune's head should begin, and what it should read. Writes table.md beside this file.

python run.py [--r8 PATH]; two hours on two cores with bf16. A cell that is in cells.csv is not run again. Heads:

- `first`: transformers' own, as it loads: first token, the model's pooler (dense, tanh), a random linear layer.
- `first+fit`: the same, the linear layer fitted by logistic regression on the frozen model's pooled output.
- `mean`: the mean of the last layer's tokens, a random linear layer.
- `mean+fit`: the same, fitted on the frozen model's means (LP-FT, Kumar et al. 2022, arXiv 2202.10054).
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from sklearn.linear_model import LogisticRegression
from transformers import set_seed

from hpsearch.config import loading
from hpsearch.config.settings import Settings
from hpsearch.data.tokens import Tokens, collate, model_inputs
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, hardware, models, trainer
from hpsearch.training.encoders import BERT, install
from hpsearch.training.hardware import DTYPES

HERE = Path(__file__).parent
HEADS = ("first", "first+fit", "mean", "mean+fit")
COLUMNS = ("data", "examples", "epochs", "rate", "head", "seed", "start", "accuracy", "macro_f1")
SCORED = 1000  # examples of validation and test together; nothing is chosen by them
# data, training examples, epochs, learning rate
CELLS = (
    ("rotten_tomatoes", 300, 10, 1e-4),
    ("r8", 300, 10, 1e-4),
    ("imdb", 300, 6, 1e-4),
    ("r8", 1000, 6, 1e-4),
    ("rotten_tomatoes", 2000, 3, 1e-4),
    ("imdb", 2000, 2, 1e-4),
)
SEEDS = (1, 2)
FOLDS = 4  # one of which tells how strongly a head is fitted
STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # C of scikit-learn


class Mean(torch.nn.Module):
    """In place of a pooler: the mean over the tokens that are there. `mask` (B, L) is set before each pass."""

    mask: torch.Tensor

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, width) of (B, L, width)."""
        mask = self.mask[:, :, None].to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


def settings_of(name: str, r8: Path, seed: int, epochs: float, rate: float) -> Settings:
    """Of one fine-tune."""
    task = {
        "imdb": ["task=imdb"],
        "rotten_tomatoes": ["task=rotten_tomatoes"],
        "r8": ["task=csv", "task.name=r8", f"task.files.train={r8}", "task.max_length=128"],
    }[name]
    given = [*task, f"train.epochs={epochs}", f"train.learning_rate={rate}", f"seed={seed}"]
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        return loading.load(compose("config", overrides=[*given, "budget=full"]))


class First(torch.utils.data.Dataset[Any]):
    """The first examples of a split, one piece each."""

    def __init__(self, tokens: Tokens, count: int) -> None:
        self.tokens, self.lengths, self.labels = tokens, tokens.lengths[:count], tokens.labels[:count]
        self.folder = tokens

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.tokens[i]


def fine_tune(settings: Settings, head: str, examples: int, home: Path) -> dict[str, float]:
    """Accuracy before the first update and after the last, and macro F1."""
    kind, where = KINDS[settings.task.kind], hardware.resolve(settings.hardware)
    hardware.apply(where)
    ref = data.prepare(data.read(settings), settings, home)
    tokenizer = models.load_tokenizer(settings.model)
    tokens = {split: data.tokenised(ref, settings, tokenizer, split) for split in ref.sizes}
    set_seed(settings.seed)
    model: Any = models.build(settings.model, kind, ref.labels, tokenizer, where)
    if head.startswith("mean"):
        install(model, BERT, DTYPES[where.precision], first_token=False)
        model.bert.pooler = pooler = Mean()
        model.register_forward_pre_hook(
            lambda _, __, given: setattr(pooler, "mask", given["attention_mask"]), with_kwargs=True
        )
    part = First(tokens["train"], examples)
    if head.endswith("+fit"):
        fit_head(model, part, tokenizer.pad_token_id, where)
    trained: Any = trainer.make_trainer(settings, kind, model, part, where, home / "trial")  # type: ignore[arg-type]
    before = score(model, kind, tokens, where, settings)
    trainer.run(trained, None)
    after = score(model, kind, tokens, where, settings)
    return {"start": before[0], "accuracy": after[0], "macro_f1": after[1]}


def fit_head(model: Any, part: First, pad: int, where: Any) -> None:
    """Set the linear layer to the fit on the frozen model's pooled output."""
    pooled: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, given: pooled.append(given[0].float()))
    order = np.argsort(part.lengths, kind="stable")
    model.eval()
    with torch.inference_mode(), trainer.autocast(where):
        for start in range(0, len(order), 64):
            batch = collate([part[int(i)] for i in order[start : start + 64]], pad, True, {})
            model(**model_inputs(batch))
    hook.remove()
    features = torch.cat(pooled).numpy()
    mean, spread = features.mean(0), features.std(0) + 1e-6
    scaled, labels = (features - mean) / spread, part.labels[order]
    fold = np.arange(len(labels)) % FOLDS == 0

    def held_out(strength: float) -> float:
        tried = LogisticRegression(C=strength, max_iter=500).fit(scaled[~fold], labels[~fold])
        return float(tried.score(scaled[fold], labels[fold]))

    strength = max(STRENGTHS, key=held_out)  # of equal ones the smallest
    fitted = LogisticRegression(C=strength, max_iter=500).fit(scaled, labels)
    weights, bias = fitted.coef_ / spread, fitted.intercept_ - (fitted.coef_ / spread) @ mean
    if len(weights) == 1:  # of two classes, scikit-learn says how much the second is more likely
        weights, bias = np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.fill_(-10.0)  # a class without an example
        for row, label in enumerate(fitted.classes_ if len(fitted.classes_) > 2 else (0, 1)):
            model.classifier.weight[label] = torch.from_numpy(weights[row]).float()
            model.classifier.bias[label] = float(bias[row])


def score(model: Any, kind: Any, tokens: dict[str, Tokens], where: Any, settings: Settings) -> tuple[float, float]:
    """Accuracy and macro F1 on half of each split that is not trained on."""
    right: list[Any] = []
    said: list[Any] = []
    for split in ("validation", "test"):
        count = min(SCORED // 2, len(tokens[split]))
        how = trainer.Evaluation(kind, where, True, settings.train.evaluation_batch_size, lambda: None)
        outputs = trainer.predict(model, tokens[split], range(count), how)
        said += np.stack(outputs).argmax(1).tolist()
        right += tokens[split].labels[:count].tolist()
    from sklearn.metrics import f1_score

    return float(np.mean(np.array(said) == right)), float(f1_score(right, said, average="macro", zero_division=0))


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--r8", type=Path, default=HERE.parents[2] / "shared" / "data" / "r8-train.csv")
    r8 = parser.parse_args().r8
    kept = HERE / "cells.csv"
    rows = list(read(kept))
    there = {tuple(row[name] for name in COLUMNS[:6]) for row in rows}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in SEEDS:
            for name, examples, epochs, rate in CELLS:
                for head in HEADS:
                    key = (name, str(examples), str(epochs), str(rate), head, str(seed))
                    if key in there:
                        continue
                    found = fine_tune(settings_of(name, r8, seed, epochs, rate), head, examples, Path(scratch))
                    rows.append(dict(zip(COLUMNS, (*key, *(f"{found[c]:.4f}" for c in COLUMNS[6:])), strict=True)))
                    with open(kept, "w", newline="") as file:
                        writer = csv.DictWriter(file, COLUMNS)
                        writer.writeheader()
                        writer.writerows(rows)
                    print(rows[-1], flush=True)
                    write(rows)


def read(path: Path) -> Iterator[dict[str, str]]:
    """The cells that there are."""
    if path.exists():
        with open(path, newline="") as file:
            yield from csv.DictReader(file)


def write(rows: list[dict[str, str]]) -> None:
    """One row for each data set and size."""
    lines = ["| data | examples | epochs | rate | " + " | ".join(HEADS) + " |", "|" + " --- |" * (4 + len(HEADS))]
    for name, examples, epochs, rate in CELLS:
        cells = []
        for head in HEADS:
            key = [name, str(examples), str(epochs), str(rate), head]
            found = [row for row in rows if [row[column] for column in COLUMNS[:5]] == key]
            metric = "macro_f1" if name == "r8" else "accuracy"
            start = fmean(float(row["start"]) for row in found) if found else 0.0
            scores = ", ".join(f"{float(row[metric]):.3f}" for row in found)
            cells.append(f"{scores} (from {start:.3f})" if found else "")
        lines.append(f"| {name} | {examples:,} | {epochs} | {rate:g} | " + " | ".join(cells) + " |")
    said = "Accuracy by seed (macro F1 for r8), and in brackets the mean accuracy before the first update.\n\n"
    (HERE / "table.md").write_text(said + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
