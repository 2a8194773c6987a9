"""MiniLM on IMDb at several learning rates and truncations, everything else equal. Writes table.md beside this file."""

import sys
import tempfile
from pathlib import Path

from hydra import compose, initialize_config_dir

from hpsearch import data, hardware, loading
from hpsearch.records import Decision, TrialSpec
from hpsearch.trial import Line, Warm, run_trial

HERE = Path(__file__).parent
CELLS = [
    *((rate, "tail") for rate in ("2.0e-4", "1.0e-4", "4.0e-4", "5.0e-5")),
    ("2.0e-4", "head_tail"),
    ("2.0e-4", "head"),
]
COMMON = (
    "budget.train_examples=600",
    "budget.validation_examples=1000",
    "budget.rung_examples=null",
    "search.rungs=[]",
    "train.epochs=2",
    "train.batch_size=16",
)


def main() -> None:
    rows = []
    line = Line(point=lambda _: None, rung=lambda _: Decision.CONTINUE, asked_to_pause=lambda: False)
    for number, (rate, truncation) in enumerate(CELLS):
        with (
            tempfile.TemporaryDirectory() as scratch,
            initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"),
        ):
            overrides = [*COMMON, f"train.learning_rate={rate}", f"task.truncation={truncation}"]
            chosen = loading.load(compose("config", overrides=overrides))
            ref = data.prepare(data.read(chosen), chosen, Path(scratch))
            warm = Warm(hardware.resolve(chosen.hardware))
            result = run_trial(TrialSpec(number, chosen, ref, Path(scratch) / "trial"), warm, line)
        scores, seconds = result.metrics, result.seconds
        rate_of_training = 2 * 600 / seconds["training"]
        rows.append(
            f"| {float(rate):g} | {truncation} | {scores['validation_accuracy']:.3f} | {scores['validation_loss']:.3f} "
            f"| {seconds['training']:.0f} | {rate_of_training:.1f} |"
        )
        print(rows[-1], file=sys.stderr)
        head = "| learning rate | truncation | validation accuracy | validation loss | training s | examples/s |\n"
        table = head + "| --- | --- | --- | --- | --- | --- |\n" + "\n".join(rows) + "\n"
        (HERE / "table.md").write_text(
            f"{warm.hardware.name}, {warm.hardware.threads} threads, {warm.hardware.precision}\n\n{table}"
        )


if __name__ == "__main__":
    main()
