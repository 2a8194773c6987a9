"""Training steps of one tracked fine-tune while MLflow's server answers, refuses, or never answers. Writes table.md.

python run.py [--blocks 60]; about 10 s a block on two cores. A relay stands before the server, and changes after each
block of steps: every block in which MLflow is away lies between two in which it answers, and is compared with these.
"""

import argparse
import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import requests
from hydra import compose, initialize_config_dir

from hpsearch.config import loading
from hpsearch.training import hardware

HERE = Path(__file__).parent
ANSWERS, AWAY = "answers", ("is gone", "never answers")
BLOCK, SETTLE = 20, 5  # steps, of which the first do not count: the change itself, and what is told late
BATCH = 16
SERVER = """
from hpsearch.serving import mlflow_process
mlflow_process.become(
    ["server", "--artifacts-destination", "{home}/served"], {port}, {{"MLFLOW_BACKEND_STORE_URI": "sqlite:///{home}/m.db"}}
)
"""


class Relay:
    """Passes connections on to a server, or ends them at once, or takes them and says nothing."""

    def __init__(self, server: int):
        self._server, self._state, self._open = server, ANSWERS, list[socket.socket]()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def become(self, state: str) -> None:
        self._state = state
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._open = []

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._state == "is gone":
                connection.close()
                continue
            self._open.append(connection)
            if self._state == ANSWERS:
                threading.Thread(target=self._pass_on, args=(connection,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._server)) as server, suppress(OSError):
            ready = selectors.DefaultSelector()
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    content = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not content:
                        return
                    key.data.sendall(content)


@contextmanager
def server(home: Path) -> Iterator[int]:
    """Port of an MLflow server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER.format(home=home, port=port)], stdout=log, stderr=log, start_new_session=True
        )
    while True:
        try:
            requests.get(f"http://127.0.0.1:{port}/health", timeout=2).raise_for_status()
            break
        except requests.RequestException:
            time.sleep(0.2)
    try:
        yield port
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
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


def states(blocks: int) -> list[str]:
    """Of each block: the two absences in random order, with answers before, between and after."""
    generator, found = random.Random(1), [ANSWERS]
    while len(found) < blocks:
        for away in generator.sample(AWAY, k=len(AWAY)):
            found += [away, ANSWERS]
    return found


def measured(plan: list[str], home: Path) -> dict[int, float]:
    """Seconds of each step."""
    with server(home) as port:
        relay = Relay(port)
        command = [
            *(sys.executable, "-m", "hpsearch", "train", "task=imdb", "task.max_length=128"),
            *("train.log_every=1", f"train.batch_size={BATCH}", "train.epochs=10"),
            f"budget.train_examples={BATCH * BLOCK * len(plan) // 10 + BATCH}",
            *("budget.validation_examples=100", "budget.test_examples=100"),
            f"tracking.uri=http://127.0.0.1:{relay.port}",
        ]
        process = subprocess.Popen(
            command, env=os.environ | {"HPSEARCH_HOME": str(home)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            now, known = ANSWERS, dict[int, float]()
            while len(known) < BLOCK * len(plan):
                assert process.poll() is None, "the fine-tune ended too early"
                time.sleep(0.1)
                [*paths] = home.glob("studies/*/trials/0/points.jsonl")
                known = steps(paths[0]) if paths else {}
                state = plan[min(len(known) // BLOCK, len(plan) - 1)]
                if state != now:
                    now = state
                    relay.become(state)
                    print(f"{len(known)} steps: MLflow {state}", flush=True)
            return known
        finally:
            process.kill()
            process.wait()


def main(blocks: int) -> None:
    plan = states(blocks)
    with tempfile.TemporaryDirectory() as home:
        seconds = measured(plan, Path(home))
    took = [
        statistics.fmean(seconds[i * BLOCK + step] for step in range(SETTLE + 1, BLOCK + 1)) for i in range(len(plan))
    ]
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        chosen = hardware.resolve(loading.load(compose("config")).hardware)
    lines = [
        f"{chosen.name}, {chosen.threads} threads, {chosen.precision}; {len(plan)} blocks of {BLOCK} steps of {BATCH} "
        f"reviews of at most 128 tokens, a point of the curves told after each step, the last {BLOCK - SETTLE} of a "
        "block counted",
        "",
        "| MLflow | blocks | median s a step | beside the blocks before and after, mean | standard error | median |",
        "| --- | --- | --- | --- | --- | --- |",
        f"| {ANSWERS} | {plan.count(ANSWERS)} | "
        f"{statistics.median(s for s, state in zip(took, plan, strict=True) if state == ANSWERS):.3f} | 1 | | |",
    ]
    for away in AWAY:
        places = [i for i, state in enumerate(plan) if state == away]
        ratios = [took[i] * 2 / (took[i - 1] + took[i + 1]) for i in places]
        lines.append(
            f"| {away} | {len(places)} | {statistics.median(took[i] for i in places):.3f} | "
            f"{statistics.fmean(ratios):.3f} | {statistics.stdev(ratios) / len(ratios) ** 0.5:.3f} | "
            f"{statistics.median(ratios):.3f} |"
        )
    (HERE / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=60)
    main(parser.parse_args().blocks)
