"""Training steps of a tracked fine-tune while MLflow's server answers, is gone, or never answers. Writes table.md.

python run.py [--rounds 4]; about 2 minutes a round on two cores. The server answers at first;
in two cases it is killed or stopped (SIGSTOP) after the first steps. The same steps, of the same batches, are compared.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import requests
from hydra import compose, initialize_config_dir

from hpsearch import hardware, loading

HERE = Path(__file__).parent
CASES = ("SQLite file", "server answers", "server is gone", "server never answers")
FIRST, LAST = 10, 50  # steps that count
BATCH = 16
SERVER = """
from hpsearch import mlflow_process
mlflow_process.become(
    ["server", "--artifacts-destination", "{home}/served"], {port}, {{"MLFLOW_BACKEND_STORE_URI": "sqlite:///{home}/m.db"}}
)
"""


@contextmanager
def server(home: Path) -> Iterator[tuple[str, list[psutil.Process]]]:
    """Address and processes of an MLflow server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(home=home, port=port)], stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            requests.get(f"{address}/health", timeout=2).raise_for_status()
            break
        except requests.RequestException:
            time.sleep(0.2)
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    try:
        yield address, family
    finally:
        for one in family:
            if one.is_running():
                one.kill()
        process.wait()


def steps(points: Path) -> dict[int, float]:
    """Seconds of each training step so far."""
    found = {}
    for line in points.read_text().splitlines() if points.exists() else []:
        point = json.loads(line)
        if "examples_per_second" in point["metrics"]:
            found[point["step"]] = BATCH / point["metrics"]["examples_per_second"]
    return found


def measured(case: str, home: Path) -> dict[int, float]:
    """Seconds of each step that counts."""
    with server(home) as (address, family):
        command = [
            *(sys.executable, "-m", "hpsearch", "train", "task=imdb", "task.max_length=128"),
            *("train.log_every=1", f"train.batch_size={BATCH}", "train.epochs=1"),
            f"budget.train_examples={BATCH * (LAST + 2)}",
            *("budget.validation_examples=100", "budget.test_examples=100"),
        ]
        if case != "SQLite file":
            command.append(f"tracking.uri={address}")
        process = subprocess.Popen(
            command, env=os.environ | {"HPSEARCH_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            touched = False
            while True:
                assert process.poll() is None, "the fine-tune ended too early"
                [*paths] = home.glob("studies/*/trials/0/points.jsonl")
                known = steps(paths[0]) if paths else {}
                if len(known) >= FIRST // 2 and not touched:
                    touched = True
                    for one in family:
                        if case == "server is gone":
                            one.kill()
                        elif case == "server never answers":
                            one.suspend()
                if len(known) >= LAST:
                    return {step: known[step] for step in range(FIRST, LAST + 1)}
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()


def main(rounds: int) -> None:
    seconds: dict[str, list[float]] = {case: [] for case in CASES}
    beside: dict[str, list[float]] = {case: [] for case in CASES}
    for i in range(rounds):
        found = {}
        for case in CASES[i % len(CASES) :] + CASES[: i % len(CASES)]:  # each case is first in its turn
            with tempfile.TemporaryDirectory() as home:
                found[case] = measured(case, Path(home))
        for case in CASES:
            seconds[case] += found[case].values()
            beside[case].append(statistics.median(found[case][step] / found[CASES[1]][step] for step in found[case]))
        print({case: round(ratios[-1], 3) for case, ratios in beside.items()}, flush=True)
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        chosen = hardware.resolve(loading.load(compose("config")).hardware)
    lines = [
        f"{chosen.name}, {chosen.threads} threads, {chosen.precision}; {rounds} rounds, steps {FIRST} to {LAST} of "
        f"{BATCH} reviews of at most 128 tokens, a point of the curves told after each",
        "",
        "| MLflow | median s a step | beside a server that answers, median of rounds | rounds |",
        "| --- | --- | --- | --- |",
    ]
    for case in CASES:
        each = ", ".join(f"{ratio:.3f}" for ratio in beside[case])
        lines.append(
            f"| {case} | {statistics.median(seconds[case]):.3f} | {statistics.median(beside[case]):.3f} | {each} |"
        )
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    main(parser.parse_args().rounds)
