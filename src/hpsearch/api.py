"""The Python API: it does what the command line does, with the same settings, checks, errors, locks and resumption.

Modules that are slow to import are imported only when they are needed.
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
from hpsearch.config.shipped import ADDRESSES
from hpsearch.errors import NoResultError, RequestError
from hpsearch.registry.finished import finished
from hpsearch.state.folder import StudyFolder, phase_of
from hpsearch.state.outcome import OnTest, Summary, read_summary
from hpsearch.state.records import TrialRecord
from hpsearch.steering import own_settings

if TYPE_CHECKING:
    import datasets
    import pandas as pd


@dataclass(frozen=True)
class Report:
    """The report page of a study."""

    path: Path
    summary: Summary

    def __str__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        """Return the page for a notebook, which calls this method."""
        page = html.escape(self.path.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 800px; border: 0"></iframe>'


class Study:
    """A study in a state folder."""

    def __init__(self, name: str, home: Path, overrides: Iterable[str] = ()) -> None:
        """Open a study that exists.

        Args:
            name: name of the study.
            home: the state folder.
            overrides: addresses of MLflow and Optuna, where they are not as in the study's own file.

        Raises:
            RequestError: There is no such study, or an override is wrong.
        """
        self.name, self.home = name, home
        self._given = loading.load(compose(list(overrides)))
        self._folder = StudyFolder.begun(home, name)

    def __repr__(self) -> str:
        return f"Study({self.name!r}, home={str(self.home)!r})"

    @property
    def settings(self) -> Settings:
        """Settings of the study. Raises RequestError if an address in its file has lost its password."""
        return own_settings(self._folder, self._given)

    @property
    def summary(self) -> Summary:
        """The whole result. Raises NoResultError if there is no result yet."""
        found = read_summary(self._folder)
        if found is None:
            raise NoResultError(f"study {self.name} has no result yet; the call that began it continues it")
        return found

    @property
    def trials(self) -> "pd.DataFrame":
        """Table with a row for each trial of each phase.

        Columns: phase, number, status, score on validation, seed, examples, parameters, metrics, seconds.
        """
        import pandas as pd

        rows = []
        for place in self._folder.places():
            for one in (TrialRecord.load(trial.path) for trial in self._folder.trials(place)):
                row: dict[str, Any] = {"phase": phase_of(place), "number": one.number, "status": one.status.value}
                row |= {"score": one.score, "seed": one.seed, "examples": one.examples} | one.params | one.metrics
                rows.append(row | {"seconds": sum(one.seconds.values())})
        return pd.DataFrame(rows)

    @property
    def best(self) -> dict[str, Any]:
        """Parameters of the winner. Raises NoResultError if there is no result yet."""
        return dict(self.summary.winner.params)

    @property
    def test(self) -> OnTest:
        """Test scores of the winner: value, interval, all metrics. Raises NoResultError if there is no result yet."""
        return self.summary.test

    def report(self) -> "Report":
        """Return the report, which a notebook shows. Raises NoResultError if there is no result yet."""
        return Report(self._folder.report, self.summary)

    def promote(self, force: str | None = None, dry_run: bool = False, floor: bool = False) -> str:
        """Make the winner champion if it passes the gate, and return what was done, in words.

        Args:
            force: Reason for making it champion although the gate refuses; None: the gate decides.
            dry_run: Whether only to return the gate's decision, without any change.
            floor: Whether to promote the best simple model in place of the winner.

        Raises:
            RequestError: The study is not finished.
            PromotionRefused: The gate refuses; nothing has changed.
        """
        settings = self.settings
        finished(settings, self.home)
        from hpsearch.registry.promotion import promote

        return promote(settings, self.home, force, dry_run, floor)

    def predict(self, examples: "Sequence[str] | pd.DataFrame") -> "pd.DataFrame":
        """Return the winner's predictions for texts, or for a table with the columns that its task needs.

        Raises:
            RequestError: The study is not finished.
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
    """Search for the best model within the budget, or continue a search that was interrupted.

    Ctrl-C, or an interrupt of the notebook's kernel, saves the study. The same call continues it.

    Args:
        task: Shipped task (`imdb`), or a table. The table needs the columns `text` and `label`, or those that
            `overrides` name.
        budget: Total time, as `15m` or `2h`, or one of `quick`, `standard`, `full`.
        model: Shipped model; None: MiniLM.
        search: Shipped search space; None: the default one.
        study: Name of the study; None: made from task, model and space.
        name: Name of the task; required for a table.
        overrides: Any settings, as on the command line: `train.weight_decay=0.1`.
        home: State folder; None: `$HPSEARCH_HOME`, or `runs/` in the working directory.

    Raises:
        HpsearchError: One of the errors in `hpsearch.errors`, with the message of the command line.
    """
    where = _home(home)
    given = [f"task={task}"] if isinstance(task, str) else _of_table(task, name, where)
    chosen = {"budget": budget, "model": model, "search": search, "study": study}
    given += [f"{group}={value}" for group, value in chosen.items() if value is not None]
    words = list(overrides)
    settings = loading.load(compose([*given, *words]))
    cli.check_places(settings)
    from hpsearch.coordinator.sweep import run_sweep

    run_sweep(settings, where, given=[*given, *words], started=time.monotonic())
    return Study(settings.study, where, [word for word in words if word.startswith(ADDRESSES)])


def open_study(name: str, home: str | Path | None = None, overrides: Iterable[str] = ()) -> Study:
    """Return a study that exists.

    Args:
        name: name of the study.
        home: the state folder; None: `$HPSEARCH_HOME`, or `runs/` here.
        overrides: addresses with a password, which no file keeps: `tracking.uri=https://me:secret@mlflow`.

    Raises:
        RequestError: There is no such study, or an override is wrong.
    """
    return Study(name, _home(home), overrides)


def _home(given: str | Path | None) -> Path:
    return Path(given).expanduser().absolute() if given is not None else cli.home()


def _of_table(table: Any, name: str | None, home: Path) -> list[str]:
    """Store a table in the state folder, named by its content, and return the settings of a task that reads it."""
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
