"""A worker process: takes trials over a socket, keeps torch, data and tokenizer warm, ends with its coordinator.

It knows no Optuna, MLflow or Hydra. Started by `workers.local` as `python -m hpsearch.training.worker <fd>`.
"""

import gc
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

from hpsearch.errors import RequestError, first_line
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Alive,
    Begin,
    Decision,
    Fits,
    NoRoom,
    OutOfMemory,
    Pace,
    Paced,
    Probe,
    Progress,
    Ready,
    Retime,
    RungReport,
    Score,
    Scored,
    Train,
    TrialResult,
    Unfit,
)
from hpsearch.state.records import Status
from hpsearch.training import checkpoints, hardware
from hpsearch.training.pace import PaceSpec, measure
from hpsearch.training.parts import examples_at_once
from hpsearch.training.trial import FitSpec, Line, ScoreSpec, TrialSpec, Warm, fits, run_trial, score

ALIVE_SECONDS = 1.0  # between two signs of life


def main(fd: int) -> None:
    """Serve until the coordinator says None or is gone."""
    with Connection(fd) as connection:
        try:
            begin: Begin = connection.recv()
            try:
                found = hardware.resolve(begin.wish)
            except RequestError as error:
                connection.send(Unfit(str(error)))
                return
            hardware.apply(found)
            connection.send(Ready(found))
            gc.freeze()  # collecting a trial's objects, three times each, shall not go through all that is imported
            warm, line = Warm(found), _line(connection)
            while (request := connection.recv()) is not None:
                if not isinstance(request, Decision | Retime):  # one that crossed the trial's end
                    connection.send(_answer(request, begin.home, warm, line))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # nobody is left to work for; the last checkpoint stands


def _answer(
    request: Train | Score | Probe | Pace, home: Path, warm: Warm, line: Line
) -> TrialResult | Scored | Fits | Paced | OutOfMemory | NoRoom:
    """Do what is asked; what it names is found in `home`."""
    settings, data = request.settings, request.data.at(home)
    if isinstance(request, Probe):
        return fits(FitSpec(settings, data, request.micro), warm)
    if isinstance(request, Pace):
        return measure(PaceSpec(settings, data, request.seconds), warm, line)
    number, folder = request.number, home / request.folder
    if isinstance(request, Score):
        model = TrialFolder(folder).model
        return score(ScoreSpec(number, settings, data, model, request.split, request.fitted), warm, line)
    try:
        return run_trial(TrialSpec(number, settings, data, folder), warm, line)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # whatever a trial dies of, the sweep goes on; the log has the traceback
        traceback.print_exc()
        if hardware.out_of_memory(error):
            checkpoints.settle()  # before this process is ended: of the trial before
            return OutOfMemory(number, examples_at_once(settings.train), first_line(error))
        if checkpoints.disk_full(folder):
            return NoRoom(number)
        reason = f"{type(error).__name__}: {error}"
        return TrialResult(number, Status.FAILED, 0, 0, None, {}, None, {}, (), reason, {})


def _line(connection: Connection) -> Line:
    def rung(report: RungReport) -> Decision:
        connection.send(report)
        while isinstance(decision := connection.recv(), Retime):
            pass  # a trial with rungs has a fixed length
        answer: Decision = decision
        return answer

    def heard() -> Decision | Retime | None:
        return connection.recv() if connection.poll() else None

    def point(progress: Progress) -> None:
        connection.send(progress)

    said = 0.0

    def alive() -> None:
        nonlocal said
        if time.monotonic() - said > ALIVE_SECONDS:
            said = time.monotonic()
            connection.send(Alive())

    return Line(point=point, rung=rung, heard=heard, retimed=connection.send, alive=alive)


if __name__ == "__main__":
    main(int(sys.argv[1]))
