"""How numbers are written on the page, on the console and in charts, and how many fit."""

from collections.abc import Mapping
from typing import Any

NONE = "-"  # where there is no value
MOST_CLASSES = 25  # above, a confusion matrix gives way to a list of the most frequent errors


def score(number: float | None) -> str:
    """A metric or a loss."""
    return NONE if number is None else f"{number:.3f}"


def gain(difference: float, share: bool, digits: int = 1) -> str:
    """By how much one score is better than another, worse where it is below 0.

    Args:
        difference: of two scores.
        share: whether they are shares: these are said in hundredths, other scores as they are.
        digits: of hundredths.
    """
    if share:
        return f"{round(100 * difference, digits) + 0.0:+.{digits}f} points"  # no -0.0
    return f"{round(difference, digits + 2) + 0.0:+.{digits + 2}f}"


def count(number: int) -> str:
    """A number of things."""
    return f"{number:,}"


def value(chosen: object) -> str:
    """A parameter or a fact."""
    if isinstance(chosen, Mapping):
        return ", ".join(f"{name} {value(inner)}" for name, inner in chosen.items())
    if isinstance(chosen, list | tuple):
        return ", ".join(map(value, chosen))
    if isinstance(chosen, bool) or not isinstance(chosen, int | float):
        return str(chosen)
    if isinstance(chosen, int):
        return count(chosen)
    return f"{chosen:.2e}" if 0 < abs(chosen) < 1e-3 else f"{chosen:.4g}"


def duration(seconds: float) -> str:
    """Seconds, in at most two units."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def parameter(path: str) -> str:
    """The name that a reader knows a search path by."""
    return path.rpartition(".")[2]


def parameters(params: Mapping[str, Any]) -> str:
    """A trial's parameters on one line."""
    return "  ".join(f"{parameter(path)} {value(chosen)}" for path, chosen in params.items())
