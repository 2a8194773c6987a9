"""Which workplace the settings ask for: there is one."""

from pathlib import Path

from hpsearch.config.settings import HardwareSettings
from hpsearch.workers.interface import Workplace
from hpsearch.workers.local import LocalWorkplace


def open_workplace(settings: HardwareSettings, home: Path) -> Workplace:
    """Where workers run, for the command whose state folder is `home`. Starts none.

    Raises:
        RequestError: what the settings ask for is not there.
    """
    return LocalWorkplace(settings, home)
