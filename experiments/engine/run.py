"""A trial of ours beside Hugging Face's Trainer as it comes, in turns. Writes table.md beside this file.

python run.py [--rounds 3] [--squad <file in SQuAD's layout>] [--works <some> --] [--table <file>] [setting=value ...]
takes 10 to 20 minutes on two cores. The settings are for both sides, as for `hpsearch`:
model=bert-base train.batch_size=32.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import composed

from hpsearch.training import hardware
from hpsearch.workers.local import ENVIRONMENT

HERE = Path(__file__).parent
STEPS = {"ours": 100, "trainer": 50} if torch.cuda.is_available() else {"ours": 12, "trainer": 4}
TITLES = {
    "train-256": "training, 256 tokens",
    "train-512": "training, 512 tokens",
    "evaluate-256": "evaluation, 256 tokens",
    "questions-384": "question answering, windows of 384",
}


def main(rounds: int, squad: str | None, works: list[str], table: Path, settings: list[str]) -> None:
    works = [work for work in works if squad or "questions" not in work]
    measured: dict[tuple[str, str], list[dict[str, float]]] = {}
    limits = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(rounds):
            limits.append(process("limit", *settings, cache=cache, squad=squad))
            for work in works:
                for side in ("trainer", "ours"):
                    found = process(side, work, str(STEPS[side]), *settings, cache=cache, squad=squad)
                    measured.setdefault((work, side), []).append(found)
                    print(work, side, found, flush=True)
    limit = {name: max(one[name] for one in limits) for name in limits[0]}  # a limit: what else ran only lowers it
    asked = composed("train-256", "ours", settings)
    chosen = hardware.resolve(asked.hardware)
    where = f"{chosen.name}, " + ("" if chosen.device == "cuda" else f"{chosen.threads} threads, ")
    lines = [
        f"{where}{chosen.precision}{', compiled' if chosen.compile else ''}; large matrix products reach "
        f"{' and '.join(f'{rate:,.0f} GFLOP/s in {name}' for name, rate in limit.items())}. {asked.model.name}, "
        f"batches of {asked.train.batch_size}, " + (f"medians of {rounds} rounds." if rounds > 1 else "one round."),
        "",
        "| work | side | examples/s | times as many | in each round | real tokens/s | padding "
        "| share of the matmul limit | peak memory, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for work in works:
        rates = {side: [one["examples"] / one["seconds"] for one in measured[work, side]] for side in STEPS}
        for side in ("trainer", "ours"):
            ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["trainer"], strict=True)]
            times = (
                f"{statistics.median(ratios):.1f} | {', '.join(f'{r:.1f}' for r in ratios)}"
                if side == "ours"
                else "1 | "
            )
            precision = chosen.precision if side == "ours" else "float32"
            lines.append(row(TITLES[work], side, measured[work, side], times, limit[precision], "evaluate" in work))
    table.write_text("\n".join(lines) + "\n")


def row(title: str, side: str, runs: list[dict[str, float]], times: str, limit: float, forward_only: bool) -> str:
    """Operations are the model's on real tokens: 2 a parameter and token forward, 4 backward; attention's besides."""
    passes = 1 if forward_only else 3

    def share(one: dict[str, float]) -> float:
        layers, width = one["layers"], one["width"]
        of_linear = 12 * layers * width**2  # parameters
        operations = passes * (2 * of_linear * one["tokens"] + 4 * layers * width * one["squares"])
        return operations / one["seconds"] / 1e9 / limit

    def median(of: Any) -> float:
        return float(statistics.median(of(one) for one in runs))

    padding = "" if forward_only else f"{median(lambda one: 1 - one['tokens'] / one['padded']):.0%}"
    examples, tokens = (median(lambda one, name=name: one[name] / one["seconds"]) for name in ("examples", "tokens"))
    return (
        f"| {title} | {side} | {examples:.2f} | {times} | {tokens:,.0f} | {padding} "
        f"| {median(share):.0%} | {median(lambda one: one['peak_mib']):,.0f} |"
    )


def process(*words: str, cache: str, squad: str | None) -> dict[str, float]:
    """A measurement; ours in the environment of a worker."""
    environment = os.environ | {"BENCH_CACHE": cache, "HF_HUB_OFFLINE": "1"} | ({"SQUAD": squad} if squad else {})
    if words[0] == "ours":
        environment = ENVIRONMENT | environment
    done = subprocess.run(
        [sys.executable, str(HERE / "measure.py"), *words],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--squad")
    parser.add_argument("--works", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--table", type=Path, default=HERE / "table.md")
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    main(given.rounds, given.squad, given.works, given.table, given.settings)
