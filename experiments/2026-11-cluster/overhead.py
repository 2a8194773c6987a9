"""How much of their time do workers on Ray work? Writes cells/ and table.md beside this file.

python overhead.py [--trials 200] [--workers 8] [--seconds 20] [--sides ray local short tune tune_reused]

Workers sleep (`sleeper.py`), so that eight of them have room on two cores. `ray` and `local` search with two rungs, in
trials of 20 seconds. `short` has trials of one second without rungs, as many as Ray Tune's own benchmark has for each
worker. `tune` does the same work through Ray Tune, and `tune_reused` with its actors kept from trial to trial.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import search

from hpsearch.state.folder import StudyFolder
from hpsearch.state.roster import staff

HERE = Path(__file__).parent
CELLS = HERE / "cells"
SIDES = ("ray", "local", "short", "tune", "tune_reused")
Given = argparse.Namespace


def ours(given: Given, seconds: float, rungs: str, on_ray: bool) -> dict[str, Any]:
    """Search with our coordinator."""
    from hpsearch.config.settings import ClusterSettings
    from hpsearch.workers.local import LocalWorkplace

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        log = root / "waited.jsonl"
        os.environ |= {"PYTHONPATH": str(HERE / "asleep"), "SLEEP_SECONDS": str(seconds), "SLEEP_LOG": str(log)}
        settings = search.settings_of(root, given.trials, f"search.rungs={rungs}", "search.rungs_after=1")
        if on_ray:
            import ray

            from hpsearch.workers.ray import RayWorkplace

            ray.init(address="local", num_cpus=given.workers, include_dashboard=False, log_to_driver=False)
            amounts: Any = {"workers": given.workers, "cpus": 1, "gpus": 0.0, "resources": {}}
            more: Any = {"shared": True, "autoscaling": False, "environment": "none", "processes_per_trial": 1}
            cluster = ClusterSettings(name="ray", address=None, **amounts, **more)
            place: Any = RayWorkplace(settings.hardware, cluster, root / "home")
        else:
            hardware = settings.hardware.model_copy(update={"workers": given.workers, "threads": 1})
            place = LocalWorkplace(hardware, root / "home")
        began = time.perf_counter()
        phase = search.searched(settings, root / "home", place)
        took = time.perf_counter() - began
        found = staff(StudyFolder.of(root / "home", "asleep"))
        assert found is not None
        slept = sum(sum(trial.seconds.values()) for trial in phase.trials.values())
        waited = [json.loads(line) for line in log.read_text().splitlines()]
        return {
            "trials": len(phase.trials),
            "seconds": took,
            "ideal": slept / given.workers,
            "busy": found.working / (found.working + found.waiting),
            "waited": {what: [one["waited"] for one in waited if one["what"] == what] for what in ("rung", "work")},
        }


def tune(given: Given, reuse: bool) -> dict[str, Any]:
    """Do the work of `short` through Ray Tune."""
    import ray
    from ray import tune

    class Sleep(tune.Trainable):
        def setup(self, config: dict[str, Any]) -> None:
            self.config = config

        def step(self) -> dict[str, Any]:
            time.sleep(1.0)
            return {"accuracy": self.config["x"], "done": True}

        def reset_config(self, config: dict[str, Any]) -> bool:
            self.config = config
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Save nothing. Tune asks for it at the end of each trial, and a trial without it fails."""

    ray.init(address="local", num_cpus=given.workers, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as scratch:
        began = time.perf_counter()
        tuner = tune.Tuner(
            Sleep,
            param_space={"x": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=given.trials, reuse_actors=reuse),
            run_config=tune.RunConfig(storage_path=scratch, verbose=0),
        )
        results = tuner.fit()
        took = time.perf_counter() - began
        assert not results.errors, results.errors
        return {"trials": len(results), "seconds": took, "ideal": given.trials / given.workers}


def sides(given: Given) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what can be run."""
    return {
        "ray": lambda: ours(given, given.seconds, "[0.25,0.5]", on_ray=True),
        "local": lambda: ours(given, given.seconds, "[0.25,0.5]", on_ray=False),
        "short": lambda: ours(given, 1.0, "[]", on_ray=True),
        "tune": lambda: tune(given, reuse=False),
        "tune_reused": lambda: tune(given, reuse=True),
    }


def table() -> None:
    """Write the table of the cells that are there."""
    lines = [
        "| side | trials | workers | seconds | ideal | busy | rung to answer, median | work to next work, median |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for path in (CELLS / f"{side}.json" for side in SIDES):
        if not path.exists():
            continue
        cell = json.loads(path.read_text())
        waited = {what: f"{1000 * median(found):.0f} ms" for what, found in cell.get("waited", {}).items() if found}
        busy = f"{cell['busy']:.1%}" if "busy" in cell else "-"
        lines.append(
            f"| {path.stem} | {cell['trials']} | {cell['workers']} | {cell['seconds']:.0f} | {cell['ideal']:.0f} | "
            f"{busy} | {waited.get('rung', '-')} | {waited.get('work', '-')} |"
        )
    (HERE / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Run the sides that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--sides", nargs="*", default=SIDES)
    given = parser.parse_args()
    CELLS.mkdir(exist_ok=True)
    for side in given.sides:
        if os.fork() == 0:
            cell = sides(given)[side]() | {"workers": given.workers}
            (CELLS / f"{side}.json").write_text(json.dumps(cell))
            sys.stdout.flush()
            os._exit(0)
        os.wait()
    table()


if __name__ == "__main__":
    main()
