"""How many workers a study has, while the room for them and the work change."""

import math
from collections.abc import Sequence

from hpsearch.workers.interface import Worker

IDLE_SECONDS = 60.0  # a worker without work for so long lets its node go, where the cluster scales by itself


class Headcount:
    """Decides how many workers there should be, and which of them go."""

    def __init__(self, scales: bool) -> None:
        """Begin with as many as have room; `scales` says whether nodes go when their workers have ended."""
        self._scales = scales
        self._idle_since: dict[int, float] = {}  # worker: when it was first seen without work
        self._needed = math.inf  # workers that have work, as far as is known

    def needed(self, most: float) -> None:
        """Begin something that has work for `most` workers; infinity: for any number."""
        self._needed = max(1.0, most)
        self._idle_since.clear()

    def one_needed(self, workers: Sequence[Worker]) -> None:
        """Begin something that has work for one worker."""
        self._needed = 1
        self._idle_since = {worker.index: -math.inf for worker in workers}

    def work_found(self, workers: Sequence[Worker]) -> None:
        """Note that a worker was given work. If all are busy, there may be work for twice as many."""
        if all(worker.trial is not None for worker in workers):
            self._needed *= 2

    def surplus(self, workers: Sequence[Worker], place: int, now: float) -> tuple[list[Worker], int]:
        """Return the workers that should be ended, and how many should be started after that.

        Args:
            workers: the present ones.
            place: for how many there is room.
            now: seconds of a clock.
        """
        room, going = place, [worker for worker in workers if not worker.ready]
        if self._scales:
            idle = [worker for worker in workers if _idle(worker)]
            self._idle_since = {worker.index: self._idle_since.get(worker.index, now) for worker in idle}
            long = [worker for worker in idle if now - self._idle_since[worker.index] > IDLE_SECONDS]
            if long:
                self._needed = max(1, len(workers) - len(going) - len(long))
            room = int(min(place, self._needed))
            going += long
        going = going[: max(0, len(workers) - max(1, room))]
        return going, max(1, room) - (len(workers) - len(going))


def _idle(worker: Worker) -> bool:
    return worker.ready and worker.trial is None
