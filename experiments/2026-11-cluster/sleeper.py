"""A worker that sleeps where others train, and speaks as they do. It needs no torch.

SLEEP_SECONDS is the length of a whole trial. Each trial that is asked for, each answer to a rung and each new work is
noted in the file that SLEEP_LOG names: when this worker had spoken, and when it was told what comes next.
"""

import json
import math
import os
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hpsearch.config.settings import Settings
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Begin,
    Decision,
    Fits,
    Hardware,
    Probe,
    Progress,
    Ready,
    Retime,
    RungReport,
    Train,
    TrialResult,
)
from hpsearch.state.records import Status
from hpsearch.training import checkpoints

HARDWARE = Hardware("cpu", "float32", "eager", 1, "asleep", 1.0)
STEPS = 100
POINT_SECONDS = 1.0  # between two points of the curves


def score(settings: Settings, number: int, share: float) -> float:
    """Return the made score of a trial after this share of its schedule: a power law, best at one learning rate."""
    best = 0.9 - 0.05 * abs(math.log10(settings.train.learning_rate) + 4) - 0.01 * math.sin(number)
    return best - 0.3 / (1 + 20 * share)


def result(number: int, status: Status, step: int, found: float | None, seconds: float) -> TrialResult:
    """Return a trial's result."""
    metrics = {} if found is None else {"validation_accuracy": found, "validation_loss": 1 - found}
    return TrialResult(number, status, step, STEPS, found, metrics, None, {}, (), None, {"training": seconds})


def rungs(settings: Settings) -> dict[int, int]:
    """Return the steps of a trial's rungs."""
    return {round(share * STEPS): rung for rung, share in enumerate(settings.search.rungs)}


class Sleeper:
    """What `hpsearch.training.worker.main` does, asleep."""

    def __init__(self, connection: Connection, home: Path) -> None:
        self.connection, self.home, self.spoken = connection, home, 0.0
        self.seconds, self.log = float(os.environ["SLEEP_SECONDS"]), Path(os.environ["SLEEP_LOG"])

    def run(self) -> None:
        """Answer requests until None comes."""
        while (request := self.connection.recv()) is not None:
            if isinstance(request, Probe):
                self.connection.send(Fits(fits=True))
            elif isinstance(request, Train):
                self.note("work")
                self.say(self.train(request))

    def say(self, message: Any) -> None:
        """Send a message to which something is expected."""
        self.connection.send(message)
        self.spoken = time.time()

    def note(self, what: str) -> None:
        """Note how long this worker has waited since it spoke."""
        if self.spoken:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"what": what, "waited": time.time() - self.spoken}) + "\n")

    def train(self, request: Train) -> TrialResult:
        """Sleep through a trial, from its newest checkpoint."""
        settings, number, trial = request.settings, request.number, self.home / request.folder
        trial.mkdir(parents=True, exist_ok=True)
        resumed, at_rung = checkpoints.newest(trial), rungs(settings)
        began = resumed.step if resumed is not None else 0
        last = time.time()
        for step in range(began + 1, STEPS + 1):
            time.sleep(self.seconds / STEPS)
            if time.time() - last > POINT_SECONDS:
                last = time.time()
                self.connection.send(
                    Progress(number, step, STEPS, {"train_loss": 1 - score(settings, number, step / STEPS)})
                )
            if step in at_rung:
                found = score(settings, number, step / STEPS)
                metrics = {"validation_accuracy": found, "validation_loss": 1 - found}
                self.say(RungReport(number, at_rung[step], step, STEPS, found, metrics))
                while isinstance(decision := self.connection.recv(), Retime):
                    pass
                self.note("rung")
                if decision is not Decision.CONTINUE:
                    if decision is Decision.PAUSE:
                        self.save(trial, step, found)
                    return result(number, Status.PAUSED, step, None, self.seconds * (step - began) / STEPS)
            elif self.connection.poll() and self.connection.recv() is Decision.PAUSE:
                self.save(trial, step, None)
                return result(number, Status.PAUSED, step, None, self.seconds * (step - began) / STEPS)
        model = TrialFolder(trial).model
        model.mkdir(exist_ok=True)
        (model / "model.safetensors").write_bytes(b"asleep")
        return result(
            number, Status.COMPLETE, STEPS, score(settings, number, 1.0), self.seconds * (STEPS - began) / STEPS
        )

    def save(self, trial: Path, step: int, found: float | None) -> None:
        """Seal a checkpoint."""
        unsealed = TrialFolder(trial).unsealed / f"checkpoint-{step}"
        unsealed.mkdir(parents=True, exist_ok=True)
        (unsealed / "model.safetensors").write_bytes(b"asleep")
        checkpoints.seal(unsealed, trial, step, found)


def main(fd: int) -> None:
    """See `hpsearch.training.worker.main`."""
    with Connection(fd) as connection:
        try:
            begin: Begin = connection.recv()
            connection.send(Ready(HARDWARE))
            Sleeper(connection, begin.home).run()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


if __name__ == "__main__":
    main(int(sys.argv[1]))
