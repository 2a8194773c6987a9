"""Which version of a task's registered model is the champion: promote by evidence, roll back, look up."""

import json
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from hpsearch import metrics
from hpsearch.errors import PromotionRefused, RequestError
from hpsearch.settings import Settings
from hpsearch.tracking import Tracking, answered, name_of

CHAMPION, PREVIOUS = "champion", "previous"


def promote(settings: Settings, home: Path) -> str:
    """Register the winner of the study `settings.study` and make it champion; returns what was done, for the user.

    The winner of a run that is registered already is not registered again, so the command may be repeated.

    Raises:
        RequestError: the study is not finished.
        PromotionRefused: the champion scored better on the same test data.
    """
    summary = _summary(settings, home)
    tracking = Tracking(settings, home)
    return answered(_promote)(tracking, summary, settings)


def rollback(settings: Settings, home: Path) -> str:
    """Make `previous` the champion again, and the champion `previous`; returns what was done, for the user."""
    tracking = Tracking(settings, home)
    return answered(_rollback)(tracking, settings)


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
    path = home / "studies" / settings.study / "summary.json"
    if not path.exists():
        raise RequestError(
            f"study={settings.study}: is not finished ({path} is missing); "
            f"run `make sweep TASK={settings.task.name}`, or name a finished study"
        )
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _promote(tracking: Tracking, summary: dict[str, Any], settings: Settings) -> str:
    name, client = name_of(settings), tracking.client
    run_id, test = summary["winner"]["run_id"], summary["test"]
    evidence = _evidence(tracking, summary)
    champion = _version(tracking, name, CHAMPION)
    if champion is not None and champion.run_id == run_id:
        return f"{name} version {champion.version} is the champion already: {_shown(evidence)}"
    beside = _compare(champion, evidence) if champion is not None else "the task's first"
    version = _registered(tracking, name, run_id, evidence)
    if champion is not None:
        client.set_registered_model_alias(name, PREVIOUS, champion.version)
    client.set_registered_model_alias(name, CHAMPION, version)
    interval = f" [{test['low']:.4f}, {test['high']:.4f}]" if test["low"] is not None else ""
    return f"{name} version {version} is the champion now, {beside}: {_shown(evidence)}{interval}"


def _evidence(tracking: Tracking, summary: dict[str, Any]) -> dict[str, str]:
    """The tags of a version: where it comes from, what it scored, on what."""
    digests = tracking.digests(summary["mlflow"]["run_id"])
    return {
        "hpsearch.study": summary["study"],
        "hpsearch.run_id": summary["winner"]["run_id"],
        "hpsearch.test.metric": summary["test"]["metric"],
        "hpsearch.test.value": repr(summary["test"]["value"]),
        "hpsearch.test.examples": str(summary["test"]["n"]),
    } | {f"hpsearch.digest.{split}": digest for split, digest in digests.items()}


def _compare(champion: Any, challenger: dict[str, str]) -> str:
    """How the challenger stands beside the champion, in words.

    Raises:
        PromotionRefused: the champion is better, on the same test data by the same metric.
    """
    same = ("hpsearch.digest.test", "hpsearch.test.metric", "hpsearch.test.examples")
    if any(champion.tags.get(key) != challenger.get(key) for key in same):
        return f"in place of version {champion.version}, which was scored on other test data and can't be compared"
    metric = challenger["hpsearch.test.metric"]
    sign = 1 if metrics.DIRECTIONS[metric] == "maximize" else -1
    before, now = (float(tags["hpsearch.test.value"]) for tags in (champion.tags, challenger))
    if sign * now < sign * before:
        raise PromotionRefused(
            f"{champion.name} version {champion.version} stays champion: test {metric} {before:.4f} against {now:.4f} "
            "of the challenger on the same test data; search on with a larger budget"
        )
    return f"in place of version {champion.version} with {before:.4f} on the same test data"


def _registered(tracking: Tracking, name: str, run_id: str, evidence: dict[str, str]) -> str:
    """The version that holds the run's model, registered if it is not; with its evidence as tags."""
    client = tracking.client
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if known:
        for key, value in evidence.items():
            client.set_model_version_tag(name, known[0].version, key, value)
        return str(known[0].version)
    model_id = tracking.model_of(run_id)
    made = client.create_model_version(name, f"models:/{model_id}", run_id, evidence, model_id=model_id)
    return str(made.version)


def _rollback(tracking: Tracking, settings: Settings) -> str:
    name, client = name_of(settings), tracking.client
    champion, previous = (_version(tracking, name, alias) for alias in (CHAMPION, PREVIOUS))
    if champion is None or previous is None or champion.version == previous.version:
        raise RequestError(f"{name} has no previous champion to go back to")
    client.set_registered_model_alias(name, CHAMPION, previous.version)
    client.set_registered_model_alias(name, PREVIOUS, champion.version)
    return (
        f"{name} version {previous.version} is the champion again (study {previous.tags['hpsearch.study']}); "
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


def _shown(evidence: dict[str, str]) -> str:
    value, examples = float(evidence["hpsearch.test.value"]), int(evidence["hpsearch.test.examples"])
    return f"test {evidence['hpsearch.test.metric']} {value:.4f} on {examples:,} examples"
