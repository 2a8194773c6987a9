"""Which version of a task's registered model is the champion: promote by evidence, roll back, look up.

Every change of champion is one tag of the registered model, which `history` reads. It is written before the aliases
move, so a change that was cut off is completed by the next command, and two that cross see each other.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock
from mlflow.exceptions import MlflowException
from rich.table import Table
from rich.text import Text

from hpsearch import data, formats, gate, identity, results, serving, tasks
from hpsearch.errors import HpsearchError, PromotionRefused, RequestError
from hpsearch.gate import Contender, Decision
from hpsearch.settings import Settings
from hpsearch.tracking import Tracking, answered, name_of

CHAMPION, PREVIOUS = "champion", "previous"
EVENT = "hpsearch.history."  # and the time in nanoseconds: a tag of the registered model for each change of champion
ROLLBACK = "rollback"
DECISION = "hpsearch.decision"  # tag of a version: why it became champion
LONGEST = 5000  # characters of a tag that every MLflow store takes
SHORT = 500  # of a text that is a part of one, however it is escaped


def promote(settings: Settings, home: Path, force: str | None = None, dry_run: bool = False) -> str:
    """Register the winner of the study `settings.study` and make it champion; returns what was done, for the user.

    The winner of a run that is registered already is not registered again, so the command may be repeated.

    Args:
        settings: name study, task and gate.
        home: the state folder.
        force: why it is to become champion whatever the gate says.
        dry_run: say what the gate says, and change nothing.

    Raises:
        RequestError: the study is not finished, or is another task's.
        PromotionRefused: the gate is not satisfied; nothing is changed.
    """
    summary = _summary(settings, home)
    tasks.KINDS[settings.task.kind].check(settings)
    tracking = Tracking(settings, home)
    with _one_at_a_time(home):
        return answered(_promote)(tracking, summary, settings, home, force, dry_run)


def rollback(settings: Settings, home: Path) -> str:
    """Make `previous` the champion again, and the champion `previous`; returns what was done, for the user."""
    tracking = Tracking(settings, home)
    with _one_at_a_time(home):
        return answered(_rollback)(tracking, settings)


def history(settings: Settings, home: Path) -> Table | str:
    """Which version was champion when, and why, newest first."""
    tracking = Tracking(settings, home)
    events = answered(_events)(tracking, name_of(settings))
    if not events:
        return f"task {settings.task.name} has had no champion"
    table = Table(title=name_of(settings), box=None, pad_edge=False, header_style="bold", title_justify="left")
    for heading in ("since", "version", "study", "how"):
        table.add_column(heading, no_wrap=heading in ("since", "version"), overflow="fold")
    table.add_column("why", overflow="fold")
    for event in reversed(events.values()):
        how = f"{event['how']}, cut off" if event.get("pending") else event["how"]
        row = (event["time"], str(event["version"]), event["study"], how, event["why"])
        table.add_row(*map(Text, row))
    return table


def champion_uri(settings: Settings, home: Path) -> str:
    """The address of the task's champion. Raises RequestError if there is none."""
    if champion_version(Tracking(settings, home), settings) is None:
        raise RequestError(
            f"task {settings.task.name} has no champion; promote a finished study with "
            f"`make promote TASK={settings.task.name}`"
        )
    return f"models:/{name_of(settings)}@{CHAMPION}"


def champion_version(tracking: Tracking, settings: Settings) -> Any:
    """The version of the task's registered model that is the champion, or None."""
    return answered(_version)(tracking, name_of(settings), CHAMPION)


def _summary(settings: Settings, home: Path) -> dict[str, Any]:
    folder = home / "studies" / settings.study
    identity.check_folder(folder)
    summary = results.read_summary(folder)
    if summary is None:
        raise RequestError(
            f"study={settings.study}: is not finished ({folder / 'summary.json'} is missing); "
            f"run `make sweep TASK={settings.task.name}`, or name a finished study"
        )
    if summary["task"] != settings.task.name:
        raise RequestError(
            f"study={settings.study}: is of task {summary['task']}, not of {settings.task.name}; give its TASK (and "
            "task.name, where it reads your own files), or another study"
        )
    return summary


@contextlib.contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """On one machine, the second of two that are given at once waits, and sees what the first has done."""
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "promotion.lock"):
        yield


def _promote(
    tracking: Tracking, summary: dict[str, Any], settings: Settings, home: Path, force: str | None, dry_run: bool
) -> str:
    name, client, run_id = name_of(settings), tracking.client, summary["winner"]["run_id"]
    if not dry_run:
        _complete(tracking, name)
    seen, champion = _events(tracking, name), _version(tracking, name, CHAMPION)
    score = _score(summary["test"])
    if champion is not None and champion.run_id == run_id:
        return f"{name} version {champion.version} is the champion already: {score}"
    decision, reasons = _decide(tracking, summary, settings, home, champion, force)
    if force is None and not decision["passed"]:
        stays = f"version {champion.version} stays champion" if champion is not None else "there is still no champion"
        raise PromotionRefused(
            f"{name}: {stays}, by promotion={settings.promotion.name}:\n{reasons}\n"
            "search on with a larger budget, choose another promotion, or give ARGS='--force \"<reason>\"'"
        )
    beside = f"in place of version {champion.version}" if champion is not None else "the task's first"
    if dry_run:
        return f"{name}: study {summary['study']} would become champion, {beside}: {score}\n{reasons}"
    if _events(tracking, name).keys() != seen.keys():  # somebody was faster; see it before anything is registered
        return _promote(tracking, summary, settings, home, force, dry_run)
    version = _registered(tracking, name, run_id, _evidence(summary) | _tags(decision))
    client.update_model_version(name, version.version, _description(tracking, run_id, decision))
    client.log_dict(run_id, decision, f"promotion/{decision['time'].replace(':', '')}.json")
    how = "forced" if force is not None else f"by {decision['rule']['name']}"
    why = force or decision["reasons"][0].removeprefix("passed: ")
    if not _change(tracking, name, seen, version, champion, how, why):
        return _promote(tracking, summary, settings, home, force, dry_run)  # against the champion of now
    return f"{name} version {version.version} is the champion now, {beside}: {score}\n{reasons}"


def _decide(
    tracking: Tracking, summary: dict[str, Any], settings: Settings, home: Path, champion: Any, force: str | None
) -> tuple[dict[str, Any], str]:
    """The gate's decision as a record, and its reasons as lines for people."""
    try:
        made, notes = _compare(tracking, summary, settings, home, champion)
        record = made.record()
        lines = [f"  {'passed' if check.passed else 'failed'}: {check.text}" for check in made.checks] + notes
    except RequestError as error:
        if force is None:
            raise
        record = {"passed": False, "rule": settings.promotion.model_dump(mode="json"), "checks": [], "comparison": None}
        lines = [f"  not compared: {error}"]
    if force is not None:
        lines.append(f"  forced: {force}")
    return record | {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "study": summary["study"],
        "in_place_of": int(champion.version) if champion is not None else None,
        "forced": force,
        "reasons": [line.strip() for line in lines],
    }, "\n".join(lines)


def _compare(
    tracking: Tracking, summary: dict[str, Any], settings: Settings, home: Path, champion: Any
) -> tuple[Decision, list[str]]:
    """The gate's decision on the challenger's test examples, and notes on how they were come by.

    Raises:
        RequestError: an answer is missing and can't be had.
    """
    kind, run_id, test = tasks.KINDS[settings.task.kind], summary["winner"]["run_id"], summary["test"]
    table = tracking.answers(run_id, "test")
    if table is None:
        raise RequestError(
            f"the MLflow run {run_id} has no answers on test; give the sweep's command again to finish it, or the "
            "tracking.uri that the sweep was given"
        )
    ids, truths, answers = map(list, zip(*table["data"], strict=True))
    recipe = summary["reference"]  # None where no other than the winner was scored
    reference = tracking.answers(recipe["run_id"], "test") if recipe is not None else None
    challenger = Contender(
        f"study {summary['study']}", answers, test["megabytes"], test["seconds_per_example"], _hardware(summary)
    )
    looks = tracking.looks(test["split_digest"])
    often = "once" if looks == 1 else f"{looks} times"
    notes = [f"  these test examples have been scored {often}, all or some, by all studies of the task together"]
    incumbent = None
    if champion is not None:
        said, note = _champions_answers(tracking, champion, ids, summary, settings, home)
        incumbent = Contender(
            f"version {champion.version}",
            said,
            _number(champion.tags.get("hpsearch.model.megabytes")),
            _number(champion.tags.get("hpsearch.seconds_per_example")),
            champion.tags.get("hpsearch.hardware"),
        )
        notes = [note, *notes] if note else notes
    decision = gate.decide(
        settings.promotion,
        kind,
        summary["labels"],
        test["metric"],
        truths,
        challenger,
        incumbent,
        [row[2] for row in reference["data"]] if reference is not None else None,
    )
    return decision, notes


def _champions_answers(
    tracking: Tracking, champion: Any, ids: list[str], summary: dict[str, Any], settings: Settings, home: Path
) -> tuple[list[Any], str | None]:
    """What the champion says of the challenger's test examples, as stored, or by running it; and a note on that.

    Raises:
        RequestError: neither can be had.
    """
    digest = summary["test"]["digest"]
    table = tracking.answers(champion.run_id, "test") if champion.run_id else None  # another's model has no run
    if table is not None and champion.tags.get("hpsearch.digest.test") == digest:
        stored = {row[0]: row[2] for row in table["data"]}
        return [stored[one] for one in ids], None
    try:
        own = results.read_settings(home / "studies" / settings.study, settings)
        ref = data.prepare(data.read(own), own, home)
    except (OSError, ValueError, yaml.YAMLError, HpsearchError) as error:
        raise RequestError(
            f"version {champion.version} was scored on other test data, and to run it on those of study "
            f"{settings.study} these must be read: {str(error).splitlines()[0]}"
        ) from None
    if ref.digests["test"] != digest:
        raise RequestError(
            f"study {settings.study}: the test data are no longer those that it was scored on (digest {digest}, now "
            f"{ref.digests['test']}); bring them back, or search anew with STUDY=<another name>"
        )
    rows, kind = data.load(ref, "test").to_dict(), tasks.KINDS[own.task.kind]
    inputs = {role: rows[role] for role in kind.inputs}
    said = dict(
        zip(rows["id"], serving.answers(f"models:/{champion.name}/{champion.version}", own, inputs), strict=True)
    )
    return [said[one] for one in ids], (
        f"  version {champion.version} was scored on other test data (digest "
        f"{champion.tags.get('hpsearch.digest.test', 'unknown')}) and was run on these (digest {digest})"
    )


def _evidence(summary: dict[str, Any]) -> dict[str, str]:
    """The tags of a version: where it comes from, what it scored, on what."""
    lineage: dict[str, str] = summary["lineage"]
    test, winner = summary["test"], summary["winner"]
    digests = summary["data"]["digests"] | {"train": winner["train_digest"]}
    seeds = [str(seed) for standing in summary["confirmation"] for seed in standing["seeds"]]
    intervals = {
        f"hpsearch.test.{name}": f"{test['all'][name]!r} [{low!r}, {high!r}]"
        for name, (low, high) in test["intervals"].items()
    }
    return (
        intervals
        | lineage
        | {
            "hpsearch.study": summary["study"],
            "hpsearch.study_run_id": summary["mlflow"]["run_id"],
            "hpsearch.run_id": winner["run_id"],
            "hpsearch.seed": str(winner["seed"]),
            "hpsearch.confirmation.seeds": " ".join(sorted(set(seeds), key=int)),
            "hpsearch.hours": repr(round(summary["seconds"]["total"] / 3600, 4)),
            "hpsearch.license.weights": summary["licenses"]["weights"] or "not stated",
            "hpsearch.license.data": summary["licenses"]["data"] or "not stated",
            "hpsearch.test.metric": test["metric"],
            "hpsearch.test.value": repr(test["value"]),
            "hpsearch.test.low": repr(test["low"]),
            "hpsearch.test.high": repr(test["high"]),
            "hpsearch.test.examples": str(test["n"]),
            "hpsearch.test.readings": str(test["readings"]),
            "hpsearch.model.megabytes": repr(test["megabytes"]),
            "hpsearch.seconds_per_example": repr(test["seconds_per_example"]),
            "hpsearch.hardware": _hardware(summary),
        }
        | {f"hpsearch.digest.{split}": digest for split, digest in digests.items()}
    )


def _description(tracking: Tracking, run_id: str, decision: dict[str, Any]) -> str:
    """The model's card, and why it became champion."""
    reasons = "\n".join(f"- {reason}" for reason in decision["reasons"])
    ending = f"\n## Why it became champion\n\n{reasons[: LONGEST // 2]}\n"
    return tracking.card(run_id)[: LONGEST - len(ending)] + ending


def _tags(decision: dict[str, Any]) -> dict[str, str]:
    """The decision as tags of the version: the numbers one by one, and the whole, shortened where it must be."""
    found, whole = decision["comparison"], json.dumps(decision)
    if len(whole) > LONGEST:  # a rule that looks at many classes; the file of the winner's run has all of it
        first = {"checks": [], "reasons": [decision["reasons"][0][:SHORT]]}
        whole = json.dumps(decision | first | {"forced": decision["forced"] and decision["forced"][:SHORT]})
    tags = {DECISION: whole, "hpsearch.promotion.rule": decision["rule"]["name"]}
    if found is not None:
        tags |= {
            "hpsearch.promotion.p": repr(found["p"]),
            "hpsearch.promotion.difference": repr(found["challenger"] - found["champion"]),
        }
    if decision["forced"] is not None:
        tags["hpsearch.promotion.forced"] = decision["forced"][:SHORT]
    return tags


def _number(text: str | None) -> float | None:
    return float(text) if text is not None else None


def _hardware(summary: dict[str, Any]) -> str:
    chosen = summary["hardware"]
    return f"{chosen['name']}, {chosen['threads']} threads, {chosen['precision']}"


def _score(test: dict[str, Any]) -> str:
    value, low, high = (formats.score(test[key]) for key in ("value", "low", "high"))
    often = f", read {test['readings']} times" if test["readings"] > 1 else ""
    return f"test {test['metric']} {value} on {formats.count(test['n'])} examples [{low}, {high}]{often}"


Events = dict[str, dict[str, Any]]  # tag: a change of champion; oldest first


def _change(tracking: Tracking, name: str, seen: Events, version: Any, former: Any, how: str, why: str) -> bool:
    """Make `version` the champion in place of `former`, which becomes `previous`.

    It is announced first: of two commands that cross, at least one sees the other's announcement and withdraws.

    Args:
        tracking: where.
        name: of the registered model.
        seen: its history, as it was before `former` was looked at.
        version: the champion to be.
        former: the champion until now; None if there is none.
        how: it came to this, for people.
        why: the same.

    Returns:
        False if somebody else has changed the champion since; then nothing is changed.
    """
    key = f"{EVENT}{time.time_ns()}"
    event = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": int(version.version),
        "previous": int(former.version) if former is not None else None,
        "study": version.tags.get("hpsearch.study", formats.NONE),
        "how": how,
        "why": why[:SHORT],
        "pending": True,
    }
    tracking.client.set_registered_model_tag(name, key, json.dumps(event))
    if _events(tracking, name).keys() - {key} != seen.keys():
        tracking.client.delete_registered_model_tag(name, key)
        return False
    _move(tracking, name, key, event)
    return True


def _move(tracking: Tracking, name: str, key: str, event: dict[str, Any]) -> None:
    """Let the aliases follow an announced change. Harmless when repeated."""
    if event["previous"] is not None:
        tracking.client.set_registered_model_alias(name, PREVIOUS, str(event["previous"]))
    tracking.client.set_registered_model_alias(name, CHAMPION, str(event["version"]))
    tracking.client.set_registered_model_tag(name, key, json.dumps(event | {"pending": False}))


def _complete(tracking: Tracking, name: str) -> dict[str, Any] | None:
    """Complete the last change if it was cut off, and return it."""
    for key, event in list(_events(tracking, name).items())[-1:]:
        if event.get("pending"):
            _move(tracking, name, key, event)
            return event
    return None


def _events(tracking: Tracking, name: str) -> Events:
    """Changes of champion."""
    try:
        tags = tracking.client.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}
    keys = sorted((key for key in tags if key.startswith(EVENT)), key=lambda key: int(key.removeprefix(EVENT)))
    return {key: json.loads(tags[key]) for key in keys}


def _registered(tracking: Tracking, name: str, run_id: str, evidence: dict[str, str]) -> Any:
    """The version that holds the run's model, registered if it is not; with its evidence as tags."""
    client = tracking.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if known:
        for key, value in evidence.items():
            client.set_model_version_tag(name, known[0].version, key, value)
        return known[0]
    model_id = tracking.model_of(run_id)
    return client.create_model_version(name, f"models:/{model_id}", run_id, evidence, model_id=model_id)


def _rollback(tracking: Tracking, settings: Settings) -> str:
    name = name_of(settings)
    completed = _complete(tracking, name)
    seen = _events(tracking, name)
    champion, previous = (_version(tracking, name, alias) for alias in (CHAMPION, PREVIOUS))
    if champion is None or previous is None or champion.version == previous.version:
        raise RequestError(f"{name} has no previous champion to go back to")
    if completed is not None and completed["how"] == ROLLBACK:  # it is what this command is to do
        champion, previous = previous, champion
    elif not _change(tracking, name, seen, previous, champion, ROLLBACK, f"in place of version {champion.version}"):
        return _rollback(tracking, settings)
    study = previous.tags.get("hpsearch.study", formats.NONE)
    return (
        f"{name} version {previous.version} is the champion again (study {study}); "
        f"version {champion.version} is `previous`"
    )


def _version(tracking: Tracking, name: str, alias: str) -> Any:
    """The version that the alias names, or None."""
    try:
        return tracking.client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no model, no alias
            return None
        raise
