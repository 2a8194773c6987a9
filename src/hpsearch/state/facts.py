"""What was read of a task's data, and what was done to it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Overlap:
    """What two splits share as they were given."""

    rows: int
    """Of the second that the first has."""
    rows_of_shared_groups: int
    """Of the second whose group is in the first."""


@dataclass(frozen=True)
class Facts:
    """Of a corpus: keys of mappings are names of splits, but where a field says otherwise; counts are in rows."""

    source: str
    note: str | None
    """What a reader of scores on packaged data must know."""
    rows: dict[str, int]
    """Of each split that the source gives."""
    empty_texts: dict[str, int]
    """Of the same."""
    dropped: dict[str, dict[str, int]]
    """Split: why: rows."""
    examples: dict[str, int]
    """In all, of which a study may use a part."""
    overlap: dict[str, Overlap]
    """Pair of splits, like "train and test": what they share; only of those that share something."""
    groups: dict[str, int]
    """Groups that were kept together."""
    split_by: dict[str, str]
    """`source` or `hpsearch`."""
    labels: dict[str, int]
    """Class: its number; {} where the kind has none."""
    classes: dict[str, dict[str, int]]
    """Split: class: examples."""
    digests: dict[str, str]
