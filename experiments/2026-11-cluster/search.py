"""The search of a study with its real coordinator: schedule, sampler, SQLite, records, MLflow."""

import csv
import io
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console

from hpsearch.config import loading
from hpsearch.config.composition import quoted
from hpsearch.config.settings import Settings
from hpsearch.coordinator.books import Books
from hpsearch.coordinator.clock import Clock
from hpsearch.coordinator.crew import Crew
from hpsearch.coordinator.loop import Loop
from hpsearch.coordinator.memory import settle_memory
from hpsearch.coordinator.phase import Phase, StudyContext
from hpsearch.coordinator.phases import Course
from hpsearch.coordinator.study import Study
from hpsearch.report.display import Display
from hpsearch.state import identity
from hpsearch.state.folder import StudyFolder
from hpsearch.tasks.objectives import OBJECTIVES
from hpsearch.tracking.delivery import Delivery
from hpsearch.tracking.runs import Tracking
from hpsearch.training import data
from hpsearch.workers.interface import Workplace

CONF = Path(__file__).parents[2] / "conf"


def settings_of(folder: Path, trials: int, *more: str) -> Settings:
    """Return the settings of a search of so many trials over MiniLM's space, on a small file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = folder / "texts.csv"
    with open(texts, "w", newline="", encoding="utf-8") as file:
        rows = ({"text": f"sentence number {i}", "label": "ab"[i % 2]} for i in range(200))
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(rows)
    words = (
        *("task=csv", f"task.files.train={quoted(str(texts))}", "task.name=asleep", "study=asleep", "budget=full"),
        *(f"budget.max_trials={trials}", "budget.floors=false", "budget.final=false", "hardware.device=cpu"),
        *("budget.confirmation.finalists=0", "hardware.precision=float32", *more),
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return loading.load(compose("config", overrides=list(words)))


def searched(
    settings: Settings,
    home: Path,
    workplace: Workplace,
    told: bool = True,
    watch: Callable[[Phase], None] | None = None,
) -> Phase:
    """Run the search of a fresh study to its end, and return it.

    Args:
        settings: settings of the study.
        home: state folder.
        workplace: where the workers are.
        told: whether MLflow is told of each trial.
        watch: called with the search before it is run.
    """
    home.mkdir(parents=True, exist_ok=True)
    corpus = data.read(settings)
    ref = data.prepare(corpus, settings, home)
    folder, clock = StudyFolder.of(home, settings.study), Clock(StudyFolder.of(home, settings.study), time.monotonic())
    display = Display(Console(file=io.StringIO()), OBJECTIVES[settings.task.metric])
    identity.check(folder, settings, ref, False)
    study_id = identity.read_id(folder)
    assert study_id is not None
    with closing(Study(settings, home)) as optuna:
        course = Course(StudyContext(settings, home, folder, corpus, ref, optuna, workplace.count))
        crew = Crew(settings, home, ref, workplace, display, lambda: None)
        with display, crew.staffed():
            tracking = Tracking(settings, home)
            parent = tracking.open_study(settings.study, study_id, settings, ref, corpus.facts)
            delivery = Delivery(tracking, ref.labels, parent)
            if not told:
                delivery.put = lambda trial, source: None  # type: ignore[method-assign]
            settle_memory(crew)
            phase = course.first
            phase.begin(None, [])
            if watch is not None:
                watch(phase)
            books = Books(phase, crew, delivery, display, clock)
            display.start(phase.trials.values(), phase.total, phase.noun)
            with clock.timed(phase.name):
                Loop(phase, books, crew, display).run()
            books.close()
            if told:
                books.tell_all()
            delivery.close(60)
    return phase
