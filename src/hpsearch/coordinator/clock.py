"""Where the time of a study went: seconds of each phase, summed over all runs of its command."""

import contextlib
import json
import time
from collections.abc import Iterator

from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import write_durably


def read_seconds(folder: StudyFolder) -> dict[str, float]:
    """Seconds of each phase of a study, over all runs of its command that came to an end of some kind."""
    path = folder.seconds
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


class Clock:
    """Seconds of each phase, summed over all runs of the command."""

    def __init__(self, folder: StudyFolder, started: float) -> None:
        self.path, self.last = folder.seconds, started
        self.seconds = read_seconds(folder)

    @property
    def spent(self) -> float:
        """Seconds of the study until now, over all runs of the command."""
        return sum(self.seconds.values()) + time.monotonic() - self.last

    def lap(self, phase: str) -> None:
        """What has passed since the last lap was this phase."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now
        write_durably(self.path, json.dumps(self.seconds))

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """What passes inside is this phase, however it ends; what passed before belongs to the setup."""
        self.lap("setup")
        try:
            yield
        finally:
            self.lap(phase)
