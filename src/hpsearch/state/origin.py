"""What decided a trial's result, as stored in `origin.json` of its MLflow run."""

from dataclasses import dataclass
from typing import Any

from hpsearch.state.records import Status, StudyHardware


@dataclass(frozen=True)
class Origin:
    """All that decides a trial's result, and the result itself. `reproduce` uses it."""

    settings: dict[str, Any]
    """The settings, as `Settings.model_dump` gives them in JSON mode. `loading.from_plain` reads them."""
    digests: dict[str, str]
    """Split: digest of its rows."""
    hardware: StudyHardware
    status: Status
    rung: int
    """Number of the last rung that the trial reached, from 0; -1 before the first."""
    metrics: dict[str, float]
    """Metrics of the trial's last point."""
    code: dict[str, str]
    """Module: digest."""
    libraries: dict[str, str]
    """Package: version."""
