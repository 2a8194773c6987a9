"""hpsearch from Python: what the command line does, with its settings, checks, errors, locks and resumption.

Nothing that takes time is imported before it is needed.
"""

import html
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpsearch import cli
from hpsearch.config import loading
from hpsearch.config.composition import compose, quoted
from hpsearch.config.settings import Settings, digest
from hpsearch.errors import NoResultError, RequestError
from hpsearch.registry.finished import finished
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import OnTest, Summary, read_summary
from hpsearch.state.records import TrialRecord

if TYPE_CHECKING:
    import datasets
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """The page of a study."""

    path: Path
    summary: Summary

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """Called by notebooks."""
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 800px; border: 0"></iframe>'


class Study:
    """A study in a state folder."""

    def __init__(self, name: str, home: Path) -> None:
        """One that is there.

        Raises:
            RequestError: there is no such study.
        """
        self.name, self.home = name, home
        self._folder = StudyFolder.begun(home, name)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, home={str(self.home)!r})"

    @property
    def settings(self) -> Settings:
        """What it runs with; where MLflow and Optuna are is as in its own file."""
        return loading.from_yaml(self._folder.settings.read_text(encoding="utf-8"))

    @property
    def summary(self) -> Summary:
        """The whole result. Raises NoResultError if there is none yet."""
        found = read_summary(self._folder)
        if found is None:
            raise NoResultError(f"study {self.name} has no result yet; the call that began it continues it")
        return found

    @property
    def trials(self) -> "pd.DataFrame":
        """A row for each trial: phase, number, status, score on validation, parameters, metrics, seconds."""
        import pandas as pd

        rows = []
        for place in self._folder.places():
            for one in (TrialRecord.load(trial.path) for trial in self._folder.trials(place)):
                row: dict[str, Any] = {"phase": place, "number": one.number, "status": one.status.value}
                row |= {"score": one.score, "seed": one.seed, "examples": one.examples} | one.params | one.metrics
                rows.append(row | {"seconds": sum(one.seconds.values())})
        return pd.DataFrame(rows)

    @property
    def best(self) -> dict[str, Any]:
        """Parameters of the winner. Raises NoResultError if there is none yet."""
        return dict(self.summary.winner.params)

    @property
    def test(self) -> OnTest:
        """The winner on test: value, interval, all metrics. Raises NoResultError if there is no result yet."""
        return self.summary.test

    def report(self) -> "Report":
        """The report; a notebook shows it. Raises NoResultError if there is no result yet."""
        return Report(self._folder.report, self.summary)

    def promote(self, force: str | None = None, dry_run: bool = False, floor: bool = False) -> str:
        """Make the winner champion, if it passes the gate; what was done, for people.

        Args:
            force: why it is to become champion whatever the gate says.
            dry_run: say what the gate says, and change nothing.
            floor: take the best simple model in place of the winner.

        Raises:
            RequestError: the study is not finished.
            PromotionRefused: the gate is not satisfied; nothing has changed.
        """
        settings = self.settings
        finished(settings, self.home)
        from hpsearch.registry.promotion import promote

        return promote(settings, self.home, force, dry_run, floor)

    def predict(self, examples: "Sequence[str] | pd.DataFrame") -> "pd.DataFrame":
        """What the winner says of texts, or of a table with the columns that its task asks for.

        Raises:
            RequestError: the study is not finished.
        """
        settings = self.settings
        run_id = finished(settings, self.home).winner.run_id
        import pandas as pd

        from hpsearch.serving.loading import load
        from hpsearch.tracking.runs import Tracking

        model = load(f"models:/{Tracking(settings, self.home).model_of(run_id)}")
        return pd.DataFrame(model.predict(examples if isinstance(examples, pd.DataFrame) else list(examples)))


def sweep(
    task: "str | pd.DataFrame | datasets.Dataset",
    *,
    budget: str = "quick",
    model: str | None = None,
    search: str | None = None,
    study: str | None = None,
    name: str | None = None,
    overrides: Iterable[str] = (),
    home: str | Path | None = None,
) -> Study:
    """Search for the best model within the budget, or go on where the search stopped.

    Ctrl-C, or interrupting the kernel, saves; the same call continues.

    Args:
        task: a shipped task (`imdb`), or a table with the columns `text` and `label`, or what `overrides` name.
        budget: hours in all, as `15m` or `2h`; or `quick`, `standard`, `full`.
        model: a shipped model; MiniLM without.
        search: a shipped space.
        study: name of the study; without, it follows from task, model and space.
        name: of the task, which a table needs.
        overrides: any settings, as on the command line: `train.weight_decay=0.1`.
        home: the state folder; without, `$HPSEARCH_HOME`, or `runs/` here.

    Raises:
        HpsearchError: of the kinds in `hpsearch.errors`, with the sentences of the command line.
    """
    where = _home(home)
    given = [f"task={task}"] if isinstance(task, str) else _of_table(task, name, where)
    chosen = {"budget": budget, "model": model, "search": search, "study": study}
    given += [f"{group}={value}" for group, value in chosen.items() if value is not None]
    settings = loading.load(compose([*given, *overrides]))
    cli.check_places(settings)
    from hpsearch.coordinator.sweep import run_sweep

    run_sweep(settings, where, given=[*given, *overrides], started=time.monotonic())
    return Study(settings.study, where)


def open_study(name: str, home: str | Path | None = None) -> Study:
    """A study that is there. Raises RequestError if it is not."""
    return Study(name, _home(home))


def _home(given: str | Path | None) -> Path:
    return Path(given).expanduser().absolute() if given is not None else cli.home()


def _of_table(table: Any, name: str | None, home: Path) -> list[str]:
    """The settings of a task that reads a table, which is kept in the state folder by its content."""
    if name is None:
        raise RequestError("a table needs the name of its task: hpsearch.sweep(table, name='tickets')")
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    content = digest([list(map(str, frame.columns)), frame.astype(str).to_numpy().tolist()])
    path = home / "tables" / f"{name}-{content}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.tmp")
        frame.to_parquet(beside, index=False)
        os.replace(beside, path)
    return ["task=csv", f"task.name={name}", f"task.files.train={quoted(str(path))}"]
