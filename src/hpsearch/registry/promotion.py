"""Whether a study's winner becomes the task's champion: registered with its evidence, by the gate's decision."""

from datetime import UTC, datetime
from pathlib import Path

import yaml
from mlflow.exceptions import MlflowException

from hpsearch import formats
from hpsearch.config.settings import Settings
from hpsearch.coordinator import results
from hpsearch.decisions.racing import REFERENCE
from hpsearch.errors import HpsearchError, PromotionRefused, RequestError, first_line
from hpsearch.registry import evidence, gate
from hpsearch.registry.champions import CHAMPION, announced, change, complete, events, one_at_a_time, version_of
from hpsearch.registry.evidence import Version
from hpsearch.registry.gate import Contender, Exam, GateDecision, Verdict
from hpsearch.serving import packaging
from hpsearch.state import codec, identity
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Answers, Replies
from hpsearch.state.outcome import OnTest, Summary
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.metrics import LOG_LOSS, OBJECTIVES
from hpsearch.tracking.runs import Tracking, name_of
from hpsearch.tracking.stores import answered
from hpsearch.training import data


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
    KINDS[settings.task.kind].check(settings)
    tracking = Tracking(settings, home)
    with one_at_a_time(home):
        return answered(_promote)(tracking, summary, settings, home, force, dry_run)


def _summary(settings: Settings, home: Path) -> Summary:
    folder = StudyFolder.of(home, settings.study)
    identity.check_folder(folder)
    summary = results.read_summary(folder)
    if summary is None or not folder.published.exists():
        raise RequestError(
            f"study={settings.study}: is not finished ({folder.published} is missing); "
            f"run `make sweep TASK={settings.task.name}`, or name a finished study"
        )
    if summary.task != settings.task.name:
        raise RequestError(
            f"study={settings.study}: is of task {summary.task}, not of {settings.task.name}; give its TASK (and "
            "task.name, where it reads your own files), or another study"
        )
    return summary


def _promote(
    tracking: Tracking, summary: Summary, settings: Settings, home: Path, force: str | None, dry_run: bool
) -> str:
    name, client, run_id = name_of(settings), tracking.client, summary.winner.run_id
    if not dry_run:
        complete(tracking, name)
    seen, champion = events(tracking, name), version_of(tracking, name, CHAMPION)
    score = _score(summary.test)
    if champion is not None and champion.run_id == run_id:
        return f"{name} version {champion.number} is the champion already: {score}"
    decision, reasons = _decide(tracking, summary, settings, home, champion, force)
    if force is None and not decision.passed:
        stays = f"version {champion.number} stays champion" if champion is not None else "there is still no champion"
        raise PromotionRefused(
            f"{name}: {stays}, by promotion={settings.promotion.name}:\n{reasons}\n"
            "search on with a larger budget, choose another promotion, or give ARGS='--force \"<reason>\"'"
        )
    beside = f"in place of version {champion.number}" if champion is not None else "the task's first"
    if dry_run:
        return f"{name}: study {summary.study} would become champion, {beside}: {score}\n{reasons}"
    if events(tracking, name).keys() != seen.keys():  # somebody was faster; see it before anything is registered
        return _promote(tracking, summary, settings, home, force, dry_run)
    version, made_now = _registered(tracking, name, run_id, evidence.tags(summary) | evidence.of_decision(decision))
    client.update_model_version(
        name, str(version.number), evidence.description(tracking.card(run_id), decision.reasons)
    )
    client.log_dict(run_id, codec.plain(decision), f"promotion/{decision.time.replace(':', '')}.json")
    how = "forced" if force is not None else f"by {decision.rule.name}"
    why = force or decision.reasons[0].removeprefix("passed: ")
    if not change(tracking, name, seen, announced(version, champion, how, why)):
        if made_now:  # a refusal leaves nothing behind
            client.delete_model_version(name, str(version.number))
        return _promote(tracking, summary, settings, home, force, dry_run)  # against the champion of now
    return f"{name} version {version.number} is the champion now, {beside}: {score}\n{reasons}"


def _decide(
    tracking: Tracking, summary: Summary, settings: Settings, home: Path, champion: Version | None, force: str | None
) -> tuple[GateDecision, str]:
    """The gate's decision, and its reasons as lines for people."""
    verdict: Verdict | None = None
    try:
        verdict, notes = _compare(tracking, summary, settings, home, champion)
        lines = [f"  {'passed' if check.passed else 'failed'}: {check.text}" for check in verdict.checks] + notes
    except RequestError as error:
        if force is None:
            raise
        lines = [f"  not compared: {error}"]
    if force is not None:
        lines.append(f"  forced: {force}")
    decision = GateDecision(
        passed=verdict is not None and verdict.passed,
        rule=settings.promotion,
        checks=verdict.checks if verdict is not None else (),
        comparison=verdict.comparison if verdict is not None else None,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        study=summary.study,
        in_place_of=champion.number if champion is not None else None,
        forced=force,
        reasons=tuple(line.strip() for line in lines),
    )
    return decision, "\n".join(lines)


def _compare(
    tracking: Tracking, summary: Summary, settings: Settings, home: Path, champion: Version | None
) -> tuple[Verdict, list[str]]:
    """The gate's verdict on the challenger's test examples, and notes on how they were come by.

    Raises:
        RequestError: an answer is missing and can't be had.
    """
    run_id, test = summary.winner.run_id, summary.test
    table = tracking.answers(run_id, "test")
    if table is None:
        raise RequestError(
            f"the MLflow run {run_id} has no answers on test; give the tracking.uri that the sweep had, or, where "
            "MLflow has lost them, `hpsearch fsck --repair` and then the sweep's command"
        )
    recipe = summary.reference  # None where no other than the winner was scored
    reference = tracking.answers(recipe.run_id, "test") if recipe is not None else None
    challenger = Contender(
        f"study {summary.study}",
        table.replies,
        test.megabytes,
        test.seconds_per_example,
        evidence.hardware(summary.hardware),
    )
    looks = tracking.looks(test.split_digest)
    often = "once" if looks == 1 else f"{looks} times"
    notes = [f"  these test examples have been scored {often}, all or some, by all studies of the task together"]
    incumbent = None
    if champion is not None:
        said, note = _champions_replies(tracking, champion, table, summary, settings, home)
        incumbent = Contender(
            f"version {champion.number}",
            said,
            champion.megabytes,
            champion.seconds_per_example,
            champion.hardware,
        )
        notes = [note, *notes] if note else notes
    elif recipe is None and summary.winner.entrant != REFERENCE:
        notes = ["  the study has no run of the reference recipe, so nothing was compared with that", *notes]
    exam = Exam(KINDS[settings.task.kind], summary.labels, OBJECTIVES[test.metric], table.truths)
    others = reference.replies if reference is not None else None
    return gate.decide(settings.promotion, exam, challenger, incumbent, others), notes


def _champions_replies(
    tracking: Tracking, champion: Version, exam: Answers, summary: Summary, settings: Settings, home: Path
) -> tuple[Replies, str | None]:
    """What the champion says of the challenger's test examples, as stored, or by running it; and a note on that.

    Where the metric needs probabilities that were not stored with its answers, it is run.

    Raises:
        RequestError: neither can be had.
    """
    digest, objective = summary.test.digest, OBJECTIVES[summary.test.metric]
    table = tracking.answers(champion.run_id, "test") if champion.run_id else None  # another's model has no run
    before = champion.test_digest or "unknown"
    if table is not None and before == digest:
        stored = table.replies
        if objective != LOG_LOSS or stored.likelihoods is not None:
            return stored.of(table.ids, exam.ids), None
    try:
        own = results.read_settings(StudyFolder.of(home, settings.study), settings)
        ref = data.prepare(data.read(own), own, home)
    except (OSError, ValueError, yaml.YAMLError, HpsearchError) as error:
        raise RequestError(
            f"what version {champion.number} says of the test data of study {settings.study} is not known, and to run "
            f"it on them they must be read: {first_line(error)}"
        ) from None
    if ref.digests["test"] != digest:
        raise RequestError(
            f"study {settings.study}: the test data are no longer those that it was scored on (digest {digest}, now "
            f"{ref.digests['test']}); bring them back, or search anew with STUDY=<another name>"
        )
    rows, kind = data.load(ref, "test").to_dict(), KINDS[own.task.kind]
    inputs = {role: rows[role] for role in kind.inputs}
    answers, sure = packaging.answers(f"models:/{champion.name}/{champion.number}", own, inputs)
    if objective == LOG_LOSS and sure is None:
        raise RequestError(
            f"version {champion.number} gives no probability of each class, so its log_loss is not known and can't be "
            "compared; search with another task.metric"
        )
    truths = kind.truths(rows, ref.labels)
    likelihoods = kind.likelihoods(truths, sure, summary.labels) if sure is not None else None
    who = f"  version {champion.number}"
    note = f"{who} was scored on other test data (digest {before}) and was run on these (digest {digest})"
    if before == digest:
        lost = "MLflow has lost what it had said of them" if table is None else "its probabilities were not kept then"
        note = f"{who} was run on these test data again: {lost}"
    return Replies(answers, likelihoods).of(rows["id"], exam.ids), note


def _score(test: OnTest) -> str:
    value, low, high = map(formats.score, (test.value, test.low, test.high))
    often = f", read {test.readings} times" if test.readings > 1 else ""
    return f"test {test.metric} {value} on {formats.count(test.n)} examples [{low}, {high}]{often}"


def _registered(tracking: Tracking, name: str, run_id: str, tags: dict[str, str]) -> tuple[Version, bool]:
    """The version that holds the run's model, with its tags, and whether it had to be registered."""
    client = tracking.client
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    if known:
        for key, value in tags.items():
            client.set_model_version_tag(name, known[0].version, key, value)
        return Version.of(known[0]), False
    model_id = tracking.model_of(run_id)
    made = client.create_model_version(name, f"models:/{model_id}", run_id, tags, model_id=model_id)
    return Version.of(made), True
