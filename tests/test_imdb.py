"""The README's commands on real reviews and real weights, with a budget of a minute."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = (
    "budget=full",
    "budget.max_trials=2",
    "budget.confirmation.seeds=2",
    "train.epochs=1",
    "budget.confirmation.finalists=1",
    "budget.train_examples=48",
    "budget.validation_examples=20",
    "budget.rung_examples=10",
    "budget.test_examples=20",
    "task.max_length=32",
    "search.rungs_after=1",
)


def hpsearch(home: Path, *arguments: str) -> str:
    environment = os.environ | {"HPSEARCH_HOME": str(home), "COLUMNS": "120"}
    command = [sys.executable, "-m", "hpsearch", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home.parent, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.slow
def test_sweep_promote_predict_and_roll_back_on_imdb(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    printed = hpsearch(home, "sweep", "task=imdb", *SMALL)
    assert "48 train examples of 19,9" in printed
    assert "truncated (tail)" in printed
    folder = home / "studies" / "imdb-minilm-default"
    assert {"settings.yaml", "summary.json", "report.html", "trials"} <= {path.name for path in folder.iterdir()}
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trials"] == {"complete": 1, "pruned": 1, "failed": 0}
    assert summary["test"]["n"] == 20
    assert summary["best"]["params"]["train.learning_rate"] > 0
    assert "not comparable" in summary["data"]["note"]
    assert "is finished" in hpsearch(home, "sweep", "task=imdb", *SMALL)
    assert [one["reference"] for one in summary["confirmation"]].count(True) == 1
    forced = hpsearch(home, "promote", "task=imdb", "--force", "a model of one minute")
    assert "version 1 is the champion now" in forced
    assert "already" in hpsearch(home, "promote", "task=imdb")
    source, labelled = tmp_path / "new.csv", tmp_path / "labelled.csv"
    with open(source, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["text"], ["A moving story, superbly acted."], ["Two hours I will never get back."]]
        )
    hpsearch(home, "predict", "task=imdb", "--input", str(source), "--output", str(labelled))
    with open(labelled, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert all(row["label"] in summary["labels"] and 0.5 <= float(row["score"]) <= 1 for row in rows)
