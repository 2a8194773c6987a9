"""The workplace that the settings ask for. There is only one kind."""

from pathlib import Path

from hpsearch.config.settings import HardwareSettings
from hpsearch.workers.interface import Workplace
from hpsearch.workers.local import LocalWorkplace


def open_workplace(settings: HardwareSettings, home: Path) -> Workplace:
    """Return the place where workers run, for the command whose state folder is `home`. Starts no worker.

    Raises:
        RequestError: the place lacks what the settings ask for.
    """
    return LocalWorkplace(settings, home)
