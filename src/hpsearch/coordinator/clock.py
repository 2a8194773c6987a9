"""The time that a study has spent: seconds of each phase, summed over all runs of its command."""

import contextlib
import json
import time
from collections.abc import Iterator

from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import write_durably


def read_seconds(folder: StudyFolder) -> dict[str, float]:
    """Return the seconds of each phase of a study, over all runs of its command.

    The time after the last `Clock.lap` of a killed run is missing.
    """
    path = folder.seconds
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Clock:
    """The clock of a study: it counts the seconds of each phase, over all runs of the command."""

    def __init__(self, folder: StudyFolder, started: float) -> None:
        self.path, self.last = folder.seconds, started
        self.seconds = read_seconds(folder)

    @property
    def spent(self) -> float:
        """Seconds that the study has spent until now, over all runs of the command."""
        return sum(self.seconds.values()) + time.monotonic() - self.last

    def lap(self, phase: str) -> None:
        """Add the time since the last lap to this phase, and write all seconds to disk."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now
        write_durably(self.path, json.dumps(self.seconds))

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Count the time inside the context as this phase, however it ends, and the time before it as setup."""
        self.lap("setup")
        try:
            yield
        finally:
            self.lap(phase)
