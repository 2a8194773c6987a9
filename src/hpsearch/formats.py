"""Formats of numbers on the page, on the console and in charts."""

from collections.abc import Mapping
from typing import Any

NONE = "-"  # shown where there is no value
MOST_CLASSES = 25  # with more classes, a list of the most frequent errors replaces the confusion matrix


def score(number: float | None) -> str:
    """Format a metric or a loss."""
    return NONE if number is None else f"{number:.3f}"


def gain(difference: float, share: bool, digits: int = 1) -> str:
    """Format the gain of one score over another.

    Args:
        difference: Difference of the two scores; below 0 if the score is worse.
        share: Whether the scores are shares. Their difference is given in points (hundredths), others unchanged.
        digits: Decimal places of points; other differences have two more.
    """
    if share:
        return f"{round(100 * difference, digits) + 0.0:+.{digits}f} points"  # + 0.0 turns -0.0 into 0.0
    return f"{round(difference, digits + 2) + 0.0:+.{digits + 2}f}"


def count(number: int) -> str:
    """Format a whole number of things."""
    return f"{number:,}"


def value(chosen: object) -> str:
    """Format the value of a parameter or a fact."""
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
    """Format seconds in at most two units."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    units = (("min", minutes), ("s", rest)) if minutes < 60 else (("h", minutes // 60), ("min", minutes % 60))
    return " ".join(f"{number} {unit}" for unit, number in units if number)


def parameter(path: str) -> str:
    """Return the short name of a searched setting: the last part of its path."""
    return path.rpartition(".")[2]


def parameters(params: Mapping[str, Any]) -> str:
    """Format a trial's parameters on one line."""
    return "  ".join(f"{parameter(path)} {value(chosen)}" for path, chosen in params.items())
