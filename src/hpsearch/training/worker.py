"""A worker process: it receives trials over a socket, and ends with its coordinator.

It keeps torch, data and tokenizer loaded between trials. It knows no Optuna, MLflow or Hydra. `workers.local` starts it
as `python -m hpsearch.training.worker <fd>`.
"""

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from hpsearch.errors import RequestError, first_line
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import (
    Alive,
    Begin,
    Decision,
    FitFloor,
    Fits,
    FloorFitted,
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
from hpsearch.training import blends, checkpoints, floors, hardware
from hpsearch.training.floors import FloorSpec
from hpsearch.training.pace import PaceSpec, measure
from hpsearch.training.parts import examples_at_once
from hpsearch.training.saved import ScoreSpec, score
from hpsearch.training.team import Team, forget_launcher
from hpsearch.training.trial import FitSpec, Line, TrialSpec, Warm, fits, run_trial

ALIVE_SECONDS = 1.0  # least time between two signs of life

T = TypeVar("T")


def main(fd: int) -> None:
    """Answer requests until the coordinator sends None or has ended."""
    forget_launcher()
    team = Team()
    with Connection(fd) as connection:
        try:
            begin: Begin = connection.recv()
            try:
                found = hardware.resolve(begin.wish, begin.processes)
            except RequestError as error:
                connection.send(Unfit(str(error)))
                return
            hardware.apply(found)
            team.start(found, _end)
            connection.send(Ready(found))
            gc.freeze()  # so that collecting a trial's objects, three times each, does not scan all imports
            warm, line = Warm(found, team), _line(connection)
            while (request := connection.recv()) is not None:
                if not isinstance(request, Decision | Retime):  # sent before the trial's end was known
                    connection.send(_answer(request, begin.home, warm, line))
                    if not team.settle():
                        return
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the coordinator has ended; the last checkpoint stays
        finally:
            team.close()


def _end(status: int) -> None:
    """End this process as one of its helpers has ended, once its checkpoints are sealed."""
    checkpoints.close()
    if status < 0:
        os.kill(os.getpid(), -status)  # a signal; of a kill by the system, the coordinator finds out why
    os._exit(status or 1)


def _answer(
    request: Train | Score | FitFloor | Probe | Pace, home: Path, warm: Warm, line: Line
) -> TrialResult | Scored | FloorFitted | Fits | Paced | OutOfMemory | NoRoom:
    """Do what the request asks for and return the answer. Names in the request are inside the state folder `home`."""
    settings, data = request.settings, request.data.at(home)
    if isinstance(request, Probe):
        return fits(FitSpec(settings, data, request.micro), warm)
    if isinstance(request, Pace):
        return measure(PaceSpec(settings, data, request.seconds), warm, line)
    number, folder = request.number, home / request.folder
    if isinstance(request, FitFloor):
        spec = FloorSpec(number, request.name, settings, data, folder, request.seconds)
        return _beside(lambda: _fit_floor(spec, warm), line)
    if isinstance(request, Score):
        of_part = ScoreSpec(number, settings, data, TrialFolder(folder).model, request.part, request.fitted)
        if (name := request.floor) is not None:
            return floors.score(name, of_part, warm, line)
        if request.words is not None:
            return blends.score(of_part, TrialFolder(home / request.words).model, warm, line)
        return score(of_part, warm, line)
    try:
        return run_trial(TrialSpec(number, settings, data, folder), warm, line)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:  # the study continues after any failure of a trial; the log has the traceback
        checkpoints.print_fault()
        if warm.team.explains(error):
            threading.Event().wait()  # `_end` ends this process
        if hardware.out_of_memory(error):
            checkpoints.settle()  # first seal the former trial's checkpoint: the coordinator ends this process next
            return OutOfMemory(number, examples_at_once(settings.train, warm.hardware.processes), first_line(error))
        if checkpoints.disk_full(folder):
            return NoRoom(number)
        reason = f"{type(error).__name__}: {error}"
        return TrialResult(number, Status.FAILED, 0, 0, None, {}, None, {}, (), reason, {})


def _fit_floor(spec: FloorSpec, warm: Warm) -> FloorFitted:
    """Fit a floor and return it, or the reason of a failure: no study fails because of a floor."""
    try:
        hardware.apply(warm.hardware)  # each thread has its own setting of torch's number of threads
        with hardware.alone(warm.hardware):
            return floors.fit(spec, warm)
    except RequestError as error:
        return FloorFitted(spec.number, fault=str(error))
    except Exception as error:
        traceback.print_exc()
        return FloorFitted(spec.number, fault=f"{type(error).__name__}: {first_line(error)}")


def _beside(work: Callable[[], T], line: Line) -> T:
    """Do work in a thread and return its result. Meanwhile this thread says that the worker is alive.

    The thread of the work ends with the process.
    """
    done: list[T] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(ALIVE_SECONDS)
        line.alive()
    return done[0]


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
