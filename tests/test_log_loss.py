"""A metric of which less is better, and which is no share of anything: from the first trial to the gate."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss

import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.coordinator import sweep
from hpsearch.coordinator.race import read_answers
from hpsearch.errors import PromotionRefused, RequestError
from hpsearch.fsck import fsck
from hpsearch.registry import promotion
from hpsearch.registry.finished import finished
from hpsearch.registry.promotion import promote
from hpsearch.serving import packaging
from hpsearch.state.measured import Answers, Replies
from hpsearch.state.records import Status, TrialRecord
from hpsearch.tasks import metrics
from hpsearch.tasks.kinds import KINDS
from test_confirmation import Done, request_of
from test_promotion import TRUTHS, Shop, by
from tracked import new_home

KIND = KINDS["text_classification"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Done:
    root = tmp_path_factory.mktemp("loss")
    settings, home = request_of(root, tiny_model, "task.metric=log_loss", "budget.max_trials=4", "search.keep=0.25")
    return Done(settings, home, sweep.run_sweep(settings, home))


def trials(done: Done) -> list[TrialRecord]:
    return [TrialRecord.load(path.parent) for path in done.folder.glob("trials/*/trial.json")]


def test_the_search_goes_on_with_the_lowest(done: Done) -> None:
    found, summary = trials(done), done.summary
    complete = {trial.number: trial.score for trial in found if trial.status is Status.COMPLETE}
    assert summary.direction == "minimize"
    assert summary.best.validation == complete[summary.best.trial] == min(score or 9 for score in complete.values())
    stopped = [trial.rungs[0] for trial in found if trial.status is Status.PRUNED]
    assert stopped, "some are stopped at the rung"
    assert max(trial.rungs[0] for trial in found if trial.number in complete) < min(stopped)
    assert list(summary.expected) == sorted(summary.expected, reverse=True), "more trials, a lower best"


def test_the_confirmation_chooses_the_lowest_mean(done: Done) -> None:
    summary = done.summary
    stayed = [one for one in summary.confirmation if one.out_after is None]
    means = {one.entrant: fmean(one.validation) for one in stayed}
    assert means[summary.winner.entrant] == min(means.values())
    assert summary.winner.corrected is not None
    assert summary.winner.corrected >= min(means.values()) - 1e-9, "the best mean flatters"
    run = TrialRecord.load(done.folder / summary.winner.folder)
    assert run.score == min(r.score or 9 for r in done.runs() if r.entrant == summary.winner.entrant)
    for one in stayed:
        assert one.interval is not None
        assert one.interval[0] <= fmean(one.validation) <= one.interval[1]
    optimism = summary.optimism
    assert optimism is not None
    assert optimism.difference == pytest.approx(optimism.confirmed - optimism.search)


def test_what_is_kept_of_each_example_gives_the_scores(done: Done) -> None:
    for run in done.runs():
        kept = json.loads((done.folder / "confirmation" / str(run.number) / "validation.json").read_text())
        assert len(kept["predictions"]) == len(kept["likelihoods"])
        assert float(metrics.losses(kept["likelihoods"]).mean()) == pytest.approx(run.score, rel=1e-12)
    summary = done.summary
    table = done.tracking().answers(summary.winner.run_id, "test")
    assert table is not None
    assert table.columns == ("id", "truth", "answer", "probability")
    assert float(metrics.losses(table.replies.likelihoods or []).mean()) == pytest.approx(summary.test.value, rel=1e-12)
    assert summary.test.low <= summary.test.value <= summary.test.high
    assert summary.test.value == pytest.approx(summary.test.all["loss"], rel=1e-4)
    sure = [one > 0.5 for one in table.replies.likelihoods or []]
    assert sure == [truth == answer for truth, answer in zip(table.truths, table.said, strict=True)]


def test_the_served_model_gives_the_same_probabilities(done: Done) -> None:
    summary = done.summary
    table = done.tracking().answers(summary.winner.run_id, "test")
    assert table is not None
    texts = dict(tiny.sentences(190, 0))
    given = list(texts)[:5]
    [model] = tracked.client(done.tracking()).search_logged_models([done.tracking().experiment_id or ""])
    answers, sure = packaging.answers(f"models:/{model.model_id}", done.settings, {"text": given})
    assert sure is not None
    likelihoods = KIND.likelihoods([texts[text] for text in given], sure, summary.labels)
    expected = log_loss([texts[text] for text in given], [[one[label] for label in summary.labels] for one in sure])
    assert metrics.losses(likelihoods).mean() == pytest.approx(expected, rel=1e-4)
    assert [one > 0.5 for one in likelihoods] == [
        answer == texts[text] for answer, text in zip(answers, given, strict=True)
    ]


def test_report_console_and_fsck_speak_of_it_rightly(done: Done) -> None:
    page = (done.folder / "report.html").read_text()
    assert "validation log_loss, less is better" in page
    assert not re.search(r"\d points", page), "nothing is said in hundredths"
    summary = done.summary
    if summary.reference is not None:
        assert f"winner gains {summary.reference.gain.difference:+.3f} (95 % interval" in page
    assert page.count("log loss (nats)") == 1
    assert "loss (nats)</td>" in page
    assert fsck(done.settings, done.home, repair=False).endswith("clean")
    run = tracked.client(done.tracking()).get_run(summary.mlflow.run_id)
    assert run.data.metrics["test_log_loss"] == summary.test.value


def test_the_first_is_measured_by_the_shares_of_the_classes(done: Done) -> None:
    said = promote(done.settings, done.home, dry_run=True, force="a toy")
    assert "of the shares of the classes in these examples on the same" in said
    assert " test examples (less is better): +0." in said
    assert "points" not in said


# ---- the gate, with studies that nobody ran

OF_TEST: dict[str, Any] = {"low": 0.2, "high": 0.4, "all": {"log_loss": 0.3}, "intervals": {"log_loss": (0.2, 0.4)}}


class Losses(Shop):
    """Studies whose winners have a log loss."""

    def sell(self, study: str, likelihoods: Any, test: str = "c" * 16) -> Settings:
        """A finished study whose winner gave the right answers these probabilities; None: they were not kept."""
        settings = self.finish(study, [], test, metric="log_loss", value=0.3, **OF_TEST)
        tracking = promotion.Tracking(settings, self.home)
        run_id = finished(settings, self.home).winner.run_id
        ids = [f"test-{i}" for i in range(len(TRUTHS))]
        kept = list(likelihoods) if likelihoods is not None else None
        tracking.log_answers(run_id, {"test": Answers.of(ids, TRUTHS, Replies(TRUTHS, kept))})
        return settings


@pytest.fixture
def shop(tmp_path: Path) -> Losses:
    return Losses(new_home(tmp_path))


DRAWN = np.random.default_rng(0).uniform(0.5, 0.9, len(TRUTHS))
SURER = DRAWN + np.random.default_rng(1).uniform(0.0, 0.1, len(TRUTHS))


def test_a_better_calibrated_challenger_takes_over_and_a_worse_one_does_not(shop: Losses) -> None:
    first, surer = shop.sell("first", DRAWN), shop.sell("surer", SURER)
    promote(first, shop.home)
    message = promote(surer, shop.home)
    assert "version 2 is the champion now, in place of version 1" in message
    gain = float(metrics.losses(DRAWN).mean() - metrics.losses(SURER).mean())
    assert f"of version 1 on the same 60 test examples (less is better): {gain:+.4f} (95 % interval +0." in message
    assert float(shop.version().tags["hpsearch.promotion.difference"]) == pytest.approx(gain, abs=1e-6)
    again = shop.sell("again", DRAWN)
    with pytest.raises(PromotionRefused, match=r"failed: log_loss .* \(less is better\): -0\.\d{4} .* p = 1\.000"):
        promote(again, shop.home)
    assert shop.versions() == 2


def test_a_margin_is_in_the_metric_s_own_unit(shop: Losses) -> None:
    promote(shop.sell("first", DRAWN), shop.home)
    little_worse = shop.sell("little worse", DRAWN * 0.995)
    with pytest.raises(PromotionRefused, match="is asked for"):
        promote(little_worse, shop.home)
    message = promote(by(little_worse, margin=0.01), shop.home)
    assert "at least -0.0050 at the level 0.025, and the rule allows -0.0100" in message


def test_a_model_that_knows_no_more_than_the_shares_is_refused(shop: Losses) -> None:
    with pytest.raises(PromotionRefused, match="of the shares of the classes in these examples"):
        promote(shop.sell("first", np.full(len(TRUTHS), 0.49)), shop.home)


def test_where_no_probabilities_were_kept_the_reason_is_said(shop: Losses) -> None:
    promote(shop.finish("first", range(9)), shop.home)  # as before there were likelihoods
    with pytest.raises(RequestError, match="what version 1 says of the test data of study second is not known, and to"):
        promote(shop.sell("second", SURER), shop.home)


def test_a_champion_without_kept_probabilities_is_run_on_the_test_data(
    done: Done, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, second = done.settings, done.settings.model_copy(update={"study": "second", "seed": 5})
    without = second.budget.confirmation.model_copy(update={"finalists": 0})
    budget = second.budget.model_copy(update={"max_trials": 1, "confirmation": without})
    second = second.model_copy(update={"budget": budget})
    promote(settings, done.home, force="a toy")
    sweep.run_sweep(second, done.home)
    tracking, run_id = done.tracking(), done.summary.winner.run_id
    table = tracking.answers(run_id, "test")
    assert table is not None
    tracking.log_answers(run_id, {"test": Answers.of(table.ids, table.truths, Replies(table.said, None))})
    said = promote(second, done.home, force="a toy", dry_run=True)
    assert "version 1 was run on these test data again: its probabilities were not kept then" in said
    assert f"against {done.summary.test.value:.3f} of version 1" in said
    real = packaging.answers
    monkeypatch.setattr(packaging, "answers", lambda *given: (real(*given)[0], None))
    with pytest.raises(
        RequestError, match="version 1 gives no probability of each class, so its log_loss is not known"
    ):
        promote(second, done.home)


def test_runs_of_before_there_were_likelihoods_are_read() -> None:
    assert read_answers("[1, 0, 1]") == ([1, 0, 1], None)
    assert read_answers('{"predictions": [1], "likelihoods": [0.5]}') == ([1], [0.5])
