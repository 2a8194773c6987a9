"""The workplace that the settings ask for."""

from pathlib import Path

from hpsearch.config.settings import ClusterSettings, HardwareSettings
from hpsearch.errors import RequestError
from hpsearch.workers.interface import Workplace
from hpsearch.workers.local import LocalWorkplace


def open_workplace(settings: HardwareSettings, cluster: ClusterSettings, home: Path) -> Workplace:
    """Return the place where workers run, for the command whose state folder is `home`. Starts no worker.

    Raises:
        RequestError: the place lacks what the settings ask for.
        OutOfReachError: the cluster does not answer.
    """
    if cluster.name == "local":
        return LocalWorkplace(settings, home, cluster.processes_per_trial)
    if settings.workers != "auto":
        raise RequestError(
            f"hardware.workers={settings.workers}: with cluster=ray say cluster.workers, and leave this at auto"
        )
    try:
        from hpsearch.workers.ray import RayWorkplace  # an optional dependency
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise RequestError(
            "cluster=ray: needs Ray; pip install 'ray>=2.60,<2.61' in this environment and on every node"
        ) from None
    return RayWorkplace(settings, cluster, home)
