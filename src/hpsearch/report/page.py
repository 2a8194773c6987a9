"""The report of a finished study: one self-contained HTML page, and the last lines on the console."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from omegaconf import OmegaConf
from rich.console import Group
from rich.table import Table
from rich.text import Text

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.decisions import schedule
from hpsearch.report import beside, next_steps, plots, staffing
from hpsearch.report.sections import Ranked, Section, Told, leaderboard
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Interval
from hpsearch.state.outcome import TOTAL, OnTest, PhaseOutcome, Reference, StudyData, Summary
from hpsearch.state.records import Status, TrialRecord, write_durably
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import LOG_LOSS, OBJECTIVES

SPLITS = ("train", "validation", "test")
LOSS = "loss"  # a score on test that is not among the metrics of a kind
TABLE_ROWS = 5  # rows of the console's table


def known(records: Sequence[TrialRecord], summary: Summary) -> list[TrialRecord]:
    """Return the trials that the summary covers. A continued study may have newer ones."""
    return [record for record in records if record.number < summary.trials.all]


def pages() -> jinja2.Environment:
    """Return the environment with the templates of the pages."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in ("score", "count", "value", "duration")}
    return environment


def write(path: Path, told: Told, curves: plots.Curves, later: int, sections: Sequence[Section]) -> Path:
    """Write the report, one page that loads nothing from elsewhere, and return its path.

    Args:
        path: Path of the page.
        told: Settings, summary and trials of the study.
        curves: Curves of every trial.
        later: Number of trials that have begun since the summary was written.
        sections: Tables of what was run.
    """
    environment = pages()
    settings, summary, records = told.settings, told.summary, told.records
    environment.filters["answer"] = KINDS[settings.task.kind].shown
    best, test, data = summary.best.trial, summary.test, summary.data
    staff = summary.staff if summary.staff is not None and staffing.worth_saying(summary.staff) else None
    recipe = space.recipe(settings, summary.winner.params)
    page = environment.get_template("report.html.jinja").render(
        summary=summary,
        trials=len(records),
        later=later,
        recipe={formats.parameter(path): value for path, value in recipe.items() if value is not None},
        sections=sections,
        warning=beside.warning(summary),
        ahead=beside.ahead(summary),
        kept=beside.kept(summary),
        lines=list(findings(summary)),
        expected=plots.expected(summary.expected, summary.metric) if len(summary.expected) > 1 else None,
        scores=list(_scores(settings, summary)),
        parameters={path: formats.parameter(path) for path in settings.search.space},
        answer=plots.answer(records, summary),
        bought=plots.bought(records, summary),
        confusion=confusion(summary.labels, test.confusion) if test.confusion is not None else None,
        many_classes=len(test.classes) > formats.MOST_CLASSES,
        saved=saved(records),
        validation=plots.validation(records, settings, best),
        training_loss=plots.training_loss(records, curves, settings, best),
        scatters=list(plots.scatters(records, settings, best)),
        rungs=settings.search.rungs,
        staff=staffing.said(staff) if staff is not None else None,
        workers=plots.workers(staff) if staff is not None else None,
        costs=[("Study, by phase", _phases(summary.seconds)), ("Inside the trials", _work(records))],
        splits=SPLITS,
        split_facts=list(_split_facts(data)),
        facts=list(_facts(data)),
        next_steps=next_steps.commands(settings, summary),
        again=next_steps.again(settings, summary.given),
        hardware=codec.plain(summary.hardware),
        settings=_settings_text(settings),
    )
    write_durably(path, page)
    return path


def headline(summary: Summary) -> str:
    """Return a sentence on the winner's test score, after a warning if a simple model is better."""
    test, first = summary.test, beside.warning(summary)
    value, low, high = map(formats.score, (test.value, test.low, test.high))
    examples = f"{test.n:,}" if test.n == summary.data.test else f"the first {test.n:,} of {summary.data.test:,}"
    return (f"{first} " if first is not None else "") + (
        f"{beside.kept(summary)} reaches {summary.metric} {value} on {examples} test examples of {summary.task} "
        f"(95 % interval {low} to {high}{_often(test)})."
    )


def _often(test: OnTest) -> str:
    """Return the remark on a test score if the study has scored test more than once, else nothing."""
    return f"; read {test.readings} times: the more often, the less it proves" if test.readings > 1 else ""


def findings(summary: Summary) -> Iterator[str]:
    """Yield sentences on what confirmation and test show besides the winner's score."""
    metric, winner, data = summary.metric, summary.winner, summary.data
    share = OBJECTIVES[metric].share
    race = {one.entrant: one for one in summary.confirmation}
    yield from beside.findings(summary)
    if (said := beside.outlook(summary)) is not None:
        yield said
    if summary.steering:
        yield f"Asked for while it ran: {'; '.join(one.said for one in summary.steering)}."
    if not race:
        yield _unconfirmed(summary)
        if summary.reference is not None:
            yield _over_reference(summary, summary.reference, "other recipes were")
        return
    yield from _final(summary)
    own = race[winner.entrant]
    spread = f", standard deviation {formats.score(own.spread)}" if own.spread is not None else ""
    runs = "1 fresh run" if len(own.seeds) == 1 else f"{len(own.seeds)} fresh runs"
    worth = ""
    among = sum(bool(one.validation) for one in summary.confirmation)
    if winner.corrected is not None and among > 1:
        worth = f"; on a further seed, as a choice among {among}, {formats.score(winner.corrected)}"
    yield f"{runs} of {winner.entrant}: mean validation {metric} {formats.score(own.mean)}{spread}{worth}."
    if summary.reference is not None:
        yield _over_reference(summary, summary.reference, "the search was")
    elif own.reference:
        yield "The reference recipe is the winner: the search found nothing better."
    else:
        yield "No run of the reference recipe is complete, so there is nothing to compare with."
    if (optimism := summary.optimism) is not None:
        more, confirmed = "", _phase(summary, "confirmation")
        confirmed_on = confirmed.train_examples if confirmed is not None else data.trained_on
        if confirmed_on != data.train:
            more = f" and {confirmed_on:,} training examples in place of {data.train:,}"
        yield (
            f"The search's best score, {formats.score(optimism.search)}, came to "
            f"{formats.score(optimism.confirmed)} with fresh seeds{more}: {formats.gain(-optimism.difference, share)}."
        )


def _over_reference(summary: Summary, reference: Reference, what: str) -> str:
    """Return a sentence on the winner's gain over the reference recipe.

    If the winner is a blend with the model of words, the gain is that of its fine-tune alone, if it is known.
    """
    alone = summary.blend.search if summary.blend is not None else None
    gain, who = (reference.gain, "winner") if alone is None else (alone, "winner's fine-tune alone")
    doubt = "" if gain.low > 0 else f"; these examples do not show that {what} worth it"
    return (
        f"The reference recipe has test {summary.metric} {formats.score(reference.value)} on the same examples: the "
        f"{who} gains {beside.gained(gain)}{doubt}."
    )


def _phase(summary: Summary, name: str) -> PhaseOutcome | None:
    return next((phase for phase in summary.phases if phase.name == name), None)


def _unconfirmed(summary: Summary) -> str:
    winner = summary.winner
    if not summary.plans:
        return "The winner was not confirmed with fresh seeds (budget.confirmation.finalists=0)."
    if not summary.plans[-1].alone:
        return "The winner was not confirmed with fresh seeds: the hours were over."
    hours, trained = formats.duration((summary.hours or 0.0) * 3600), formats.count(summary.data.trained_on)
    if (complete := summary.trials.complete) > 1:
        what = f"{complete} runs that differ in recipe or seed had all the time"
        near = "Among those within one standard error of the best score on validation, the one with the least loss"
        kept = near if schedule.LOSS in winner.validation else "The best on validation"
        return f"{hours} are too short for a search, so {what}. {kept} is kept. It was trained on {trained} examples."
    if summary.trials.all > complete:
        return f"{hours} are too short for a search, and one run was completed, on {trained} examples."
    who = "the reference recipe"
    if winner.params.get("train.rdrop"):
        who += " with R-Drop"
    what = f"{summary.steps.trained:,} updates on {trained} examples"
    return f"{hours} are too short for a search, so {who} had all the time: {what}."


def _final(summary: Summary) -> Iterator[str]:
    """Yield a sentence on what more training data brought to the winner's recipe."""
    final, confirmed = _phase(summary, "final"), _phase(summary, "confirmation")
    runs = [run for run in final.runs if run.status is Status.COMPLETE] if final is not None else []
    if not runs or final is None or confirmed is None:
        return
    last = runs[-1]
    own = {run.seed: run.score for run in runs if run.params == last.params and run.score is not None}
    before = [run.score for run in confirmed.runs if run.entrant == last.entrant and run.score is not None]
    if not before or not own:
        return
    worth = OBJECTIVES[summary.metric].worth
    seeds = f", the best of {len(own)} seeds," if len(own) > 1 else ""
    best, then = (formats.score(max(scores, key=worth)) for scores in (own.values(), before))
    said = (
        f"The recipe of {last.entrant} on {final.train_examples:,} training examples{seeds} has validation "
        f"{summary.metric} {best}; its best run on {confirmed.train_examples:,} has {then}"
    )
    kept = summary.winner.folder.startswith("final/")
    yield f"{said}." if kept else f"{said}, so that is kept."


def saved(records: Sequence[TrialRecord]) -> float:
    """Return the training seconds that early stops saved, by each stopped trial's own pace so far."""
    return sum(
        (record.total_steps - record.step) / record.step * record.seconds.get("training", 0.0)
        for record in records
        if record.status in (Status.PRUNED, Status.PAUSED) and record.step
    )


def final_table(summary: Summary, records: Sequence[TrialRecord], settings: Settings, folder: StudyFolder) -> Group:
    """Return the console output at the end of a sweep.

    Print it with `soft_wrap=True`, so that paths and commands stay whole.

    Args:
        summary: Summary of the study.
        records: All trials of the study.
        settings: Settings of the study.
        folder: Folder of the study.
    """
    rows, first = leaderboard(records, settings), beside.warning(summary)
    more = [Text(f"and {len(rows) - TABLE_ROWS} more in the report", style="dim")] if len(rows) > TABLE_ROWS else []
    return Group(
        *([Text(), Text(first, style="bold red")] if first is not None else []),
        Text(),
        _trials_table(rows[:TABLE_ROWS], summary),
        *more,
        Text(),
        *_test_lines(settings, summary),
        Text(),
        Text(f"report  {folder.report}"),
        Text(f"state   {folder.path}"),
        Text(),
        *(
            Text.assemble((f"# {purpose}\n", "dim"), command)
            for purpose, command in next_steps.commands(settings, summary)
        ),
    )


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix as the page shows it."""

    shown: bool
    """Whether the matrix is small enough to be shown; otherwise the errors are shown."""
    rows: list[tuple[str, list[tuple[int, float]]]]
    """(true class, [(count, share of the true class) for each predicted class])."""
    errors: list[tuple[str, str, int]]
    """(true class, predicted class, count), most frequent first."""


def confusion(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> Confusion:
    """Return the confusion matrix for the page, and its most frequent errors.

    Args:
        labels: The classes.
        counts: A row for each true class, a column for each predicted class.
    """
    true = [sum(row) for row in counts]
    errors = Counter(
        {
            (labels[i], labels[j]): number
            for i, row in enumerate(counts)
            for j, number in enumerate(row)
            if i != j and number
        }
    )
    return Confusion(
        shown=len(labels) <= formats.MOST_CLASSES,
        rows=[(labels[i], [(number, number / max(1, true[i])) for number in row]) for i, row in enumerate(counts)],
        errors=[(*pair, number) for pair, number in errors.most_common(formats.MOST_CLASSES)],
    )


def _trials_table(rows: Sequence[Ranked], summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("trial", "status", "validation", "steps", "time"):
        table.add_column(heading, justify="left" if heading == "status" else "right", no_wrap=True)
    table.add_column("parameters")
    for row in rows:
        table.add_row(
            str(row.trial),
            row.status,
            formats.score(row.score),
            f"{row.step:,}/{row.total_steps:,}",
            formats.duration(row.seconds),
            Text(formats.parameters(row.params)),
            style="bold" if row.trial == summary.best.trial else "",
        )
    return table


def headings(settings: Settings, summary: Summary) -> dict[str, str]:
    """Return the heading of each metric that is known on test."""
    kind = KINDS[settings.task.kind]
    return {name: text for name, text in (kind.headings | kind.details).items() if name in summary.test.all}


@dataclass(frozen=True)
class Score:
    """One metric of the winner, on validation and test."""

    name: str
    chosen: bool
    """Whether the search optimised this metric."""
    validation: float | None
    test: float
    interval: Interval | None
    """95 % interval of the test score."""


def _scores(settings: Settings, summary: Summary) -> Iterator[Score]:
    known, test = summary.winner.validation, summary.test
    shown = headings(settings, summary)
    if LOSS in test.all and LOG_LOSS.name not in test.all:  # older studies lack the latter, which is the same number
        shown |= {LOSS: "loss (nats)"}
    for key, name in shown.items():
        yield Score(name, key == summary.metric, known.get(f"validation_{key}"), test.all[key], test.intervals.get(key))


def _test_lines(settings: Settings, summary: Summary) -> Iterator[Table | Text]:
    test, note, shown = summary.test, summary.data.note, headings(settings, summary)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("test", no_wrap=True)
    for name in shown.values():
        table.add_column(name, justify="right", min_width=max(map(len, name.split())))  # no word is cut
    scores = [formats.score(test.all[key]) for key in shown]
    table.add_row(f"{formats.count(test.n)} examples", *scores, style="bold")
    if summary.blend is not None:
        table.add_row("the fine-tune alone", *(formats.score(summary.blend.test.all[key]) for key in shown))
    for floor in summary.floors:
        table.add_row(f"floor: {floor.name}", *(formats.score(floor.test.all[key]) for key in shown))
    yield table
    low, high = formats.score(test.low), formats.score(test.high)
    yield Text(f"95 % interval of {summary.metric}: {low} to {high}{_often(test)}")
    yield from map(Text, findings(summary))
    if note:
        yield Text(note, style="yellow")


def _phases(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    return [(phase, spent) for phase, spent in seconds.items() if phase != TOTAL and spent > 0]


def _work(records: Sequence[TrialRecord]) -> list[tuple[str, float]]:
    parts = dict.fromkeys((part for record in records for part in record.seconds), 0.0)
    for record in records:
        for part, spent in record.seconds.items():
            parts[part] += spent
    return [(part, spent) for part, spent in parts.items() if spent > 0]


def _split_facts(data: StudyData) -> Iterator[tuple[str, list[str]]]:
    """Yield what is known of each split: (name, a text for each of SPLITS)."""
    yield "used in this study", [formats.value(data.used[split]) for split in SPLITS]
    for name, fact in codec.plain(data).items():
        if _by_split(fact):
            yield name.replace("_", " "), [formats.value(fact.get(split, formats.NONE)) for split in SPLITS]


def _facts(data: StudyData) -> Iterator[tuple[str, str]]:
    """Yield what is known of the data as a whole: (name, text)."""
    for name, fact in codec.plain(data).items():
        if name not in (*SPLITS, "note", "confirmation") and fact not in (None, {}) and not _by_split(fact):
            yield name.replace("_", " "), formats.value(fact)


def _by_split(fact: object) -> bool:
    return isinstance(fact, Mapping) and bool(fact) and set(fact) <= set(SPLITS)


def _settings_text(settings: Settings) -> str:
    """Return the settings as YAML, without addresses of databases and servers, which may hold a password."""
    return OmegaConf.to_yaml(OmegaConf.create(settings.model_dump(mode="json", exclude={"tracking", "storage"})))
