"""Scoring on test, which happens here and nowhere else: once for each choice of a winner.

Winner, reference recipe and floors are scored on the same examples. These are all test examples, or the first ones, if
the machine has become so slow that the hours hold no more. Rows are stratified and shuffled, so the first are a fair
sample.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from hpsearch.config.settings import Settings
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.floors import as_slow_as_trials
from hpsearch.coordinator.phase import Found
from hpsearch.decisions import paired
from hpsearch.state import codec
from hpsearch.state.floors import FloorRecord
from hpsearch.state.folder import StudyFolder, TrialFolder
from hpsearch.state.measured import Answers, BlendRead, FloorRead, Measured, Mistake, Paired, Reading, Replies
from hpsearch.state.messages import Part, Scored
from hpsearch.state.records import DataRef, TrialRecord, write_durably
from hpsearch.tasks.floor import WORDS
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import LOG_LOSS, OBJECTIVES
from hpsearch.training import data

if TYPE_CHECKING:
    from hpsearch.coordinator.planner import Planner

# Test examples that are scored, however late it is. The standard error of an accuracy of 0.9 is then 1.3 points.
LEAST = 500
MORE = 250  # further test examples for which a reading is made anew
MISTAKES = 10
EXCERPT = 1200  # most characters of a text that is shown


def score_test(
    crew: Crew,
    ref: DataRef,
    found: Found,
    settings: Settings,
    reference: Settings | None,
    floors: Sequence[FloorRecord],
    planner: "Planner | None",
) -> Reading:
    """Return the study's reading of test, with the models' answers. It is counted once for each choice, and kept.

    A reading that the hours cut short is made anew, on more examples, if there are more hours.

    Floors are fitted before anything is chosen, so a floor's answers to these examples hold for every choice.

    Args:
        crew: workers of the study.
        ref: the data.
        found: the trials whose models are scored.
        settings: settings of the winner.
        reference: settings of the other model; None where there is none.
        floors: floors of the study.
        planner: knows the time that is left; None for a study without hours.

    Raises:
        RequestError: the file of the former reading is damaged.
    """
    path, of = crew.folder.test, (found.folder, found.reference_folder)
    before = codec.read_file(Reading, path, "restore it, or give STUDY=<another name>")
    same = before is not None and before.of == of
    part = _part(settings, crew.folder, found, max(LEAST, before.n if before is not None else 0), planner)
    if before is not None and same and not _goes_on(before, part, crew.folder, ref):
        reading, exam = before, _Exam(crew, ref, settings, Part("test", before.n))
    else:
        exam = _Exam(crew, ref, settings, part)
        words = _words(crew.folder, floors) if settings.budget.blend and found.winner.fold is None else None
        winner, blend, other = exam.of_trials(found, settings, reference, words)
        reading = Reading(
            of=of,
            readings=(before.readings if before is not None else 0) + (not same),
            n=len(winner.answers.data),
            digest=ref.digests["test"],
            winner=winner,
            reference=other,
            gain=None,
            blend=blend,
        )
    if not settings.budget.blend:
        reading = replace(reading, blend=None)
    if reading.reference is not None:
        reading = replace(reading, gain=exam.gain(reading.reference, reading.kept))
    known = {one.name: one.measured for one in before.floors} if before is not None and before.n == reading.n else {}
    measured = {one.name: known.get(one.name) or exam.of_floor(one) for one in floors if one.fault is None}
    read = tuple(FloorRead(name, one, exam.gain(one, reading.kept)) for name, one in measured.items())
    reading = replace(reading, floors=read)
    if reading != before:
        write_durably(path, codec.write(reading))
    return reading


def _goes_on(before: Reading, part: Part, folder: StudyFolder, ref: DataRef) -> bool:
    """Return whether a reading that was cut short is made anew, because the time holds more examples now."""
    models = [folder.named(place) for place in before.of if place is not None]
    models += [folder.floor(floor.name) for floor in before.floors]
    there = all(place.model.exists() for place in models)
    more = before.winner.seconds_per_example * (before.n + MORE) * part.models
    return before.n < ref.sizes["test"] and there and (part.examples is None or more <= part.seconds)


def _part(settings: Settings, folder: StudyFolder, found: Found, least: int, planner: "Planner | None") -> Part:
    """Return the part of test that is scored: all that the time holds, and `least` examples at the least.

    A number that is fixed by hand holds whatever the time.
    """
    if planner is None or settings.budget.test_examples is not None or planner.for_test == math.inf:
        return Part("test")
    models = 1 + (found.reference is not None) + as_slow_as_trials(settings, folder)
    return Part("test", least, planner.for_test, models)


def _words(folder: StudyFolder, floors: Sequence[FloorRecord]) -> TrialFolder | None:
    """Return the folder of the floor that a fine-tune may be blended with; None where the study has no such model."""
    place = folder.floor(WORDS.name)
    fitted = any(floor.name == WORDS.name and floor.fault is None for floor in floors)
    return place if fitted and place.weights.exists() else None


class _Exam:
    """The test examples, and the scoring of models on them."""

    def __init__(self, crew: Crew, ref: DataRef, settings: Settings, part: Part) -> None:
        """Prepare the scoring. `settings` are the winner's; their task and data are the study's.

        The time decides how many examples the first model is scored on. Others are scored on the same.
        """
        self._crew, self._ref, self._settings, self._part = crew, ref, settings, part
        self._kind, self._objective = KINDS[settings.task.kind], OBJECTIVES[settings.task.metric]

    @cached_property
    def _rows(self) -> dict[str, list[Any]]:
        return dict(data.load(self._ref, "test")[: self._part.examples])

    @cached_property
    def truths(self) -> list[Any]:
        """Right answers, (n,)."""
        return self._kind.truths(self._rows, self._ref.labels)

    def of_trials(
        self, found: Found, settings: Settings, reference: Settings | None, words: TrialFolder | None
    ) -> tuple[Measured, BlendRead | None, Measured | None]:
        """Score the winner, alone and blended with `words`, and the reference. `settings` are the winner's."""
        winner, blend = self.of_trial(found.winner, found.folder, settings, words)
        if found.reference is None or found.reference_folder is None or reference is None:
            return winner, blend, None
        other, _ = self.of_trial(found.reference, found.reference_folder, reference)
        if blend is not None:
            blend = replace(blend, search=self.gain(other, winner))
        return winner, blend, other

    def of_trial(
        self, record: TrialRecord, folder: str, settings: Settings, words: TrialFolder | None = None
    ) -> tuple[Measured, BlendRead | None]:
        """Score a trial's model, alone and, where that is better, blended with `words`. `settings` are the trial's."""
        place = self._crew.folder.named(folder)
        said = self._crew.score(record, settings, self._ref, place, self._part, words)
        self._part = Part("test", len(said.predictions))
        alone = self._measured(said, place)
        if said.blended is None or words is None:
            return alone, None
        blended = self._measured(said.blended.scored, place, words)
        blend = BlendRead(
            weights=said.blended.weights,
            fitted=said.blended.fitted,
            metrics={f"validation_{name}": value for name, value in said.blended.validation.metrics.items()},
            validation=self._answers("validation", said.blended.validation),
            measured=blended,
            gain=self.gain(alone, blended),
            search=None,
        )
        return alone, blend

    def of_floor(self, floor: FloorRecord) -> Measured:
        """Score a floor."""
        said = self._crew.score_floor(floor, self._settings, self._ref, self._part)
        return self._measured(said, self._crew.folder.floor(floor.name))

    def gain(self, other: Measured, ours: Measured) -> Paired:
        """Compare two models: what `ours` gains over `other`."""
        theirs = self._evidence(other)
        return paired.compare(theirs, self._evidence(ours), self._kind.sums_to(self._objective), self._objective)

    def _evidence(self, model: Measured) -> paired.Tallies:
        return self._kind.evidence(self._objective, self.truths, model.answers.replies, self._ref.labels)

    def _answers(self, split: str, said: Scored) -> Answers:
        kind, labels = self._kind, self._ref.labels
        rows = data.load(self._ref, split)[: len(said.predictions)]
        replies = Replies(kind.answers(said.predictions, labels), said.likelihoods)
        return Answers.of(rows["id"], kind.truths(rows, labels), replies)

    def _measured(self, said: Scored, *places: TrialFolder) -> Measured:
        """Return the results of a model on test; `places` are the folders with its weights."""
        kind, labels, rows = self._kind, self._ref.labels, self._rows
        table = self._answers("test", said)
        replies = table.replies
        tallies = kind.tallies(self.truths, replies.answers, labels)
        intervals = paired.intervals(tallies, kind.of_sums)
        if said.likelihoods is not None:
            losses = kind.evidence(LOG_LOSS, self.truths, replies, labels)
            intervals |= paired.intervals(losses, kind.sums_to(LOG_LOSS))
        return Measured(
            metrics=said.metrics,
            intervals=intervals,
            classes=kind.by_class(tallies.sum(0), labels),
            confusion=said.confusion,
            mistakes=tuple(mistakes(kind, rows, table, said.confidences, tallies)),
            megabytes=sum(place.weights.stat().st_size for place in places) / 1e6,
            seconds_per_example=said.seconds / len(self.truths),
            answers=table,
        )


def mistakes(
    kind: Kind, rows: dict[str, list[Any]], table: Answers, confidences: Sequence[float], tallies: paired.Tallies
) -> Iterator[Mistake]:
    """Yield the wrong answers that a model is most sure of, with the texts that it read.

    Where labels are wrong, they are among these.

    Args:
        kind: kind of the task.
        rows: columns of `Kind.features`.
        table: the model's answer to each row.
        confidences: confidence of each answer.
        tallies: tallies of each answer, by `Kind.tallies`.
    """
    wrong = np.flatnonzero(kind.of_sums(tallies)[kind.wrong_at_zero] == 0)
    for row in sorted(wrong.tolist(), key=lambda row: -confidences[row])[:MISTAKES]:
        name, truth, answer = table.data[row][:3]
        yield Mistake(name, confidences[row], truth, answer, {role: _excerpt(rows[role][row]) for role in kind.inputs})


def _excerpt(text: str) -> str:
    """Return a text, without its middle where the text is long."""
    half = EXCERPT // 2
    return text if len(text) <= EXCERPT else f"{text[:half].rstrip()} [...] {text[-half:].lstrip()}"
