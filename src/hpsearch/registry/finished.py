"""Check that a study has a winner to promote, without imports that take long."""

from pathlib import Path

from hpsearch.config.settings import Settings
from hpsearch.errors import RequestError
from hpsearch.state import identity
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import Summary, read_summary


def finished(settings: Settings, home: Path) -> Summary:
    """Return the summary of the study `settings.study`.

    Raises:
        RequestError: The study is not finished, or belongs to another task.
    """
    folder = StudyFolder.of(home, settings.study)
    identity.check_folder(folder)
    summary = read_summary(folder)
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
