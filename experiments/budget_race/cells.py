"""What the race keeps: one file for each task, budget, side and seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.config.settings import digest
from hpsearch.decisions import paired
from hpsearch.state import codec
from hpsearch.state.records import write_durably
from hpsearch.tasks import squad
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES

HERE = Path(__file__).parent
CELLS = HERE / "cells"
SIDES = ("ours", "reference", "trainer", "trainer_search")  # that are run; `floor` is what `ours` has beside it
LETTERS = digits + ascii_letters  # a class each
OF_CLASSES = KINDS["text_classification"]


@dataclass(frozen=True)
class Evidence:
    """What a model said of each test example, as far as its score is made of it."""

    metric: str
    examples: str
    """Digest of the test examples and their order."""
    said: str
    """By example. Accuracy: 1 where it is right, else 0. F1 of classes: letter of the answer. F1 of questions: numbers
    with spaces between them."""
    truths: str = ""
    """F1 of classes: letter of the truth."""
    classes: tuple[str, ...] = ()
    """F1 of classes: their names, in the order of `LETTERS`."""

    @staticmethod
    def of(
        metric: str, ids: Sequence[str], truths: Sequence[Any], said: Sequence[Any], classes: Sequence[str]
    ) -> "Evidence":
        """Of what a model said, in the form in which the kind of task has truths and answers."""
        examples = digest(list(ids))
        if metric == "accuracy":
            right = "".join(str(int(truth == one)) for truth, one in zip(truths, said, strict=True))
            return Evidence(metric, examples, right)
        if not classes:
            _, f1 = squad.scores(list(said), truths)
            return Evidence(metric, examples, " ".join(f"{one:.4g}" for one in f1))
        letters = dict(zip(classes, LETTERS, strict=False))
        of_said, of_truths = ("".join(letters[one] for one in answers) for answers in (said, truths))
        return Evidence(metric, examples, of_said, of_truths, tuple(classes))

    @property
    def tallies(self) -> NDArray[np.float64]:
        """(examples, k): what each example adds to the sums that the score is made of."""
        if self.classes:
            return OF_CLASSES.tallies(self._named(self.truths), self._named(self.said), self.classes)
        values = [float(one) for one in (self.said if self.metric == "accuracy" else self.said.split())]
        return np.column_stack([values, np.ones(len(values))])

    def _named(self, letters: str) -> list[str]:
        return [self.classes[LETTERS.index(letter)] for letter in letters]

    def of_sums(self, sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """The score, of sums of tallies (..., k)."""
        return OF_CLASSES.of_sums(sums) if self.classes else {self.metric: sums[..., 0] / sums[..., 1]}

    @property
    def score(self) -> float:
        return float(self.of_sums(self.tallies.sum(0))[self.metric])


@dataclass(frozen=True)
class Floor:
    """A simple model that `ours` has beside its winner."""

    name: str
    seconds: float
    """That fitting took."""
    score: float
    evidence: Evidence


@dataclass(frozen=True)
class Cell:
    """What one side came to."""

    task: str
    budget: str
    """`15m`, or `2T1`: so many times one pass over all training examples."""
    minutes: float
    side: str
    seed: int
    machine: str
    seconds: float
    """From nothing to a model and its test score."""
    t1: float | None
    """Seconds of one pass over all training examples, by the study's first plan."""
    what: str
    """That the time was spent on."""
    score: float | None
    """On test; None where the time ended without a model."""
    n: int
    """Test examples."""
    evidence: Evidence | None
    floors: tuple[Floor, ...] = ()


def path_of(task: str, budget: str, side: str, seed: int) -> Path:
    return CELLS / f"{task}-{budget}-{side}-seed-{seed}.json"


def write(cell: Cell) -> None:
    path = path_of(cell.task, cell.budget, cell.side, cell.seed)
    path.parent.mkdir(exist_ok=True)
    write_durably(path, codec.write(cell))


def read_all() -> list[Cell]:
    found = (codec.read_file(Cell, path, "delete it") for path in sorted(CELLS.glob("*-seed-*.json")))
    return [cell for cell in found if cell is not None]


@dataclass(frozen=True)
class Difference:
    """Of two sides, pooled over seeds, with its 95 % interval over examples."""

    value: float
    low: float
    high: float


def pooled(others: Sequence[Evidence], ours: Sequence[Evidence]) -> Difference:
    """What ours gains over others: pairs in the same order, all on the same examples."""
    if len({one.examples for one in (*others, *ours)}) > 1:
        raise SystemExit("these cells are of different test examples; delete those of other data")
    objective, of_sums = OBJECTIVES[ours[0].metric], ours[0].of_sums
    value = np.mean([objective.gain(one.score, other.score) for other, one in zip(others, ours, strict=True)])
    drawn = paired.gains([one.tallies for one in others], [one.tallies for one in ours], of_sums, objective)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Difference(float(value), float(low), float(high))
