import contextlib
import functools
import io
import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from rich.console import Console

import tracked
from hpsearch.config import space
from hpsearch.config.settings import Settings
from hpsearch.errors import PromotionRefused, RequestError
from hpsearch.registry import champions, evidence, promotion
from hpsearch.registry.champions import champion_uri, history, rollback
from hpsearch.registry.promotion import promote
from hpsearch.state import codec
from hpsearch.tracking.registered import RegisteredModel
from hpsearch.tracking.runs import Tracking
from make import compose_settings

NAME = "hpsearch-imdb"
SETTINGS = functools.cache(compose_settings)


N = 60
TRUTHS = [tracked.LABELS[i % 2] for i in range(N)]
OTHER = dict(zip(tracked.LABELS, reversed(tracked.LABELS), strict=True))


class Shop:
    """Finished studies in one state folder; their models are registered but hold no files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = tracked.client(Tracking(SETTINGS(), home))

    def finish(self, study: str, wrong: Iterable[int], test: str = "c" * 16, **facts: Any) -> Settings:
        """A finished study whose winner answers all test examples rightly but these."""
        settings = SETTINGS().model_copy(update={"study": study})
        tracking = Tracking(settings, self.home)
        parent = tracking.open_study(study, "id", settings, tracked.data_ref(self.home, test), tracked.FACTS)
        trial = tracked.record(0, score=0.8)
        trial = replace(trial, run_id=tracking.open_trial(parent, trial, settings, tracked.TAG))
        model = self.client.create_logged_model(tracking.experiment_id or "", "model", source_run_id=trial.run_id)
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        answers = [OTHER[truth] if i in set(wrong) else truth for i, truth in enumerate(TRUTHS)]
        assert trial.run_id is not None
        tracking.log_answers(trial.run_id, {"test": tracked.answers(TRUTHS, answers)})
        result = tracked.summary(settings, parent, trial, 1 - len(set(wrong)) / N, N, test)
        result = replace(result, test=replace(result.test, **facts))
        folder = tracked.save_study(self.home, settings, [trial], result)
        tracked.finish(tracking, result, folder)
        return settings

    def version(self, alias: str = "champion") -> Any:
        return self.client.get_model_version_by_alias(NAME, alias)

    def versions(self) -> int:
        return len(self.client.search_model_versions(f"name = '{NAME}'"))

    def state(self) -> dict[str, Any]:
        """All that the registry knows."""
        try:
            registered = self.client.get_registered_model(NAME)
        except MlflowException:
            return {}
        versions = self.client.search_model_versions(f"name = '{NAME}'")
        return {
            "tags": registered.tags,
            "aliases": registered.aliases,
            "versions": {v.version: v.tags for v in versions},
        }

    def history(self) -> list[str]:
        """What the command prints, line by line."""
        console = Console(width=400, file=io.StringIO())
        console.print(history(SETTINGS(), self.home))
        file = console.file
        assert isinstance(file, io.StringIO)
        return [line.strip() for line in file.getvalue().splitlines() if line.strip()]


def by(settings: Settings, **rule: Any) -> Settings:
    """The same with another gate."""
    return settings.model_copy(update={"promotion": settings.promotion.model_copy(update=rule)})


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tracked.new_home(tmp_path))


def test_a_winner_that_is_the_reference_recipe_need_not_be_compared_with_it(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    path = shop.home / "studies" / "first" / "summary.json"
    summary = json.loads(path.read_text())
    summary["winner"]["params"] = space.reference(settings)
    path.write_text(json.dumps(summary))
    assert "reference recipe" not in promote(settings, shop.home)


def test_the_first_winner_becomes_champion_with_its_evidence(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    message = promote(settings, shop.home)
    assert message.startswith(
        f"{NAME} version 1 is the champion now, the task's first: test accuracy 0.850 on 60 examples [0.750, 0.950]\n"
        "  passed: accuracy 0.850 against 0.500 of the one answer that is right most often ('negative') on the same 60 "
        "test examples: +35.00 points"
    )
    assert "these test examples have been scored once" in message
    assert "the study has no run of the reference recipe, so nothing was compared with that" in message
    champion = shop.version()
    summary = json.loads((shop.home / "studies" / "first" / "summary.json").read_text())
    assert champion.run_id == summary["winner"]["run_id"]
    decision = json.loads(champion.tags.pop("hpsearch.decision"))
    assert champion.tags == {
        "hpsearch.study": "first",
        "hpsearch.study_run_id": summary["mlflow"]["run_id"],
        "hpsearch.seed": "0",
        "hpsearch.confirmation.seeds": "",
        "hpsearch.hours": "0.0008",
        "hpsearch.license.weights": "MIT",
        "hpsearch.license.data": "not stated",
        "hpsearch.settings": "0123456789abcdef",
        "hpsearch.version.torch": "2.13.0",
        "hpsearch.test.accuracy": f"0.85 [0.75, {0.85 + 0.1!r}]",
        "hpsearch.test.f1": f"0.85 [0.75, {0.85 + 0.1!r}]",
        "hpsearch.run_id": champion.run_id,
        "hpsearch.test.metric": "accuracy",
        "hpsearch.test.value": "0.85",
        "hpsearch.test.low": "0.75",
        "hpsearch.test.high": repr(0.85 + 0.1),
        "hpsearch.test.examples": "60",
        "hpsearch.test.readings": "1",
        "hpsearch.model.megabytes": "91.0",
        "hpsearch.seconds_per_example": "0.01",
        "hpsearch.hardware": "a processor, 2 threads, float32",
        "hpsearch.digest.train": "d" * 16,
        "hpsearch.digest.validation": "b" * 16,
        "hpsearch.digest.test": "c" * 16,
        "hpsearch.promotion.rule": "better",
        "hpsearch.promotion.p": repr(decision["comparison"]["p"]),
        "hpsearch.promotion.difference": repr(0.85 - 0.5),
    }
    assert champion.description.endswith(f"- {decision['reasons'][-1]}\n")
    assert decision["passed"]
    assert decision["comparison"]["challenger_alone"] == 26  # of 30 positives four are wrong
    assert decision["comparison"]["champion_alone"] == 5  # and of 30 negatives five
    assert decision["in_place_of"] is None
    [stored] = shop.client.list_artifacts(champion.run_id, "promotion")
    assert mlflow.artifacts.load_dict(f"runs:/{champion.run_id}/{stored.path}") == decision
    assert champion_uri(settings, shop.home) == f"models:/{NAME}@champion"


def test_promoting_the_champion_again_changes_nothing(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    promote(settings, shop.home)
    before = shop.state()
    assert "version 1 is the champion already" in promote(settings, shop.home)
    assert shop.state() == before


def test_a_champion_gets_the_scores_of_test_examples_that_more_hours_scored(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    promote(settings, shop.home)
    before, path = shop.version(), shop.home / "studies" / "first" / "summary.json"
    summary = json.loads(path.read_text())
    summary["test"] |= {"n": 90, "value": 0.9}
    path.write_text(json.dumps(summary))
    said = "version 1 is the champion already: test accuracy 0.900 on 90 examples"
    assert said in promote(settings, shop.home, dry_run=True)
    assert shop.version().tags == before.tags
    assert said in promote(settings, shop.home)
    after = shop.version()
    assert (after.tags["hpsearch.test.examples"], after.tags["hpsearch.test.value"]) == ("90", "0.9")
    assert after.tags["hpsearch.decision"] == before.tags["hpsearch.decision"]
    assert after.description == before.description, "the reasons stay"
    assert (after.version, shop.versions()) == (before.version, 1)


@pytest.mark.parametrize(("place", "moment"), [(promotion, "_compare"), (RegisteredModel, "register")])
def test_a_champion_that_another_machine_makes_meanwhile_is_compared_with(
    place: Any, moment: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(shop.finish("first", range(9)), shop.home)
    theirs, ours = shop.finish("theirs", [0]), shop.finish("ours", [1])
    real = getattr(place, moment)

    def slow(*args: Any) -> Any:
        done = real(*args)
        monkeypatch.setattr(place, moment, real)
        monkeypatch.setattr(promotion, "one_at_a_time", lambda home: contextlib.nullcontext())  # as elsewhere
        promote(theirs, shop.home)
        return done

    monkeypatch.setattr(place, moment, slow)
    with pytest.raises(PromotionRefused, match=r"version \d stays champion"):
        promote(ours, shop.home)
    assert shop.version().tags["hpsearch.study"] == "theirs"
    assert shop.version("previous").tags["hpsearch.study"] == "first"
    assert len(shop.history()) == 4  # title, heading and two changes
    assert shop.versions() == 2, "the refusal has left a version"


def test_a_slow_change_does_not_undo_a_later_one(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    promote(shop.finish("first", range(17)), shop.home)
    ours, theirs = shop.finish("ours", range(9)), shop.finish("theirs", [0])
    real = champions._move

    def slow(*args: Any) -> None:
        monkeypatch.setattr(champions, "_move", real)
        monkeypatch.setattr(promotion, "one_at_a_time", lambda home: contextlib.nullcontext())  # as elsewhere
        promote(theirs, shop.home)  # takes ours for one that was cut off, completes it, and is better
        real(*args)

    monkeypatch.setattr(champions, "_move", slow)
    promote(ours, shop.home)
    assert shop.version().tags["hpsearch.study"] == "theirs"
    assert shop.version("previous").tags["hpsearch.study"] == "ours"
    assert [line.split()[2] for line in shop.history()[2:]] == ["theirs", "ours", "first"]


@pytest.mark.parametrize("completed", [None, "before it is taken back", "while it is taken back"])
def test_an_announcement_that_another_command_completes_is_not_taken_back(
    completed: str | None, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(shop.finish("first", range(17)), shop.home)
    model = RegisteredModel(Tracking(shop.finish("second", [0]), shop.home))
    model.register(_winner(shop, "second"), {"hpsearch.study": "second"})
    key, event = f"{champions.EVENT}{2**62}", champions.Change("now", 2, 1, "second", "by better", "it is", True)
    shop.client.set_registered_model_tag(NAME, key, codec.write(event))
    delete = mlflow.MlflowClient.delete_registered_model_tag

    def completed_first(*args: Any) -> None:
        champions.complete(model)
        delete(*args)

    if completed == "before it is taken back":
        champions.complete(model)
    elif completed is not None:
        monkeypatch.setattr(mlflow.MlflowClient, "delete_registered_model_tag", completed_first)
    assert champions._withdrawn(model, key, event) == (completed is None)
    expected = ["first"] if completed is None else ["second", "first"]
    assert [line.split()[2] for line in shop.history()[2:]] == expected
    assert shop.version().tags["hpsearch.study"] == expected[0]


def _winner(shop: Shop, study: str) -> str:
    summary = json.loads((shop.home / "studies" / study / "summary.json").read_text())
    return str(summary["winner"]["run_id"])


def test_a_study_that_mlflow_has_not_been_told_of_is_not_finished(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    (shop.home / "studies" / "first" / "published.json").unlink()
    with pytest.raises(RequestError, match=r"study=first: is not finished \(.*published\.json is missing\)"):
        promote(settings, shop.home)


def test_the_card_keeps_the_notes_of_a_rule_with_many_checks() -> None:
    reasons = [*(f"passed: class {i}" for i in range(100)), "these test examples have been scored 7 times"]
    text = evidence.description("# a card", reasons)
    assert text.endswith("- these test examples have been scored 7 times\n")
    assert "- passed: class 0\n" in text
    assert "- 89 more, in the folder promotion of the winner's MLflow run\n" in text


def test_a_first_model_that_knows_nothing_is_refused(shop: Shop) -> None:
    with pytest.raises(PromotionRefused, match="there is still no champion, by promotion=better:\n  failed: accuracy"):
        promote(shop.finish("first", range(28)), shop.home)
    assert shop.state() == {}


def test_a_significantly_better_challenger_takes_over(shop: Shop) -> None:
    promote(shop.finish("first", range(9)), shop.home)
    message = promote(shop.finish("second", [0]), shop.home)
    assert "version 2 is the champion now, in place of version 1: test accuracy 0.983" in message
    assert "p = 0.004 (exact McNemar)" in message  # 8 of 8: 1/256
    assert "have been scored 2 times" in message
    assert (shop.version().version, shop.version("previous").version) == (2, 1)


@pytest.mark.parametrize("wrong", [range(9), range(5), range(20, 25), range(12)])
def test_a_challenger_that_shows_no_gain_is_refused_and_nothing_changes(wrong: Iterable[int], shop: Shop) -> None:
    promote(shop.finish("first", range(9)), shop.home)
    before = shop.state()
    with pytest.raises(PromotionRefused, match=r"version 1 stays champion, by promotion=better:\n  failed: accuracy"):
        promote(shop.finish("second", wrong), shop.home)
    assert shop.state() == before


def test_a_dry_run_says_what_the_gate_says_and_changes_nothing(shop: Shop) -> None:
    first = shop.finish("first", range(9))
    assert "study first would become champion, the task's first" in promote(first, shop.home, dry_run=True)
    assert shop.state() == {}
    promote(first, shop.home)
    before = shop.state()
    with pytest.raises(PromotionRefused, match="stays champion"):
        promote(shop.finish("second", range(5)), shop.home, dry_run=True)
    assert shop.state() == before


def test_force_promotes_and_says_why(shop: Shop) -> None:
    promote(shop.finish("first", range(9)), shop.home)
    message = promote(shop.finish("second", range(12)), shop.home, force="the first one leaks")
    assert "version 2 is the champion now" in message
    assert "forced: the first one leaks" in message
    champion = shop.version()
    assert champion.tags["hpsearch.promotion.forced"] == "the first one leaks"
    assert json.loads(champion.tags["hpsearch.decision"])["passed"] is False
    assert shop.history()[-2].endswith("second  forced     the first one leaks")


def test_a_long_reason_is_cut_where_a_tag_could_not_hold_it(shop: Shop) -> None:
    settings = shop.finish("first", range(28))
    promote(settings, shop.home, force='"' * 20_000)
    decision = json.loads(shop.version().tags["hpsearch.decision"])
    assert decision["forced"] == '"' * 500
    assert len(shop.version().description) <= 5000
    assert "is the champion already" in promote(settings, shop.home)


def test_a_cheaper_model_need_not_be_better(shop: Shop) -> None:
    promote(shop.finish("first", range(9)), shop.home)
    same = shop.finish("second", range(9))
    with pytest.raises(PromotionRefused, match=r"passed: accuracy.*\n  failed: 91 MB against 91; 0\.01 s an example"):
        promote(by(same, margin=0.06, cost=0.8), shop.home)
    small = shop.finish("third", range(9), megabytes=40.0)
    assert "passed: 40 MB against 91" in promote(by(small, margin=0.06, cost=0.8), shop.home)
    fast = shop.finish("fourth", [], seconds_per_example=0.005)
    assert "passed: 91 MB against 40; 0.005 s an example" in promote(by(fast, margin=0.06, cost=0.8), shop.home)


def test_no_class_may_lose(shop: Shop) -> None:
    promote(shop.finish("first", range(0, 24, 2)), shop.home)  # a negative one each
    better_but = shop.finish("second", [1, 3])
    with pytest.raises(PromotionRefused, match=r"failed: recall of positive: 0\.933 against 1\.000"):
        promote(by(better_but, class_margin=0.02), shop.home)
    assert "passed: recall of positive" in promote(by(better_but, class_margin=0.07), shop.home)


def test_scores_on_other_test_data_are_not_compared(shop: Shop) -> None:
    promote(shop.finish("first", range(9)), shop.home)
    other = shop.finish("second", [0], test="d" * 16)
    before = shop.state()
    with pytest.raises(RequestError, match="what version 1 says of the test data of study second is not known"):
        promote(other, shop.home)
    assert shop.state() == before
    assert "not compared: what version 1 says of the test data" in promote(other, shop.home, force="new test data")


def test_rollback_swaps_champion_and_previous_and_history_tells(shop: Shop) -> None:
    assert shop.history() == ["task imdb has had no champion"]
    promote(shop.finish("first", range(9)), shop.home)
    second = shop.finish("second", [0])
    promote(second, shop.home)
    assert "version 1 is the champion again (study first); version 2 is `previous`" in rollback(second, shop.home)
    assert (shop.version().version, shop.version("previous").version) == (1, 2)
    promote(second, shop.home)  # the version that is there becomes champion again
    assert (shop.version().version, shop.version("previous").version) == (2, 1)
    assert shop.versions() == 2
    title, heading, *lines = shop.history()
    assert (title, heading.split()) == (NAME, ["since", "version", "study", "how", "why"])
    found = [line.split(maxsplit=3)[1:] for line in lines]
    assert [(version, study) for version, study, _ in found] == [
        ("2", "second"),
        ("1", "first"),
        ("2", "second"),
        ("1", "first"),
    ]
    assert [rest.split()[0] for *_, rest in found] == ["by", "rollback", "by", "by"]


@pytest.mark.parametrize("command", ["promote", "rollback"])
def test_a_change_that_is_cut_off_is_completed_by_the_next_command(
    command: str, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at each call of the registry in turn, and given again: the same as if it had gone through at once."""
    studies = [shop.finish("first", range(17)), shop.finish("second", range(9)), shop.finish("third", [0])]
    for one in studies[: 2 if command == "promote" else 3]:
        promote(one, shop.home)
    given = {"promote": promote, "rollback": rollback}[command]
    expected = {"promote": (3, 2), "rollback": (2, 3)}[command]

    class Killed(BaseException):
        pass

    calls = ("set_registered_model_tag", "set_registered_model_alias", "create_model_version", "update_model_version")
    for survived in range(20):
        left = survived

        def counted(real: Any) -> Any:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return real(*args, **kwargs)

            return call

        with monkeypatch.context() as patch:
            for name in calls:
                patch.setattr(mlflow.MlflowClient, name, counted(getattr(mlflow.MlflowClient, name)))
            try:
                given(studies[2], shop.home)
                break
            except Killed:
                pass
        aliases = shop.client.get_registered_model(NAME).aliases
        assert str(expected[0]) != aliases["champion"] or str(expected[1]) == aliases["previous"]
    else:
        pytest.fail("it never went through")
    assert survived >= 2
    assert (shop.version().version, shop.version("previous").version) == expected
    lines = [line.split()[1] for line in shop.history()[2:]]
    assert lines == [str(expected[0]), *(["2", "1"] if command == "promote" else ["3", "2", "1"])]
    assert not any("cut off" in line for line in shop.history())


def test_a_study_of_another_task_is_refused(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    other = settings.model_copy(update={"task": settings.task.model_copy(update={"name": "tickets"})})
    with pytest.raises(RequestError, match=r"study=first: is of task imdb, not of tickets; give its TASK"):
        promote(other, shop.home)
    with pytest.raises(MlflowException):
        shop.client.get_registered_model("hpsearch-tickets")


@pytest.mark.parametrize("force", [None, "whatever"])
def test_a_store_that_does_not_have_the_run_is_told(force: str | None, shop: Shop, tmp_path: Path) -> None:
    settings = shop.finish("first", range(9))
    elsewhere = tracked.new_home(tmp_path / "elsewhere")
    shutil.copytree(shop.home / "studies", elsewhere / "studies")
    with pytest.raises(RequestError, match=r"has no answers on test; .* tracking\.uri|holds no model"):
        promote(settings, elsewhere, force=force)


def test_rollback_needs_a_previous_champion(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    with pytest.raises(RequestError, match="no previous champion"):
        rollback(settings, shop.home)
    promote(settings, shop.home)
    with pytest.raises(RequestError, match="no previous champion"):
        rollback(settings, shop.home)


def test_what_is_missing_is_named(shop: Shop) -> None:
    settings = SETTINGS().model_copy(update={"study": "absent"})
    with pytest.raises(RequestError, match=r"study=absent: is not finished .*make sweep TASK=imdb"):
        promote(settings, shop.home)
    with pytest.raises(RequestError, match="task imdb has no champion; promote"):
        champion_uri(settings, shop.home)
    assert shop.client.get_experiment_by_name(NAME) is None


def test_a_winner_without_a_whole_model_is_refused(shop: Shop) -> None:
    settings = shop.finish("first", range(9))
    model = shop.client.search_logged_models([Tracking(settings, shop.home).experiment_id or ""])[0]
    shop.client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
    with pytest.raises(RequestError, match="holds no model; give the sweep's command again"):
        promote(settings, shop.home)
