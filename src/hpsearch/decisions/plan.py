"""What the hours are spent on: a pure function of pace, data and hours.

The pace says what an example costs. A plan says how many trials are searched on how many examples, who is run again
with how many fresh seeds, and what is left to train the final model on all the data. It is made when a study begins,
and for what is left of it whenever a phase begins, so that a machine that became slower costs trials and not hours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

# Shares and counts, judged by single studies; experiments/budget_race shows what they come to.
CONFIRMED = 0.35  # of the time before the final model: of the confirmation
WORTH_SEARCHING = 16  # trials that the search must hold; with fewer, the reference recipe gets all the time
FEW = 8  # fine-tunes on all the data, with R-Drop where it is tried: hours that hold fewer try a few recipes whole
ASKED_FOR = 2  # trials that are compared at all
FEWEST = 1000  # training examples of a search trial, where there are so many
CHEAPER = 0.9  # of the cost: fewer examples, which are seen more often, must save that much
PAYING, MOST_PAYING = 1.5, 2.2  # times the usual passes, where there is time: rather other seeds than many more passes
FEW_MORE = 1.3  # times the examples of the confirmation; a final model of fewer would be none the better
FINALISTS, MOST_FINALISTS = 2, 4
SEEDS, MOST_SEEDS = 2, 5
SHORTER = 0.75  # times the usual passes: a run that has no more time is worth it still
MOST_ALONE = 20  # runs a worker, where nothing is searched: hours that hold more are searched
RESERVE = 0.02  # of the hours, for what nobody foresees


@dataclass(frozen=True)
class Pace:
    """What a worker takes."""

    train: float
    """Seconds a training example, each time it is seen."""
    score: float
    """Seconds an example that is scored."""
    trial: float
    """Seconds of a trial besides: a model is loaded and saved."""


@dataclass(frozen=True)
class Sizes:
    """Examples that there are."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Asked:
    """What is fixed by hand; None: the plan's."""

    trials: int | None
    search_examples: int | None
    finalists: int | None
    seeds: int | None
    confirmation_examples: int | None
    final: bool

    @property
    def settings(self) -> dict[str, int]:
        """Setting of the budget: what it is fixed to."""
        fixed = {
            "max_trials": self.trials,
            "search_examples": self.search_examples,
            "confirmation.finalists": self.finalists,
            "confirmation.seeds": self.seeds,
            "confirmation.examples": self.confirmation_examples,
        }
        return {f"budget.{name}": value for name, value in fixed.items() if value}


@dataclass(frozen=True)
class Recipe:
    """What the plan must know of what is trained."""

    seen: float
    """Training examples that the usual fine-tune sees at least; few examples are seen more often."""
    least_passes: float
    most_passes: float
    factor: float
    """Mean over the space of how many times as long as usual a recipe trains."""
    longest: float
    """The largest such multiple: what wins may have it."""
    share: float
    """Of a trial that is trained in the mean, with what is stopped at rungs."""

    def passes(self, examples: int) -> float:
        """The usual number, of so many examples."""
        return max(self.least_passes, min(self.most_passes, self.seen / examples))


@dataclass(frozen=True)
class Step:
    """Fine-tunes of one phase."""

    runs: int
    examples: int
    passes: float
    seconds: float
    """Of all of them together, by the clock."""


@dataclass(frozen=True)
class Plan:
    """What the seconds are for, from now on."""

    search: Step
    """Of the reference recipe and what is near it, in one run or more, where the hours hold no search."""
    confirmation: Step | None
    finalists: int
    seeds: int
    final: Step | None
    end: float
    """Seconds for test and report."""
    alone: bool = False
    """Whether nothing is searched: the reference recipe and what is near it have all the time."""

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(step.seconds for step in (self.search, self.confirmation, self.final) if step is not None) + self.end


@dataclass(frozen=True)
class Known:
    """What a plan is made of."""

    pace: Pace
    sizes: Sizes
    recipe: Recipe
    asked: Asked
    workers: int
    end: float
    """Seconds for test and report."""
    reference: float = 0.0
    """Of them, for the reference recipe on test, which is not scored where it is alone."""
    folds: int = 0
    """Of the cross-validation by which few examples are confirmed; 0: there is none."""
    dearer: float = 1.0
    """Where hours hold no search: how many times as long an update of what is run after the reference recipe takes."""

    @property
    def least_trials(self) -> int:
        """Of a search; where somebody has fixed its examples, a search is wanted."""
        return WORTH_SEARCHING if self.asked.search_examples is None else ASKED_FOR

    @property
    def least_seeds(self) -> int:
        """Fresh seeds of a confirmation: each fold has one, and of a single one nobody knows how much it flatters."""
        return self.asked.seeds or self.folds or SEEDS

    def confirmed(self, search_examples: int) -> int:
        """Training examples of a confirmation run, at the least."""
        return min(self.sizes.train, self.asked.confirmation_examples or search_examples)

    @property
    def scoring(self) -> float:
        """Seconds in which a model is scored on validation."""
        return self.sizes.validation * self.pace.score

    def run(self, examples: int, factor: float = 1.0) -> float:
        """Seconds of one fine-tune of the usual length, scored on validation."""
        seen = examples * self.recipe.passes(examples) * factor
        return self.pace.trial + seen * self.pace.train + self.scoring

    def searched(self, examples: int) -> float:
        """Seconds of a search trial in the mean, by the clock."""
        return self.run(examples, self.recipe.factor * self.recipe.share) / self.workers

    def step(self, runs: int, examples: int, factor: float = 1.0) -> Step:
        """Runs that need nothing of each other, `factor` times as long as usual in the mean."""
        together = math.ceil(runs / self.workers)
        return Step(runs, examples, self.recipe.passes(examples), together * self.run(examples, factor))

    def race(self, finalists: int, seeds: int, examples: int, factor: float) -> Step:
        """Finalists that are `factor` times as long as usual, and the reference recipe, with so many seeds."""
        mean = (finalists * factor + 1) / (finalists + 1)
        return self.step((finalists + 1) * seeds, examples, mean)


def of_all(known: Known, seconds: float) -> Plan:
    """The plan of a study that begins.

    The search has as many examples as leave room for WORTH_SEARCHING trials; its best are confirmed on as many or
    more, and the winner's recipe is trained on all of them, where that is not what the confirmation does. What is
    fixed by hand is kept, and may take more seconds than there are.

    Args:
        known: pace, data, recipe, what is fixed.
        seconds: that there are, test and report included.
    """
    left = seconds * (1 - RESERVE) - known.end
    if known.asked.trials == 1:  # which is the reference recipe
        return alone(known, seconds)
    free = known.asked.trials is None and known.asked.search_examples is None
    if free and left < known.step(FEW, known.sizes.train, PAYING * known.dearer).seconds:
        return alone(known, seconds)
    found = None
    for examples in _sizes(known):
        found = _searched(known, left, examples) or found
        if found is not None and (known.asked.trials is None or found.seconds <= seconds):
            return found
    return found if found is not None else alone(known, seconds)


def _sizes(known: Known) -> Iterator[int]:
    """Examples that a search trial may have, most first: halved, until fewer cost nearly the same."""
    if known.asked.search_examples is not None:
        yield min(known.asked.search_examples, known.sizes.train)
        return
    examples = known.sizes.train
    while True:
        yield examples
        fewer = math.ceil(examples / 2)
        if fewer < FEWEST or known.run(fewer) > CHEAPER * known.run(examples):
            return
        examples = fewer


def _searched(known: Known, left: float, examples: int) -> Plan | None:
    """The plan with search trials of so many examples; None where the time does not hold enough of them."""
    everything = known.sizes.train
    if not known.asked.final or (examples * FEW_MORE >= everything and not known.folds):
        return _divided(known, left, examples, None)
    found = _divided(known, left, examples, known.step(1, everything, max(1.0, known.recipe.factor)))
    if known.folds or found is None or found.confirmation is None:
        return found
    if found.confirmation.examples * FEW_MORE >= everything:
        return _divided(known, left, examples, None)  # a run of the confirmation is the final model
    return found


def _divided(known: Known, left: float, examples: int, final: Step | None) -> Plan | None:
    """The time between search and confirmation; the final model has its own."""
    asked, spare = known.asked, left - (final.seconds if final is not None else 0.0)
    longest = known.recipe.longest
    least = known.race(asked.finalists or 1, known.least_seeds, known.confirmed(examples), longest)
    most = known.race(asked.finalists or MOST_FINALISTS, asked.seeds or MOST_SEEDS, known.sizes.train, longest)
    reserved = max(min(CONFIRMED * spare, most.seconds), least.seconds) if asked.finalists != 0 else 0.0
    possible = int((spare - reserved) / known.searched(examples))
    if asked.trials is None and possible < known.least_trials:
        return None
    trials, of_one = asked.trials or possible, known.searched(examples)
    finalists, seeds, confirmation = of_confirmation(known, spare - trials * of_one, examples, longest)
    if asked.trials is None:  # they have what the confirmation leaves of its part
        trials = max(trials, int((spare - (confirmation.seconds if confirmation is not None else 0.0)) / of_one))
    search = Step(trials, examples, known.recipe.passes(examples), trials * of_one)
    return Plan(search, confirmation, finalists, seeds, final, known.end)


def of_confirmation(known: Known, seconds: float, search_examples: int, factor: float) -> tuple[int, int, Step | None]:
    """Finalists, fresh seeds, and the runs: more examples first, then seeds, then finalists.

    Args:
        known: pace, data, recipe, what is fixed.
        seconds: that there are for it.
        search_examples: of a trial of the search; a run has no fewer.
        factor: how many times as long as usual the finalists are.
    """
    asked = known.asked
    if asked.finalists == 0:
        return 0, 1, None
    finalists, seeds = asked.finalists or FINALISTS, known.least_seeds
    least = known.confirmed(search_examples)

    def fits(finalists: int, seeds: int, examples: int) -> bool:
        return known.race(finalists, seeds, examples, factor).seconds <= seconds

    if not fits(finalists, seeds, least):  # the least that can be called a confirmation
        finalists = asked.finalists or 1
    examples = least
    while asked.confirmation_examples is None and examples < known.sizes.train:
        more = min(2 * examples, known.sizes.train)
        if not fits(finalists, seeds, more):
            break
        examples = more
    while asked.seeds is None and seeds < MOST_SEEDS and fits(finalists, seeds + 1, examples):
        seeds += 1
    while asked.finalists is None and finalists < MOST_FINALISTS and fits(finalists + 1, seeds, examples):
        finalists += 1
    return finalists, seeds, known.race(finalists, seeds, examples, factor)


def of_final(known: Known, seconds: float, factor: float) -> Step:
    """The final model: all examples, as often as it pays or the time holds; fewer where it does not hold one pass.

    Args:
        known: pace, data, recipe, what is fixed.
        seconds: that there are for it.
        factor: of the winner's recipe: its `train.epochs_factor`.
    """
    spare = seconds - known.pace.trial - known.scoring
    seen = max(1.0, spare / known.pace.train)
    everything = known.sizes.train
    passes = min(known.recipe.passes(everything) * max(1.0, factor), seen / everything)
    examples = everything if passes >= 1 else max(1, min(everything, int(seen)))
    passes = max(1.0, passes)
    cost = known.pace.trial + examples * passes * known.pace.train + known.scoring
    return Step(1, examples, passes, cost)


def spread(step: Step, everything: int) -> Step:
    """The same length over all examples: what is seen once at the most can be new to the end, however long it gets."""
    return Step(step.runs, everything, step.passes * step.examples / everything, step.seconds)


def alone(known: Known, seconds: float) -> Plan:
    """The reference recipe and what is near it: as long as pays, and as many runs as the time holds of that.

    Where what comes after it is dearer, it leaves the time for a run of that as long as itself, or is the only one.
    Where it is the only one, no other model is scored beside it.
    """
    everything, end = known.sizes.train, known.end
    spare = seconds * (1 - RESERVE) - end
    factor = max(PAYING, 4 / 3 / known.recipe.passes(everything))  # so that each of two sees all of them
    most = min(MOST_ALONE, int(spare / known.run(everything, factor / PAYING)))
    rounds = max(1, min(most, round(spare / known.run(everything, factor))))
    if rounds > 1 and known.dearer > 1:
        together = 1 + known.dearer  # of both, as the usual length
        rounds = max(rounds, math.ceil(together)) if spare >= known.run(everything, together) else 1
    if rounds * known.workers == 1:
        end, spare = end - known.reference, spare + known.reference
    one = of_final(known, spare / rounds, MOST_PAYING)
    runs = replace(one, runs=rounds * known.workers, seconds=rounds * one.seconds)
    return Plan(runs, None, 0, 1, None, end, alone=True)
