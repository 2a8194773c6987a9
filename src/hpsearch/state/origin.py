"""What a trial's result came of, as `origin.json` of its MLflow run keeps it."""

from dataclasses import dataclass
from typing import Any

from hpsearch.state.records import Status, StudyHardware


@dataclass(frozen=True)
class Origin:
    """All that decides what a trial comes to, and what it came to: `reproduce` goes by it."""

    settings: dict[str, Any]
    """As `Settings.model_dump` gives them in the mode for JSON; `loading.from_plain` reads them."""
    digests: dict[str, str]
    """Split: digest of its rows."""
    hardware: StudyHardware
    status: Status
    rung: int
    """The last that it came to, from 0; -1 before the first."""
    metrics: dict[str, float]
    """Of its last point."""
    code: dict[str, str]
    """Module: digest."""
    libraries: dict[str, str]
    """Package: version."""
