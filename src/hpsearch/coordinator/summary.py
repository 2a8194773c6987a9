"""The summary of a finished study, put together from its phases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from hpsearch.config.settings import digest
from hpsearch.coordinator.floors import best
from hpsearch.coordinator.phase import Fields, Found, Phase, StudyContext
from hpsearch.errors import redact
from hpsearch.state import outcome
from hpsearch.state.floors import FloorRecord
from hpsearch.state.identity import FORMAT, comparable
from hpsearch.state.measured import Measured, Reading
from hpsearch.state.outcome import OnTest, StudyData, StudyRun, Summary, Winner
from hpsearch.state.plans import Outlook, PlanMade
from hpsearch.state.records import StudyHardware
from hpsearch.state.roster import staff
from hpsearch.state.steering import Steering
from hpsearch.tasks.floor import WORDS
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tracking.lineage import lineage
from hpsearch.training import parts


@dataclass(frozen=True)
class Finished:
    """A study whose phases are over."""

    study: StudyContext
    phases: tuple[Phase, ...]
    """Phases of the study, in their order."""
    found: Found
    reading: Reading
    """The study's reading of test."""
    hardware: StudyHardware
    """Hardware of the study's workers."""
    plans: tuple[PlanMade, ...]
    """Plans of the study; () without hours."""
    outlook: tuple[Outlook, ...]
    """Expected results of more hours; () without hours."""
    floors: tuple[FloorRecord, ...]
    """Floors of the study; () where it has none."""

    @property
    def decisive(self) -> Phase:
        """The phase whose model is kept."""
        return next(phase for phase in self.phases if self.found.folder.startswith(f"{phase.place}/"))


def summarise(finished: Finished, given: Sequence[str], seconds: dict[str, float], run: StudyRun) -> Summary:
    """Return the whole summary.

    Args:
        finished: the study.
        given: settings and options of the command.
        seconds: seconds of each phase.
        run: the study's run in MLflow.
    """
    settings, metric = finished.study.settings, finished.study.settings.task.metric
    fields: Fields = {"confirmation": (), "optimism": None}
    for phase in finished.phases:
        fields.update(phase.fields())
    return Summary(
        format=FORMAT,
        study=settings.study,
        given=tuple(redact(word) for word in given),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        task=settings.task.name,
        model=settings.model.name,
        metric=metric,
        direction=OBJECTIVES[metric].direction,
        trials=fields["trials"],
        best=fields["best"],
        winner=_winner(finished),
        confirmation=fields["confirmation"],
        optimism=fields["optimism"],
        expected=fields["expected"],
        importance=fields["importance"],
        test=_on_test(finished.reading.kept, finished),
        reference=_reference(finished, metric),
        seconds=seconds | {outcome.TOTAL: sum(seconds.values())},
        steps=_steps(finished.phases),
        data=_data(finished),
        licenses=outcome.Licenses(settings.model.license, settings.task.license),
        lineage={outcome.SETTINGS_TAG: digest(comparable(settings))} | lineage(),
        labels=finished.study.ref.labels,
        hardware=finished.hardware,
        mlflow=run,
        phases=tuple(phase.outcome(seconds.get(phase.name, 0.0)) for phase in finished.phases),
        hours=settings.budget.hours,
        plans=finished.plans,
        floors=tuple(_floors(finished)),
        outlook=finished.outlook,
        blend=_blend(finished),
        staff=staff(finished.study.folder),
        steering=tuple(outcome.Steered(one.name, str(one)) for one in Steering(finished.study.folder).accepted()),
    )


def _winner(finished: Finished) -> Winner:
    """Return the winner, whose model is kept."""
    winner, blend = finished.found.winner, finished.reading.blend
    assert winner.run_id is not None, "its phase has been told whole"
    return Winner(
        entrant=winner.entrant or f"trial {winner.number}",
        params=winner.params,
        seed=finished.study.settings.seed if winner.seed is None else winner.seed,
        run_id=winner.run_id,
        fitted=blend.fitted if blend is not None else winner.fitted,
        digests=finished.study.ref.digests,
        folder=finished.found.folder,
        validation=blend.metrics if blend is not None else winner.metrics,
        corrected=finished.found.corrected,
        length=_length(finished),
    )


def _length(finished: Finished) -> float:
    """Return the winner's updates as a share of those that its recipe has where time is no limit."""
    winner, phase = finished.found.winner, finished.decisive
    settings = phase.trained_with(finished.study.settings, winner)
    examples = winner.examples if winner.examples is not None else phase.ref.sizes["train"]
    return winner.step / parts.planned_steps(settings, examples)


def _blend(finished: Finished) -> outcome.BlendOutcome | None:
    """Return the results of the fine-tune alone where a blend is kept; None without a blend."""
    blend, folder = finished.reading.blend, finished.study.folder
    if blend is None:
        return None
    return outcome.BlendOutcome(
        weights=blend.weights,
        words=folder.inside(folder.floor(WORDS.name)),
        validation=finished.found.winner.metrics,
        test=replace(_on_test(finished.reading.winner, finished), mistakes=()),
        gain=blend.gain,
        search=blend.search,
    )


def _on_test(scored: Measured, finished: Finished) -> OnTest:
    """Return the results of a model on test."""
    metric, reading = finished.study.settings.task.metric, finished.reading
    low, high = scored.intervals[metric]
    return OnTest(
        metric=metric,
        value=scored.metrics[metric],
        low=low,
        high=high,
        n=reading.n,
        all=scored.metrics,
        intervals=scored.intervals,
        readings=reading.readings,
        classes=scored.classes,
        confusion=scored.confusion,
        mistakes=scored.mistakes,
        digest=reading.digest,
        megabytes=scored.megabytes,
        seconds_per_example=scored.seconds_per_example,
        split_digest=finished.study.corpus.facts.digests["test"],
    )


def _floors(finished: Finished) -> Iterator[outcome.FloorOutcome]:
    """Yield the floors that were scored on test."""
    settings, folder = finished.study.settings, finished.study.folder
    titles = {floor.name: floor.title for floor in KINDS[settings.task.kind].floors}
    read = {one.name: one for one in finished.reading.floors}
    first = best(finished.floors, settings.task.metric)
    for floor in finished.floors:
        if floor.name not in read:
            continue
        assert floor.run_id is not None, "it has been told"
        yield outcome.FloorOutcome(
            name=floor.name,
            title=titles[floor.name],
            best=floor is first,
            examples=floor.examples,
            seconds=floor.seconds,
            chosen=floor.chosen,
            run_id=floor.run_id,
            folder=folder.inside(folder.floor(floor.name)),
            fitted=floor.fitted,
            validation=floor.metrics,
            test=replace(_on_test(read[floor.name].measured, finished), mistakes=()),
            gain=read[floor.name].gain,
        )


def _steps(phases: Sequence[Phase]) -> outcome.Steps:
    first = phases[0].trials.values()
    return outcome.Steps(
        trained=sum(trial.step for trial in first),
        all_to_the_end=sum(trial.total_steps for trial in first),
        confirmation=sum(run.step for phase in phases[1:] for run in phase.trials.values()),
    )


def _data(finished: Finished) -> StudyData:
    """Return what data were read, and how much of them was used."""
    ref, [search, *_] = finished.study.ref, finished.phases
    used = {
        "source": finished.study.settings.task.source,
        "digest": digest(ref.digests),
        "digests": ref.digests,
    }
    return StudyData(
        **(vars(finished.study.corpus.facts) | used | ref.sizes | {"train": search.examples}),
        confirmation=finished.decisive.trained_on(finished.found.winner),
    )


def _reference(finished: Finished, metric: str) -> outcome.Reference | None:
    """Return the reference recipe's results on the same test examples; None where it won or was not run."""
    record, reading, scored = finished.found.reference, finished.reading, finished.reading.reference
    if record is None or scored is None:
        return None
    seed = record.seed if record.seed is not None else finished.study.settings.seed
    assert record.run_id is not None, "its phase has been told whole"
    assert reading.gain is not None, "two models were compared"
    low, high = scored.intervals[metric]
    return outcome.Reference(record.params, seed, record.run_id, scored.metrics[metric], low, high, reading.gain)
