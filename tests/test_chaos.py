"""Real processes are killed, stopped and starved at random and at chosen moments; nothing may be lost.

The moments come from a seed that is printed; CHAOS_SEED=<that seed> repeats them, as far as a machine repeats anything.
"""

import contextlib
import json
import os
import pickle
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

import make
import postgres
import tiny
import tracked
from forked import Coordinator
from hpsearch.config.settings import Settings
from hpsearch.fsck import fsck
from hpsearch.registry.promotion import promote
from hpsearch.state.floors import read_floors
from hpsearch.state.folder import StudyFolder
from hpsearch.state.outcome import read_summary
from hpsearch.state.records import Status, TrialRecord, read_points
from hpsearch.state.steering import SKIPPED, Command, Steering
from hpsearch.tracking.runs import Tracking

pytestmark = pytest.mark.chaos

OVERRIDES = (
    "budget.max_trials=6",
    "budget.startup_trials=3",
    "search.space.train.learning_rate.low=0.001",
    "search.space.train.learning_rate.high=0.03",
    "search.space.train.batch_size.choices=[8]",
    "search.space.train.epochs.choices=[8,12]",
    "search.keep=0.34",
    "budget.confirmation.finalists=1",
    "budget.confirmation.seeds=1",
    "train.epochs=8",
    "hardware.checkpoint_seconds=0.3",
    "hardware.max_attempts=99",  # a trial that is killed so often is not to blame
)
# Everything is fixed by hand but the end, which two hours put far away: so the plan comes to the same after any kill.
TIMED = (
    "budget.hours=2",
    "budget.floors=true",
    "budget.final=true",
    "budget.search_examples=60",
    "budget.confirmation.examples=80",
)
KILLS = 7  # at random moments, with each of the two databases
PASSWORD = "hunter2xyzzy"
Outcome = dict[str, tuple[Any, ...]]
SECRETS = ("HF_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")
SECONDS = 600  # more than any start takes, on a slow machine too


@dataclass
class Chaos:
    """A study that is begun again and again."""

    settings: Settings
    root: Path
    home: Path
    running: list[Coordinator] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.home / "studies" / self.settings.study

    @property
    def log(self) -> Path:
        return self.root / "log"

    def use(self, storage: str | None = None, tracking: str | None = None) -> None:
        """Other addresses than files of the state folder."""
        if storage is not None:
            self.settings = self.settings.model_copy(
                update={"storage": self.settings.storage.model_copy(update={"uri": storage})}
            )
        if tracking is not None:
            self.settings = self.settings.model_copy(
                update={"tracking": self.settings.tracking.model_copy(update={"uri": tracking})}
            )

    def start(self, **environment: str) -> Coordinator:
        request = self.root / "settings.json"
        request.write_text(self.settings.model_dump_json())
        common = {"OMP_NUM_THREADS": "1", "HPSEARCH_HOME": str(self.home)}
        self.running.append(Coordinator(request, self.log, common | environment))
        return self.running[-1]

    def workers(self, process: Coordinator) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return [
                one
                for one in psutil.Process(process.pid).children()
                if "hpsearch.training.worker" in " ".join(one.cmdline())
            ]
        return []

    def until(self, true: Callable[[], object], process: Coordinator) -> None:
        deadline = time.monotonic() + SECONDS
        while not true() and process.poll() is None:
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)

    def finish(self) -> None:
        """The same command, to its end."""
        assert self.start().wait(SECONDS) == 0, self.log.read_text()

    def steps(self) -> dict[str, int]:
        """Of each trial and confirmation run, the last step that it has told of."""
        return {self.name(path): max((step for step, _ in read_points(path)), default=0) for path in self.trials()}

    def trials(self) -> list[Path]:
        return sorted(path.parent for path in self.folder.glob("*/*/trial.json"))

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))

    def outcome(self) -> Outcome:
        records = {self.name(path): TrialRecord.load(path) for path in self.trials()}
        trials = {
            name: (
                t.params,
                str(t.status),
                t.step,
                t.rungs,
                t.score,
                t.metrics,
                t.entrant,
                t.seed,
                t.examples,
                t.epochs,
            )
            for name, t in records.items()
        }
        floors = read_floors(StudyFolder(self.folder))
        return trials | {f"floors/{one.name}": (one.examples, one.chosen, one.metrics) for one in floors}

    def check(self, expected: Outcome) -> None:
        """It is as if nothing had happened."""
        assert self.outcome() == expected
        found = fsck(self.settings, self.home, repair=False).splitlines()  # a line for each study
        assert f"{self.settings.study}: clean" in found
        assert all(line.endswith(": clean") for line in found), found
        summary = read_summary(StudyFolder(self.folder))
        assert summary is not None
        assert summary.trials.all == self.settings.budget.max_trials
        assert summary.test.readings == 1

    def keeps_secrets(self) -> None:
        """What is secret in an address or in the environment is in no file and no line of the log."""
        assert PASSWORD not in self.log.read_text()
        assert not [path for path in self.home.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]

    def end(self) -> None:
        for process in self.running:
            with contextlib.suppress(psutil.NoSuchProcess):
                for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        one.kill()
            process.wait()


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[[str], Path]) -> Callable[..., Settings]:
    csv = tiny.write_csv(tmp_path_factory.mktemp("toy") / "toy.csv", n=190)
    return lambda *overrides: make.toy_settings(csv, tiny_model("bert"), "bert", *OVERRIDES, *overrides)


def left_alone(name: str, settings: Settings, factory: pytest.TempPathFactory) -> Outcome:
    """Of a study to which nothing happens; run by one process of pytest-xdist for all."""
    root, base = factory.mktemp("alone"), factory.getbasetemp()
    kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{kept}.lock"):
        if not kept.exists():
            alone = Chaos(settings, root, tracked.new_home(root / "home"))
            alone.finish()
            alone.check(alone.outcome())
            kept.write_bytes(pickle.dumps(alone.outcome()))
        return pickle.loads(kept.read_bytes())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def expected(toy: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return left_alone("expected", toy(), tmp_path_factory)


@pytest.fixture(scope="module")
def expected_in_time(toy: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    found = left_alone("expected_in_time", toy(*TIMED), tmp_path_factory)
    assert {name.partition("/")[0] for name in found} == {"trials", "confirmation", "final", "floors"}
    return found


@pytest.fixture
def study(toy: Callable[..., Settings], tmp_path: Path) -> Iterator[Chaos]:
    chaos = Chaos(toy(), tmp_path, tracked.new_home(tmp_path / "home"))
    yield chaos
    chaos.end()


@pytest.fixture
def timed(toy: Callable[..., Settings], tmp_path: Path) -> Iterator[Chaos]:
    """A study with hours, floors and a final model."""
    chaos = Chaos(toy(*TIMED), tmp_path, tracked.new_home(tmp_path / "home"))
    yield chaos
    chaos.end()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_killed_at_random_moments(
    backend: str, study: Chaos, expected: Outcome, rng: random.Random, request: pytest.FixtureRequest
) -> None:
    if backend == "postgresql":
        address = request.getfixturevalue("database").address
        uri = re.sub(r"://([^:@/]*)[^@]*@", rf"://\1:{PASSWORD}@", address)
        assert PASSWORD in uri
        study.use(storage=uri)
    kill_at_random(study, expected, rng)
    study.keeps_secrets()


def test_killed_at_random_moments_with_hours(timed: Chaos, expected_in_time: Outcome, rng: random.Random) -> None:
    kill_at_random(timed, expected_in_time, rng)


def kill_at_random(study: Chaos, expected: Outcome, rng: random.Random) -> None:
    """KILLS times, in as many studies as it takes."""
    kills, rounds, first = 0, 0, study.settings.study
    while kills < KILLS:
        study.settings = study.settings.model_copy(update={"study": f"{first}-{rounds}"})
        rounds += 1
        process = study.start(**dict.fromkeys(SECRETS, PASSWORD))
        while kills < KILLS:
            # A third of the kills come at any time, the others while trials are trained.
            if rng.random() < 0.67:
                before = study.steps()
                study.until(lambda before=before: study.steps() != before, process)  # type: ignore[misc]
                time.sleep(rng.uniform(0, 3))
            else:
                time.sleep(rng.uniform(0, 12))
            victim = rng.choice(["coordinator", "worker", "both"])
            if process.poll() is not None:
                break  # it was finished
            victims = study.workers(process) if victim != "coordinator" else []
            for one in victims:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            kills += 1
            print(f"killed {victim} of {study.settings.study} at {study.steps()}")
            if victim != "worker" or not victims:
                process.kill()
                process.wait()
                process = study.start(**dict.fromkeys(SECRETS, PASSWORD))
        assert process.wait(SECONDS) == 0, study.log.read_text()
        study.check(expected)


# In the order in which they come: each start dies at the next one.
MOMENTS = {
    "a trial is drawn and nobody has been told": "-coordinator.study.Study.ask:1",
    "a trial's run is opened in MLflow": "-tracking.runs.Tracking.open_trial:1",
    "points are on the way to MLflow": "-tracking.runs.Tracking.points:2",
    "a record is written": "state.records.write_durably:12",
    "a trial is recorded and Optuna has not been told": "coordinator.study.Study.tell:3",
    "Optuna has been told": "-coordinator.study.Study.tell:4",
    "a trial's run is closed in MLflow": "-tracking.runs.Tracking.finish_trial:1",
    "a confirmation run is complete and not yet recorded": "coordinator.confirmation.Confirmation.answered:1",
    "a confirmation run is recorded": "-coordinator.confirmation.Confirmation.kept_models:1",
    "test is scored and not yet recorded": "-coordinator.crew.Crew.score:1",
    "the winner's model is about to be logged": "tracking.runs.Tracking.log_winner:1",
    "the winner's model is logged": "-tracking.runs.Tracking.log_winner:1",
    "the study's run is finished": "-tracking.runs.Tracking.finish_study:1",
}


def kill_at(study: Chaos, moments: dict[str, str], expected: Outcome) -> None:
    """Each start of the command dies at the next moment; the last is left alone."""
    for moment, place in moments.items():
        assert study.start(DIE_AT=place).wait(SECONDS) == -signal.SIGKILL, f"{moment}: {study.log.read_text()}"
    study.finish()
    study.check(expected)


def test_killed_when(study: Chaos, expected: Outcome) -> None:
    kill_at(study, MOMENTS, expected)


MOMENTS_OF_HOURS = {
    "a floor is fitted and not yet recorded": "coordinator.floors._kept:1",
    "one floor is recorded": "-state.floors.write_floors:1",
    "a floor's run is opened in MLflow": "-tracking.floors.FloorRuns.log:1",
    "the pace is measured and not yet kept": "coordinator.memory.KnownPace.keep:1",
    "the search is about to be planned": "coordinator.planner.Planner.record:1",
    "the search is planned": "-coordinator.planner.Planner.record:1",
    "a trial is recorded": "-coordinator.study.Study.tell:2",
    "the final model is planned": "-coordinator.planner.Planner.record:2",
    "test is scored and not yet recorded": "-coordinator.crew.Crew.score:1",
    "the best floor's model is logged": "-tracking.floors.FloorRuns.log_model:1",
}


def test_killed_when_hours_are_planned(timed: Chaos, expected_in_time: Outcome) -> None:
    kill_at(timed, MOMENTS_OF_HOURS, expected_in_time)
    summary = read_summary(StudyFolder(timed.folder))
    assert summary is not None
    assert [floor.name for floor in summary.floors] == ["words", "frozen"]
    assert {made.hours for made in summary.plans} == {2.0}
    assert summary.total_seconds < 2 * 3600


def test_killed_around_commands_from_another_terminal(timed: Chaos) -> None:
    """Each is carried out once, whatever the moment of the kill."""
    steering = Steering(StudyFolder(timed.folder))

    def dies(place: str) -> None:
        assert timed.start(DIE_AT=place).wait(SECONDS) == -signal.SIGKILL, timed.log.read_text()

    point = {"train.learning_rate": 0.005, "train.batch_size": 8, "train.epochs": 12}
    steering.ask(Command.now("try", params=point))
    dies("state.steering.Steering.answer:1")  # it is taken, and nobody knows
    dies("-state.steering.Steering.answer:1")
    dies("-coordinator.study.Study.ask:2")  # its trial is drawn, and has no record
    steering.ask(Command.now("skip", trial=1))
    dies("-coordinator.books.Books.keep:1")  # it is skipped, and nobody knows
    steering.ask(Command.now("extend", hours=3.0))
    dies("-state.steering.Steering.answer:2")  # both are answered
    timed.finish()
    records = {int(path.name): TrialRecord.load(path) for path in timed.trials() if path.parent.name == "trials"}
    assert len(records) == timed.settings.budget.max_trials
    assert [number for number, one in records.items() if one.params == point] == [1]
    assert [number for number, one in records.items() if one.command is not None] == [1]
    assert [number for number, one in records.items() if one.status is Status.FAILED] == [1]
    assert records[1].reason == SKIPPED
    summary = read_summary(StudyFolder(timed.folder))
    assert summary is not None
    assert summary.hours == 3.0
    assert [one.said.split()[1] for one in summary.steering] == ["try", "skip", "extend"]
    assert fsck(timed.settings, timed.home, repair=False) == f"{timed.settings.study}: clean"


def test_killed_while_a_study_that_was_to_finish_publishes_its_result(study: Chaos) -> None:
    """The next start begins no trial, and logs the rest."""
    process = study.start(DIE_AT="tracking.runs.Tracking.finish_study:1")
    study.until(lambda: study.trials() and TrialRecord.load(study.trials()[0]).status is Status.COMPLETE, process)
    Steering(StudyFolder(study.folder)).ask(Command.now("finish"))
    assert process.wait(SECONDS) == -signal.SIGKILL, study.log.read_text()
    before = study.outcome()
    study.finish()
    assert study.outcome() == before
    assert fsck(study.settings, study.home, repair=False) == f"{study.settings.study}: clean"


def test_killed_in_the_middle_of_a_checkpoint(study: Chaos, expected: Outcome) -> None:
    for _ in range(3):
        process = study.start()
        study.until(lambda: list(study.folder.glob("*/*/unsealed/*/*")), process)
        for one in study.workers(process):
            one.kill()
        process.kill()
        process.wait()
    study.finish()
    study.check(expected)


def test_the_newest_checkpoint_is_cut_flipped_and_lacks_a_file(study: Chaos, expected: Outcome) -> None:
    for damage in ("cut", "flip", "remove"):
        process = study.start()
        study.until(lambda: list(study.folder.glob("*/*/checkpoint-*")), process)
        process.kill()
        process.wait()
        time.sleep(2)  # its worker ends when it finds nobody to speak to
        for checkpoint in study.folder.glob("*/*/checkpoint-*"):
            file = checkpoint / "optimizer.pt"
            content = bytearray(file.read_bytes())
            if damage == "cut":
                file.write_bytes(content[: len(content) // 2])
            elif damage == "flip":
                content[len(content) // 2] ^= 1
                file.write_bytes(content)
            else:
                file.unlink()
    study.finish()
    study.check(expected)


def test_sigterm_with_time_to_save_and_with_a_kill_before_it_is_done(
    study: Chaos, expected: Outcome, rng: random.Random
) -> None:
    for kill in (False, True, False, True, True):
        process = study.start()
        before = study.steps()
        study.until(lambda before=before: study.steps() != before, process)  # type: ignore[misc]
        if not kill:
            time.sleep(rng.uniform(0, 1))
        process.send_signal(signal.SIGTERM)
        if kill:
            time.sleep(rng.uniform(0, 0.5))
            process.kill()
            process.wait()
        else:
            assert process.wait(30) in (130, 0), study.log.read_text()
    study.finish()
    study.check(expected)


def test_stopped_and_continued(study: Chaos, expected: Outcome) -> None:
    process = study.start()
    study.until(study.steps, process)
    [worker] = study.workers(process)
    worker.suspend()
    time.sleep(5)
    worker.resume()
    process.send_signal(signal.SIGSTOP)
    second = study.start()  # a coordinator that is stopped still has its study
    assert second.wait(SECONDS) == 2
    assert "is being run by process" in study.log.read_text()
    process.send_signal(signal.SIGCONT)
    assert process.wait(SECONDS) == 0, study.log.read_text()
    study.check(expected)


DATABASE_CALLS = tuple(
    f"coordinator.study.optuna.storages.RDBStorage.{call}"
    for call in ("create_new_trial", "set_trial_intermediate_value", "set_trial_state_values")
)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as held:
        held.execute("BEGIN EXCLUSIVE")
        yield
        held.rollback()


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_the_study_database_is_away_for_0_20_and_60_seconds(
    backend: str, study: Chaos, expected: Outcome, request: pytest.FixtureRequest
) -> None:
    """PostgreSQL is stopped; SQLite is locked by another: just when a trial is drawn, a score reported, an end told."""
    if backend == "postgresql":
        database = request.getfixturevalue("database")
        study.use(storage=database.address)
    hold, held = study.root / "hold", study.root / "held"
    for call in DATABASE_CALLS:
        hold.touch()
        process = study.start(HOLD_AT=call)
        last = call == DATABASE_CALLS[-1]
        for seconds in (0, 20, 60) if last else (0, 20):
            study.until(held.exists, process)
            assert process.poll() is None, study.log.read_text()
            before = study.steps()
            with database.stopped() if backend == "postgresql" else locked(study.home / "optuna.db"):
                if seconds < (60 if last else 20):
                    hold.touch()
                held.unlink()
                time.sleep(seconds)
        if last:
            assert process.wait(SECONDS) == 0, study.log.read_text()
        else:
            study.until(lambda before=before: study.steps() != before, process)  # type: ignore[misc]
            assert process.poll() is None, study.log.read_text()
            process.kill()
            process.wait()
    study.check(expected)


SERVER = """
import sys
from hpsearch.serving import mlflow_process
home, port = sys.argv[1:]
mlflow_process.serve(
    ["server", "--artifacts-destination", f"{home}/served"],
    int(port),
    {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{home}/mlflow.db"},
)
"""


@pytest.fixture
def mlflow_server(tmp_path: Path) -> tuple[str, Callable[[], contextlib.AbstractContextManager[int]]]:
    """Address of an MLflow server, with a password in it, and what starts it, as often as one likes."""
    port, home = tracked.free_port(), tracked.new_home(tmp_path / "server")
    code = SERVER.replace("sys.argv[1:]", repr((str(home), port)))
    address = f"127.0.0.1:{port}"
    return (
        f"http://ann:{PASSWORD}@{address}",
        lambda: tracked.process(code, f"http://{address}/health", tmp_path / "server.log"),
    )


def points_in_mlflow(study: Chaos) -> dict[str, list[tuple[str, int, float]]]:
    """Of each trial, every point that MLflow has, in its order."""
    tracking = Tracking(study.settings, study.home)
    parent, client = tracking.find_study(study.settings.study), tracked.client(tracking)
    return {
        _folder(run.tags): [
            (point.key, point.step, point.value)
            for key in sorted(client.get_run(run.run_id).data.metrics)
            for point in client.get_metric_history(run.run_id, key)
        ]
        for run in tracking.children(parent.run_id)
    }


def _folder(tags: dict[str, str]) -> str:
    return (
        f"trials/{tags['hpsearch.trial']}"
        if "hpsearch.trial" in tags
        else f"confirmation/{tags['hpsearch.confirmation']}"
    )


def has_each_point_once_and_in_order(study: Chaos) -> None:
    inside = points_in_mlflow(study)
    assert len(inside) == len(study.trials()) == study.settings.budget.max_trials + 2
    for folder in study.trials():
        there = inside[study.name(folder)]
        for name in {name for _, values in read_points(folder) for name in values}:
            wanted = [(step, values[name]) for step, values in read_points(folder) if name in values]
            found = [(step, value) for key, step, value in there if key == name]
            # What a trial came to is told once more when it ends, at its last step.
            assert [point for i, point in enumerate(found) if point not in found[:i]][: len(wanted)] == wanted
            assert len(found) <= len(wanted) + 1


@pytest.mark.parametrize("seconds", [0, 60])
def test_the_mlflow_server_is_stopped_and_started(
    seconds: int, study: Chaos, expected: Outcome, mlflow_server: tuple[str, Any]
) -> None:
    address, started = mlflow_server
    study.use(tracking=address)
    with started():
        process = study.start()
        study.until(study.steps, process)
    time.sleep(seconds)
    with started():
        code = process.wait(SECONDS)
        assert code == 0 or (seconds and code == 5), study.log.read_text()
        study.finish()  # it waits a minute after the search, no longer
        study.check(expected)
        has_each_point_once_and_in_order(study)
    study.keeps_secrets()


def test_the_mlflow_server_never_answers(study: Chaos, expected: Outcome, mlflow_server: tuple[str, Any]) -> None:
    """It takes connections and says nothing; the search is over all the same, and waits to be told."""
    address, started = mlflow_server
    study.use(tracking=address)
    with started() as server:
        process = study.start()
        study.until(study.steps, process)
        family = [psutil.Process(server), *psutil.Process(server).children(recursive=True)]
        for one in family:
            one.suspend()
        try:
            assert process.wait(SECONDS) == 5, study.log.read_text()
        finally:
            for one in family:
                one.resume()
        said = study.log.read_text()
        assert "MLflow's store does not answer" in said or "MLflow takes more than" in said
        assert "Traceback" not in said
        outcome = study.outcome()
        assert {name: trial[2:] for name, trial in outcome.items()} == {n: t[2:] for n, t in expected.items()}
        study.finish()
        study.check(expected)
        has_each_point_once_and_in_order(study)
    study.keeps_secrets()


def test_a_full_disk_while_results_are_written(study: Chaos, expected: Outcome) -> None:
    for place in ("state.records.add_points:5", "state.records.write_durably:14", "state.records.TrialRecord.save:9"):
        assert study.start(FULL_AT=place).wait(SECONDS) == 5, study.log.read_text()
    said = study.log.read_text()
    assert said.count("the disk is full") == 3
    assert "Traceback" not in said
    study.finish()
    study.check(expected)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system of its own can't be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, study: Chaos, expected: Outcome, rng: random.Random) -> None:
    """All of it is taken while trials are trained, but for so many bytes."""
    study.home = tracked.new_home(small_disk / "home")
    ballast = small_disk / "ballast"
    for left in (0, 30_000, 200_000):
        process = study.start()
        before = study.steps()
        study.until(lambda before=before: study.steps() != before, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 1))
        with contextlib.suppress(OSError), open(ballast, "wb", buffering=0) as file:
            while (free := shutil.disk_usage(small_disk).free) > left:
                file.write(b"0" * max(1, min(free - left, 2**20)))
        assert process.wait(SECONDS) in (0, 5), study.log.read_text()
        assert "Traceback" not in study.log.read_text()
        ballast.unlink()
        assert left or process.returncode == 5, "nothing could be written"
    study.finish()
    study.check(expected)


def test_killed_while_it_is_registered_and_promoted_twice_at_once(study: Chaos) -> None:
    study.finish()
    command = (
        "import json, sys; from pathlib import Path; from hpsearch.serving import mlflow_process\n"
        "from hpsearch.config import loading; from hpsearch.registry import promotion\n"
        "promotion.promote(loading.from_plain(json.loads(Path(sys.argv[1]).read_text())), Path(sys.argv[2]), 'a toy')"
    )
    words = [sys.executable, "-c", command, str(study.root / "settings.json"), str(study.home)]
    for seconds in (3.0, 4.5, 6.0):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
    both = [subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, said.decode()
    promote(study.settings, study.home)  # it is the champion already
    client = tracked.client(Tracking(study.settings, study.home))
    versions = client.search_model_versions("name='hpsearch-toy'")
    champion = client.get_model_version_by_alias("hpsearch-toy", "champion")
    summary = json.loads((study.folder / "summary.json").read_text())
    assert champion.run_id == summary["winner"]["run_id"]
    assert len({version.run_id for version in versions}) == len(versions) == 1, "one run, one version"
    assert fsck(study.settings, study.home, repair=False).endswith("clean")
