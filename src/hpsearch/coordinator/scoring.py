"""Test is scored here and nowhere else: once a choice, the winner and the reference recipe on the same examples."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hpsearch.config.settings import Settings
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import Found
from hpsearch.decisions import paired
from hpsearch.state import codec
from hpsearch.state.measured import Answers, Measured, Mistake, Reading, Replies
from hpsearch.state.records import DataRef, TrialRecord, write_durably
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.metrics import LOG_LOSS, OBJECTIVES
from hpsearch.training import data

MISTAKES = 10
EXCERPT = 1200  # characters of a text that is shown


def score_test(crew: Crew, ref: DataRef, found: Found, settings: Settings, reference: Settings | None) -> Reading:
    """The study's reading of test: counted once a choice and kept, with what the models said.

    Args:
        crew: of the study.
        ref: the data.
        found: whose models are scored.
        settings: of the winner.
        reference: of the other model, where there is one.

    Raises:
        RequestError: the former reading is damaged.
    """
    path, of = crew.folder.test, (found.folder, found.reference_folder)
    before = codec.read_file(Reading, path, "bring it back, or give STUDY=<another name>")
    if before is not None and before.of == of:
        return before
    rows, kind = data.load(ref, "test").to_dict(), KINDS[settings.task.kind]
    truths, objective = kind.truths(rows, ref.labels), OBJECTIVES[settings.task.metric]

    def scored(record: TrialRecord, folder: str, settings: Settings) -> tuple[Measured, paired.Tallies]:
        place = crew.folder.named(folder)
        said = crew.score(record, settings, ref, place, "test")
        replies = Replies(kind.answers(said.predictions, ref.labels), said.likelihoods)
        tallies, table = kind.tallies(truths, replies.answers, ref.labels), Answers.of(rows["id"], truths, replies)
        intervals = paired.intervals(tallies, kind.of_sums)
        if said.likelihoods is not None:
            losses = kind.evidence(LOG_LOSS, truths, replies, ref.labels)
            intervals |= paired.intervals(losses, kind.sums_to(LOG_LOSS))
        return Measured(
            metrics=said.metrics,
            intervals=intervals,
            classes=kind.by_class(tallies.sum(0), ref.labels),
            confusion=said.confusion,
            mistakes=tuple(mistakes(kind, rows, table, said.confidences, tallies)),
            megabytes=place.weights.stat().st_size / 1e6,
            seconds_per_example=said.seconds / len(truths),
            answers=table,
        ), kind.evidence(objective, truths, replies, ref.labels)

    winner, ours = scored(found.winner, found.folder, settings)
    other = gain = None
    if found.reference is not None and found.reference_folder is not None and reference is not None:
        other, theirs = scored(found.reference, found.reference_folder, reference)
        gain = paired.compare(theirs, ours, kind.sums_to(objective), objective)
    reading = Reading(
        of=of,
        readings=(before.readings if before is not None else 0) + 1,
        n=len(truths),
        digest=ref.digests["test"],
        winner=winner,
        reference=other,
        gain=gain,
    )
    write_durably(path, codec.write(reading))
    return reading


def mistakes(
    kind: Kind, rows: dict[str, list[Any]], table: Answers, confidences: Sequence[float], tallies: paired.Tallies
) -> Iterator[Mistake]:
    """The wrong answers that a model is most sure of, with what it read: where labels are wrong, they are among these.

    Args:
        kind: of the task.
        rows: columns of `Kind.features`.
        table: what the model said of each row.
        confidences: of each answer.
        tallies: of each answer, by `Kind.tallies`.
    """
    wrong = np.flatnonzero(kind.of_sums(tallies)[kind.wrong_at_zero] == 0)
    for row in sorted(wrong.tolist(), key=lambda row: -confidences[row])[:MISTAKES]:
        name, truth, answer = table.data[row][:3]
        yield Mistake(name, confidences[row], truth, answer, {role: _excerpt(rows[role][row]) for role in kind.inputs})


def _excerpt(text: str) -> str:
    """A text without its middle, where it is long."""
    half = EXCERPT // 2
    return text if len(text) <= EXCERPT else f"{text[:half].rstrip()} [...] {text[-half:].lstrip()}"
