"""How long do commands take to say something? Writes table.md beside this file.

python run.py [--rounds 5]

Each command is started as a user starts it, in an empty folder, in turns with `python -c pass`. The figure is the time
to the first line on its standard output or error; `sweep` is ended after it. `cold` is the first start after the file
cache of the system was dropped, where this is allowed (root on Linux).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
CACHES = Path("/proc/sys/vm/drop_caches")
HPSEARCH = [sys.executable, "-m", "hpsearch"]
COMMANDS: dict[str, Sequence[str]] = {
    "python -c pass": [sys.executable, "-c", "print()"],
    "hpsearch --version": [*HPSEARCH, "--version"],
    "hpsearch --help": [*HPSEARCH, "--help"],
    "hpsearch sweep task=csv (a missing file)": [
        *(*HPSEARCH, "sweep", "task=csv", "task.name=mail", "task.files.train=missing.csv"),
    ],
    "hpsearch sweep task=imbd (a wrong choice)": [*HPSEARCH, "sweep", "task=imbd"],
    "hpsearch status": [*HPSEARCH, "status"],
    "hpsearch sweep task=rotten_tomatoes": [*HPSEARCH, "sweep", "task=rotten_tomatoes"],
    "hpsearch history": [*HPSEARCH, "history"],
}


def first_line(command: Sequence[str], folder: Path) -> float:
    """Seconds until a command says something."""
    environment = os.environ | {"HPSEARCH_HOME": str(folder / "runs"), "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - started
        process.kill()
        process.stdout.read()
    return seconds


def cold(command: Sequence[str], folder: Path) -> float | None:
    """The same, from disk."""
    try:
        os.sync()
        CACHES.write_text("3")
    except OSError:
        return None
    return first_line(command, folder)


def main() -> None:
    """Time all commands."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cold_seconds = {name: cold(command, folder) for name, command in COMMANDS.items()}
        seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
        for _ in range(given.rounds):
            for name, command in COMMANDS.items():
                seconds[name].append(first_line(command, folder))
    base = median(seconds["python -c pass"])
    lines = [f"Seconds to the first line, the median of {given.rounds}.", ""]
    lines += ["| command | seconds | times `python -c pass` | cold |", "| --- | --- | --- | --- |"]
    for name, found in seconds.items():
        at_first = "not measured" if cold_seconds[name] is None else f"{cold_seconds[name]:.2f}"
        lines.append(f"| `{name}` | {median(found):.2f} | {median(found) / base:.0f} | {at_first} |")
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
