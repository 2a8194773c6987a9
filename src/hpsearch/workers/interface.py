"""What the coordinator needs of workers, wherever they run. `tests/test_workers.py` runs over every implementation.

A worker does one thing at a time. First it says what it computes with, or that it can't have what was asked for. Then
it takes a trial, reports at rungs and waits for the answer, and ends its part with one message. Messages are those of
`state.messages`. They hold no path: what one names lies in the coordinator's state folder. A workplace sees to it that
its workers find that (data, checkpoints, models), and that what they write is in the coordinator's state folder, under
the same name, when their message is heard. A checkpoint may come later: `training.checkpoints` waits for it.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from hpsearch.state.messages import Decision, FitFloor, Hardware, Message, Pace, Probe, Score, Train


class Worker(Protocol):
    """One worker. It ends when its coordinator is gone, however that ended."""

    @property
    def index(self) -> int:
        """Its number among the workers of the command, from 0; a worker that takes another's place has the same."""

    @property
    def trial(self) -> int | None:
        """Number of what it was given, until the message that ends it is heard."""

    @property
    def silent_seconds(self) -> float:
        """Since its last message, or since it was given something. Only time in which somebody was listening counts,
        so that a coordinator that was stopped, or a machine that slept, calls nobody hung."""

    @property
    def output(self) -> str:
        """Where people find what it has written besides its messages."""

    def give(self, work: Train | Score | FitFloor) -> None:
        """Hand work to an idle worker."""

    def ask(self, question: Probe | Pace) -> None:
        """Ask an idle worker."""

    def answer(self, decision: Decision) -> None:
        """Reply to a RungReport. Nothing is said to a worker that is pausing: that was its answer."""

    def pause(self) -> None:
        """Ask its trial to save and stop after its next step, with a TrialResult. An idle worker is left alone."""

    def retime(self, total_steps: int) -> None:
        """Let the schedule of its trial have another length, after its next step. An idle worker is left alone."""

    def end(self, timeout_seconds: float) -> None:
        """Let an idle worker go: it has so long to write down what it is still writing. A busy one is ended at once.

        It is gone when this returns. Nothing is heard of it any more.
        """


class Workplace(Protocol):
    """Where the workers of a command run. One that can't have what the settings ask for is not made: RequestError."""

    @property
    def count(self) -> int:
        """Workers that the settings ask for, or as many as it has room for."""

    @property
    def hardware(self) -> Hardware:
        """What a worker says that it computes with. A workplace that can't know starts its first worker to hear it."""

    def start(self, index: int, output: str) -> Worker:
        """A fresh worker; `output` names the folder for what it writes besides its messages."""

    def hear(self, workers: Sequence[Worker], timeout_seconds: float) -> Iterator[tuple[Worker, Message]]:
        """Wait until one of them says something, for so long at the most; then a message of each that did.

        Each message is taken when the iterator comes to it: a worker has its trial until then.

        Raises:
            RequestError: a worker can't have what the settings ask for.
        """
