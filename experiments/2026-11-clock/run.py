"""Does a study end when it said, where the machine becomes slower or faster in the middle? Writes table.md.

python run.py [--minutes 5] [--tasks imdb rotten_tomatoes]; each cell takes its minutes, and one that is in cells.json
is not run again. As many processes as there are cores do nothing but count, for one half of the minutes.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary

HERE = Path(__file__).parent
CELLS = HERE / "cells.json"
BUSY = {"never": (1.0, 1.0), "from the middle on": (0.5, 1.0), "until the middle": (0.0, 0.5)}  # shares of the minutes


def count(begin: float, end: float) -> None:
    """Keep a core busy between two moments of the monotonic clock."""
    time.sleep(max(0.0, begin - time.monotonic()))
    while time.monotonic() < end:
        sum(range(100_000))


@contextmanager
def busy(shares: tuple[float, float], seconds: float) -> Iterator[None]:
    now = time.monotonic()
    begin, end = (now + share * seconds for share in shares)
    counting = [multiprocessing.Process(target=count, args=(begin, end)) for _ in range(os.cpu_count() or 1)]
    for one in counting if end > begin else ():
        one.start()
    yield
    for one in counting if end > begin else ():
        one.terminate()
        one.join()


def run(task: str, minutes: float, when: str) -> dict[str, object]:
    """One cell."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "hpsearch", "sweep", f"task={task}", f"budget={minutes:g}m", "study=clock"]
        began = time.monotonic()
        with busy(BUSY[when], 60 * minutes):
            environment = os.environ | {"HPSEARCH_HOME": home, "HF_HUB_OFFLINE": "1"}
            subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        seconds = time.monotonic() - began
        summary = read_summary(StudyFolder.of(Path(home), "clock"))
    assert summary is not None
    phases = ", ".join(f"{phase.name} {phase.seconds:.0f} s" for phase in summary.phases if phase.seconds >= 1)
    return {
        "task": task,
        "minutes": minutes,
        "busy": when,
        "machine": summary.hardware.name,
        "seconds": round(seconds),
        "phases": phases,
        "score": round(summary.test.value, 4),
    }


def write(cells: list[dict[str, object]]) -> None:
    lines = [
        f"{cells[-1]['machine']}, {os.cpu_count()} cores",
        "",
        "| task | budget | other work | ended after | of the budget | phases | test |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for cell in cells:
        taken, asked = float(str(cell["seconds"])), 60 * float(str(cell["minutes"]))
        lines.append(
            f"| {cell['task']} | {cell['minutes']:g} min | {cell['busy']} | {taken:.0f} s | {taken / asked:.0%} "
            f"| {cell['phases']} | {cell['score']:.3f} |"
        )
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--tasks", nargs="+", default=["imdb", "rotten_tomatoes"])
    given = parser.parse_args()
    cells = json.loads(CELLS.read_text()) if CELLS.exists() else []
    there = {(cell["task"], cell["minutes"], cell["busy"]) for cell in cells}
    for task in given.tasks:
        for when in BUSY:
            if (task, given.minutes, when) not in there:
                cells.append(run(task, given.minutes, when))
                CELLS.write_text(json.dumps(cells, indent=1) + "\n")
                write(cells)


if __name__ == "__main__":
    main()
