"""Facts about a task's data: what was read, and what was done to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """What two splits share, as the source gives them."""

    rows: int
    """Rows of the second split whose content is also in the first."""
    rows_of_shared_groups: int
    """Rows of the second split whose group is also in the first."""


@dataclass(frozen=True)
class Facts:
    """Facts about a corpus. Unless a field says otherwise, keys are names of splits and counts are in rows."""

    source: str
    note: str | None
    """What a reader of scores on packaged data must know."""
    rows: dict[str, int]
    """Rows of each split that the source gives."""
    empty_texts: dict[str, int]
    """Rows without text in each of these splits."""
    dropped: dict[str, dict[str, int]]
    """Split: reason: dropped rows."""
    examples: dict[str, int]
    """Examples in all, of which a study may use a part."""
    overlap: dict[str, Overlap]
    """Pair of splits, like "train and test": what they share. Pairs that share nothing are left out."""
    groups: dict[str, int]
    """Number of groups that were kept together."""
    split_by: dict[str, str]
    """Who made the split: `source` or `hpsearch`."""
    labels: dict[str, int]
    """Class: its number; {} if the kind has no classes."""
    classes: dict[str, dict[str, int]]
    """Split: class: number of examples."""
    digests: dict[str, str]
