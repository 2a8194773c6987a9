"""The interface between the coordinator and its workers. `tests/test_workers.py` tests every implementation.

A worker does one thing at a time. Its first message names its hardware, or says that it can't have what was asked for.
Then it receives a trial, reports at rungs and waits for the answer, and ends its part with one message.

Messages are those of `state.messages`. They hold no path, but names of files in the coordinator's state folder. A
workplace makes these files (data, checkpoints, models) available to its workers. What a worker writes is in the
coordinator's state folder, under the same name, when the coordinator receives the worker's message. A checkpoint may
come later: `training.checkpoints` waits for it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from hpsearch.state.messages import Decision, FitFloor, Hardware, Message, Pace, Probe, Score, Train
from hpsearch.state.roster import Carried

SAVING_SECONDS = 20.0  # for workers that share a disk with the coordinator to save their checkpoints


class Worker(Protocol):
    """One worker. It ends when its coordinator has ended, for whatever reason."""

    @property
    def index(self) -> int:
        """Number of the worker among those of the command, from 0. A worker that replaces another has the same."""

    @property
    def ready(self) -> bool:
        """Whether it may be given work. A workplace may have no room for it yet."""

    @property
    def node(self) -> str:
        """Name of the machine that it is on; empty until it is ready."""

    @property
    def leaving(self) -> bool:
        """Whether its machine will go soon. Its trial should be saved, and it should get no other."""

    @property
    def trial(self) -> int | None:
        """Number of the work that it was given, until the message that ends the work is received; then None."""

    @property
    def silent_seconds(self) -> float:
        """Seconds since its last message, or since it was given work or a question.

        Only time in which the coordinator listens counts. Otherwise workers would seem to hang after the coordinator
        was stopped or the machine slept.
        """

    @property
    def output(self) -> str:
        """Where people find what it writes besides its messages."""

    def give(self, work: Train | Score | FitFloor) -> None:
        """Give work to an idle worker."""

    def ask(self, question: Probe | Pace) -> None:
        """Ask an idle worker a question."""

    def answer(self, decision: Decision) -> None:
        """Reply to a RungReport. A worker that is pausing gets no reply, because the pause was its answer."""

    def pause(self) -> None:
        """Ask its trial to save and stop after its next step, with a TrialResult. Do nothing if the worker is idle."""

    def retime(self, total_steps: int) -> None:
        """Change the length of its trial's schedule after the next step. Do nothing if the worker is idle."""

    def end(self, timeout_seconds: float) -> None:
        """End the worker. An idle one gets at most `timeout_seconds` to finish writing. A busy one is ended at once.

        The worker has ended when this returns, and no message of it is received any more.
        """


class Workplace(Protocol):
    """Place where the workers of a command run.

    Making one raises RequestError if it can't have what the settings ask for.
    """

    @property
    def count(self) -> int:
        """Number of workers that the settings ask for, or that it has room for now."""

    @property
    def carried(self) -> Carried | None:
        """Bytes that have travelled so far between this disk and those of nodes; None where all nodes see this one."""

    @property
    def hardware(self) -> Hardware:
        """Hardware that a worker reports. A workplace that can't know it starts its first worker to learn it."""

    @property
    def saving_seconds(self) -> float:
        """Seconds that all workers may take to save their trials, when a sweep is interrupted."""

    def close(self) -> None:
        """Let go of the place, after its workers have ended."""

    def start(self, index: int, output: str) -> Worker:
        """Start a fresh worker. `output` names the folder for what it writes besides its messages."""

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """Wait at most `timeout_seconds` for messages. Return an iterator of one for each worker that sent any.

        Each message is received when the iterator reaches it. Until then the worker has its trial.

        Raises:
            RequestError: a worker can't have what the settings ask for.
            OutOfReachError: the place does not answer any more. Workers may still be heard, so that they can save.
        """
