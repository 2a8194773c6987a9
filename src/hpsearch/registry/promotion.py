"""Promotion of a study's winner to the task's champion: the gate decides, and it is registered with its evidence."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hpsearch import formats
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.coordinator import results
from hpsearch.decisions.racing import REFERENCE
from hpsearch.errors import HpsearchError, PromotionRefused, RequestError, first_line
from hpsearch.registry import evidence, gate
from hpsearch.registry.champions import CHAMPION, announced, change, complete, events, one_at_a_time
from hpsearch.registry.evidence import Candidate
from hpsearch.registry.finished import finished
from hpsearch.registry.gate import Contender, Exam, GateDecision, Verdict
from hpsearch.serving import packaging
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Answers, Replies
from hpsearch.state.outcome import OnTest, Summary
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.objectives import LOG_LOSS, OBJECTIVES
from hpsearch.tracking.registered import RegisteredModel, Version
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data


@dataclass(frozen=True)
class Request:
    """What one run of the command works on."""

    tracking: Tracking
    summary: Summary  # summary of the study
    settings: Settings
    home: Path
    chosen: Candidate  # the model to promote
    force: str | None  # why the model is promoted whatever the gate says; None: not forced


def promote(
    settings: Settings, home: Path, force: str | None = None, dry_run: bool = False, floor: bool = False
) -> str:
    """Register the winner of the study `settings.study` and make it champion; return a message for the user.

    A run's model that is registered already is not registered again, so the command may be repeated. Where more test
    examples have been scored since, the version gets the new scores. The gate has decided and is not asked again.

    Args:
        settings: Settings that name study, task and gate.
        home: The state folder.
        force: Why the model becomes champion whatever the gate says; None means the gate decides.
        dry_run: Whether to report the gate's decision and change nothing.
        floor: Whether to take the study's best simple model in place of its winner.

    Raises:
        RequestError: The study is not finished, belongs to another task, or has no floor.
        PromotionRefused: The gate refuses the model; nothing is changed.
    """
    summary = finished(settings, home)
    KINDS[settings.task.kind].check(settings)
    chosen, tracking = evidence.candidate(summary, floor), Tracking(settings, home)
    with one_at_a_time(home):
        return _promote(Request(tracking, summary, settings, home, chosen, force), dry_run)


def _promote(request: Request, dry_run: bool) -> str:
    tracking, summary, chosen, force = request.tracking, request.summary, request.chosen, request.force
    model, run_id = RegisteredModel(tracking), chosen.run_id
    if not dry_run:
        complete(model)
    seen, champion = events(model), model.version_of(CHAMPION)
    score = _score(chosen.test)
    if champion is not None and champion.run_id == run_id:
        if not dry_run and champion.tags.get(evidence.TEST_EXAMPLES) != str(chosen.test.n):
            model.register(run_id, evidence.tags(summary, chosen))  # more hours have scored more of test
            model.describe(champion, evidence.description(tracking.card(run_id), evidence.reasons(champion)))
        return f"{model.name} version {champion.number} is the champion already: {score}"
    decision, reasons = _decide(request, champion)
    if force is None and not decision.passed:
        stays = f"version {champion.number} stays champion" if champion is not None else "there is still no champion"
        raise PromotionRefused(
            f"{model.name}: {stays}, by promotion={request.settings.promotion.name}:\n{reasons}\n"
            f"{_remedy(request)}, choose another promotion, or give ARGS='--force \"<reason>\"'"
        )
    beside = f"in place of version {champion.number}" if champion is not None else "the task's first"
    if dry_run:
        return f"{model.name}: {chosen.name} would become champion, {beside}: {score}\n{reasons}"
    if events(model).keys() != seen.keys():  # another command was faster; look again before registering
        return _promote(request, dry_run)
    version, made_now = model.register(run_id, evidence.tags(summary, chosen) | evidence.of_decision(decision))
    model.describe(version, evidence.description(tracking.card(run_id), decision.reasons))
    tracking.log_result(run_id, f"promotion/{decision.time.replace(':', '')}.json", decision)
    how = "forced" if force is not None else f"by {decision.rule.name}"
    how = how if chosen.floor is None else f"{how}, the floor {chosen.floor}"
    why = force or decision.reasons[0].removeprefix("passed: ")
    if not change(model, seen, announced(version, champion, how, why)):
        if made_now:  # a refusal must leave nothing behind
            model.delete(version)
        return _promote(request, dry_run)  # against the present champion
    return f"{model.name} version {version.number} is the champion now, {beside}: {score}\n{reasons}"


def _remedy(request: Request) -> str:
    """Return advice for a model that the gate refuses."""
    floor = request.summary.floor
    if request.chosen.floor is None and floor is not None and floor.gain.difference < -gate.EPSILON:
        return "search on with a larger budget, promote the simple model with ARGS=--floor"
    return "search on with a larger budget"


def _decide(request: Request, champion: Version | None) -> tuple[GateDecision, str]:
    """Return the gate's decision, and its reasons as lines for people."""
    settings, force = request.settings, request.force
    verdict: Verdict | None = None
    try:
        verdict, notes = _compare(request, champion)
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
        study=request.summary.study,
        in_place_of=champion.number if champion is not None else None,
        forced=force,
        reasons=tuple(line.strip() for line in lines),
        floor=request.chosen.floor,
    )
    return decision, "\n".join(lines)


def _compare(request: Request, champion: Version | None) -> tuple[Verdict, list[str]]:
    """Return the gate's verdict on the challenger, and notes on the answers that were compared.

    Raises:
        RequestError: Answers are missing and can't be obtained.
    """
    tracking, summary, settings, chosen = request.tracking, request.summary, request.settings, request.chosen
    table, test = _answers(tracking, chosen.run_id), chosen.test
    challenger = Contender(
        chosen.name, table.replies, test.megabytes, test.seconds_per_example, evidence.hardware(summary.hardware)
    )
    looks = tracking.looks(test.split_digest)
    often = "once" if looks == 1 else f"{looks} times"
    notes = [f"  these test examples have been scored {often}, all or some, by all studies of the task together"]
    incumbent = reference = floor = None
    if champion is not None:
        said, note = _champions_replies(tracking, champion, table, summary, settings, request.home)
        own = evidence.of(champion)
        incumbent = Contender(f"version {champion.number}", said, own.megabytes, own.seconds_per_example, own.hardware)
        notes = [note, *notes] if note else notes
    else:
        reference, floor = _reference(request), _floor(request)
        if summary.reference is None and not _won(request):
            notes = ["  the study has no run of the reference recipe, so nothing was compared with that", *notes]
    exam = Exam(KINDS[settings.task.kind], summary.labels, OBJECTIVES[test.metric], table.truths)
    return gate.decide(settings.promotion, exam, challenger, incumbent, reference, floor), notes


def _answers(tracking: Tracking, run_id: str) -> Answers:
    """Return a run's answers on the test examples. Raises RequestError if MLflow does not have them."""
    table = tracking.answers(run_id, "test")
    if table is None:
        raise RequestError(
            f"the MLflow run {run_id} has no answers on test; give the tracking.uri that the sweep had, or, where "
            "MLflow has lost them, `hpsearch fsck --repair` and then the sweep's command"
        )
    return table


def _reference(request: Request) -> Replies | None:
    """Return the replies of the reference recipe's model; None if the challenger is one, or none was trained."""
    summary, recipe = request.summary, request.summary.reference
    if recipe is None and request.chosen.floor is not None and _won(request):
        return _answers(request.tracking, summary.winner.run_id).replies
    table = request.tracking.answers(recipe.run_id, "test") if recipe is not None else None
    return table.replies if table is not None else None


def _won(request: Request) -> bool:
    """Return whether the reference recipe is the study's winner."""
    winner, settings = request.summary.winner, request.settings
    folder = StudyFolder.of(request.home, request.summary.study)
    if folder.settings.exists():
        settings = results.read_settings(folder, settings)
    return winner.entrant == REFERENCE or winner.params == space.reference(settings)


def _floor(request: Request) -> Contender | None:
    """Return the study's best simple model; None if the challenger is one, or none was fitted."""
    floor = request.summary.floor
    if floor is None or request.chosen.floor is not None:
        return None
    said = _answers(request.tracking, floor.run_id).replies
    hardware = evidence.hardware(request.summary.hardware)
    return Contender(floor.title, said, floor.test.megabytes, floor.test.seconds_per_example, hardware)


def _champions_replies(
    tracking: Tracking, champion: Version, exam: Answers, summary: Summary, settings: Settings, home: Path
) -> tuple[Replies, str | None]:
    """Return the champion's replies to the challenger's test examples, and a note if it was run for them.

    Stored replies are used if they are for the same test data. The champion is run if there are none, or if the metric
    needs probabilities that were not stored.

    Raises:
        RequestError: The needed replies are not stored, and the champion can't give them.
    """
    digest, objective = summary.test.digest, OBJECTIVES[summary.test.metric]
    table = tracking.answers(champion.run_id, "test") if champion.run_id else None  # a foreign model has no run
    before = evidence.of(champion).test_digest or "unknown"
    if table is not None and before == digest:
        stored = table.replies
        if set(exam.ids) <= set(table.ids) and (objective != LOG_LOSS or stored.likelihoods is not None):
            return stored.of(table.ids, exam.ids), None
    try:
        own = results.read_settings(StudyFolder.of(home, settings.study), settings)
        ref = data.prepare(data.read(own), own, home)
    except (OSError, ValueError, HpsearchError) as error:
        raise RequestError(
            f"what version {champion.number} says of the test data of study {settings.study} is not known, and to run "
            f"it on them they must be read: {first_line(error)}"
        ) from None
    if ref.digests["test"] != digest:
        raise RequestError(
            f"study {settings.study}: the test data are no longer those that it was scored on (digest {digest}, now "
            f"{ref.digests['test']}); restore them, or search again with STUDY=<another name>"
        )
    rows, kind = data.load(ref, "test").to_dict(), KINDS[own.task.kind]
    inputs = {role: rows[role] for role in kind.inputs}
    answers, sure = packaging.answers(champion.address, own, inputs)
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
        lost = "its probabilities were not kept then"
        if table is None:
            lost = "MLflow has lost what it had said of them"
        elif not set(exam.ids) <= set(table.ids):
            lost = "the hours of its study held only a part of them"
        note = f"{who} was run on these test data again: {lost}"
    return Replies(answers, likelihoods).of(rows["id"], exam.ids), note


def _score(test: OnTest) -> str:
    value, low, high = map(formats.score, (test.value, test.low, test.high))
    often = f", read {test.readings} times" if test.readings > 1 else ""
    return f"test {test.metric} {value} on {formats.count(test.n)} examples [{low}, {high}]{often}"
