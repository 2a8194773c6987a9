"""MiniLM on IMDb with and without warm-up, for fine-tunes of few and of more steps. Writes table.md beside this file.

python run.py; half an hour on two cores with bf16. One trial each, everything else as the reference recipe has it.
"""

import itertools
import sys
import tempfile
from pathlib import Path
from statistics import fmean

from hydra import compose, initialize_config_dir

from hpsearch import data, hardware, loading
from hpsearch.hardware import Hardware
from hpsearch.records import Decision, TrialSpec
from hpsearch.trial import Line, Warm, run_trial

HERE = Path(__file__).parent
SIZES = ((400, 512), (1000, 192), (2000, 192))  # reviews, tokens
WARMUPS = (0.1, 0.0)
SEEDS = (1, 2, 3)
COMMON = ("budget.validation_examples=1000", "budget.rung_examples=null", "search.rungs=[]")


def trained(train: int, length: int, warmup: float, seed: int) -> tuple[Hardware, int, float]:
    """Where it ran, steps, validation accuracy."""
    line = Line(
        point=lambda _: None,
        rung=lambda _: Decision.CONTINUE,
        asked_to_pause=lambda: False,
        alive=lambda: None,
    )
    given = (f"budget.train_examples={train}", f"task.max_length={length}", f"train.warmup={warmup}", f"seed={seed}")
    with tempfile.TemporaryDirectory() as scratch:
        with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
            chosen = loading.load(compose("config", overrides=[*COMMON, *given]))
        ref = data.prepare(data.read(chosen), chosen, Path(scratch))
        where = hardware.resolve(chosen.hardware)
        result = run_trial(TrialSpec(0, chosen, ref, Path(scratch) / "trial"), Warm(where), line)
    return where, result.step, result.metrics["validation_accuracy"]


def main() -> None:
    rows = []
    for (train, length), warmup in itertools.product(SIZES, WARMUPS):
        found = [trained(train, length, warmup, seed) for seed in SEEDS]
        where, steps, _ = found[0]
        scores = [score for _, _, score in found]
        rows.append(
            f"| {train:,} | {length} | {steps} | {warmup:g} | {', '.join(f'{score:.3f}' for score in scores)} "
            f"| {fmean(scores):.3f} |"
        )
        print(rows[-1], file=sys.stderr)
        head = "| reviews | tokens | steps | warm-up | validation accuracy by seed | mean |\n"
        (HERE / "table.md").write_text(
            f"{where.name}, {where.threads} threads, {where.precision}; seeds {', '.join(map(str, SEEDS))}\n\n"
            f"{head}| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
        )


if __name__ == "__main__":
    main()
