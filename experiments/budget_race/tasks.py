"""The tasks of the race: what `hpsearch` is told of each, and the files that some of them need.

python tasks.py <settings> prints the seconds of one pass over all training examples.
"""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpsearch.config import composition, loading
from hpsearch.config.settings import Settings
from hpsearch.state.messages import Decision
from hpsearch.training import data, hardware, pace
from hpsearch.training.trial import Line, Warm
from hpsearch.workers.local import ENVIRONMENT

SHARED = Path(__file__).parents[3] / "shared" / "data"
FEW_REVIEWS = 200
TIMED_SECONDS = 8.0  # of updates, as a plan times them


@dataclass(frozen=True)
class RaceTask:
    """Of one row of the table; `settings` may name files, as `{name}` of those that `prepared` writes."""

    settings: tuple[str, ...]
    of_r8: int | None = None
    """The first so many rows of the published training file."""


def _r8(rows: int) -> RaceTask:
    name = f"r8_{rows}"
    files = (f"task.files.train={{{name}}}", f"task.files.test={SHARED / 'r8-test.csv'}")
    return RaceTask(("task=csv", f"task.name={name}", "task.max_length=128", "task.metric=f1", *files), rows)


TASKS = {
    "imdb": RaceTask(("task=imdb",)),
    "rotten_tomatoes": RaceTask(("task=rotten_tomatoes",)),
    "r8_300": _r8(300),
    "r8_1000": _r8(1000),
    "imdb_200": RaceTask(
        (
            *("task=csv", "task.name=imdb_200", "task.max_length=192", "task.truncation=tail", "task.clean=none"),
            *("task.quoting=double", "task.files.train={imdb_200}", "task.files.test={imdb_200_test}"),
        )
    ),
    "half_dev": RaceTask(
        (
            *("task=squad", "task.name=half_dev", "task.source=files", "task.files.train={answerable}", "search=qa"),
            *("task.split.validation=0.15", "task.split.test=0.25"),
        )
    ),
}


def settings_of(overrides: Sequence[str]) -> Settings:
    return loading.load(composition.compose(overrides))


def prepared(name: str, folder: Path) -> tuple[str, ...]:
    """What the command is told of a task; the files that it names are in `folder` then."""
    task = TASKS[name]
    files = {file: folder / f"{file}.csv" for file in (name, "imdb_200_test")}
    files["answerable"] = folder / "answerable.json"
    if task.of_r8 is not None and not files[name].exists():
        with open(SHARED / "r8-train.csv", newline="") as file:
            header, *rows = csv.reader(file)
        _write(files[name], header, rows[: task.of_r8])
    if name == "imdb_200" and not files[name].exists():
        _write_reviews(files[name], files["imdb_200_test"])
    if name == "half_dev" and not files["answerable"].exists():
        content = json.loads((SHARED / "squad-v2.0-half-dev.json").read_text())
        files["answerable"].write_text(json.dumps(_answerable(content)))
    return tuple(setting.format(**files) for setting in task.settings)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _write_reviews(few: Path, test: Path) -> None:
    """The first reviews of the stratified order in which trials of `imdb` are trained, and all of its test reviews."""
    settings = settings_of(["task=imdb", "budget=full"])
    with tempfile.TemporaryDirectory() as scratch:
        ref = data.prepare(data.read(settings), settings, Path(scratch))
        for path, split, count in ((few, "train", FEW_REVIEWS), (test, "test", ref.sizes["test"])):
            rows = data.load(ref, split)[:count]
            labels = [ref.labels[label] for label in rows["label"]]
            _write(path, ["text", "label"], list(zip(rows["text"], labels, strict=True)))


def _answerable(content: dict[str, Any]) -> dict[str, Any]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [qa for qa in paragraph["qas"] if not qa["is_impossible"]]
    return content


def measured_t1(overrides: Sequence[str]) -> float:
    """Seconds of one pass over all training examples, timed as a plan times them, in a worker's environment."""
    command, environment = [sys.executable, __file__, *overrides, "budget=full"], ENVIRONMENT | os.environ
    said = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(said.splitlines()[-1])


def _timed(settings: Settings) -> float:
    where = hardware.resolve(settings.hardware)
    hardware.apply(where)
    line = Line(lambda _: None, lambda _: Decision.CONTINUE, lambda: None, lambda: None, lambda _: None)
    warm = Warm(where)
    with tempfile.TemporaryDirectory() as scratch:
        ref = data.prepare(data.read(settings), settings, Path(scratch))
        found = pace.measure(pace.PaceSpec(settings, ref, TIMED_SECONDS), warm, line)
        return float(found.train * warm.tokens(ref, settings, "train").lengths.sum())


if __name__ == "__main__":
    print(_timed(settings_of(sys.argv[1:])))
