"""What a version of the registered model states: where it comes from, what it scored, why it was promoted."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpsearch.errors import RequestError
from hpsearch.state import codec
from hpsearch.state.outcome import OnTest, Summary
from hpsearch.state.records import StudyHardware
from hpsearch.tracking.registered import Version

if TYPE_CHECKING:
    from hpsearch.registry.gate import GateDecision  # imports scipy, which reading a version does not need

# Tags that hpsearch reads again.
STUDY, DIGEST = "hpsearch.study", "hpsearch.digest."  # a split's name follows the second
MEGABYTES, SECONDS_PER_EXAMPLE = "hpsearch.model.megabytes", "hpsearch.seconds_per_example"
HARDWARE = "hpsearch.hardware"
DECISION = "hpsearch.decision"
TEST_EXAMPLES = "hpsearch.test.examples"
FLOOR = "hpsearch.floor"
MOST_REASONS, NOTES = 12, 4  # reasons on the card; the number of last ones that always stay
LONGEST = 5000  # characters of a tag that every MLflow store takes
SHORT = 500  # characters of a text within a tag: it fits however it is escaped


@dataclass(frozen=True)
class Evidence:
    """What a version states for comparisons with other versions.

    A value is None if the version lacks its tag: any user can register a version without tags.
    """

    study: str | None
    megabytes: float | None
    """Size of its weights, in 10^6 bytes."""
    seconds_per_example: float | None
    """Time to predict an example, on `hardware`."""
    hardware: str | None
    test_digest: str | None
    """Digest of the test examples that it was scored on."""


def of(version: Version) -> Evidence:
    """Return the evidence of a version."""
    found = version.tags
    megabytes, seconds = (found.get(name) for name in (MEGABYTES, SECONDS_PER_EXAMPLE))
    return Evidence(
        study=found.get(STUDY),
        megabytes=float(megabytes) if megabytes is not None else None,
        seconds_per_example=float(seconds) if seconds is not None else None,
        hardware=found.get(HARDWARE),
        test_digest=found.get(f"{DIGEST}test"),
    )


@dataclass(frozen=True)
class Candidate:
    """A model of a study that may become champion."""

    name: str
    """Its name, for people."""
    run_id: str
    """Id of the MLflow run that holds the model."""
    test: OnTest
    seed: int | None
    """Seed of a fine-tune; None for a floor."""
    floor: str | None
    """Name of the floor; None for the winner."""


def candidate(summary: Summary, floor: bool) -> Candidate:
    """Return the winner of a study, or its best floor. Raises RequestError if the study has no floor."""
    if not floor:
        return Candidate(f"study {summary.study}", summary.winner.run_id, summary.test, summary.winner.seed, None)
    best = summary.floor
    if best is None:
        raise RequestError(
            f"study={summary.study}: has no floor to promote: it was run with budget.floors=false, or by a former "
            "version; leave --floor out"
        )
    return Candidate(f"floor {best.name} of study {summary.study}", best.run_id, best.test, None, best.name)


def tags(summary: Summary, chosen: Candidate) -> dict[str, str]:
    """Return the tags of a version: where it comes from, what it scored, and on which data and hardware."""
    test = chosen.test
    seeds = [str(seed) for one in summary.confirmation for seed in one.seeds] if chosen.floor is None else []
    intervals = {
        f"hpsearch.test.{name}": f"{test.all[name]!r} [{low!r}, {high!r}]"
        for name, (low, high) in test.intervals.items()
    }
    own = {"hpsearch.seed": str(chosen.seed)} if chosen.seed is not None else {}
    if chosen.floor is not None:
        own[FLOOR] = chosen.floor
    elif summary.blend is not None:
        own["hpsearch.blend"] = " ".join(f"{weight:.4g}" for weight in summary.blend.weights)
    return (
        intervals
        | summary.lineage
        | own
        | {
            STUDY: summary.study,
            "hpsearch.study_run_id": summary.mlflow.run_id,
            "hpsearch.run_id": chosen.run_id,
            "hpsearch.confirmation.seeds": " ".join(sorted(set(seeds), key=int)),
            "hpsearch.hours": repr(round(summary.total_seconds / 3600, 4)),
            "hpsearch.license.weights": summary.licenses.weights or "not stated",
            "hpsearch.license.data": summary.licenses.data or "not stated",
            "hpsearch.test.metric": test.metric,
            "hpsearch.test.value": repr(test.value),
            "hpsearch.test.low": repr(test.low),
            "hpsearch.test.high": repr(test.high),
            TEST_EXAMPLES: str(test.n),
            "hpsearch.test.readings": str(test.readings),
            MEGABYTES: repr(test.megabytes),
            SECONDS_PER_EXAMPLE: repr(test.seconds_per_example),
            HARDWARE: hardware(summary.hardware),
        }
        | {f"{DIGEST}{split}": digest for split, digest in summary.winner.digests.items()}
    )


def description(card: str, reasons: Sequence[str]) -> str:
    """Return the model's card and the reasons why it became champion, in Markdown."""
    if len(reasons) > MOST_REASONS:  # from a rule that checks many classes; the notes come last
        left_out = f"{len(reasons) - MOST_REASONS} more, in the folder promotion of the winner's MLflow run"
        reasons = [*reasons[: MOST_REASONS - NOTES], left_out, *reasons[-NOTES:]]
    lines = "\n".join(f"- {reason}" for reason in reasons)
    ending = f"\n## Why it became champion\n\n{lines[: LONGEST // 2]}\n"
    return card[: LONGEST - len(ending)] + ending


def reasons(version: Version) -> list[str]:
    """Return the reasons why a version became champion; none where its tag lacks them, which any user can edit."""
    try:
        return [str(reason) for reason in json.loads(version.tags[DECISION])["reasons"]]
    except (KeyError, TypeError, ValueError):
        return []


def of_decision(decision: "GateDecision") -> dict[str, str]:
    """Return the decision as tags of the version: its numbers, and the whole decision, shortened if it is too long."""
    found, whole, forced = decision.comparison, codec.write(decision), decision.forced
    if forced is not None:
        forced = forced[:SHORT]
    if len(whole) > LONGEST:  # from a rule that checks many classes; the file of the winner's run has it whole
        first = decision.reasons[0][:SHORT]
        whole = codec.write(replace(decision, checks=(), reasons=(first,), forced=forced))
    tags = {DECISION: whole, "hpsearch.promotion.rule": decision.rule.name}
    if found is not None:
        tags |= {
            "hpsearch.promotion.p": repr(found.p),
            "hpsearch.promotion.difference": repr(found.difference),
        }
    if forced is not None:
        tags["hpsearch.promotion.forced"] = forced
    return tags


def hardware(chosen: StudyHardware) -> str:
    """Return the text that names the hardware on which times were taken."""
    return f"{chosen.name}, {chosen.threads} threads, {chosen.precision}"
