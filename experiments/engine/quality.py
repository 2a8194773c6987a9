"""Is a model of ours as good as one of Trainer's as it comes? Same reviews, recipe and seeds. Writes quality.md.

python quality.py [--train 2000] [--test 2000] [--seeds 3] [--epochs 1]; about 40 minutes on two cores.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from measure import Rows, composed, of_trainer, plain_model
from numpy.typing import NDArray

from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, hardware, models
from hpsearch.training.trainer import Evaluation, make_trainer, predict
from hpsearch.training.trial import Warm

HERE = Path(__file__).parent


def predictions(side: str, seed: int, given: argparse.Namespace, scratch: Path) -> NDArray[np.bool_]:
    """Which test reviews the model of one side and seed gets right."""
    sizes = [
        f"budget.train_examples={given.train}",
        f"budget.test_examples={given.test}",
        f"train.epochs={given.epochs}",
    ]
    settings = composed("train-256", side, [*sizes, f"seed={seed}", "train.warmup=0.0"])  # Trainer has no warm-up
    kind, chosen = KINDS[settings.task.kind], hardware.resolve(settings.hardware)
    hardware.apply(chosen)
    ref, warm = data.prepare(data.read(settings), settings, scratch), Warm(chosen)
    rows, test = (warm.tokens(ref, settings, split) for split in ("train", "test"))
    tokenizer = warm.tokenizer(settings.model)
    transformers.set_seed(seed)
    if side == "ours":
        model = models.build(settings.model, kind, ref.labels, tokenizer, chosen)
        make_trainer(settings, kind, model, rows, chosen, scratch).train()
        types, size = models.FAMILIES[settings.model.family].types, settings.train.evaluation_batch_size
        how = Evaluation(kind, chosen, types, size, lambda: None)
        logits: Any = np.stack(predict(model, test, range(len(test)), how))
    else:
        trainer = of_trainer(settings, plain_model(settings, False), rows, tokenizer, scratch, False)
        trainer.train()
        logits = trainer.predict(Rows(test, False, len(test))).predictions
    return np.asarray(logits.argmax(-1) == test.labels)


def main(given: argparse.Namespace) -> None:
    hits: dict[str, list[NDArray[np.bool_]]] = {"trainer": [], "ours": []}
    lines = []
    for seed in range(given.seeds):
        for side, found in hits.items():
            with tempfile.TemporaryDirectory() as scratch:
                found.append(predictions(side, seed, given, Path(scratch)))
        accuracies = [float(found[-1].mean()) for found in hits.values()]
        lines.append(f"| {seed} | {accuracies[0]:.4f} | {accuracies[1]:.4f} |")
        print(lines[-1], flush=True)
    gained = np.stack(hits["ours"]).astype(float) - np.stack(hits["trainer"])  # (seeds, reviews)
    rng = np.random.default_rng(0)
    # Reviews are drawn whole, with all seeds: the seeds share their reviews.
    drawn = [gained[:, rng.integers(0, gained.shape[1], gained.shape[1])].mean() for _ in range(4000)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    (HERE / "quality.md").write_text(
        f"{given.train:,} reviews of at most 256 tokens, {given.epochs:g} epoch(s), batches of 16, "
        f"{given.test:,} test reviews\n\n"
        "| seed | Trainer, test accuracy | ours |\n| --- | --- | --- |\n"
        + "\n".join(lines)
        + f"\n\nOurs minus Trainer's, pooled over {gained.size:,} pairs: {gained.mean():+.4f} "
        f"(95 % interval over reviews {low:+.4f} to {high:+.4f}).\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=2000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=1.0)
    main(parser.parse_args())
