"""The model card, in Markdown: what the user of a winner or a floor must know."""

import json
from collections.abc import Iterator
from dataclasses import asdict

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.report import beside, page
from hpsearch.state.outcome import SETTINGS_TAG, FloorOutcome, OnTest, Summary
from hpsearch.tasks.kinds import KINDS
from hpsearch.tracking.lineage import COMMIT_TAG, VERSION_TAG

UNSTATED = "not stated by their source"


def model_card(settings: Settings, summary: Summary) -> str:
    """Return the model card of a study's winner.

    Args:
        settings: Settings of the study, with the winner's parameters applied.
        summary: The study's summary, as in `summary.json`.
    """
    return "\n".join(_lines(settings, summary)) + "\n"


def floor_card(settings: Settings, summary: Summary, floor: FloorOutcome) -> str:
    """Return the model card of a floor that is kept as a model."""
    task, kind = settings.task, KINDS[settings.task.kind]
    on = f"on {formats.count(floor.examples)} training examples " if floor.examples else ""
    chosen = [f"- {name}: {formats.value(value)}" for name, value in floor.chosen.items()]
    fitted = [f"- {name.replace('_', ' ')}: {json.dumps(value)}" for name, value in floor.fitted.items()]
    lines = [
        f"# hpsearch-{task.name}",
        "",
        f"{floor.title[0].upper()}{floor.title[1:]}: a simple model for {kind.name.replace('_', ' ')} on {task.name}, "
        f"beside which study {summary.study} sees its winner. Fitted {on}in {formats.duration(floor.seconds)}.",
        "",
        f"## How good it is: {formats.count(floor.test.n)} test examples",
        "",
        *_scores(settings, summary, floor.test),
        "",
        f"The winner, {beside.kept(summary)}, has {summary.metric} {formats.score(summary.test.value)}.",
        "",
        "## What it takes and gives",
        "",
        f"It takes {' and '.join(kind.inputs)}, and gives {', '.join(kind.product.outputs)}.",
        *([f"Classes: {', '.join(summary.labels)}."] if summary.labels else []),
        "",
        "## How it was fitted",
        "",
        *chosen,
        *fitted,
        f"- data: {summary.data.source}, digests {', '.join(f'{k} {v}' for k, v in summary.winner.digests.items())}",
        f"- study {summary.study}, MLflow run {floor.run_id}",
        f"- licence of the data: {summary.licenses.data or UNSTATED}",
    ]
    return "\n".join(lines) + "\n"


def _lines(settings: Settings, summary: Summary) -> Iterator[str]:
    task, kind = settings.task, KINDS[settings.task.kind]
    yield f"# hpsearch-{task.name}"
    yield ""
    both = "" if summary.blend is None else ", and a linear model of words, as one model"
    name, what = f"{settings.model.name} ({settings.model.path})", kind.name.replace("_", " ")
    yield f"{name}, fine-tuned for {what} on {task.name}{both}."
    sections = {
        f"How good it is: {formats.count(summary.test.n)} test examples": _quality(settings, summary),
        "What it takes and gives": _use(settings, summary),
        "Data": _data(summary),
        "How it was trained": _training(settings, summary),
        "Licences": (f"- {what}: {text or UNSTATED}" for what, text in asdict(summary.licenses).items()),
    }
    for heading, lines in sections.items():
        yield from ("", f"## {heading}", "")
        yield from lines


def _scores(settings: Settings, summary: Summary, test: OnTest) -> Iterator[str]:
    for name, heading in page.headings(settings, summary).items():
        interval = ""
        if name in test.intervals:
            low, high = (formats.score(bound) for bound in test.intervals[name])
            interval = f" (95 % interval over examples {low} to {high})"
        yield f"- {heading}: {formats.score(test.all[name])}{interval}"


def _quality(settings: Settings, summary: Summary) -> Iterator[str]:
    test, note = summary.test, summary.data.note
    yield from _scores(settings, summary, test)
    yield ""
    chosen = "confirmed with fresh seeds" if summary.confirmation else "not confirmed with fresh seeds"
    yield (
        f"Chosen on validation among {summary.trials.all} trials, {chosen}; test was scored by this study "
        f"{'once, after the choice' if test.readings == 1 else f'{test.readings} times'}."
    )
    said = list(
        page.findings(summary) if summary.confirmation or summary.reference is not None else beside.findings(summary)
    )
    if said:
        yield ""
        yield from (f"- {line}" for line in said)
    if note:
        yield ""
        yield f"Note: {note}."


def _use(settings: Settings, summary: Summary) -> Iterator[str]:
    kind = KINDS[settings.task.kind]
    yield f"It takes {' and '.join(kind.inputs)}, and gives {', '.join(kind.product.outputs)}."
    if summary.labels:
        yield f"Classes: {', '.join(summary.labels)}."
    for name, value in summary.winner.fitted.items():
        yield f"{name.replace('_', ' ').capitalize()}, fitted on validation: {json.dumps(value)}."
    yield f"It reads at most {settings.task.max_length} tokens at a time ({_longer(settings)})."
    yield ""
    yield "```"
    yield "curl http://127.0.0.1:5001/invocations -H 'Content-Type: application/json' \\"
    yield f"  -d '{json.dumps(kind.product.example)}'"
    yield "```"


def _longer(settings: Settings) -> str:
    if settings.task.truncation == "windows":
        return "longer ones are read in overlapping windows"
    return f"of longer ones it reads the {settings.task.truncation.replace('_', ' and ')}"


def _data(summary: Summary) -> Iterator[str]:
    """Yield the data that the model was trained on, chosen by and scored on."""
    data = summary.data
    sizes = data.used | {"train": data.trained_on, "test": summary.test.n}
    yield f"{data.source}; {', '.join(f'{formats.count(size)} {split}' for split, size in sizes.items())} examples."
    yield f"Digests: {', '.join(f'{split} {digest}' for split, digest in summary.winner.digests.items())}."


def _training(settings: Settings, summary: Summary) -> Iterator[str]:
    winner, hardware, made = summary.winner, summary.hardware, summary.lineage
    if (blend := summary.blend) is not None:
        weights = " and ".join(f"{weight:.4g}" for weight in blend.weights)
        yield f"- logits of the fine-tune and of the words are added, times {weights}, fitted on validation"
    for path, value in space.recipe(settings, winner.params).items():
        yield f"- {path}: {formats.value(value)}"
    yield f"- training examples: {formats.count(summary.data.trained_on)}"
    yield f"- seed: {winner.seed}"
    yield f"- on {hardware.name} ({hardware.device}, {hardware.precision})"
    yield f"- study {summary.study}, MLflow run {winner.run_id}"
    yield f"- the whole study took {formats.duration(summary.total_seconds)} on it"
    yield f"- settings {made[SETTINGS_TAG]}, commit {made.get(COMMIT_TAG, 'unknown')}"
    versions = {key.removeprefix(VERSION_TAG): text for key, text in made.items() if key.startswith(VERSION_TAG)}
    yield f"- {', '.join(f'{package} {version}' for package, version in versions.items())}"
