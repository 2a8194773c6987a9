"""The results of a study: settings, summary and report in its folder, and all that is published in MLflow."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from hpsearch.config import loading
from hpsearch.config.settings import Settings
from hpsearch.coordinator import floors, phases
from hpsearch.coordinator.books import free_disk
from hpsearch.coordinator.summary import Finished
from hpsearch.errors import RequestError, redact
from hpsearch.report import beside, cards, optuna_plots, page, sections
from hpsearch.report.sections import Told
from hpsearch.state import codec, identity
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Answers
from hpsearch.state.outcome import Summary, read_summary
from hpsearch.state.records import Points, TrialRecord, read_points, write_durably
from hpsearch.tasks.kinds import KINDS
from hpsearch.tracking.floors import FloorRuns
from hpsearch.tracking.parts import Words
from hpsearch.tracking.runs import Tracking

EXAMPLES = 3  # rows that the logged model shows as example input


def write_settings(folder: StudyFolder, settings: Settings) -> None:
    """Write the study's settings to `settings.yaml`, as `make config` prints them, without secrets."""
    text = OmegaConf.to_yaml(OmegaConf.create(settings.model_dump(mode="json")))
    write_durably(folder.settings, redact(text))


def read_settings(folder: StudyFolder, settings: Settings) -> Settings:
    """Return the settings of the study in `folder`, with the tracking and storage of `settings`.

    Raises:
        HpsearchError, OSError, ValueError: the file does not exist or is damaged.
    """
    return _settings(folder.settings.read_text(encoding="utf-8"), folder.name, settings)


def _settings(text: str, study: str, settings: Settings) -> Settings:
    own = loading.from_yaml(text)
    return own.model_copy(update={"study": study, "tracking": settings.tracking, "storage": settings.storage})


def publish(finished: Finished, summary: Summary, tracking: Tracking, runs: FloorRuns) -> None:
    """Write summary and report, log all results in MLflow, close the parent run, and free the disk.

    The logged results are summary, report, the models of the winner and the best floor, and the models' answers.
    """
    study, found = finished.study, finished.found
    folder, settings = study.folder, study.settings
    trials = [(one, _points(folder, one)) for one in finished.phases[0].trials.values()]
    write_durably(folder.summary, codec.write(summary, indent=1))
    _write_report(folder, settings, trials, summary)
    optuna_plots.draw(study.optuna.optuna, folder.plots)
    decisive = finished.decisive
    winner = decisive.settings_of(found.winner)
    inputs = KINDS[settings.task.kind].inputs
    examples = {role: list(study.corpus.splits["train"][role][:EXAMPLES]) for role in inputs}
    card = cards.model_card(winner, summary)
    words = _words(summary, folder)
    folder.named(found.folder).outputs.unlink(missing_ok=True)  # no part of the model that is logged
    tracking.log_winner(found.winner, folder.named(found.folder).model, winner, study.ref, examples, card, words)
    if (best := floors.best(finished.floors, settings.task.metric)) is not None and summary.floor is not None:
        place, own = folder.floor(best.name).model, cards.floor_card(settings, summary, summary.floor)
        if place.exists():  # else an earlier result of the study has it
            runs.log_model(best, place, settings, study.ref, examples, own)
    told = _answers(finished) | floors.tables(study, finished.floors, finished.reading)
    for run_id, tables in told.items():
        tracking.log_answers(run_id, tables)
    said = "\n\n".join([page.headline(summary), *page.findings(summary)])
    tracking.finish_study(summary, folder, trials, said)
    last = finished.phases.index(decisive)
    for i, phase in enumerate(finished.phases):
        needed = i == last or (i < last and decisive.falls_back)
        free_disk(phase, phase.kept_models() if needed else [])
    floors.free_disk(study, finished.floors, finished.reading.n)
    write_durably(folder.published, codec.write(summary.mlflow))


def rebuild_report(settings: Settings, home: Path) -> Path:
    """Write `report.html` of a finished study anew, and return its path.

    The report is made from the study's folder, or from MLflow where the folder is gone.

    Args:
        settings: name the study and the MLflow store; the page shows the study's own settings.
        home: the state folder.

    Raises:
        RequestError: there is no result, or another version of hpsearch wrote it.
        OutOfReachError: MLflow does not answer.
    """
    folder = StudyFolder.of(home, settings.study)
    identity.check_folder(folder)
    summary = read_summary(folder)
    if summary is not None:
        records = [TrialRecord.load(trial.path) for trial in folder.trials(phases.PHASES[0].place)]
        trials = [(one, _points(folder, one)) for one in records]
        text = folder.settings.read_text(encoding="utf-8")
    elif (kept := Tracking(settings, home).kept(settings.study)) is not None:
        text, summary, trials = kept.settings, kept.summary, kept.trials
    else:
        raise RequestError(
            f"study {settings.study} has no result in {folder.path}, nor in MLflow; run `make sweep` first, or check "
            "the study's name and tracking.uri"
        )
    return _write_report(folder, _settings(text, settings.study, settings), trials, summary)


def _answers(finished: Finished) -> dict[str, dict[str, Answers]]:
    """Return the answers of models, by MLflow run and split.

    Runs have answers on validation where their phase keeps these; a blended winner has those of the blend. The winner
    and the reference recipe have answers on test where they were scored.
    """
    found, test = finished.found, finished.reading
    tables: dict[str, dict[str, Answers]] = {}
    for run, said in (pair for phase in finished.phases for pair in phase.said()):
        assert run.run_id is not None, "its phase has been told whole"
        tables[run.run_id] = {"validation": said}
    if test.blend is not None:
        assert found.winner.run_id is not None, "its phase has been told whole"
        tables[found.winner.run_id] = {"validation": test.blend.validation}
    for record, scored in ((found.winner, test.kept), (found.reference, test.reference)):
        if record is not None and scored is not None:
            assert record.run_id is not None, "its phase has been told whole"
            tables.setdefault(record.run_id, {})["test"] = scored.answers
    return tables


def _words(summary: Summary, folder: StudyFolder) -> Words | None:
    """Return the linear model of words that the winner is blended with; None without a blend."""
    blend = summary.blend
    if blend is None:
        return None
    return Words(folder.named(blend.words).model, blend.weights, summary.winner.fitted)


def _points(folder: StudyFolder, record: TrialRecord) -> Points:
    return read_points(folder.trial(phases.PHASES[0].place, record.number).path)


def _write_report(
    folder: StudyFolder, settings: Settings, trials: Sequence[tuple[TrialRecord, Points]], summary: Summary
) -> Path:
    told = Told(settings, summary, page.known([record for record, _ in trials], summary))
    of_phases = (kind.section(told) for kind in reversed(phases.PHASES))
    shown = (beside.section(told), *of_phases, sections.of_time(told))
    parts = [section for section in shown if section is not None]
    curves = {record.number: points for record, points in trials}
    return page.write(folder.report, told, curves, len(trials) - len(told.records), parts)
