"""What the floors of a study came to before its first trial, as `floors.json` keeps it."""

from dataclasses import dataclass
from typing import Any

from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import write_durably


@dataclass(frozen=True)
class FloorRecord:
    """One floor."""

    name: str
    examples: int
    """Training examples that it was fitted on, the first so many; 0 where none are needed."""
    seconds: float
    """That fitting took, and scoring on validation."""
    chosen: dict[str, Any]
    """For it, for people."""
    metrics: dict[str, float]
    """`validation_accuracy`, ...: score."""
    confusion: tuple[tuple[int, ...], ...] | None
    """On validation: a row for each true class, a column for each predicted one."""
    fitted: dict[str, Any]
    """Thresholds from the validation split, as the kind has them."""
    fault: str | None
    """Why there is no such floor; then nothing else is known of it."""
    run_id: str | None = None
    """Of its MLflow run, once that is there."""


@dataclass(frozen=True)
class FloorRecords:
    """All of them, in the order in which they were fitted."""

    floors: tuple[FloorRecord, ...]


def read_floors(folder: StudyFolder) -> tuple[FloorRecord, ...]:
    """Those of the study in `folder`; none where it has had none. Raises RequestError if the file is damaged."""
    found = codec.read_file(FloorRecords, folder.floors, "delete it, and the sweep's command fits them anew")
    return found.floors if found is not None else ()


def write_floors(folder: StudyFolder, floors: tuple[FloorRecord, ...]) -> None:
    """Write those of the study in `folder`, so that a crash leaves the file whole."""
    write_durably(folder.floors, codec.write(FloorRecords(floors), indent=1))
