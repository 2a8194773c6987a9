"""The retimer: it shortens or lengthens the schedule of a long fine-tune, so that the fine-tune ends in time."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hpsearch.coordinator.planner import REPORT_SECONDS
from hpsearch.decisions.plan import Known
from hpsearch.state.messages import Progress

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

# The rate is measured over this share of the time that is left. A slow minute says little about the next hour, and much
# about the next minute. Before the training began, the planned rate counts.
WINDOW = 0.5
# Least time between two changes, and least window: the longer of these seconds and this share of the hours.
LEAST_SECONDS, LEAST_SHARE = 10.0, 0.04
# Rates are noisy. A change is made only above this share of the hours and this share of the training time to come.
TOLERATED, DOUBTED = 0.02, 0.1


class Retimer:
    """Retimes the schedule of one trial."""

    def __init__(
        self,
        planner: "Planner",
        known: Known,
        times: float,
        batch_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with the planned schedule.

        Args:
            planner: gives the time that is left.
            known: gives the time of a step, and the time needed after the training.
            times: longest schedule, as a multiple of the planned one; more passes do not pay.
            batch_size: examples of a step.
            clock: returns seconds.
        """
        self._planner, self._usual = planner, batch_size * known.pace.train
        self._scored = known.scoring + known.end - REPORT_SECONDS
        # The tolerated time must not make the trial late, so the trial aims to end earlier by it.
        self._spare = known.pace.trial / 2 + TOLERATED * planner.hours * 3600 + REPORT_SECONDS
        self._least = max(LEAST_SECONDS, LEAST_SHARE * planner.hours * 3600)
        self._most, self._clock = max(1.0, times), clock
        self._seen: deque[tuple[float, int]] = deque()
        self._changed = clock()
        self._planned: int | None = None

    def heard(self, progress: Progress) -> int | None:
        """Return new total steps that fit the time, where the schedule would end too late or too early; else None."""
        now, left = self._clock(), self._planner.left
        self._planned = self._planned or progress.total_steps
        self._seen.append((now, progress.step))
        window = max(self._least, WINDOW * left)
        while len(self._seen) > 2 and self._seen[1][0] < now - window:
            self._seen.popleft()
        then, step = self._seen[0]
        if now - then < self._least or now - self._changed < self._least or progress.step <= step:
            return None
        before = max(0.0, window - (now - then))  # seconds of the window before the training
        rate = (progress.step - step + before / self._usual) / (now - then + before)
        most = round(self._planned * self._most)
        after = self._spare + self._scored * max(1.0, 1 / (rate * self._usual))  # slow training means slow scoring
        total = min(most, progress.step + max(0, int(rate * (left - after))))
        change = abs(total - progress.total_steps) / rate
        still = (progress.total_steps - progress.step) / rate
        if change < max(TOLERATED * self._planner.hours * 3600, DOUBTED * still):
            return None
        self._changed = now
        return total
