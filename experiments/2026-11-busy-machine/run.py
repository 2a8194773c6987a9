"""A training step of MiniLM beside other work on the machine, by libgomp's spin count. Writes table.md beside it."""

import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROUNDS = 3
SPINS = ("300000", "30000", "3000")
STEPS = """
import time, torch
from hpsearch.training import hardware, models
from hpsearch.tasks.kinds import KINDS
from hydra import compose, initialize_config_dir
from hpsearch.config import loading
with initialize_config_dir({conf!r}, version_base="1.3"):
    settings = loading.load(compose("config"))
chosen = hardware.resolve(settings.hardware)
torch.set_num_threads(chosen.threads)
tokenizer = models.load_tokenizer(settings.model)
model = models.build(settings.model, KINDS["text_classification"], ("neg", "pos"), tokenizer, chosen).train()
ids = torch.randint(1000, 20000, (16, 128))
dtype = hardware.DTYPES[chosen.precision]
for _ in range(12):
    start = time.perf_counter()
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        loss = model(input_ids=ids, labels=torch.zeros(16, dtype=torch.int64)).loss
    loss.backward()
    model.zero_grad()
    print(time.perf_counter() - start, chosen.name, chosen.threads, chosen.precision, sep="|")
"""


def steps(spins: str) -> tuple[list[float], str]:
    """Seconds of each step but the first two, and the machine."""
    code = STEPS.format(conf=str(HERE.parents[1] / "conf"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"GOMP_SPINCOUNT": spins},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split("|") for line in done.stdout.splitlines() if "|" in line]
    return [float(line[0]) for line in lines[2:]], ", ".join(lines[0][1:])


def main() -> None:
    seconds: dict[tuple[str, bool], list[float]] = {}
    for _ in range(ROUNDS):
        for busy in (False, True):
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
            try:
                for spins in SPINS:
                    found, machine = steps(spins)
                    seconds.setdefault((spins, busy), []).extend(found)
            finally:
                if other is not None:
                    other.kill()
                    other.wait()
    table = [
        "| spin count | idle, median s a step | one core busy, median | one core busy, slowest |",
        "| --- " * 4 + "|",
    ]
    for spins in SPINS:
        idle, beside = seconds[spins, False], seconds[spins, True]
        cells = (f"{value:.3f}" for value in (statistics.median(idle), statistics.median(beside), max(beside)))
        table.append(f"| {int(spins):,} | {' | '.join(cells)} |")
    (HERE / "table.md").write_text(f"{machine} (device, threads, precision)\n\n" + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
