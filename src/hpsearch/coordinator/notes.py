"""Messages before the first trial: choices that the program has made, and facts about the data."""

from collections.abc import Iterator, Mapping, Sequence

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.dimensions import Interval
from hpsearch.coordinator.checks import disk_bound
from hpsearch.coordinator.phase import StudyContext
from hpsearch.coordinator.planner import REPORT_SECONDS
from hpsearch.coordinator.scoring import LEAST
from hpsearch.data.tokens import Tokens
from hpsearch.state.plans import PlanMade
from hpsearch.state.records import StudyHardware
from hpsearch.tasks.kinds import KINDS

MUCH, LITTLE = 0.2, 0.1  # shares of the hours: scoring test takes much of them, and what it would better take


def of_data(study: StudyContext, chosen: StudyHardware) -> Iterator[str]:
    """Yield messages on the hardware, the disk space, and what was done to the data."""
    settings, ref, corpus = study.settings, study.ref, study.corpus
    processes = f"{chosen.processes} processes of " if chosen.processes > 1 else ""
    yield (
        f"hardware: {chosen.name}, {chosen.device}, {chosen.precision}, {chosen.attention} attention, "
        f"{chosen.workers} worker(s) with {processes}{chosen.threads} thread(s) each"
    )
    yield f"disk: checkpoints and models take {disk_bound(settings, chosen.workers) / 1e9:.1f} GB at the most"
    for split, size in ref.sizes.items():
        whole = len(corpus.splits[split])
        part = f" of {whole:,} (stratified subset, budget.{split}_examples)" if size < whole else ""
        yield f"data: {size:,} {split} examples{part}"
    for note in corpus.notes:
        yield f"data: {note}"
    for pair, shared in corpus.facts.overlap.items():
        fate = "; dropped from train" if pair.startswith("train") and shared.rows else ""
        groups = f" and {shared.rows_of_shared_groups:,} rows of groups" if shared.rows_of_shared_groups else ""
        yield f"data: {pair}, as given, share {shared.rows:,} rows{fate}{groups}"
    lost = {what.replace("_", " "): rows for what, rows in corpus.facts.dropped["train"].items() if rows}
    if lost:
        yield f"data: train rows dropped: {', '.join(f'{what} {rows:,}' for what, rows in lost.items())}"
    for split, rows in corpus.facts.empty_texts.items():
        if rows:
            yield f"data: {rows:,} {split} rows have an empty text"


def of_search(study: StudyContext, tokens: Mapping[str, Tokens], forced: Sequence[str]) -> Iterator[str]:
    """Yield messages on texts that are cut off, values out of reach, what is left out, and changes that are forced."""
    settings = study.settings
    for split, found in tokens.items():
        for remark in KINDS[settings.task.kind].remarks(found, split, settings.task):
            yield f"data: {remark}"
    for path, dimension in settings.search.space.items():
        if isinstance(dimension, Interval) and dimension.highest != dimension.high:
            yield (
                f"search.space.{path}.high={dimension.high}: steps of {dimension.step} from {dimension.low} do not "
                f"lead there, so {dimension.highest} is the largest value; give another high or step to change that"
            )
    if settings.search.space and space.reference_point(settings) is None:
        yield f"the reference recipe of {settings.model.name} lies outside the space; the search goes without it"
    for change in forced:
        yield f"the study goes on although this has changed: {change}"


def of_plan(made: PlanMade, test: int) -> str | None:
    """Return the message that scoring test takes much of the hours; None if it does not.

    Args:
        made: the plan of the study.
        test: number of test examples.
    """
    hours, scoring = made.hours * 3600, made.end - REPORT_SECONDS
    if scoring <= MUCH * hours or test <= LEAST:
        return None
    fewer = max(LEAST, int(LITTLE * hours / scoring * test) // 100 * 100)
    return (
        f"scoring the {test:,} test examples takes about {formats.duration(scoring)} of the {formats.duration(hours)}; "
        f"budget.test_examples={fewer} with STUDY=<another name> leaves more of them for training, with wider intervals"
    )


def of_test(scored: int, test: int) -> Iterator[str]:
    """Yield the message that the hours did not hold all test examples, if they did not.

    Args:
        scored: number of test examples that the models were scored on.
        test: number of test examples.
    """
    if scored < test:
        yield (
            f"test: the first {scored:,} of the {test:,} examples were scored, because the hours held no more (did "
            "this machine become slower?); the intervals are wider, and more hours (BUDGET=<hours in total>h) score all"
        )
