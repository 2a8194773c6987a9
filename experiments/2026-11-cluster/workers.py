"""What do several workers on Ray bring on one machine, and do they find the same? Writes workers.md beside this file.

python workers.py [--trials 8] [--examples 400]

The same search of MiniLM on Rotten Tomatoes, with processes of this machine and on Ray, where 1, 2 and 4 workers share
the cores. Each side is a process of its own, in an empty state folder.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpsearch.config import composition, loading
from hpsearch.coordinator import sweep
from hpsearch.state.folder import StudyFolder
from hpsearch.state.records import TrialRecord

HERE = Path(__file__).parent
CORES = 2
SIDES = {"here": 0, "ray-1": 1, "ray-2": 2, "ray-4": 4}
"""Name of a side: its workers on Ray, 0 without Ray."""
COMMON = ("task=rotten_tomatoes", "study=workers", "budget=full", "budget.final=false", "budget.floors=false")
FEWER = ("budget.confirmation.finalists=1", "budget.confirmation.seeds=1", "search.rungs=[0.5]", "train.epochs=3")


def run(side: str, trials: int, examples: int) -> dict[str, Any]:
    """Search in this process."""
    count = SIDES[side]
    threads = max(1, CORES // max(1, count))
    asked = [*COMMON, *FEWER, f"budget.max_trials={trials}", f"budget.search_examples={examples}"]
    if count:
        import ray

        ray.init(address="local", num_cpus=max(CORES, count), include_dashboard=False, log_to_driver=False)
        asked += ["cluster=ray", f"cluster.workers={count}", f"cluster.cpus={threads}"]
    settings = loading.load(composition.compose(asked))
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        began = time.perf_counter()
        summary = sweep.run_sweep(settings, home)
        took = time.perf_counter() - began
        found = [TrialRecord.load(one.path) for one in StudyFolder.of(home, settings.study).trials("trials")]
    return {
        "seconds": took,
        "trials": [{name: asdict(one)[name] for name in ("params", "score", "step")} for one in found],
        "best": summary.winner.validation["validation_accuracy"],
    }


def main() -> None:
    """Run all sides, one after another."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--side", choices=SIDES, help="run one side, and print its result as JSON")
    given = parser.parse_args()
    if given.side is not None:
        print(json.dumps(run(given.side, given.trials, given.examples)))
        return
    found: dict[str, dict[str, Any]] = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--side", side, "--trials", f"{given.trials}"]
        said = subprocess.run(
            [*command, "--examples", f"{given.examples}"], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        found[side] = json.loads(said.splitlines()[-1])
        print(side, found[side]["seconds"], flush=True)
    first = found["here"]
    rows = [
        "| side | workers | seconds | of `here` | same parameters | same parameters and score | best on validation |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for side, one in found.items():
        pairs = list(zip(first["trials"], one["trials"], strict=True))
        params = sum(a["params"] == b["params"] for a, b in pairs)
        both = sum(a == b for a, b in pairs)
        seconds, ratio = one["seconds"], one["seconds"] / first["seconds"]
        cells = (side, SIDES[side] or 1, f"{seconds:.0f}", f"{ratio:.2f}", params, both, f"{one['best']:.3f}")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    note = f"{given.trials} trials of {given.examples} sentences, MiniLM, {CORES} cores in all."
    (HERE / "workers.md").write_text("\n".join([note, "", *rows, ""]))


if __name__ == "__main__":
    main()
