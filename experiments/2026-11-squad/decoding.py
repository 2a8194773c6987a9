"""What decoding answers costs beside the forward pass, on half of a file. Writes decoding.md beside this script.

python decoding.py <squad-v2.0-half-dev.json>
"""

import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir

from hpsearch.config import loading
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import data, hardware, models, trainer
from hpsearch.training.trial import Warm

HERE = Path(__file__).parent


def main(source: Path) -> None:
    overrides = ["task=squad_v2", "task.source=files", f"task.files.train={source}", "task.split.test=0.5"]
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        settings = loading.load(compose("config", overrides=[*overrides, "budget.test_examples=null"]))
    kind, warm = KINDS[settings.task.kind], Warm(hardware.resolve(settings.hardware))
    with tempfile.TemporaryDirectory() as scratch:
        ref = data.prepare(data.read(settings), settings, Path(scratch))
        tokens, rows = warm.tokens(ref, settings, "test"), data.load(ref, "test").to_dict()
        model = models.build(settings.model, kind, (), warm.tokenizer(settings.model), warm.hardware)
        size, types = settings.train.evaluation_batch_size, models.FAMILIES[settings.model.family].types
        how = trainer.Evaluation(kind, warm.hardware, types, size, lambda: None)
        start = time.perf_counter()
        outputs = trainer.predict(model, tokens, range(len(tokens)), how)
        forward = time.perf_counter() - start
        start = time.perf_counter()
        kind.score(outputs, tokens, rows, settings.task, None)
        decoding = time.perf_counter() - start
    chosen = warm.hardware
    (HERE / "decoding.md").write_text(
        f"{chosen.name}, {chosen.threads} threads, {chosen.precision}\n\n"
        "| questions | windows | forward pass, s | decoding, threshold and scores, s | share |\n"
        "| --- | --- | --- | --- | --- |\n"
        f"| {tokens.examples:,} | {len(tokens):,} | {forward:.1f} | {decoding:.1f} | {decoding / forward:.1%} |\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
