"""A worker process: takes trials over a socket, keeps torch, data and tokenizer warm, ends with its coordinator.

It knows no Optuna, MLflow or Hydra. Started by `workers.local` as `python -m hpsearch.training.worker <fd>`.
"""

import gc
import sys
import time
import traceback
from multiprocessing.connection import Connection

from hpsearch.errors import first_line
from hpsearch.state.records import (
    Alive,
    Decision,
    FitSpec,
    Hardware,
    NoRoom,
    OutOfMemory,
    Progress,
    RungReport,
    ScoreSpec,
    Status,
    TrialResult,
    TrialSpec,
)
from hpsearch.training import checkpoints
from hpsearch.training.hardware import apply, out_of_memory
from hpsearch.training.trainer import examples_at_once
from hpsearch.training.trial import Line, Warm, fits, run_trial, score

ALIVE_SECONDS = 1.0  # between two signs of life


def main(fd: int) -> None:
    """Serve until the coordinator says None or is gone."""
    with Connection(fd) as connection:
        hardware: Hardware = connection.recv()
        apply(hardware)
        gc.freeze()  # collecting a trial's objects, three times each, shall not go through all that is imported
        warm, line = Warm(hardware), _line(connection)
        try:
            while (request := connection.recv()) is not None:
                if not isinstance(request, Decision):  # a request to pause that crossed the trial's end
                    connection.send(_answer(request, warm, line))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # nobody is left to work for; the last checkpoint stands


def _answer(request: TrialSpec | ScoreSpec | FitSpec, warm: Warm, line: Line) -> object:
    if isinstance(request, ScoreSpec):
        return score(request, warm, line)
    if isinstance(request, FitSpec):
        return fits(request, warm)
    try:
        return run_trial(request, warm, line)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # whatever a trial dies of, the sweep goes on; the log has the traceback
        traceback.print_exc()
        if out_of_memory(error):
            checkpoints.settle()  # before this process is ended: of the trial before
            return OutOfMemory(request.number, examples_at_once(request.settings.train), first_line(error))
        if checkpoints.disk_full(request.folder):
            return NoRoom(request.number)
        reason = f"{type(error).__name__}: {error}"
        return TrialResult(request.number, Status.FAILED, 0, 0, None, {}, None, {}, (), reason, {})


def _line(connection: Connection) -> Line:
    def rung(report: RungReport) -> Decision:
        connection.send(report)
        decision: Decision = connection.recv()
        return decision

    def asked_to_pause() -> bool:
        return connection.poll() and connection.recv() is Decision.PAUSE

    def point(progress: Progress) -> None:
        connection.send(progress)

    said = 0.0

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said > ALIVE_SECONDS:
            said = time.monotonic()
            connection.send(Alive())

    return Line(point=point, rung=rung, asked_to_pause=asked_to_pause, alive=alive)


if __name__ == "__main__":
    main(int(sys.argv[1]))
