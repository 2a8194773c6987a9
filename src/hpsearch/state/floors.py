"""Results of a study's floors, which are fitted before its first trial, as stored in `floors.json`."""

from dataclasses import dataclass
from typing import Any

from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import write_durably


@dataclass(frozen=True)
class FloorRecord:
    """The result of one floor."""

    name: str
    examples: int
    """Number of training examples that it was fitted on, the first ones; 0 if it needs none."""
    seconds: float
    """Seconds for fitting and for scoring on validation."""
    chosen: dict[str, Any]
    """Values that fitting chose, for people."""
    metrics: dict[str, float]
    """`validation_accuracy`, ...: score."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts on validation: a row for each true class, a column for each predicted class."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    fault: str | None
    """Why the floor could not be fitted. Then only `limit` is known of it."""
    run_id: str | None = None
    """Id of its MLflow run; None until the run exists."""
    limit: float | None = None
    """Seconds that all floors together had when this one failed; None if it was fitted, or in a former version."""


@dataclass(frozen=True)
class FloorRecords:
    """All floors of a study, in the order in which they were fitted."""

    floors: tuple[FloorRecord, ...]


def read_floors(folder: StudyFolder) -> tuple[FloorRecord, ...]:
    """Return the floors of the study in `folder`; () if it has none. Raises RequestError if the file is damaged."""
    found = codec.read_file(FloorRecords, folder.floors, "delete it, and the sweep's command fits them again")
    return found.floors if found is not None else ()


def write_floors(folder: StudyFolder, floors: tuple[FloorRecord, ...]) -> None:
    """Write the floors of the study in `folder`, so that a crash leaves the file whole."""
    write_durably(folder.floors, codec.write(FloorRecords(floors), indent=1))
