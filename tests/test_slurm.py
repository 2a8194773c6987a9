"""`conf/cluster/slurm.sbatch`, told to go at any time, with programs that stand for SLURM, Ray and hpsearch."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "conf" / "cluster" / "slurm.sbatch"
SAVES = 'trap "sleep 0.5; exit 130" TERM; for _ in $(seq 100); do sleep 0.1; done'  # as a sweep does
ENDS = "exec sleep 10"  # as a program that is still starting: the signal ends it
SECONDS = 30


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Runs the script; returns its exit code, and what was called."""
    said = tmp_path / "said"

    def program(name: str, does: str) -> None:
        (tmp_path / name).write_text(f'#!/bin/bash\necho "{name} $1" >> {said}\n{does}\n')
        (tmp_path / name).chmod(0o755)

    def run(nodes: str = "exit 0", sweep: str = "exit 0", told_at: str | None = None) -> tuple[int, list[str]]:
        program("scontrol", "[ $1 = show ] && echo n1 || true")
        program("getent", "echo 127.0.1.1 STREAM n1")
        program("hostname", "echo 10.0.0.1")
        for name, does in {"srun": "exec sleep 20", "ray": "exit 0", "python": nodes, "hpsearch": sweep}.items():
            program(name, does)
        job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2"}
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HPSEARCH_BIN": str(tmp_path)}
        script = subprocess.Popen(["bash", str(SCRIPT)], env=os.environ | job | own, start_new_session=True)
        try:
            deadline = time.monotonic() + SECONDS
            while told_at is not None and not (said.exists() and told_at in said.read_text()):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            if told_at is not None:
                time.sleep(0.3)  # until the program has its trap
                script.send_signal(signal.SIGTERM)
            code = script.wait(SECONDS)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)  # what it has left behind
        return code, [line for line in said.read_text().splitlines() if not line.startswith("srun")]

    return run


def test_a_job_ends_with_its_sweep(job: Callable[..., tuple[int, list[str]]]) -> None:
    for expected in (0, 3):
        code, called = job(sweep=f"exit {expected}")
        assert code == expected
        assert "scontrol requeue" not in called


def test_a_sweep_that_is_told_to_go_saves_and_is_queued_again(job: Callable[..., tuple[int, list[str]]]) -> None:
    code, called = job(sweep=SAVES, told_at="hpsearch sweep")
    assert (code, called[-1]) == (130, "scontrol requeue")


def test_a_sweep_that_ends_just_then_is_not_queued_again(job: Callable[..., tuple[int, list[str]]]) -> None:
    code, called = job(sweep='trap "exit 0" TERM; for _ in $(seq 100); do sleep 0.1; done', told_at="hpsearch sweep")
    assert (code, called[-1]) == (0, "hpsearch sweep")


def test_a_job_that_is_told_while_it_starts_is_queued_again(job: Callable[..., tuple[int, list[str]]]) -> None:
    code, called = job(nodes=ENDS, told_at="python -c")
    assert (code, called[-1]) == (143, "scontrol requeue")
    assert "hpsearch sweep" not in called


def test_a_job_whose_nodes_do_not_join_ends(job: Callable[..., tuple[int, list[str]]]) -> None:
    code, called = job(nodes="exit 1")
    assert code == 1
    assert called[-1] == "python -c"
