"""What is worth its time on IMDb: tokens of a review, which part, more reviews or more epochs. Writes table.md.

python run.py --variants <truncation>-<tokens>-<reviews>-<epochs> ... [--seeds 0 1]; two to three minutes each on
two cores with AMX. Scored on validation reviews, so that test stays unread. What is in measured/ is not run again.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
VALIDATION = 1900  # reviews: nearly all there are


def trained(variant: str, seed: int) -> dict[str, object]:
    """Validation accuracy of the reference recipe but for its epochs, seconds of training, machine."""
    truncation, length, reviews, epochs = variant.split("-")
    overrides = (
        "train.learning_rate=2e-4",
        "task=imdb",
        f"task.truncation={truncation}",
        f"task.max_length={length}",
        f"train.epochs={epochs}",
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
    return {
        "score": trial["score"],
        "seconds": trial["seconds"]["training"],
        "machine": f"{hardware['name']}, {hardware['precision']}",
    }


def main(variants: list[str], seeds: list[int]) -> None:
    for variant in variants:
        for seed in seeds:
            path = HERE / "measured" / f"{variant}-{seed}.json"
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                path.write_text(json.dumps(trained(variant, seed)))
            write()


def write() -> None:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((HERE / "measured").glob("*.json")):
        found.setdefault(path.stem.rpartition("-")[0], []).append(json.loads(path.read_text()))
    lines, machines = [], set()
    for variant, runs in found.items():
        scores, seconds = [run["score"] for run in runs], [run["seconds"] for run in runs]
        machines |= {run["machine"] for run in runs}
        lines.append(
            f"| {' | '.join(variant.split('-'))} | {sum(scores) / len(scores):.4f} "
            f"| {', '.join(f'{score:.4f}' for score in scores)} | {sum(seconds) / len(runs):.0f} |"
        )
    (HERE / "table.md").write_text(
        f"{'; '.join(sorted(machines))}; MiniLM, {VALIDATION:,} validation reviews\n\n"
        "| part kept | tokens | training reviews | epochs | validation accuracy, mean | of each seed | training, s |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", required=True)
    given = parser.parse_args()
    main(given.variants, given.seeds)
