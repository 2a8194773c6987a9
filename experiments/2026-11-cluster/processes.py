"""How fast do several processes train one trial? Writes processes.md beside this file.

python processes.py [--processes 1 2] [--rounds 3] [--seconds 20]

A worker of so many processes times updates and scoring on IMDb, as before a study (`training/pace.py`). All have
the same cores. Rounds take the numbers of processes in turn, so that a machine that slows down slows all of them.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

from hpsearch.config import composition, loading
from hpsearch.config.settings import Settings
from hpsearch.state.messages import DataName, Pace, Paced, Ready
from hpsearch.state.records import DataRef
from hpsearch.training import data
from hpsearch.workers.local import LocalWorkplace

HERE = Path(__file__).parent
TASK = ("task=imdb", "budget=full", "budget.train_examples=4000")


def timed(settings: Settings, ref: DataRef, home: Path, processes: int, seconds: float) -> tuple[Ready, Paced]:
    """Have a fresh worker time itself."""
    place = LocalWorkplace(settings.hardware, home, processes)
    worker = place.start(0, "logs")
    ready: Ready | None = None
    try:
        worker.ask(Pace(settings, DataName.of(ref, home), seconds))
        while True:
            for _, message in place.hear([worker], 1.0):
                if isinstance(message, Ready):
                    ready = message
                elif isinstance(message, Paced):
                    assert ready is not None, "it comes first"
                    return ready, message
    finally:
        worker.end(10)


def main() -> None:
    """Time all of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    settings = loading.load(composition.compose(TASK))
    found: dict[int, list[tuple[Ready, Paced]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        ref = data.prepare(data.read(settings), settings, home)
        for _ in range(given.rounds):
            for processes in given.processes:
                found.setdefault(processes, []).append(timed(settings, ref, home, processes, given.seconds))
                print(processes, found[processes][-1], flush=True)
    rows = [
        "| processes | threads of each | training, tokens/s | of one process | scoring, tokens/s | of one process |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    first = found[given.processes[0]]
    for processes, rounds in found.items():
        train, score = (median(1 / getattr(paced, what) for _, paced in rounds) for what in ("train", "score"))
        pairs = [(one, other) for (_, one), (_, other) in zip(first, rounds, strict=True)]
        ratios = [
            median(getattr(one, what) / getattr(other, what) for one, other in pairs) for what in ("train", "score")
        ]
        threads = rounds[0][0].hardware.threads
        rows.append(f"| {processes} | {threads} | {train:,.0f} | {ratios[0]:.2f} | {score:,.0f} | {ratios[1]:.2f} |")
    hardware = first[0][0].hardware
    note = f"MiniLM on IMDb, batches of {settings.train.batch_size}, {hardware}; medians of {given.rounds} rounds."
    (HERE / "processes.md").write_text("\n".join([note, "", *rows, ""]))


if __name__ == "__main__":
    main()
