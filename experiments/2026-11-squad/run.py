"""MiniLM on half of SQuAD v2.0's dev set, split by article: sweeps, a learning curve, and trivial answers.

python run.py <squad-v2.0-half-dev.json> <folder for its runs>; writes table.md beside this file. Started again, it goes
on where it stopped, as sweeps do.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from hpsearch import formats
from hpsearch.config import loading
from hpsearch.tasks import squad
from hpsearch.training import data

HERE = Path(__file__).parent
SPLIT = (
    "task.split.validation=0.15",
    "task.split.test=0.25",
    "budget.test_examples=null",
    "budget.train_examples=null",
)
SWEEP = ("search=qa", "search.space.train.epochs.choices=[3,4]", "budget.max_trials=6", "budget.max_hours=0.25")
# On all questions one fine-tune takes as long as a whole sweep on the answerable ones. The threshold for "no answer" is
# fitted on all validation questions.
ALL_RECIPE = (
    "train.learning_rate=2e-4",
    "train.batch_size=16",
    "train.epochs=4",
    "budget.validation_examples=null",
)
RECIPE = ("train.learning_rate=2e-4", "train.batch_size=16", "train.epochs=3")
SIZES = (200, 400, 800, 1600)
HEAD = "| what | F1 | exact match | 95 % interval of F1 |\n| --- | --- | --- | --- |\n"

Reader = Callable[[str, str], str]


def main(source: Path, runs: Path) -> None:
    runs.mkdir(parents=True, exist_ok=True)
    answerable = runs / "answerable.json"
    answerable.write_text(json.dumps(only_answerable(json.loads(source.read_text()))))
    of_v1 = ("task=squad", "task.source=files", f"task.files.train={answerable}", *SPLIT)
    of_v2 = ("task=squad_v2", "task.source=files", f"task.files.train={source}", *SPLIT)
    v1 = hpsearch(runs, "sweep", *of_v1, *SWEEP)
    whole = hpsearch(runs, "train", *of_v2, *ALL_RECIPE)
    curve = [(size, hpsearch(runs, "train", *of_v1, *RECIPE, f"budget.train_examples={size}")) for size in SIZES]
    parts = [
        f"{v1['hardware']['name']}, {os.cpu_count()} cores, {v1['hardware']['precision']}",
        f"Answerable questions: {sizes(v1)}, articles {v1['data']['groups']}\n\n"
        + HEAD
        + result("sweep's winner", v1)
        + "".join(trivial(name, reader, of_v1) for name, reader in TRIVIAL.items()),
        f"All questions: {sizes(whole)}, articles {whole['data']['groups']}\n\n"
        + HEAD
        + result("one fine-tune, learning rate 2e-4, batch size 16, 4 epochs", whole)
        + trivial("always no answer", lambda question, context: "", of_v2),
        f"Of that fine-tune: F1 {whole['test']['all']['has_answer_f1']:.3f} where there is an answer, "
        f"accuracy {whole['test']['all']['no_answer_accuracy']:.3f} where there is none.",
        "Learning curve (answerable; learning rate 2e-4, batch size 16, 3 epochs, one seed)\n\n"
        "| training questions | F1 | exact match | training seconds |\n| --- | --- | --- | --- |\n"
        + "".join(
            f"| {size:,} | {run['test']['value']:.3f} | {run['test']['all']['exact_match']:.3f} "
            f"| {run['seconds']['search']:.0f} |\n"
            for size, run in curve
        ),
        "Cost\n\n| data | minutes | trials | steps trained | winner |\n| --- | --- | --- | --- | --- |\n"
        + sweep_row("answerable", v1)
        + sweep_row("all, one fine-tune", whole),
    ]
    (HERE / "table.md").write_text("\n\n".join(part.rstrip() for part in parts) + "\n")


def hpsearch(runs: Path, verb: str, *overrides: str) -> dict[str, Any]:
    """Run the command, or find it finished; its summary."""
    config = composed(overrides)
    subprocess.run(
        [sys.executable, "-m", "hpsearch", verb, *overrides],
        check=True,
        env=os.environ | {"HPSEARCH_HOME": str(runs)},
        stdout=sys.stderr,
    )
    studies = (
        [runs / "studies" / config.study] if verb == "sweep" else runs.glob(f"studies/{config.task.name}-*-train-*")
    )
    summaries: list[dict[str, Any]] = [json.loads((study / "summary.json").read_text()) for study in studies]
    of_size = config.budget.train_examples
    return next(s for s in summaries if of_size is None or s["data"]["train"] == of_size)


def composed(overrides: tuple[str, ...]) -> Any:
    with initialize_config_dir(str(HERE.parents[1] / "conf"), version_base="1.3"):
        return loading.load(compose("config", overrides=list(overrides)))


def only_answerable(content: dict[str, Any]) -> dict[str, Any]:
    for article in content["data"]:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [qa for qa in paragraph["qas"] if not qa["is_impossible"]]
    return content


def words(text: str) -> set[str]:
    return set(squad.normalise(text).split())


def sentences(context: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", context)


def most_question_words(question: str, context: str) -> str:
    return max(sentences(context), key=lambda sentence: len(words(sentence) & words(question)))


def first_sentence(question: str, context: str) -> str:
    return sentences(context)[0]


def longest_capitalised_run(question: str, context: str) -> str:
    return max(re.findall(r"[A-Z][\w'-]*(?:\s+[A-Z][\w'-]*)*", context), key=len, default="")


TRIVIAL: dict[str, Reader] = {
    "sentence with the most question words": most_question_words,
    "first sentence": first_sentence,
    "longest capitalised run": longest_capitalised_run,
}


def trivial(name: str, reader: Reader, overrides: tuple[str, ...]) -> str:
    """The row of an answer that needs no learning, on the same test questions."""
    rows = data.read(composed(overrides)).splits["test"].to_dict()
    said = [reader(question, context) for question, context in zip(rows["question"], rows["context"], strict=True)]
    exact, f1 = squad.scores(said, [[answer["text"] for answer in answers] for answers in rows["answers"]])
    return f"| {name} | {np.mean(f1):.3f} | {np.mean(exact):.3f} | |\n"


def result(name: str, summary: dict[str, Any]) -> str:
    test = summary["test"]
    interval = f"{test['low']:.3f} to {test['high']:.3f}"
    return f"| {name} | {test['value']:.3f} | {test['all']['exact_match']:.3f} | {interval} |\n"


def sizes(summary: dict[str, Any]) -> str:
    return ", ".join(f"{summary['data'][split]:,} {split}" for split in ("train", "validation", "test"))


def sweep_row(name: str, summary: dict[str, Any]) -> str:
    steps = summary["steps"]
    return (
        f"| {name} | {summary['seconds']['total'] / 60:.1f} | {formats.value(summary['trials'])} "
        f"| {steps['trained']:,} of {steps['all_to_the_end']:,} | {formats.parameters(summary['best']['params'])} |\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]).absolute())
