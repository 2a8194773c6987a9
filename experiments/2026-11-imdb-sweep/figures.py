"""The figures of a finished sweep: python figures.py <runs>/studies/<study>. Writes table.md beside this file."""

import json
import os
import sys
from pathlib import Path

from hpsearch.report.page import findings
from hpsearch.state import codec
from hpsearch.state.outcome import Summary
from hpsearch.state.records import TrialRecord

BOOKKEEPING = ("setup", "checkpoint")  # of a trial; training and evaluation are the work itself


def main(folder: Path) -> None:
    text = (folder / "summary.json").read_text()
    summary = json.loads(text)
    records = sorted((TrialRecord.load(p.parent) for p in folder.glob("trials/*/trial.json")), key=lambda t: t.number)
    work = sum(t.seconds.get(k, 0.0) for t in records for k in ("training", "evaluation"))
    seconds, steps, test = summary["seconds"], summary["steps"], summary["test"]
    phases = json.loads((folder / "seconds.json").read_text())  # summary.json was written before the report's end
    kept = phases["report"] + sum(t.seconds.get("checkpoint", 0.0) for t in records)
    rows = [
        ("machine", f"{summary['hardware']['name']}, {os.cpu_count()} cores, {summary['hardware']['precision']}"),
        ("whole command, minutes", f"{seconds['total'] / 60:.1f}"),
        (
            "of it set-up, search, confirmation, test; then the report, seconds",
            " / ".join(f"{phases[k]:.0f}" for k in ("setup", "search", "confirmation", "test", "report")),
        ),
        ("trials started", f"{len(records)}: {', '.join(f'{n} {s}' for s, n in summary['trials'].items())}"),
        (
            "training steps, of those that running all to the end takes",
            f"{steps['trained']:,} of {steps['all_to_the_end']:,} ({steps['trained'] / steps['all_to_the_end']:.0%})",
        ),
        (
            "test accuracy",
            f"{test['value']:.4f} (95 % interval {test['low']:.3f} to {test['high']:.3f}, n = {test['n']:,})",
        ),
        *(("found", line) for line in findings(codec.read(Summary, text, "summary.json", "sweep again"))),
        (
            "best trial",
            f"{summary['best']['trial']}: {summary['best']['params']}, validation {summary['best']['validation']:.4f}",
        ),
        (
            "search seconds that are neither training nor evaluation, for each trial",
            f"{(seconds['search'] - work) / len(records):.1f}",
        ),
        (
            "of them in the worker (load model and data, checkpoints)",
            f"{sum(t.seconds.get(k, 0.0) for t in records for k in BOOKKEEPING) / len(records):.1f}",
        ),
        (
            "checkpoints, report and logging of the winner, of the whole time",
            f"{kept:.1f} s of {sum(phases.values()):.0f} s ({kept / sum(phases.values()):.1%})",
        ),
    ]
    table = "| figure | value |\n| --- | --- |\n" + "".join(f"| {name} | {value} |\n" for name, value in rows)
    trials = (
        "| trial | status | parameters | validation | steps | seconds |\n| --- | --- | --- | --- | --- | --- |\n"
        + "".join(
            f"| {t.number} | {t.status} | {', '.join(f'{k.split(chr(46))[1]} {v:.3g}' for k, v in t.params.items())} "
            f"| {t.score:.3f} | {t.step}/{t.total_steps} | {sum(t.seconds.values()):.0f} |\n"
            for t in records
        )
    )
    Path(__file__).with_name("table.md").write_text(f"{table}\n{trials}")
    print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
