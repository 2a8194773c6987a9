"""Keeps a long fine-tune to the clock: its schedule is made shorter or longer as the machine turns out to be."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpsearch.coordinator.planner import REPORT_SECONDS
from hpsearch.decisions.plan import Known
from hpsearch.state.messages import Progress

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

WINDOW = 0.25  # of the time that it has trained: what tells the rate of now
LEAST_SECONDS, LEAST_SHARE = 10.0, 0.04  # between two changes, and of the window: the more of the two; of the hours
TOLERATED, DOUBTED = 0.02, 0.1  # of the hours; of the time that the training still takes: rates are noisy


class Retimer:
    """Of one trial."""

    def __init__(
        self,
        planner: "Planner",
        known: Known,
        times: float,
        batch_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the schedule as it is planned.

        Args:
            planner: says what time is left.
            known: says what must come after the training, and what a step takes.
            times: that the schedule may become longer at the most: more passes do not pay.
            batch_size: examples a step.
            clock: seconds.
        """
        self._planner, self._usual = planner, batch_size * known.pace.train
        self._scored = known.scoring + known.end - REPORT_SECONDS
        # What is tolerated must not make it late, so it is to end as much before.
        self._spare = known.pace.trial / 2 + TOLERATED * planner.hours * 3600 + REPORT_SECONDS
        self._least = max(LEAST_SECONDS, LEAST_SHARE * planner.hours * 3600)
        self._most, self._clock = max(1.0, times), clock
        self._seen: deque[tuple[float, int]] = deque()
        self._began: float | None = None
        self._changed = clock()
        self._planned: int | None = None

    def heard(self, progress: Progress) -> int | None:
        """Steps in all that the time holds, where those of the schedule would end too late or too early."""
        now = self._clock()
        self._began = self._began if self._began is not None else now
        self._planned = self._planned or progress.total_steps
        self._seen.append((now, progress.step))
        window = max(self._least, WINDOW * (now - self._began))
        while len(self._seen) > 2 and self._seen[1][0] < now - window:
            self._seen.popleft()
        then, step = self._seen[0]
        if now - then < self._least or now - self._changed < self._least or progress.step <= step:
            return None
        rate = (progress.step - step) / (now - then)
        most = round(self._planned * self._most)
        after = self._spare + self._scored * max(1.0, 1 / (rate * self._usual))  # slow at one thing, slow at the other
        total = min(most, progress.step + max(0, int(rate * (self._planner.left - after))))
        change = abs(total - progress.total_steps) / rate
        still = (progress.total_steps - progress.step) / rate
        if change < max(TOLERATED * self._planner.hours * 3600, DOUBTED * still):
            return None
        self._changed = now
        return total
