"""How much of a review is worth its time: length and part, chosen on validation reviews. Writes table.md.

python run.py [--seeds 2] [variant ...], a variant is <truncation>-<tokens>-<reviews>; 15 minutes on two cores with AMX.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
VARIANTS = ("tail-128-2400", "tail-192-2400", "head_tail-192-2400", "tail-256-1600")
VALIDATION = 1900  # reviews: nearly all there are


def trained(variant: str, seed: int) -> tuple[float, float, str]:
    """Validation accuracy of the reference recipe, seconds of training, machine."""
    truncation, length, reviews = variant.split("-")
    overrides = (
        "task=imdb",
        f"task.truncation={truncation}",
        f"task.max_length={length}",
        f"budget.train_examples={reviews}",
        f"budget.validation_examples={VALIDATION}",
        "budget.test_examples=20",  # nobody looks at it
        f"seed={seed}",
    )
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"HPSEARCH_HOME": home}
        command = [sys.executable, "-m", "hpsearch", "train", *overrides]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        (folder,) = (Path(home) / "studies").iterdir()
        trial = json.loads((folder / "trials" / "0" / "trial.json").read_text())
        hardware = json.loads((folder / "summary.json").read_text())["hardware"]
    return trial["score"], trial["seconds"]["training"], f"{hardware['name']}, {hardware['precision']}"


def main(variants: list[str], seeds: int) -> None:
    lines = []
    for variant in variants:
        found = [trained(variant, seed) for seed in range(seeds)]
        truncation, length, reviews = variant.split("-")
        scores = [score for score, _, _ in found]
        lines.append(
            f"| {truncation} | {length} | {reviews} | {sum(scores) / len(scores):.4f} "
            f"| {', '.join(f'{score:.4f}' for score in scores)} | {sum(s for _, s, _ in found) / seeds:.0f} |"
        )
        print(lines[-1], flush=True)
    (HERE / "table.md").write_text(
        f"{found[0][2]}; MiniLM, reference recipe, {VALIDATION:,} validation reviews\n\n"
        "| part kept | tokens | training reviews | validation accuracy, mean | of each seed | training, s |\n"
        "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("variants", nargs="*", default=VARIANTS)
    given = parser.parse_args()
    main(list(given.variants), given.seeds)
