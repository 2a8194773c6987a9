"""hpsearch from Python: a table, a study, its trials, promotion and predictions; the same refusals as elsewhere."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas as pd
import pytest

import hpsearch
import tiny
import tracked
from hpsearch.errors import NoResultError, RequestError

OVERRIDES = (
    *("model.family=bert", "model.sha256=null", "model.name=tiny", "model.pooling=first", "task.max_length=48"),
    *("train.learning_rate=0.01", "train.epochs=2", "~search.space.train.epochs_factor", "~search.space.train.rdrop"),
    *("search.space.train.learning_rate.low=0.005", "search.space.train.learning_rate.high=0.02"),
    *("search.rungs=[]", "hardware.device=cpu", "hardware.precision=float32", "hardware.threads=1"),
    *("budget.max_trials=2", "budget.floors=false", "budget.confirmation.finalists=0", "budget.final=false"),
    *(
        "budget.validation_examples=null",
        "budget.test_examples=null",
        "task.split.validation=0.2",
        "task.split.test=0.2",
    ),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return pd.read_csv(tiny.write_csv(tmp_path_factory.mktemp("table") / "toy.csv", n=190))


@pytest.fixture(scope="module")
def done(
    table: pd.DataFrame, tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> hpsearch.Study:
    home = tracked.new_home(tmp_path_factory.mktemp("api") / "home")
    model = f"model.path={tiny_model('bert')}"
    return hpsearch.sweep(table, name="toy", study="toy", budget="full", overrides=[model, *OVERRIDES], home=home)


def test_a_table_is_swept(done: hpsearch.Study) -> None:
    assert repr(done) == f"Study('toy', home={str(done.home)!r})"
    trials = done.trials
    assert len(trials) == 2
    assert set(trials["status"]) <= {"complete", "failed"}
    assert trials["train.learning_rate"].between(0.005, 0.02).all()
    assert done.best["train.learning_rate"] in set(trials["train.learning_rate"])
    assert done.test.n == done.summary.test.n > 0
    assert done.settings.task.name == "toy"
    report = done.report()
    assert str(report).endswith("report.html")
    assert "<iframe srcdoc=" in report._repr_html_()
    assert hpsearch.open("toy", done.home).summary == done.summary


def test_the_same_call_says_that_it_is_done(
    done: hpsearch.Study, table: pd.DataFrame, tiny_model: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = f"model.path={tiny_model('bert')}"
    given = datasets.Dataset.from_pandas(table, preserve_index=False)
    hpsearch.sweep(given, name="toy", study="toy", budget="full", overrides=[model, *OVERRIDES], home=done.home)
    assert "study toy is finished" in capsys.readouterr().out
    assert len(list((done.home / "tables").iterdir())) == 1, "the same rows are one file"


def test_a_winner_predicts_and_is_promoted(done: hpsearch.Study) -> None:
    said = done.predict(["good", "bad"])
    assert list(said["label"].isin(["negative", "positive"])) == [True, True]
    assert said["score"].between(0, 1).all()
    assert "version 1 is the champion now" in done.promote(force="to see it")
    assert "already" in done.promote(dry_run=True)


def test_what_is_wrong_is_refused_with_the_sentences_of_the_command_line(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a table needs the name of its task"):
        hpsearch.sweep(table, home=tmp_path)
    with pytest.raises(RequestError, match=r"train\.warmup=7\.0"):
        hpsearch.sweep("imdb", overrides=["train.warmup=7.0"], home=tmp_path)
    with pytest.raises(RequestError, match="there is no study other"):
        hpsearch.open("other", tmp_path)
    with pytest.raises(AttributeError, match="has no attribute 'other'"):
        hpsearch.other  # noqa: B018
    (tmp_path / "studies" / "begun").mkdir(parents=True)
    (tmp_path / "studies" / "begun" / "settings.yaml").write_text("study: begun\n")
    with pytest.raises(NoResultError, match="study begun has no result yet"):
        _ = hpsearch.open("begun", tmp_path).summary


def test_importing_hpsearch_imports_nothing_that_is_slow() -> None:
    slow = "import sys, hpsearch; print([m for m in ('torch', 'mlflow', 'optuna', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", slow], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
