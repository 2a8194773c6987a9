import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import LoggedModelStatus

import tracked
from hpsearch.errors import PromotionRefused, RequestError
from hpsearch.promotion import champion_uri, promote, rollback
from hpsearch.settings import Settings
from hpsearch.tracking import Tracking
from make import compose_settings

NAME = "hpsearch-imdb"
SETTINGS = functools.cache(compose_settings)


class Shop:
    """Finished studies in one state folder; their models are registered but hold no files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.client = Tracking(SETTINGS(), home).client

    def finish(self, study: str, value: float, test: str = "c" * 16, examples: int = 20) -> Settings:
        """A finished study whose winner scored `value`."""
        settings = SETTINGS().model_copy(update={"study": study})
        tracking = Tracking(settings, self.home)
        parent = tracking.open_study(study, settings, tracked.data_ref(self.home, test), {})
        trial = tracked.record(0, score=0.8)
        trial = replace(trial, run_id=tracking.open_trial(parent, trial, settings))
        model = tracking.client.create_logged_model(tracking.experiment_id or "", "model", source_run_id=trial.run_id)
        tracking.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        result = tracked.summary(settings, parent, trial, value, examples)
        tracked.save_study(self.home, settings, [trial], result)
        return settings

    def version(self, alias: str) -> Any:
        return self.client.get_model_version_by_alias(NAME, alias)

    def versions(self) -> int:
        return len(self.client.search_model_versions(f"name = '{NAME}'"))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tracked.new_home(tmp_path))


def test_the_first_winner_becomes_champion_with_its_evidence(shop: Shop) -> None:
    settings = shop.finish("first", 0.85)
    message = promote(settings, shop.home)
    assert message == (
        f"{NAME} version 1 is the champion now, the task's first: test accuracy 0.8500 on 20 examples [0.7500, 0.9500]"
    )
    champion = shop.version("champion")
    summary = json.loads((shop.home / "studies" / "first" / "summary.json").read_text())
    assert champion.run_id == summary["winner"]["run_id"]
    assert champion.tags == {
        "hpsearch.study": "first",
        "hpsearch.run_id": champion.run_id,
        "hpsearch.test.metric": "accuracy",
        "hpsearch.test.value": "0.85",
        "hpsearch.test.examples": "20",
        "hpsearch.digest.train": "a" * 16,
        "hpsearch.digest.validation": "b" * 16,
        "hpsearch.digest.test": "c" * 16,
    }
    assert champion_uri(settings, shop.home) == f"models:/{NAME}@champion"


def test_promoting_the_champion_again_changes_nothing(shop: Shop) -> None:
    settings = shop.finish("first", 0.85)
    promote(settings, shop.home)
    assert "version 1 is the champion already" in promote(settings, shop.home)
    assert shop.versions() == 1


@pytest.mark.parametrize("value", [0.85, 0.90])
def test_an_equal_or_better_challenger_takes_over(value: float, shop: Shop) -> None:
    promote(shop.finish("first", 0.85), shop.home)
    message = promote(shop.finish("second", value), shop.home)
    assert "version 2 is the champion now, in place of version 1 with 0.8500 on the same test data" in message
    assert (shop.version("champion").version, shop.version("previous").version) == (2, 1)


def test_a_worse_challenger_is_refused_and_nothing_changes(shop: Shop) -> None:
    promote(shop.finish("first", 0.85), shop.home)
    with pytest.raises(PromotionRefused, match=r"version 1 stays champion: test accuracy 0\.8500 against 0\.8400"):
        promote(shop.finish("second", 0.84), shop.home)
    assert shop.version("champion").version == 1
    assert shop.versions() == 1


@pytest.mark.parametrize("other", [{"test": "d" * 16}, {"examples": 500}])
def test_scores_on_other_test_data_are_not_compared(other: dict[str, Any], shop: Shop) -> None:
    promote(shop.finish("first", 0.85), shop.home)
    message = promote(shop.finish("second", 0.70, **other), shop.home)
    assert "in place of version 1, which was scored on other test data and can't be compared" in message
    assert shop.version("champion").version == 2


def test_a_lower_loss_is_better(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(promote.__globals__["metrics"].DIRECTIONS, "accuracy", "minimize")
    promote(shop.finish("first", 0.5), shop.home)
    promote(shop.finish("second", 0.4), shop.home)
    with pytest.raises(PromotionRefused):
        promote(shop.finish("third", 0.45), shop.home)


def test_rollback_swaps_champion_and_previous(shop: Shop) -> None:
    promote(shop.finish("first", 0.85), shop.home)
    second = shop.finish("second", 0.90)
    promote(second, shop.home)
    assert "version 1 is the champion again (study first); version 2 is `previous`" in rollback(second, shop.home)
    assert (shop.version("champion").version, shop.version("previous").version) == (1, 2)
    promote(second, shop.home)  # the version that is there becomes champion again
    assert (shop.version("champion").version, shop.version("previous").version) == (2, 1)
    assert shop.versions() == 2


def test_rollback_needs_a_previous_champion(shop: Shop) -> None:
    settings = shop.finish("first", 0.85)
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
    settings = shop.finish("first", 0.85)
    model = shop.client.search_logged_models([Tracking(settings, shop.home).experiment_id or ""])[0]
    shop.client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
    with pytest.raises(RequestError, match="holds no model; give the sweep's command again"):
        promote(settings, shop.home)
