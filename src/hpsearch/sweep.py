"""A sweep from settings to summary: check, prepare, search, score test, report, log the winner."""

import contextlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from hpsearch import (
    cards,
    data,
    hardware,
    identity,
    loading,
    metrics,
    models,
    paired,
    report,
    schedule,
    space,
    tasks,
    training,
)
from hpsearch.coordinator import Coordinator, make_plan
from hpsearch.delivery import Delivery
from hpsearch.display import Display
from hpsearch.errors import Interrupted, NoResultError, OutOfReachError, RequestError, redact
from hpsearch.hardware import Hardware
from hpsearch.locks import Lock
from hpsearch.records import TrialRecord, read_points, write_durably
from hpsearch.settings import Settings, comparable, digest, possible
from hpsearch.study import Study, sampler
from hpsearch.tracking import Tracking
from hpsearch.trial import MODEL

Summary = dict[str, Any]
PUBLISHED = "published.json"  # file of a study whose result MLflow has
EXAMPLES = 3  # rows that the logged model shows as its input
LAST_SECONDS = 5.0  # for MLflow to hear of an interrupted sweep


def run_sweep(settings: Settings, home: Path, force: bool = False) -> Summary:
    """Search, or go on searching, until the budget is spent; score the best on test; report.

    Args:
        settings: what to search.
        home: the state folder.
        force: go on with a study although code or libraries have changed.

    Raises:
        HpsearchError: of the kinds and exit codes in `errors`; what was reached is kept.
    """
    started = time.monotonic()
    corpus, chosen = check(settings)
    folder = home / "studies" / settings.study
    if read_summary(folder) is None:  # a finished study needs no more
        check_disk(settings, chosen, home)
    ref = data.prepare(corpus, settings, home)
    with contextlib.closing(Lock(folder)):
        forced = identity.check(folder, settings, ref, force)
        with contextlib.closing(Study(settings, home)) as study:
            tracking = Tracking(settings, home)
            coordinator = Coordinator(settings, home, ref, chosen, study)
            coordinator.load()
            console = Console()
            if (summary := _finished(coordinator)) is not None:
                console.print(
                    f"study {settings.study} is finished: {len(coordinator.trials)} of {coordinator.plan.max_trials} "
                    f"trials; a larger budget (budget.max_trials=<total>) continues it"
                )
            else:
                summary = _run(coordinator, corpus, console, started, tracking, forced)
            trials = list(coordinator.trials.values())
            console.print(report.final_table(summary, trials, settings, folder), soft_wrap=True)
            return summary


def run_train(settings: Settings, home: Path) -> Summary:
    """One fine-tune with the settings as they are: a study of one trial without rungs."""
    search = settings.search.model_copy(update={"name": "train", "space": {}, "rungs": ()})
    budget = settings.budget.model_copy(update={"max_trials": 1, "max_hours": None})
    fixed = settings.model_copy(update={"search": search, "budget": budget})
    name = f"{settings.task.name}-{settings.model.name}-train-{digest(comparable(fixed))[:8]}"
    return run_sweep(fixed.model_copy(update={"study": name}), home)


def rebuild_report(settings: Settings, home: Path) -> Path:
    """Write `report.html` of a finished study anew. Raises RequestError if there is none."""
    folder = home / "studies" / settings.study
    summary = read_summary(folder)
    if summary is None:
        raise RequestError(f"study {settings.study} has no result in {folder}; run `make sweep` first")
    records = [TrialRecord.load(path.parent) for path in folder.glob("trials/*/trial.json")]
    return _write_report(folder, settings, sorted(records, key=lambda t: t.number), summary)


def write_settings(folder: Path, settings: Settings) -> None:
    """Write `settings.yaml`: what the study runs with, as `make config` prints it, without secrets."""
    text = OmegaConf.to_yaml(OmegaConf.create(settings.model_dump(mode="json")))
    write_durably(folder / "settings.yaml", redact(text))


def read_settings(folder: Path, settings: Settings) -> Settings:
    """What the study in `folder` runs with; where things are kept is as in `settings`.

    Raises:
        HpsearchError, OSError, ValueError, YAMLError: there is no such file, or it is damaged.
    """
    own = loading.load(DictConfig(yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))))
    return own.model_copy(update={"study": folder.name, "tracking": settings.tracking, "storage": settings.storage})


def read_summary(folder: Path) -> Summary | None:
    """The result of the study in `folder`, or None."""
    path = folder / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def check(settings: Settings) -> tuple[data.Corpus, Hardware]:
    """Find what is wrong with a request before anything is written or started. Raises RequestError."""
    chosen = hardware.resolve(settings.hardware)
    training.optimizer_class(settings.optimizer)
    make_plan(settings)
    sampler(settings, 0)
    space.reference(settings)
    tasks.KINDS[settings.task.kind].check(settings)
    longest = max(possible(settings, "task.max_length"))
    models.check(settings.model, settings.task.model_copy(update={"max_length": longest}))
    return data.read(settings), chosen


def disk_bound(settings: Settings, chosen: Hardware) -> int:
    """Bytes that a study's checkpoints and models take at the most.

    A checkpoint holds weights and two moments of each in float32; models are the best so far, one that each worker has
    just completed, and the one that is logged.
    """
    weights = 4 * models.parameters(settings.model)
    return schedule.most_checkpoints(make_plan(settings), chosen.workers) * 3 * weights + (2 + chosen.workers) * weights


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

    def __init__(self, path: Path, started: float) -> None:
        self.path, self.last = path, started
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    def lap(self, phase: str) -> None:
        """What has passed since the last lap was this phase."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.last
        self.last = now
        write_durably(self.path, json.dumps(self.seconds))


def _run(
    coordinator: Coordinator,
    corpus: data.Corpus,
    console: Console,
    started: float,
    tracking: Tracking,
    forced: list[str],
) -> Summary:
    settings, metric = coordinator.settings, coordinator.settings.task.metric
    clock = Clock(coordinator.folder / "seconds.json", started)
    resumed = len(coordinator.trials)
    with Display(console, metric, metrics.DIRECTIONS[metric]) as display, coordinator.staffed():
        coordinator.display = display
        display.phase("data")
        for note in _notes(coordinator, corpus):
            display.note(note)
        for change in forced:
            display.note(f"the study goes on although this has changed: {change}")
        write_settings(coordinator.folder, settings)
        parent = tracking.open_study(settings.study, settings, coordinator.ref, corpus.facts, forced)
        coordinator.delivery = Delivery(tracking, settings, coordinator.ref.labels, parent, coordinator.folder)
        clock.lap("setup")
        display.earlier(trial for trial in coordinator.trials.values() if trial.status.final)
        display.start(coordinator.plan.max_trials, resumed)
        try:
            coordinator.settle_memory()
            display.phase("search")
            try:
                coordinator.search()
            finally:
                clock.lap("search")
            if not coordinator.complete():
                raise NoResultError(_no_result(coordinator))
            coordinator.prune_paused()
            display.phase("test")
            test = _score_test(coordinator)
            clock.lap("test")
            display.phase("report")
            coordinator.tell_all()
        except (Interrupted, NoResultError, RequestError, OutOfReachError):
            _interrupt(tracking, coordinator.delivery, parent)
            raise
        coordinator.delivery.close(LAST_SECONDS)
        (coordinator.folder / PUBLISHED).unlink(missing_ok=True)
        summary = _summary(coordinator, corpus, test, clock, tracking.experiment_id, parent)
        _publish(coordinator, corpus, summary, test["answers"], tracking)
        clock.lap("report")
    return summary


def _interrupt(tracking: Tracking, delivery: Delivery, parent: str) -> None:
    """Show in MLflow as KILLED what is open, if it answers at once; else the next start opens or ends it."""
    with contextlib.suppress(OutOfReachError):
        delivery.flush(LAST_SECONDS)
    with contextlib.suppress(OutOfReachError):
        if delivery.close(LAST_SECONDS) and delivery.complaint is None:
            tracking.reach()
            tracking.interrupt_study(parent)


def _finished(coordinator: Coordinator) -> Summary | None:
    """The study's result if nothing is left to do for it."""
    trials = list(coordinator.trials.values())
    action = schedule.next_action(coordinator.plan, trials, may_start=True)
    if not (coordinator.folder / PUBLISHED).exists():
        return None
    if isinstance(action, schedule.Done) and all(trial.status.final for trial in trials):
        return read_summary(coordinator.folder)
    return None


def _notes(coordinator: Coordinator, corpus: data.Corpus) -> Iterator[str]:
    """Choices made on the user's behalf, to be printed; tokenises on the way, while the workers start."""
    settings, ref, chosen = coordinator.settings, coordinator.ref, coordinator.hardware
    yield (
        f"hardware: {chosen.name}, {chosen.device}, {chosen.precision}, "
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
    tokenizer = models.load_tokenizer(settings.model)
    for split in ref.sizes:
        tokens = data.tokenised(ref, settings, tokenizer, split)
        if tokens.truncated:
            yield (
                f"data: {tokens.truncated / tokens.examples:.0%} of {split} are longer than task.max_length="
                f"{settings.task.max_length} tokens and truncated ({settings.task.truncation})"
            )
    if settings.search.space and space.reference(settings) is None:
        yield f"the reference recipe of {settings.model.name} lies outside the search space and is not tried"


def _score_test(coordinator: Coordinator) -> dict[str, Any]:
    """Score the best trial on test; a reading is counted once and kept, with what the model said."""
    best, path, ref = coordinator.complete()[0], coordinator.folder / "test.json", coordinator.ref
    before: dict[str, Any] = {"trial": None, "readings": 0}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    if before["trial"] == best.number:
        return before
    scored = coordinator.score(best, "test")
    kind, rows = tasks.KINDS[coordinator.settings.task.kind], data.load(ref, "test").to_dict()
    truths, answers = kind.truths(rows, ref.labels), kind.answers(scored.predictions, ref.labels)
    weights = coordinator.trial_folder(best.number) / MODEL / "model.safetensors"
    reading = {
        "trial": best.number,
        "readings": before["readings"] + 1,
        "metrics": scored.metrics,
        "intervals": paired.intervals(kind.tallies(truths, answers, ref.labels), kind.of_sums),
        "confusion": scored.confusion,
        "n": len(answers),
        "digest": ref.digests["test"],
        "megabytes": weights.stat().st_size / 1e6,
        "seconds_per_example": scored.seconds / len(answers),
        "answers": {
            "columns": ["id", "truth", "answer"],
            "data": [list(row) for row in zip(rows["id"], truths, answers, strict=True)],
        },
    }
    write_durably(path, json.dumps(reading))
    return reading


def _summary(
    coordinator: Coordinator,
    corpus: data.Corpus,
    test: dict[str, Any],
    clock: Clock,
    experiment: str | None,
    parent: str,
) -> Summary:
    settings, ref, trials = coordinator.settings, coordinator.ref, list(coordinator.trials.values())
    best, metric = coordinator.complete()[0], settings.task.metric
    counts = Counter(trial.status.value for trial in trials)
    value, n = test["metrics"][metric], test["n"]
    low, high = test["intervals"][metric]
    return {
        "study": settings.study,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": settings.task.name,
        "model": settings.model.name,
        "metric": metric,
        "direction": metrics.DIRECTIONS[metric],
        "trials": {status: counts[status] for status in ("complete", "pruned", "failed")},
        "best": {"trial": best.number, "params": best.params, "validation": best.score},
        "winner": {"params": best.params, "seed": settings.seed, "run_id": best.run_id, "fitted": best.fitted},
        "confirmation": [],
        "test": {
            "metric": metric,
            "value": value,
            "low": low,
            "high": high,
            "n": n,
            "all": test["metrics"],
            "intervals": test["intervals"],
            "readings": test["readings"],
            "confusion": test["confusion"],
            "digest": test["digest"],
            "megabytes": test["megabytes"],
            "seconds_per_example": test["seconds_per_example"],
        },
        "seconds": {**clock.seconds, "confirmation": 0.0, "total": sum(clock.seconds.values())},
        "steps": {
            "trained": sum(trial.step for trial in trials),
            "all_to_the_end": sum(trial.total_steps for trial in trials),
        },
        "data": {
            **corpus.facts,
            "source": settings.task.source,
            "digest": digest(ref.digests),
            "digests": ref.digests,
            **ref.sizes,
        },
        "labels": list(ref.labels),
        "hardware": coordinator.hardware.describe(),
        "mlflow": {"experiment_id": experiment, "run_id": parent},
    }


def _publish(
    coordinator: Coordinator, corpus: data.Corpus, summary: Summary, answers: dict[str, Any], tracking: Tracking
) -> None:
    """Write summary and report, log them and the winner's model and answers, and close the parent run."""
    settings, folder, best = coordinator.settings, coordinator.folder, coordinator.complete()[0]
    write_durably(folder / "summary.json", json.dumps(summary, indent=1))
    _write_report(folder, settings, [*coordinator.trials.values()], summary)
    plots = folder / "plots"
    report.optuna_plots(coordinator.study.optuna, plots)
    model = coordinator.trial_folder(best.number) / MODEL
    winner = space.apply(settings, best.params)
    inputs = tasks.KINDS[settings.task.kind].inputs
    examples = {role: list(corpus.splits["train"][role][:EXAMPLES]) for role in inputs}
    card = cards.model_card(winner, summary)
    tracking.log_winner(best, model, winner, coordinator.ref, examples, card)
    tracking.log_answers(summary["winner"]["run_id"], "test", answers)
    tracking.finish_study(summary["mlflow"]["run_id"], summary, folder)
    write_durably(folder / PUBLISHED, json.dumps(summary["mlflow"]))


def _write_report(folder: Path, settings: Settings, records: list[TrialRecord], summary: Summary) -> Path:
    curves = {record.number: read_points(folder / "trials" / str(record.number)) for record in records}
    return report.write(folder, settings, records, curves, summary)


def _no_result(coordinator: Coordinator) -> str:
    """Why there is no complete trial, with the reasons of the failed ones."""
    reasons = Counter(trial.reason for trial in coordinator.trials.values() if trial.reason)
    said = "; ".join(f"{count} failed: {reason}" for reason, count in reasons.most_common(3))
    return (
        f"study {coordinator.settings.study} has no complete trial: the budget ended first"
        + (f" ({said})" if said else "")
        + "; a larger budget (budget.max_hours, budget.max_trials) continues it"
    )
