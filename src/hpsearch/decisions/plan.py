"""The plan of what the hours are spent on: a pure function of pace, data and hours.

The pace says what an example costs. A plan says how many trials the search has, and on how many examples. It says how
many of the best points are run again, and with how many fresh seeds. It also says what time is left to train the final
model on all the data. A plan is made when a study begins, and again for the remaining time whenever a phase begins. So
a machine that became slower costs trials and not hours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

# Shares and counts, chosen from single studies; experiments/budget_race shows their results.
CONFIRMED = 0.35  # share of the time before the final model that the confirmation has
WORTH_SEARCHING = 16  # trials that the search must hold; with fewer, the reference recipe gets all the time
FEW = 8  # fine-tunes on all the data, with R-Drop if it is tried; hours that hold fewer try a few recipes on all data
ASKED_FOR = 2  # least trials of a search whose number of examples is fixed by hand: fewer can't be compared
FEWEST = 1000  # least training examples of a search trial, if the data have that many
CHEAPER = 0.9  # times the cost: half the examples, which are seen more often, must cost no more than this
PAYING, MOST_PAYING = 1.5, 2.2  # times the usual passes, if there is time; other seeds are better than many more passes
FEW_MORE = 1.3  # times the examples of the confirmation; with fewer, a final model would be no better
FINALISTS, MOST_FINALISTS = 2, 4
SEEDS, MOST_SEEDS = 2, 5
SHORTER = 0.75  # times the usual passes: the shortest run that is still worth its time
MOST_ALONE = 20  # most runs of a worker without a search: hours that hold more are searched
RESERVE = 0.02  # share of the hours for what can't be foreseen


@dataclass(frozen=True)
class Pace:
    """The time that a worker takes."""

    train: float
    """Seconds for a training example, each time it is seen."""
    score: float
    """Seconds for an example that is scored."""
    trial: float
    """Other seconds of a trial, to load and save a model."""


@dataclass(frozen=True)
class Sizes:
    """Number of examples in each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class Asked:
    """What is fixed by hand. None: the plan decides."""

    trials: int | None
    search_examples: int | None
    finalists: int | None
    seeds: int | None
    confirmation_examples: int | None
    final: bool

    @property
    def settings(self) -> dict[str, int]:
        """Setting of the budget: its fixed value."""
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
    """What the plan must know of the recipes that are trained."""

    seen: float
    """Least number of training examples that the usual fine-tune sees, with repeats; few examples are repeated more."""
    least_passes: float
    most_passes: float
    factor: float
    """Mean training time of the space's recipes, as a multiple of the usual time."""
    longest: float
    """The largest such multiple, which the winner may have."""
    share: float
    """Mean share of a trial that is trained, as some trials are stopped at rungs."""

    def passes(self, examples: int) -> float:
        """Return the usual number of passes over `examples` examples."""
        return max(self.least_passes, min(self.most_passes, self.seen / examples))


@dataclass(frozen=True)
class Step:
    """Fine-tunes of one phase."""

    runs: int
    examples: int
    passes: float
    seconds: float
    """Wall-clock seconds of all of them together."""


@dataclass(frozen=True)
class Plan:
    """What the seconds from now on are spent on."""

    search: Step
    """The search. If the hours hold none: one or more runs of the reference recipe and points near it."""
    confirmation: Step | None
    finalists: int
    seeds: int
    final: Step | None
    end: float
    """Seconds for test and report."""
    alone: bool = False
    """Whether nothing is searched, so that the reference recipe and points near it have all the time."""

    @property
    def seconds(self) -> float:
        """Seconds of the whole plan."""
        return sum(step.seconds for step in (self.search, self.confirmation, self.final) if step is not None) + self.end


@dataclass(frozen=True)
class Known:
    """What a plan is made from."""

    pace: Pace
    sizes: Sizes
    recipe: Recipe
    asked: Asked
    workers: int
    end: float
    """Seconds for test and report."""
    reference: float = 0.0
    """Seconds of these for the reference recipe on test. It is not scored there if no other recipe is run."""
    folds: int = 0
    """Folds of the cross-validation that the confirmation uses if examples are few; 0: no cross-validation."""
    dearer: float = 1.0
    """Time of an update in runs after the reference recipe's, as a multiple of its own, if the hours hold no search."""

    @property
    def least_trials(self) -> int:
        """Least number of trials of a search. If its examples are fixed by hand, a search is wanted."""
        return WORTH_SEARCHING if self.asked.search_examples is None else ASKED_FOR

    @property
    def least_seeds(self) -> int:
        """Least number of fresh seeds of a confirmation.

        Each fold has one seed. A single seed does not show by how much it flatters.
        """
        return self.asked.seeds or self.folds or SEEDS

    def confirmed(self, search_examples: int) -> int:
        """Return the least number of training examples of a confirmation run."""
        return min(self.sizes.train, self.asked.confirmation_examples or search_examples)

    @property
    def scoring(self) -> float:
        """Seconds to score a model on validation."""
        return self.sizes.validation * self.pace.score

    def run(self, examples: int, factor: float = 1.0) -> float:
        """Return the seconds of one fine-tune, `factor` times the usual length, with its scoring on validation."""
        seen = examples * self.recipe.passes(examples) * factor
        return self.pace.trial + seen * self.pace.train + self.scoring

    def searched(self, examples: int) -> float:
        """Return the mean wall-clock seconds of a search trial."""
        return self.run(examples, self.recipe.factor * self.recipe.share) / self.workers

    def step(self, runs: int, examples: int, factor: float = 1.0) -> Step:
        """Return the step of runs that are independent, and on average `factor` times as long as usual."""
        together = math.ceil(runs / self.workers)
        return Step(runs, examples, self.recipe.passes(examples), together * self.run(examples, factor))

    def race(self, finalists: int, seeds: int, examples: int, factor: float) -> Step:
        """Return the step of the finalists and the reference recipe, with `seeds` seeds each.

        The finalists are `factor` times as long as usual.
        """
        mean = (finalists * factor + 1) / (finalists + 1)
        return self.step((finalists + 1) * seeds, examples, mean)


def of_all(known: Known, seconds: float) -> Plan:
    """Return the plan of a study that begins.

    The search has the most examples that leave room for WORTH_SEARCHING trials. Its best points are confirmed on that
    number of examples or more. The winner's recipe is trained on all examples, unless the confirmation does that. What
    is fixed by hand is kept, and may take more seconds than there are.

    Args:
        known: pace, data, recipe, what is fixed.
        seconds: available seconds, with test and report.
    """
    left = seconds * (1 - RESERVE) - known.end
    if known.asked.trials == 1:  # it is the reference recipe
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
    """Yield the numbers of examples that a search trial may have, largest first.

    Each is half of the one before. They end at FEWEST, or where fewer examples cost nearly the same.
    """
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
    """Return the plan with search trials of `examples` examples; None if the time holds too few of them."""
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
    """Divide the time between search and confirmation; the final model has its own.

    Returns:
        The plan; None if the time holds too few search trials.
    """
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
    if asked.trials is None:  # they also get what the confirmation leaves of its part
        trials = max(trials, int((spare - (confirmation.seconds if confirmation is not None else 0.0)) / of_one))
    search = Step(trials, examples, known.recipe.passes(examples), trials * of_one)
    return Plan(search, confirmation, finalists, seeds, final, known.end)


def of_confirmation(known: Known, seconds: float, search_examples: int, factor: float) -> tuple[int, int, Step | None]:
    """Return the numbers of finalists and fresh seeds, and the step of the runs.

    Time is spent on more examples first, then on seeds, then on finalists.

    Args:
        known: pace, data, recipe, what is fixed.
        seconds: available seconds.
        search_examples: number of training examples of a search trial; a run has no fewer.
        factor: length of the finalists, as a multiple of the usual length.
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
    """Return the step of the final model.

    It sees all examples, in the passes that pay or that the time holds. It has fewer examples if the time does not hold
    one pass.

    Args:
        known: pace, data, recipe, what is fixed.
        seconds: available seconds.
        factor: `train.epochs_factor` of the winner's recipe.
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
    """Return a step of the same length over all examples.

    Examples that are seen at most once are new until the end, however long the step gets.
    """
    return Step(step.runs, everything, step.passes * step.examples / everything, step.seconds)


def alone(known: Known, seconds: float) -> Plan:
    """Return the plan without a search: the reference recipe and points near it.

    Each run is as long as pays, and the time decides their number. If an update of the later runs takes longer, the
    reference recipe leaves the time for one of them that is as long as itself. If that does not fit, the reference
    recipe is the only run. If it is the only run, no other model is scored beside it.
    """
    everything, end = known.sizes.train, known.end
    spare = seconds * (1 - RESERVE) - end
    factor = max(PAYING, 4 / 3 / known.recipe.passes(everything))  # so that each of two runs sees all examples
    most = min(MOST_ALONE, int(spare / known.run(everything, factor / PAYING)))
    rounds = max(1, min(most, round(spare / known.run(everything, factor))))
    if rounds > 1 and known.dearer > 1:
        together = 1 + known.dearer  # length of both, as a multiple of the usual length
        rounds = max(rounds, math.ceil(together)) if spare >= known.run(everything, together) else 1
    if rounds * known.workers == 1:
        end, spare = end - known.reference, spare + known.reference
    one = of_final(known, spare / rounds, MOST_PAYING)
    runs = replace(one, runs=rounds * known.workers, seconds=rounds * one.seconds)
    return Plan(runs, None, 0, 1, None, end, alone=True)
