"""What a finished study has found, as `summary.json` keeps it."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import stdev
from typing import Any

from hpsearch.config.settings import digest
from hpsearch.coordinator.confirmation import Confirmation, Standing
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Found
from hpsearch.coordinator.phases import Course
from hpsearch.coordinator.search import Search
from hpsearch.decisions.racing import REFERENCE
from hpsearch.errors import redact
from hpsearch.state.identity import FORMAT, comparable
from hpsearch.state.records import TrialRecord
from hpsearch.tasks import metrics
from hpsearch.tracking.lineage import lineage
from hpsearch.training.data import Corpus

Summary = dict[str, Any]


def summarise(
    course: Course,
    crew: Crew,
    found: Found,
    test: dict[str, Any],
    given: Sequence[str],
    seconds: dict[str, float],
    experiment: str | None,
    parent: str,
) -> Summary:
    """The whole summary.

    Args:
        course: over.
        crew: that ran it.
        found: what came of both.
        test: the study's reading, as `test.json` keeps it.
        given: settings and options of the command.
        seconds: of each phase.
        experiment: id of the MLflow experiment.
        parent: id of the study's MLflow run.
    """
    corpus, (search, confirmation) = course.study.corpus, _phases(course)
    standings = confirmation.standings() if confirmation is not None else []
    settings, trials = search.settings, list(search.trials.values())
    metric, best = settings.task.metric, search.best_first()[0]
    counts = Counter(trial.status.value for trial in trials)
    runs = list(confirmation.trials.values()) if confirmation is not None else []
    return {
        "format": FORMAT,
        "study": settings.study,
        "given": [redact(word) for word in given],
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": settings.task.name,
        "model": settings.model.name,
        "metric": metric,
        "direction": metrics.DIRECTIONS[metric],
        "trials": {status: counts[status] for status in ("complete", "pruned", "failed")},
        "best": {"trial": best.number, "params": best.params, "validation": best.score},
        "winner": _winner(search, confirmation, found),
        "confirmation": [_standing(standing, confirmation) for standing in standings],
        "optimism": _optimism(best, standings),
        "expected": _expected(trials, search.plan.maximize),
        "importance": search.study.optuna.importance(trials),
        "test": _test(test, metric) | {"split_digest": corpus.facts["digests"]["test"]},
        "reference": _reference(found.reference, test, metric),
        "seconds": seconds | {"total": sum(seconds.values())},
        "steps": {
            "trained": sum(trial.step for trial in trials),
            "all_to_the_end": sum(trial.total_steps for trial in trials),
            "confirmation": sum(run.step for run in runs),
        },
        "data": _data(search, confirmation, corpus),
        "licenses": {"weights": settings.model.license, "data": settings.task.license},
        "lineage": {"hpsearch.settings": digest(comparable(settings))} | lineage(),
        "labels": list(search.ref.labels),
        "hardware": crew.hardware.describe(),
        "mlflow": {"experiment_id": experiment, "run_id": parent},
    }


def _phases(course: Course) -> tuple[Search, Confirmation | None]:
    [search] = [phase for phase in course.opened if isinstance(phase, Search)]
    return search, next((phase for phase in course.opened if isinstance(phase, Confirmation)), None)


def _winner(search: Search, confirmation: Confirmation | None, found: Found) -> dict[str, Any]:
    """Whose model is kept."""
    winner, phase = found.winner, confirmation if confirmation is not None else search
    return {
        "entrant": winner.entrant or f"trial {winner.number}",
        "params": winner.params,
        "seed": search.settings.seed if winner.seed is None else winner.seed,
        "run_id": winner.run_id,
        "fitted": winner.fitted,
        "digests": phase.ref.digests,
        "folder": found.folder,
        "validation": winner.metrics,
        "corrected": confirmation.corrected() if confirmation is not None else None,
    }


def _test(test: dict[str, Any], metric: str) -> dict[str, Any]:
    """How the winner does on test."""
    scored = test["winner"]
    low, high = scored["intervals"][metric]
    return {
        "metric": metric,
        "value": scored["metrics"][metric],
        "low": low,
        "high": high,
        "n": test["n"],
        "all": scored["metrics"],
        "intervals": scored["intervals"],
        "readings": test["readings"],
        "classes": scored["classes"],
        "confusion": scored["confusion"],
        "mistakes": scored["mistakes"],
        "digest": test["digest"],
        "megabytes": scored["megabytes"],
        "seconds_per_example": scored["seconds_per_example"],
    }


def _data(search: Search, confirmation: Confirmation | None, corpus: Corpus) -> dict[str, Any]:
    """What was read, and how much of it was used."""
    ref = search.ref
    return {
        **corpus.facts,
        "source": search.settings.task.source,
        "digest": digest(ref.digests),
        "digests": ref.digests,
        **ref.sizes,
        "confirmation": confirmation.ref.sizes["train"] if confirmation is not None else None,
    }


def _standing(standing: Standing, confirmation: Confirmation | None) -> dict[str, Any]:
    scores = standing.scores
    assert confirmation is not None, "there are no standings without it"
    return {
        "entrant": standing.entrant.name,
        "reference": standing.entrant.name == REFERENCE,
        "params": standing.entrant.params,
        "seeds": [run.seed for run in standing.runs],
        "validation": list(scores),
        "mean": standing.mean if scores else None,
        "interval": confirmation.interval(standing.entrant.name) if scores else None,
        "spread": stdev(scores) if len(scores) > 1 else None,
        "out_after": standing.out_after,
        "seconds": [sum(run.seconds.values()) for run in standing.runs],
        "run_ids": [run.run_id for run in standing.runs],
    }


def _optimism(best: TrialRecord, standings: Sequence[Standing]) -> dict[str, float] | None:
    """Best score of the search minus what the same point came to with fresh seeds; None without fresh runs."""
    for standing in standings:
        if standing.entrant.params == best.params and standing.runs and best.score is not None:
            return {"search": best.score, "confirmed": standing.mean, "difference": best.score - standing.mean}
    return None


def _expected(trials: Sequence[TrialRecord], maximize: bool) -> list[float]:
    """Expected best validation score of 1, 2, ... trials drawn from these (Dodge et al. 2019, arXiv 1909.03004).

    Each trial counts with its last score, of a rung if it was stopped there.
    """
    scores = sorted(t.score if maximize else -t.score for t in trials if t.score is not None)
    total = len(scores)
    found = []
    for k in range(1, total + 1):
        mean = sum(s * (((i + 1) / total) ** k - (i / total) ** k) for i, s in enumerate(scores))
        found.append(mean if maximize else -mean)
    return found


def _reference(record: TrialRecord | None, test: dict[str, Any], metric: str) -> dict[str, Any] | None:
    """How the reference recipe does on the same test examples; None where it is the winner, or was not run."""
    scored = test["reference"]
    if record is None or scored is None:
        return None
    low, high = scored["intervals"][metric]
    return {
        "params": record.params,
        "seed": record.seed,
        "run_id": record.run_id,
        "value": scored["metrics"][metric],
        "low": low,
        "high": high,
        "gain": test["gain"],
    }
