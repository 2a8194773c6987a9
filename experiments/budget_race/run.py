"""Who has the better model after the same minutes? Writes table.md and race.png beside this file.

python run.py [--minutes 5 15 45] [--t1 2 4] [--tasks ...] [--sides ...] [--seeds 3] [--table]

Cells (a task, minutes, a side, a seed) are run one after another, each by a command in an empty state folder, and kept
in cells/: one that is there is not run again. --t1 adds budgets of IMDb in multiples of T1, the time of one pass over
all its training examples, which is measured first. --table runs nothing, and writes table and picture of what there is.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tables
from cells import CELLS, SIDES, Cell, Evidence, Floor, path_of, write
from tasks import TASKS, measured_t1, prepared, settings_of

from hpsearch.config.settings import Settings
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import Measured, Reading
from hpsearch.state.outcome import Summary, read_summary
from hpsearch.training import hardware

HERE = Path(__file__).parent
OF_T1 = "imdb"  # the task whose budgets may be multiples of T1
STUDY = "race"
NO_MODEL, INTERRUPTED = 3, 130  # exit codes of hpsearch


class FailedError(Exception):
    """A cell's command went wrong; the cell is not kept, and the race goes on."""


@dataclass(frozen=True)
class Budget:
    """The minutes of a cell, and what they are called."""

    name: str
    minutes: float


@dataclass(frozen=True)
class Start:
    """What a cell is run with."""

    cell: Cell
    """Nothing is known of its result yet."""
    settings: tuple[str, ...]
    home: Path

    @property
    def composed(self) -> Settings:
        return settings_of(self.settings)

    def told(self, command: Sequence[str]) -> tuple[int, float]:
        """Exit code of a command, and the seconds that it took."""
        environment = os.environ | {"HPSEARCH_HOME": str(self.home), "HF_HUB_OFFLINE": "1"}
        began = time.monotonic()
        code = subprocess.run(command, env=environment, stdout=sys.stderr).returncode
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        return code, time.monotonic() - began


def ours(start: Start) -> Cell:
    """Our command; the side `reference` spends all its time on the reference recipe, with no floor beside it."""
    alone = ("budget.max_trials=1", "budget.floors=false") if start.cell.side == "reference" else ()
    code, seconds = start.told([sys.executable, "-m", "hpsearch", "sweep", *start.settings, *alone])
    if code == NO_MODEL:
        return replace(start.cell, seconds=seconds, what="the minutes ended without a model")
    if code:
        raise FailedError(f"hpsearch ended with {code}")
    study = StudyFolder.of(start.home, STUDY)
    summary, test = read_summary(study), codec.read_file(Reading, study.test, "run the cell again")
    assert summary is not None
    assert test is not None
    evidence = evidence_of(test.kept, summary)
    took = {floor.name: floor.seconds for floor in summary.floors}
    beside = ((floor.name, evidence_of(floor.measured, summary)) for floor in test.floors)
    phases = [f"{phase.name} {phase.seconds:.0f} s" for phase in summary.phases]
    everything = summary.data.examples["train"]
    return replace(
        start.cell,
        seconds=seconds,
        t1=summary.plans[0].pace["train"] * everything,
        what=f"{summary.trials.all} trials ({', '.join(phases)}), winner {summary.winner.entrant}, trained on "
        f"{summary.data.trained_on:,} of {everything:,}",
        score=evidence.score,
        n=test.n,
        evidence=evidence,
        floors=tuple(Floor(name, took[name], found.score, found) for name, found in beside),
    )


def evidence_of(measured: Measured, summary: Summary) -> Evidence:
    """What a model said of test."""
    answers = measured.answers
    return Evidence.of(summary.metric, answers.ids, answers.truths, answers.said, summary.labels)


def theirs(start: Start) -> Cell:
    """A side that is transformers' own."""
    out, until = start.home / "result.json", time.time() + 60 * start.cell.minutes
    script, home = str(HERE / "theirs.py"), str(start.home)
    code, seconds = start.told([sys.executable, script, start.cell.side, home, str(out), str(until), *start.settings])
    if code:
        raise FailedError(f"theirs.py ended with {code}")
    found = json.loads(out.read_text())
    evidence = codec.parse(Evidence, json.dumps(found["evidence"]))
    what, n = found["what"], len(evidence.tallies)
    return replace(start.cell, seconds=seconds, what=what, score=evidence.score, n=n, evidence=evidence)


def run(task: str, budget: Budget, side: str, seed: int, files: Path) -> Cell:
    """One cell."""
    with tempfile.TemporaryDirectory() as scratch:
        settings = (*prepared(task, files), f"budget={budget.minutes:g}m", f"seed={seed}", f"study={STUDY}")
        where = hardware.resolve(settings_of(settings).hardware)
        machine = f"{where.name}, {where.threads} threads"
        cell = Cell(task, budget.name, budget.minutes, side, seed, machine, 0.0, None, "", None, 0, None)
        start = Start(cell, settings, Path(scratch))
        return ours(start) if side in ("ours", "reference") else theirs(start)


def budgets_of(task: str, minutes: Sequence[float], multiples: Sequence[float], files: Path) -> list[Budget]:
    """Those in multiples of T1 as well, where the task has them; T1 is measured once."""
    found = [Budget(f"{one:g}m", one) for one in minutes]
    if task != OF_T1 or not multiples:
        return found
    kept = CELLS / f"t1-{task}.json"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({"seconds": measured_t1(prepared(task, files))}))
    t1 = json.loads(kept.read_text())["seconds"]
    return [*found, *(Budget(f"{one:g}T1", round(one * t1 / 60, 2)) for one in multiples)]


def main(given: argparse.Namespace) -> None:
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        files = Path(scratch)
        budgets = {task: budgets_of(task, given.minutes, given.t1, files) for task in given.tasks}
        wanted = [
            (task, budget, side, seed)
            for seed in range(given.seeds)  # a whole table of one seed first
            for task in given.tasks
            for budget in budgets[task]
            for side in given.sides
        ]
        for task, budget, side, seed in wanted:
            if path_of(task, budget.name, side, seed).exists():
                continue
            try:
                cell = run(task, budget, side, seed, files)
            except FailedError as error:
                failed += 1
                print(task, budget.name, side, seed, error, flush=True)
                continue
            write(cell)
            print(task, budget.name, side, seed, cell.score, f"{cell.seconds:.0f} s", flush=True)
            tables.write_all()
    sys.exit(f"{failed} cells failed; the same command tries them again" if failed else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="*", default=[5, 15, 45])
    parser.add_argument("--t1", type=float, nargs="*", default=[], help=f"multiples of T1, for {OF_T1}")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if arguments.table:
        tables.write_all()
    else:
        main(arguments)
