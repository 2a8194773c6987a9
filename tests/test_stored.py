"""What the last version before packages has left in a state folder is read, promoted, reproduced and gone on with."""

import csv
import re
import shutil
import sqlite3
import tarfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from hpsearch import cli
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import Status, TrialRecord

STORED = Path(__file__).parent / "stored"
ROOT = "/stored/"  # where it was made
TASK = "task=csv task.name=stored task.max_length=48 task.truncation=head task.split.validation=0.2 task.split.test=0.2"
SWEEP = (
    "budget=full budget.startup_trials=4 budget.final=false "
    "model.sha256=null model.family=bert model.name=tiny model.pooling=first train.log_every=2 search.rungs=[0.5] "
    "search.rungs_after=1 "
    "search.keep=0.34 search.space.train.learning_rate.low=0.005 search.space.train.learning_rate.high=0.03 "
    "search.space.train.batch_size.choices=[16] model.reference.learning_rate=0.002 hardware.device=cpu "
    "hardware.precision=float32 hardware.threads=1 budget.train_examples=null budget.validation_examples=null "
    "budget.test_examples=null budget.rung_examples=20 budget.confirmation.finalists=1 budget.confirmation.seeds=2 "
    "~search.space.train.rdrop"  # it came later
)
LONG = (
    "budget.max_trials=3 ~search.space.train.epochs_factor +search.space.train.epochs.choices=[40] train.epochs=40 "
    "model.reference.epochs=40 study=interrupted"
)
PAUSED_AND_RUNNING = [(0, Status.PAUSED, 300), (1, Status.RUNNING, 15)]
CODE = "code: its modules had other names then, so what of it has changed is not known"


@dataclass(frozen=True)
class Stored:
    """The studies, where they are now."""

    root: Path
    said: pytest.CaptureFixture[str]

    def do(self, verb: str, *words: str) -> tuple[int, str]:
        """Exit code of a command, and what it has said."""
        places = [f"task.files.train={self.root / 'reviews.csv'}"]
        if verb in ("sweep", "promote"):
            places.append(f"model.path={self.root / 'model'}")
        code = cli.main([verb, *TASK.split(), *places, *words])
        out, err = self.said.readouterr()
        return code, out + err

    def study(self, name: str) -> Path:
        return self.root / "home" / "studies" / name

    def trials(self, study: str) -> list[TrialRecord]:
        return [TrialRecord.load(one.path) for one in StudyFolder(self.study(study)).trials("trials")]


def unpack(root: Path) -> None:
    """The studies, as if they had been made under `root`."""
    with tarfile.open(STORED / "studies.tar.xz") as archive:
        archive.extractall(root, filter="data")
    here = f"{root}/"
    for path in root.rglob("*"):
        if path.suffix in (".json", ".yaml", ".md", "") and path.is_file():
            path.write_text(path.read_text(encoding="utf-8").replace(ROOT, here), encoding="utf-8")
    with closing(sqlite3.connect(root / "home" / "mlflow.db")) as database, database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    database.execute(
                        f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?",
                        (ROOT, here, f"%{ROOT}%"),
                    )


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Stored:
    unpack(tmp_path)
    monkeypatch.setenv("HPSEARCH_HOME", str(tmp_path / "home"))
    return Stored(tmp_path, capsys)


def test_the_archive_is_small() -> None:
    assert sum(path.stat().st_size for path in STORED.iterdir() if path.is_file()) < 1_000_000


def test_everything_agrees(stored: Stored) -> None:
    assert stored.do("fsck") == (0, "first: clean\ninterrupted: clean\nsecond: clean\n")


def test_a_report_is_made_of_the_folder_and_of_what_mlflow_keeps(stored: Stored) -> None:
    page = stored.study("first") / "report.html"
    code, said = stored.do("report", "study=first")
    assert (code, said.strip()) == (0, str(page))
    shown = page.read_text()
    assert "the winner gains +50.0 points" in shown
    shutil.rmtree(stored.study("first"))
    assert stored.do("report", "study=first")[0] == 0
    assert page.read_text() == shown
    code, said = stored.do("report", "study=interrupted")
    assert code == 2
    assert "has no result" in said


def test_what_has_been_champion_is_known_and_comes_back(stored: Stored) -> None:
    code, said = stored.do("history")
    assert code == 0
    assert re.search(r"(?s)2 +second +forced +another seed.*1 +first +by better +accuracy", said)
    code, said = stored.do("rollback")
    assert code == 0
    assert "version 1 is the champion again (study first); version 2 is `previous`" in said
    assert re.search(r"(?s)1 +first +rollback.*2 +second +forced.*1 +first +by better", stored.do("history")[1])
    assert "version 2 is the champion again (study second)" in stored.do("rollback")[1]


def test_the_name_of_a_study_is_enough(stored: Stored) -> None:
    def do(*words: str) -> tuple[int, str]:
        code = cli.main(list(words))
        return code, "".join(stored.said.readouterr())

    code, said = do("history", "first")
    assert (code, "hpsearch-stored" in said) == (0, True)
    code, said = do("promote", "first", "promotion.alpha=0.000001", "--dry-run")
    assert code == 4, said
    code, said = do("promote", "study=first")
    assert (code, "hpsearch-stored version 1 is the champion now" in said) == (0, True)
    given, labelled = stored.root / "new.csv", stored.root / "labelled.csv"
    given.write_text("text\nthe film was good and the plot was great\n")
    assert do("predict", "first", f"--input={given}", f"--output={labelled}")[0] == 0
    assert "positive" in labelled.read_text()
    given.write_text("body\nthe film was good and the plot was great\n")
    code, said = do("predict", "first", f"--input={given}", f"--output={labelled}")
    assert (code, "it has body; name it with task.columns.text" in said) == (2, True)
    column = "task.columns.text=body"
    assert do("predict", "study=first", column, f"--input={given}", f"--output={labelled}")[0] == 0
    assert labelled.read_text().startswith("body,label,score\n")
    code, said = do("predict", "first", "task.columns.context=body", f"--input={given}", f"--output={labelled}")
    assert (code, "task.columns.context: the model reads text" in said) == (2, True)
    assert "version 2 is the champion again" in do("rollback", "first")[1]
    code, said = do("promote")
    assert code == 2
    assert "give the name of a study" in said
    assert "there are: first, interrupted, second" in said


def test_promotion_compares_with_a_stored_champion(stored: Stored) -> None:
    assert "version 2 is the champion already: test accuracy 0.863" in stored.do("promote", "study=second")[1]
    code, said = stored.do("promote", "study=first")
    assert code == 0
    assert "hpsearch-stored version 1 is the champion now, in place of version 2" in said
    assert "passed: accuracy 1.000 against 0.863 of version 2 on the same 80 test examples" in said
    code, said = stored.do("promote", "study=second")
    assert code == 4
    assert "version 1 stays champion" in said


def test_a_stored_champion_is_run_on_the_texts_of_a_challenger(stored: Stored) -> None:
    """Nothing says on which it was scored, so it is loaded here, with the code that it was logged with."""
    with closing(sqlite3.connect(stored.root / "home" / "mlflow.db")) as database, database:
        changed = database.execute("DELETE FROM model_version_tags WHERE key = 'hpsearch.digest.test' AND version = 2")
        assert changed.rowcount == 1
    code, said = stored.do("promote", "study=first")
    assert code == 0
    assert "version 2 was scored on other test data (digest unknown) and was run on these" in said
    assert "passed: accuracy 1.000 against 0.863 of version 2 on the same 80 test examples" in said


def test_texts_are_labelled_by_a_stored_champion(stored: Stored) -> None:
    given, labelled = stored.root / "new.csv", stored.root / "labelled.csv"
    given.write_text("text\nthe film was good and the plot was great\na dull story and a weak plot\n")
    assert stored.do("rollback")[0] == 0
    code, said = stored.do("predict", f"--input={given}", f"--output={labelled}")
    assert (code, said) == (0, f"2 rows predicted in {labelled}\n")
    with open(labelled, encoding="utf-8") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["positive", "negative"]


def test_a_stored_trial_is_trained_again(stored: Stored) -> None:
    """On the machine that it was made on it is reproduced bit for bit; elsewhere sums are rounded otherwise."""
    [record] = [one for one in stored.trials("first") if one.status is Status.COMPLETE]
    assert record.run_id is not None
    code, said = stored.do("reproduce", record.run_id)
    assert said.count(f"differs: {CODE}") == said.count("differs: code") == 1
    if code == 0:
        assert "is reproduced bit for bit: 6 metrics" in said
        return
    assert code == 1
    for name, then, now in re.findall(r"  (\w+): (\S+) then, (\S+) now", said):
        assert float(now) == pytest.approx(float(then), abs=0.05), name


@pytest.mark.slow
def test_an_interrupted_study_goes_on_if_that_is_forced(stored: Stored) -> None:
    before = stored.trials("interrupted")
    assert [(one.number, one.status, one.step) for one in before] == PAUSED_AND_RUNNING
    short = "budget.confirmation.finalists=0"  # it is no part of what makes trials comparable
    code, said = stored.do("sweep", *SWEEP.split(), *LONG.split(), short)
    assert code == 2
    assert said.count("\n  - ") == 1
    assert f"  - {CODE}\n" in said
    assert "--force" in said

    code, said = stored.do("sweep", *SWEEP.split(), *LONG.split(), short, "--force")
    assert code == 0, said
    assert len(re.findall(f"the study goes on although this has changed: [0-9-]+: {CODE}", said)) == 1
    assert "trial 1 goes on: learning_rate 0.01056" in said
    after = stored.trials("interrupted")
    assert [one.params for one in after[:2]] == [one.params for one in before]
    assert [one.run_id for one in after[:2]] == [one.run_id for one in before]
    assert len(after) == 3
    assert any(one.status is Status.COMPLETE for one in after)
    assert all(one.status.final for one in after)
    assert stored.do("fsck") == (0, "first: clean\ninterrupted: clean\nsecond: clean\n")
    assert "test accuracy" in stored.do("promote", "study=interrupted", "--dry-run", "--force", "to see")[1]


def test_what_decides_a_result_is_still_compared(stored: Stored) -> None:
    other = ["budget.confirmation.finalists=0", "train.weight_decay=0.5", "--force"]
    code, said = stored.do("sweep", *SWEEP.split(), *LONG.split(), *other)
    assert code == 2
    assert "  - train.weight_decay: 0.01 -> 0.5\ngive STUDY=<another name>" in said
