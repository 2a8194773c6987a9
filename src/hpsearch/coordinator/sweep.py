"""A sweep from settings to summary: check, prepare, search, score test, report, log the winner."""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hpsearch.config import space
from hpsearch.config.settings import Settings, digest, possible
from hpsearch.coordinator.confirmation import CONFIRMATION, Confirmation, reference, settings_for
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.phase import SECONDS, Coordinator, read_seconds
from hpsearch.coordinator.results import PUBLISHED, publish, read_summary, write_settings
from hpsearch.coordinator.scoring import score_test
from hpsearch.coordinator.search import TRIALS, Search, make_plan, with_rungs_late_enough
from hpsearch.coordinator.study import Study, check_address, sampler
from hpsearch.coordinator.summary import Found, Summary, summarise
from hpsearch.decisions import racing, schedule
from hpsearch.errors import Interrupted, NoResultError, OutOfReachError, RequestError
from hpsearch.report import page
from hpsearch.report.display import Display
from hpsearch.state import identity
from hpsearch.state.identity import comparable
from hpsearch.state.locks import Lock
from hpsearch.state.records import write_durably
from hpsearch.tasks import metrics
from hpsearch.tasks.kinds import KINDS
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data, hardware, models, trainer
from hpsearch.training.hardware import Hardware
from hpsearch.training.trial import MODEL

LAST_SECONDS = 5.0  # for MLflow to hear of an interrupted sweep


def run_sweep(settings: Settings, home: Path, force: bool = False, given: Sequence[str] = ()) -> Summary:
    """Search, or go on searching, until the budget is spent; score the best on test; report.

    Args:
        settings: what to search.
        home: the state folder.
        force: go on with a study although code or libraries have changed.
        given: settings and options that say so on the command line; the next commands that are proposed repeat them.

    Raises:
        HpsearchError: of the kinds and exit codes in `errors`; what was reached is kept.
    """
    started = time.monotonic()
    if not settings.search.space:
        raise RequestError("search.space is empty; name at least one setting to search, or take `make train`")
    return _sweep(settings, *check(settings), home, started, force, given)


def _sweep(
    settings: Settings,
    corpus: data.Corpus,
    chosen: Hardware,
    home: Path,
    started: float,
    force: bool,
    given: Sequence[str],
) -> Summary:
    folder = home / "studies" / settings.study
    if read_summary(folder) is None:  # a finished study needs no more
        check_disk(settings, chosen, home)
    ref = data.prepare(corpus, settings, home)
    settings = with_rungs_late_enough(settings, ref.sizes["train"])
    with contextlib.closing(Lock(folder)):
        tracking = Tracking(settings, home)
        tracking.own_study(settings.study, identity.read_id(folder))
        forced = identity.check(folder, settings, ref, force)
        with contextlib.closing(Study(settings, home)) as study:
            crew = Crew(settings, home, ref, chosen, study.hasten)
            search = Search(crew, study)
            search.load()
            _check_models(search)
            console = Console()
            if (summary := _finished(search, corpus, home)) is not None:
                console.print(
                    f"study {settings.study} is finished: {len(search.trials)} of {search.plan.max_trials} "
                    f"trials; a larger budget (budget.max_trials=<total>, budget.max_hours=<total>) continues it"
                )
            else:
                summary = _run(search, corpus, home, console, started, tracking, forced, given)
            trials = list(search.trials.values())
            console.print(page.final_table(summary, trials, settings, folder), soft_wrap=True)
            return summary


def run_train(settings: Settings, home: Path, force: bool = False, given: Sequence[str] = ()) -> Summary:
    """One fine-tune with the settings as they are: a study of one trial without rungs, named by settings and data."""
    started = time.monotonic()
    search = settings.search.model_copy(update={"name": "train", "space": {}, "rungs": ()})
    confirmation = settings.budget.confirmation.model_copy(update={"finalists": 0})
    budget = settings.budget.model_copy(update={"max_trials": 1, "max_hours": None, "confirmation": confirmation})
    fixed = settings.model_copy(update={"search": search, "budget": budget})
    corpus, chosen = check(fixed)
    name = digest([comparable(fixed), corpus.facts["digests"]])[:8]
    study = f"{settings.task.name}-{settings.model.name}-train-{name}"
    return _sweep(fixed.model_copy(update={"study": study}), corpus, chosen, home, started, force, given)


def check(settings: Settings) -> tuple[data.Corpus, Hardware]:
    """Find what is wrong with a request before anything is written or started. Raises RequestError."""
    chosen = hardware.resolve(settings.hardware)
    trainer.optimizer_class(settings.optimizer)
    make_plan(settings)
    sampler(settings, 0)
    if settings.storage.uri is not None:
        check_address(settings.storage.uri)
    space.reference(settings)
    KINDS[settings.task.kind].check(settings)
    longest = max(possible(settings, "task.max_length"))
    models.check(settings.model, settings.task.model_copy(update={"max_length": longest}))
    return data.read(settings), chosen


def _check_models(search: Search) -> None:
    """Whose models were deleted for a confirmation's can't win without one. Raises RequestError."""
    settings, complete = search.settings, search.complete()
    if settings.budget.confirmation.finalists or not complete or not (search.crew.folder / CONFIRMATION).exists():
        return
    if not (search.trial_folder(complete[0].number) / MODEL).exists():
        raise RequestError(
            f"budget.confirmation.finalists=0: study {settings.study} has been confirmed, and its trials' models are "
            "gone; leave the confirmation in, or give STUDY=<another name>"
        )


def disk_bound(settings: Settings, chosen: Hardware) -> int:
    """Bytes that a study's checkpoints and models take at the most.

    A checkpoint holds weights and what the optimizer keeps of each in float32; models are the best so far or one of
    each entrant of the confirmation, one that each worker has just completed, and the one that is logged.
    """
    weights = 4 * models.parameters(settings.model)
    checkpoints = schedule.most_checkpoints(make_plan(settings), chosen.workers)
    kept = 1 + settings.budget.confirmation.finalists + 1 + chosen.workers
    return ((1 + trainer.optimizer_copies(settings.optimizer)) * checkpoints + kept) * weights


def check_disk(settings: Settings, chosen: Hardware, home: Path) -> None:
    """See that what a study can come to need is free. Raises RequestError."""
    needed, there = disk_bound(settings, chosen), home.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise RequestError(
            f"the study's checkpoints and models take up to {needed / 1e9:.1f} GB, and the disk of {there} has "
            f"{free / 1e9:.1f} GB free; free some, set HPSEARCH_HOME to a folder on another disk, or lower "
            "search.keep, budget.max_trials or hardware.workers"
        )


class Clock:
    """Seconds of each phase, summed over all runs of the command."""

    def __init__(self, folder: Path, started: float) -> None:
        self.path, self.last = folder / SECONDS, started
        self.seconds = read_seconds(folder)

    def lap(self, phase: str) -> None:
        """What has passed since the last lap was this phase."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now
        write_durably(self.path, json.dumps(self.seconds))

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """What passes inside is this phase, however it ends; what passed before belongs to the setup."""
        self.lap("setup")
        try:
            yield
        finally:
            self.lap(phase)


def _run(
    search: Search,
    corpus: data.Corpus,
    home: Path,
    console: Console,
    started: float,
    tracking: Tracking,
    forced: list[str],
    given: Sequence[str],
) -> Summary:
    settings, crew, metric = search.settings, search.crew, search.settings.task.metric
    study_id = identity.read_id(crew.folder)
    assert study_id is not None, "the study has been checked"
    clock = Clock(crew.folder, started)
    with Display(console, metric, metrics.DIRECTIONS[metric]) as display, crew.staffed():
        crew.display = display
        display.phase("data")
        for note in _notes(search, corpus):
            display.note(note)
        for change in forced:
            display.note(f"the study goes on although this has changed: {change}")
        write_settings(crew.folder, settings)
        parent = tracking.open_study(settings.study, study_id, settings, search.ref, corpus.facts, forced)
        clock.lap("setup")
        delivery = search.delivery = Delivery(tracking, search.ref.labels, parent)
        try:
            crew.settle_memory()
            display.phase("search")
            display.start(search.trials.values(), search.plan.max_trials, search.noun)
            with clock.timed("search"):
                search.run()
            if not search.complete():
                raise NoResultError(_no_result(search))
            search.prune_paused()
            confirmation = _confirmation(search, corpus, home)
            if confirmation is not None:
                confirmation.delivery = delivery
                display.phase("confirmation")
                display.note(_race(confirmation))
                display.start(confirmation.trials.values(), None, confirmation.noun)
                with clock.timed("confirmation"):
                    confirmation.run()
                confirmation.tell_all()
            search.tell_all()
            found = _found(search, confirmation)
            display.phase("test")
            with clock.timed("test"):
                test = _score_test(search, confirmation, found)
            display.phase("report")
        except (Interrupted, NoResultError, RequestError, OutOfReachError):
            _interrupt(tracking, delivery, parent)
            raise
        finally:  # whatever the end, nothing is told behind the back of the next command
            delivery.close(LAST_SECONDS)
        (crew.folder / PUBLISHED).unlink(missing_ok=True)
        experiment = tracking.experiment_id
        summary = summarise(search, confirmation, corpus, found, test, given, clock.seconds, experiment, parent)
        publish(search, confirmation, corpus, found, summary, test, tracking)
        clock.lap("report")
    return summary


def _confirmation(search: Search, corpus: data.Corpus, home: Path) -> Confirmation | None:
    """The race of the search's best points, as far as it has come; None where none is to be run."""
    settings = search.settings
    if not settings.budget.confirmation.finalists:
        return None
    ref = data.prepare(corpus, settings_for(settings), home)
    entering = racing.entrants(search.complete(), reference(settings), settings.budget.confirmation.finalists)
    return Confirmation(search.crew, ref, entering, search.hours)


def _race(confirmation: Confirmation) -> str:
    """What is run, for people."""
    names, seeds = [one.name for one in confirmation.entrants], confirmation.seeds
    now, before = confirmation.ref.sizes["train"], confirmation.crew.ref.sizes["train"]
    return (
        f"confirmation: {', '.join(names)}, each with up to {len(seeds)} fresh seeds on {now:,} training examples "
        f"(the search had {before:,})"
    )


def _found(search: Search, confirmation: Confirmation | None) -> Found:
    """Whose model is kept: the best run of the race's winner, or the search's best trial."""
    if confirmation is None:
        best = search.complete()[0]
        return Found(best, f"{TRIALS}/{best.number}", None, None, ())
    name = confirmation.winner().entrant.name
    best_run, other = confirmation.best_run(name), confirmation.best_run(racing.REFERENCE)
    assert best_run is not None, "a winner has a complete run"
    if name == racing.REFERENCE:
        other = None
    return Found(
        best_run,
        f"{CONFIRMATION}/{best_run.number}",
        other,
        f"{CONFIRMATION}/{other.number}" if other is not None else None,
        tuple(confirmation.standings()),
    )


def _score_test(search: Search, confirmation: Confirmation | None, found: Found) -> dict[str, Any]:
    phase: Coordinator = confirmation if confirmation is not None else search
    settings = [phase.settings_of(one) if one is not None else None for one in (found.winner, found.reference)]
    assert settings[0] is not None, "there is a winner"
    return score_test(search.crew, search.ref, found, settings[0], settings[1])


def _interrupt(tracking: Tracking, delivery: Delivery, parent: str) -> None:
    """Show in MLflow as KILLED what is open, if it answers at once; else the next start opens or ends it."""
    with contextlib.suppress(OutOfReachError):
        delivery.flush(LAST_SECONDS)
    with contextlib.suppress(OutOfReachError):
        if delivery.close(LAST_SECONDS) and delivery.complaint is None:
            tracking.reach()
            tracking.interrupt_study(parent)


def _finished(search: Search, corpus: data.Corpus, home: Path) -> Summary | None:
    """The study's result if nothing is left to do for it."""
    trials = list(search.trials.values())
    time_left = schedule.may_start(search.plan, trials, search.hours, search.max_hours)
    action = schedule.next_action(search.plan, trials, time_left)
    if not (search.crew.folder / PUBLISHED).exists():
        return None
    if not isinstance(action, schedule.Done) or not all(trial.status.final for trial in trials):
        return None
    confirmation = _confirmation(search, corpus, home)
    return read_summary(search.crew.folder) if confirmation is None or confirmation.done() else None


def _notes(search: Search, corpus: data.Corpus) -> Iterator[str]:
    """Choices made on the user's behalf, to be printed; tokenises on the way, while the workers start."""
    settings, ref, chosen = search.settings, search.ref, search.crew.hardware
    yield (
        f"hardware: {chosen.name}, {chosen.device}, {chosen.precision}, {chosen.attention} attention, "
        f"{chosen.workers} worker(s) with {chosen.threads} thread(s) each"
    )
    yield f"disk: checkpoints and models take {disk_bound(settings, chosen) / 1e9:.1f} GB at the most"
    for split, size in ref.sizes.items():
        whole = len(corpus.splits[split])
        part = f" of {whole:,} (stratified subset, budget.{split}_examples)" if size < whole else ""
        yield f"data: {size:,} {split} examples{part}"
    for pair, shared in corpus.facts["overlap"].items():
        fate = "; dropped from train" if pair.startswith("train") and shared["rows"] else ""
        groups = f" and {shared['rows_of_shared_groups']:,} rows of groups" if shared["rows_of_shared_groups"] else ""
        yield f"data: {pair}, as given, share {shared['rows']:,} rows{fate}{groups}"
    lost = {what.replace("_", " "): rows for what, rows in corpus.facts["dropped"]["train"].items() if rows}
    if lost:
        yield f"data: train rows dropped: {', '.join(f'{what} {rows:,}' for what, rows in lost.items())}"
    for split, rows in corpus.facts["empty_texts"].items():
        if rows:
            yield f"data: {rows:,} {split} rows have an empty text"
    tokenizer = models.load_tokenizer(settings.model)
    for split in ref.sizes:
        tokens = data.tokenised(ref, settings, tokenizer, split)
        if tokens.truncated:
            yield (
                f"data: {tokens.truncated / tokens.examples:.0%} of {split} are longer than task.max_length="
                f"{settings.task.max_length} tokens and truncated ({settings.task.truncation})"
            )
    if settings.search.space:
        yield f"search: {_rungs(settings)}"
    if settings.search.space and space.reference(settings) is None:
        yield f"the reference recipe of {settings.model.name} lies outside the space; the search goes without it"


def _rungs(settings: Settings) -> str:
    """Where trials are compared, for people."""
    search = settings.search
    if search.rungs:
        return f"trials are compared at {', '.join(f'{rung:.0%}' for rung in search.rungs)} of their schedules"
    return (
        f"every trial is trained to its end; search.rungs_after={search.rungs_after} training examples are half of the "
        "shortest schedule or more, or search.rungs is empty"
    )


def _no_result(search: Search) -> str:
    """Why there is no complete trial, with the reasons of the failed ones."""
    reasons = Counter(trial.reason for trial in search.trials.values() if trial.reason)
    said = "; ".join(f"{count} failed: {reason}" for reason, count in reasons.most_common(3))
    return (
        f"study {search.settings.study} has no complete trial: the budget ended first"
        + (f" ({said})" if said else "")
        + "; a larger budget (budget.max_hours, budget.max_trials) continues it"
    )
