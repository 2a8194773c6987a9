"""A result says what it was made with."""

import subprocess
from pathlib import Path

import pytest

from hpsearch.tracking.lineage import lineage


def test_the_commit_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "src" / "hpsearch"
    package.mkdir(parents=True)
    monkeypatch.setattr("hpsearch.tracking.lineage.__file__", str(package / "tracking" / "lineage.py"))
    (package / "__init__.py").touch()
    assert "mlflow.source.git.commit" not in lineage()
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init"], ["add", "."], [*identity, "commit", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *arguments], check=True, capture_output=True)
    assert len(lineage()["mlflow.source.git.commit"]) == 40
    assert lineage()["hpsearch.git.dirty"] == "false"
    (package / "__init__.py").write_text("changed")
    assert lineage()["hpsearch.git.dirty"] == "true"
