"""What a study with more hours is expected to reach.

The plan gives the number of training examples. The learning curve gives the error at that number.
"""

import json
from collections.abc import Iterator, Sequence

from hpsearch.config import space
from hpsearch.coordinator.phase import Found, Phase
from hpsearch.coordinator.planner import Planner
from hpsearch.coordinator.search import Search
from hpsearch.decisions import curve
from hpsearch.state.measured import Reading
from hpsearch.state.plans import Outlook
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks.objectives import OBJECTIVES, Objective

FURTHER = (2, 4, 8, 16)  # multiples of the study's hours
MORE = 1.1  # least multiple of the examples before; a smaller increase makes no difference


def of(planner: Planner, phases: Sequence[Phase], found: Found, reading: Reading) -> tuple[Outlook, ...]:
    """Return what the study is expected to reach with FURTHER multiples of its hours.

    The result is () where the winner has all the data already.

    Args:
        planner: planner of the study.
        phases: all phases of the study, which are done.
        found: the winner, whose model is kept.
        reading: the study's reading of test.
    """
    settings, [search, *_] = phases[0].study.settings, phases
    objective = OBJECTIVES[settings.task.metric]
    home = next(phase for phase in phases if found.folder.startswith(f"{phase.place}/"))
    examples = home.trained_on(found.winner)
    error = _error(objective, reading.kept.metrics[objective.name], reading.n)
    slope = curve.slope(list(_runs(phases, objective, found.winner)))
    known, outlooks = planner.known(phases), list[Outlook]()
    for factor in FURTHER:
        hours = factor * planner.hours
        more = min(planner.trained_on(known, hours), search.ref.sizes["train"])
        if more < MORE * (outlooks[-1].examples if outlooks else examples):
            continue
        then = curve.expected(error, examples, more, slope)
        value, low, high = (_score(objective, one) for one in (then.error, then.high, then.low))
        outlooks.append(Outlook(hours, more, value, min(low, high), max(low, high)))
    return tuple(outlooks)


def _runs(phases: Sequence[Phase], objective: Objective, winner: TrialRecord) -> Iterator[curve.Run]:
    """Yield runs of the reference recipe and the winner's recipe that were not chosen for their score."""
    settings = phases[0].study.settings
    validation = phases[0].ref.sizes["validation"]
    reference = space.reference(settings)
    for phase in phases:
        for trial in phase.trials.values():
            fair = trial.params == reference or (trial.params == winner.params and not isinstance(phase, Search))
            if trial.status is Status.COMPLETE and trial.score is not None and fair:
                error = _error(objective, trial.score, validation)
                doubt = curve.doubt(error, validation) if objective.share else curve.RUN
                yield curve.Run(json.dumps(trial.params, sort_keys=True), phase.trained_on(trial), error, doubt)


def _error(objective: Objective, score: float, n: int) -> float:
    """Return the error of a score, always above 0. No error among n examples counts as half an error."""
    return max(1 - score, 0.5 / n) if objective.share else max(score, 1e-6)


def _score(objective: Objective, error: float) -> float:
    return max(0.0, 1 - error) if objective.share else error
