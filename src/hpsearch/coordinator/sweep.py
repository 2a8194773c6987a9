"""A sweep from settings to summary: check, prepare, run the phases, score test, report, log the winner."""

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from hpsearch.config import stored
from hpsearch.config.composition import hours_named
from hpsearch.config.settings import Settings, digest
from hpsearch.config.shipped import as_typed
from hpsearch.coordinator import floors, outlook
from hpsearch.coordinator.books import Books
from hpsearch.coordinator.checks import check, check_disk
from hpsearch.coordinator.clock import Clock
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.helm import refuse_late, taken_up
from hpsearch.coordinator.lengths import with_rungs_late_enough
from hpsearch.coordinator.loop import Loop
from hpsearch.coordinator.memory import KnownPace, settle_memory, settle_pace
from hpsearch.coordinator.notes import of_data, of_plan, of_search, of_test
from hpsearch.coordinator.phase import Found, StudyContext
from hpsearch.coordinator.phases import Course
from hpsearch.coordinator.planner import Data, Planner
from hpsearch.coordinator.results import publish, write_settings
from hpsearch.coordinator.scoring import score_test
from hpsearch.coordinator.study import Study
from hpsearch.coordinator.summary import Finished, summarise
from hpsearch.data.tokens import Tokens
from hpsearch.errors import HpsearchError, Interrupted, NoResultError, OutOfReachError, RequestError, redact
from hpsearch.report import page
from hpsearch.report.display import Display
from hpsearch.state import identity
from hpsearch.state.folder import StudyFolder
from hpsearch.state.identity import comparable
from hpsearch.state.locks import Lock
from hpsearch.state.outcome import StudyRun, Summary, read_summary
from hpsearch.state.records import write_durably
from hpsearch.state.roster import most_workers
from hpsearch.state.steering import Steering
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.floors import FloorRuns
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data, models
from hpsearch.training.data import Corpus
from hpsearch.workers.interface import Workplace

LAST_SECONDS = 5.0  # to tell MLflow of an interrupted sweep


@dataclass(frozen=True)
class Request:
    """One run of the command."""

    settings: Settings
    home: Path  # the state folder
    force: bool  # whether to continue although code or libraries have changed
    given: tuple[str, ...]  # settings and options of the command line
    started: float  # when the command was given, by the monotonic clock
    finishing: bool = False  # whether the search begins no more trials


def run_sweep(
    settings: Settings,
    home: Path,
    force: bool = False,
    given: Sequence[str] = (),
    started: float | None = None,
    finishing: bool = False,
) -> Summary:
    """Begin or continue a search until the budget is spent, score the best model on test, and report.

    Args:
        settings: what to search.
        home: the state folder.
        force: continue a study although code or libraries have changed.
        given: settings and options of the command line; the next commands that are proposed repeat them.
        started: when the command was given, by the monotonic clock; None: now.
        finishing: begin no more trials. Present trials are confirmed, and the final model is trained.

    Raises:
        HpsearchError: one of the kinds in `errors`, with its exit code; results so far are kept.
    """
    started = started if started is not None else time.monotonic()
    if not settings.search.space:
        raise RequestError("search.space is empty; name at least one setting to search, or take `make train`")
    if finishing and not StudyFolder.of(home, settings.study).identity.exists():
        raise RequestError(f"there is no study {settings.study} in {home}; give the settings that it was begun with")
    corpus, workplace = check(settings, home)
    with contextlib.closing(workplace):
        return _sweep(Request(settings, home, force, tuple(given), started, finishing), corpus, workplace)


def run_train(
    settings: Settings, home: Path, force: bool = False, given: Sequence[str] = (), started: float | None = None
) -> Summary:
    """Run one fine-tune with the settings as they are.

    It is a study of one trial without rungs. Its name follows from settings and data.
    """
    started = started if started is not None else time.monotonic()
    search = settings.search.model_copy(update={"name": "train", "space": {}, "rungs": ()})
    confirmation = settings.budget.confirmation.model_copy(update={"finalists": 0})
    fixed_budget = {"max_trials": 1, "hours": None, "confirmation": confirmation, "floors": False}
    fixed_budget |= {"final": False, "final_seeds": 1}
    budget = settings.budget.model_copy(update=fixed_budget)
    fixed = settings.model_copy(update={"search": search, "budget": budget})
    corpus, workplace = check(fixed, home)
    name = digest([stored.as_before(comparable(fixed)), corpus.facts.digests])[:8]
    fixed = fixed.model_copy(update={"study": f"{settings.task.name}-{settings.model.name}-train-{name}"})
    with contextlib.closing(workplace):
        return _sweep(Request(fixed, home, force, tuple(given), started), corpus, workplace)


def _sweep(request: Request, corpus: Corpus, workplace: Workplace) -> Summary:
    settings, home = request.settings, request.home
    folder = StudyFolder.of(home, settings.study)
    if read_summary(folder) is None:  # a finished study needs no more disk
        check_disk(settings, workplace.count, home)
    ref = data.prepare(corpus, settings, home)
    settings = with_rungs_late_enough(settings, ref.sizes["train"])
    with contextlib.closing(Lock(folder)):
        settings, finishing = taken_up(settings, folder, request.finishing)
        tracking = Tracking(settings, home)
        tracking.check_owner(settings.study, identity.read_id(folder))
        forced = identity.check(folder, settings, ref, request.force)
        with contextlib.closing(Study(settings, home)) as optuna:
            most = most_workers(folder)
            study = StudyContext(settings, home, folder, corpus, ref, optuna, workplace.count, finishing, most)
            course = Course(study)
            first = course.first  # raises where state folder and database do not belong together
            course.check_left_out()
            console = Console()
            if folder.published.exists() and (summary := read_summary(folder)) is not None and _done(course, summary):
                said = (
                    f"study {settings.study} is finished: {course.so_far()}; a larger budget "
                    "(BUDGET=<hours in total>h, or budget.max_trials=<total>) continues it"
                )
                console.print(as_typed(said))
            else:
                summary = _run(course, request, workplace, console, tracking, forced)
            console.print(
                page.final_table(summary, list(first.trials.values()), course.study.settings, folder), soft_wrap=True
            )
            return summary


def _done(course: Course, summary: Summary) -> bool:
    """Return whether a study with a result needs no more: it had these hours or, without hours, nothing is left."""
    hours = course.study.settings.budget.hours
    if hours is not None:
        return hours <= max(summary.hours or 0.0, summary.total_seconds / 3600)
    return course.done()


def _run(
    course: Course, request: Request, workplace: Workplace, console: Console, tracking: Tracking, forced: list[str]
) -> Summary:
    study = course.study
    settings, folder, study_id = study.settings, study.folder, identity.read_id(study.folder)
    assert study_id is not None, "the study has been checked"
    clock = Clock(folder, request.started)
    display = Display(console, OBJECTIVES[settings.task.metric])
    crew = Crew(settings, study.home, study.ref, workplace, display, study.optuna.hasten)
    with display, crew.staffed():
        display.phase("data")
        for note in of_data(study, crew.hardware):
            display.note(note)
        tokenizer = models.load_tokenizer(settings.model)  # while the workers start
        tokens = {split: data.tokenised(study.ref, settings, tokenizer, split) for split in study.ref.sizes}
        for note in of_search(study, tokens, forced):
            display.note(note)
        _write_request(request, settings, folder)
        steered = [str(asked) for asked in Steering(folder).accepted()]
        parent = tracking.open_study(settings.study, study_id, settings, study.ref, study.corpus.facts, forced, steered)
        clock.lap("setup")
        delivery = Delivery(tracking, study.ref.labels, parent)
        try:
            settle_memory(crew)
            fitted, runs = floors.fit(study, crew, display, clock), FloorRuns(tracking, parent)
            with contextlib.suppress(OutOfReachError):  # MLflow is then told of them with the other results
                fitted = floors.tell(study, fitted, runs, None)
            planner = _planner(course, request, crew, clock, tokens)
            found = _run_phases(course, planner, Desk(crew, delivery, display, clock))
            display.phase("test")
            crew.rest()
            with clock.timed("test"):
                reading = score_test(crew, study.ref, found, *_settings_of(course, found), fitted, planner)
            for note in of_test(reading.n, study.ref.sizes["test"]):
                display.note(note)
            display.phase("report")
            delivery.close(LAST_SECONDS)
            folder.published.unlink(missing_ok=True)
            fitted = floors.tell(study, fitted, runs, reading)
            finished = Finished(
                study=study,
                phases=tuple(course.opened),
                found=found,
                reading=reading,
                hardware=crew.hardware,
                plans=planner.made if planner is not None else (),
                outlook=outlook.of(planner, course.opened, found, reading) if planner is not None else (),
                floors=fitted,
            )
            crew.tell_carried()
            given = _with_budget(request.given, request.settings, study.settings)
            summary = summarise(finished, given, clock.seconds, StudyRun(tracking.experiment_id, parent))
            publish(finished, summary, tracking, runs)
            refuse_late(folder)
        except (Interrupted, NoResultError, RequestError, OutOfReachError):
            _interrupt(tracking, delivery, parent)
            raise
        finally:  # in any case: no delivery may continue beside the next command
            delivery.close(LAST_SECONDS)
        clock.lap("report")
    return summary


def _write_request(request: Request, settings: Settings, folder: StudyFolder) -> None:
    """Write the study's settings, and the words of the command without passwords."""
    write_settings(folder, settings)
    write_durably(folder.given, json.dumps([redact(word) for word in request.given]))


def _with_budget(given: Sequence[str], before: Settings, now: Settings) -> list[str]:
    """Return the words of the command with the hours that the study was extended to, if it was."""
    hours = now.budget.hours
    if hours is None or hours == before.budget.hours:
        return list(given)
    return [word for word in given if not word.startswith(("budget=", "budget.hours="))] + [
        f"budget={hours_named(hours)}"
    ]


def _planner(course: Course, request: Request, crew: Crew, clock: Clock, tokens: dict[str, Tokens]) -> Planner | None:
    """Return the planner once the pace is known; None where the budget has no hours."""
    settings, study = course.study.settings, course.study
    if settings.budget.hours is None:
        return None
    pace = KnownPace(settings, study.ref, crew.workplace.hardware, request.home)
    planner = Planner(settings, study.folder, clock, settle_pace(crew, pace), Data.of(tokens))
    if pace.busy is not None:
        crew.display.note(pace.busy)
    return planner


@dataclass(frozen=True)
class Desk:
    """The parts that a phase is run with."""

    crew: Crew
    delivery: Delivery
    display: Display
    clock: Clock


def _run_phases(course: Course, planner: Planner | None, desk: Desk) -> Found:
    """Run the phases as far as the budget holds, tell MLflow all of it, and return the winner."""
    crew, delivery, display, clock = desk.crew, desk.delivery, desk.display, desk.clock
    kept: list[Books] = []
    for phase in course:
        clock.lap("setup")
        planned = len(planner.made) if planner is not None else 0
        course.study.have(max(1, crew.workplace.count))
        phase.begin(planner, course.opened[: len(kept)])
        if planner is not None and len(planner.made) > planned:
            display.plan(planner.made[-1])
            if not planned and (much := of_plan(planner.made[-1], course.study.ref.sizes["test"])) is not None:
                display.note(much)
        books = Books(phase, crew, delivery, display, clock)
        kept.append(books)
        if phase.introduction is not None or not phase.done():  # else it has nothing to run
            display.phase(phase.name)
            if phase.introduction is not None:
                display.note(phase.introduction)
        display.start(phase.trials.values(), phase.total, phase.noun)
        with clock.timed(phase.name):
            Loop(phase, books, crew, display).run()
        books.close()
    for books in reversed(kept):
        books.tell_all()
    return course.last.found()


def _settings_of(course: Course, found: Found) -> tuple[Settings, Settings | None]:
    """Return the settings of the winner, and of the model scored beside it; None where there is none."""
    winner = course.phase_of(found.folder).settings_of(found.winner)
    if found.reference is None or found.reference_folder is None:
        return winner, None
    return winner, course.phase_of(found.reference_folder).settings_of(found.reference)


def _interrupt(tracking: Tracking, delivery: Delivery, parent: str) -> None:
    """Show open runs as KILLED in MLflow, if it answers at once. Otherwise the next start opens or ends them."""
    with contextlib.suppress(HpsearchError):
        delivery.flush(LAST_SECONDS)
    with contextlib.suppress(HpsearchError):
        # A server that refuses something may still accept this. A locked database is not waited for again.
        if delivery.close(LAST_SECONDS) and (delivery.complaint is None or tracking.artifacts is None):
            tracking.reach()
            tracking.interrupt_study(parent)
