"""The example notebook, in a kernel as a notebook has it: executed whole, interrupted, and executed again."""

import os
import signal
import threading
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import tracked
from hpsearch.state.folder import StudyFolder

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_study.ipynb"
STUDY = "rotten_tomatoes-minilm-default"
SECONDS = 600

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tracked.new_home(tmp_path / "home")
    monkeypatch.setenv("HPSEARCH_HOME", str(found))
    monkeypatch.chdir(tmp_path)
    return found


def client(home: Path) -> NotebookClient:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": home.parent}}
    )


def shown(notebook: nbformat.NotebookNode, number: int) -> str:
    """What a code cell shows as text, whichever way it does."""
    cell = [cell for cell in notebook.cells if cell.cell_type == "code"][number]
    parts = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "".join(parts)


def test_the_example_is_interrupted_and_then_executed_whole(home: Path) -> None:
    first, folder = client(home), StudyFolder.of(home, STUDY)

    def interrupt() -> None:
        deadline = time.monotonic() + SECONDS
        while not folder.trials("trials"):
            if time.monotonic() > deadline:
                return
            time.sleep(0.2)
        os.kill(first.km.provisioner.pid, signal.SIGINT)  # as a notebook interrupts its kernel

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(CellExecutionError, match="is interrupted and saved"):
        first.execute()
    watcher.join()
    before = len(folder.trials("trials"))
    notebook = client(home).execute()
    assert len(folder.trials("trials")) >= before
    assert "trial 0" in shown(notebook, 0), "progress is seen"
    assert "complete" in shown(notebook, 1)
    assert "train.learning_rate" in shown(notebook, 2)
    assert "95 % interval" in shown(notebook, 3)
    report = [cell for cell in notebook.cells if cell.cell_type == "code"][4].outputs[0]
    assert "<iframe" in report["data"]["text/html"]
    assert "label" in shown(notebook, 5)
    assert "gate" in shown(notebook, 6) or "champion" in shown(notebook, 6)
    assert not notebook.metadata.get("widgets"), "it needs no extension"
