"""A winner that is one model with the words: weighed, chosen, scored, kept, told, served, promoted, checked."""

import csv
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.special import log_expit, log_softmax

import make
import tiny
import tracked
from forked import Coordinator
from hpsearch.config.settings import Settings
from hpsearch.coordinator import results, sweep
from hpsearch.errors import FaultsFound
from hpsearch.fsck import fsck
from hpsearch.registry.champions import champion_uri
from hpsearch.registry.promotion import promote
from hpsearch.report import beside, cards, page
from hpsearch.serving import code, loading, packaging
from hpsearch.state import codec
from hpsearch.state.folder import StudyFolder
from hpsearch.state.measured import BlendRead, Reading
from hpsearch.state.outcome import BlendOutcome, Summary, read_summary
from hpsearch.tasks.blend import together
from hpsearch.tracking.registered import RegisteredModel
from hpsearch.tracking.runs import Tracking
from hpsearch.training import blends
from test_beside import FEW, SECONDS, Swept

Models = Callable[[str], Path]
LEARNS = (
    "budget.blend=true",
    "search.space.train.learning_rate={low: 0.009, high: 0.011}",
    "search.space.train.epochs.choices=[10]",
)
ROWS = 600
TOPICS = ["metal", "praise"]


def texts(rows: int, topics: bool = False) -> list[dict[str, Any]]:
    """Half of them say what they are by their first word, and have one of the other class last: the words cannot know.

    The others say it by their last word, nine times of ten, which a model that reads 48 tokens does not see.
    """
    draw, found = random.Random(7), {}
    while len(found) < rows:
        good, long, true = draw.random() < 0.5, draw.random() < 0.5, draw.random() < 0.9
        own, other = (tiny.GOOD, tiny.BAD) if good else (tiny.BAD, tiny.GOOD)
        filler = draw.choices(tiny.OTHER, k=61 if long else draw.randint(3, 9))
        said = (
            [*filler, draw.choice(own if true else other)] if long else [draw.choice(own), *filler, draw.choice(other)]
        )
        metal = topics and draw.random() < 0.4
        text = " ".join([*said, draw.choice(tiny.METALS)] if metal else said)
        if topics:
            labels = [topic for topic, has in zip(TOPICS, (metal, good), strict=True) if has]
            found[text] = {"text": text, "labels": ";".join(labels)}
        else:
            found[text] = {"text": text, "label": "positive" if good else "negative"}
    return list(found.values())


def settings_of(root: Path, rows: list[dict[str, Any]], model: Path, *overrides: str, task: str = "csv") -> Settings:
    path = root / "toy.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return make.toy_settings(path, model, "bert", *FEW, *LEARNS, *overrides, task=task)


def swept_on(root: Path, rows: list[dict[str, Any]], model: Path, *overrides: str, task: str = "csv") -> Swept:
    settings = settings_of(root, rows, model, *overrides, task=task)
    home = tracked.new_home(root / "home")
    return Swept(settings, home, sweep.run_sweep(settings, home))


def blend_of(summary: Summary) -> BlendOutcome:
    assert summary.blend is not None
    return summary.blend


def reading_of(folder: StudyFolder) -> Reading:
    found = codec.read_file(Reading, folder.test, "")
    assert found is not None
    return found


def read_blend(folder: StudyFolder) -> BlendRead:
    blend = reading_of(folder).blend
    assert blend is not None
    return blend


@pytest.fixture(scope="module")
def blended(tmp_path_factory: pytest.TempPathFactory, tiny_model: Models) -> Swept:
    """A study whose winner knows the order of words, but of the heads of texts alone; the words are the other way."""
    return swept_on(tmp_path_factory.mktemp("blended"), texts(ROWS), tiny_model("bert"))


@pytest.fixture
def copy(blended: Swept, tmp_path: Path) -> Swept:
    """Its artifacts are those of the original: only tests that write none of them may have it."""
    shutil.copytree(blended.home, tmp_path / "home", ignore=shutil.ignore_patterns("artifacts", "cache"))
    return replace(blended, home=tmp_path / "home")


@pytest.fixture
def own(tmp_path: Path, tiny_model: Models) -> Swept:
    """The same study, for a test that changes what MLflow has of it."""
    return swept_on(tmp_path, texts(ROWS), tiny_model("bert"))


# --- weighed ---------------------------------------------------------------------------------------------------------


@hypothesis_settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    classes=st.integers(2, 6),
    exclusive=st.booleans(),
    skills=st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 3.0)),
)
def test_no_weights_have_a_smaller_loss(seed: int, classes: int, exclusive: bool, skills: tuple[float, float]) -> None:
    """Neither one model alone, however it is scaled, nor other weights near by: the loss is convex."""
    draw = np.random.default_rng(seed)
    if exclusive:
        right = np.eye(classes, dtype=bool)[draw.integers(0, classes, 150)]
    else:
        right = draw.random((150, classes)) < 0.4
    one, other = (skill * right + draw.normal(size=right.shape) for skill in skills)

    def loss(weights: tuple[float, float]) -> float:
        said = together(one, other, weights)
        if exclusive:
            return -float(log_softmax(said, axis=1)[right].mean())
        return -float(log_expit(np.where(right, said, -said)).mean())

    found = blends.weigh(one, other, right, exclusive)
    assert all(0 <= weight <= blends.MOST for weight in found)
    least = loss(found)
    scales = np.linspace(0, blends.MOST, 41)
    assert all(least <= loss((scale, 0.0)) + 1e-6 for scale in scales)
    assert all(least <= loss((0.0, scale)) + 1e-6 for scale in scales)
    for step in (-0.05, 0.05):
        one_more, other_more = (min(blends.MOST, max(0.0, weight + step)) for weight in found)
        assert least <= loss((one_more, found[1])) + 1e-6
        assert least <= loss((found[0], other_more)) + 1e-6


def test_what_says_nothing_has_no_weight() -> None:
    draw = np.random.default_rng(0)
    right = np.eye(3, dtype=bool)[draw.integers(0, 3, 4000)]
    good, noise = 2.0 * right + draw.normal(size=right.shape), draw.normal(size=right.shape)
    kept, lost = blends.weigh(good, noise, right, exclusive=True)
    assert kept == pytest.approx(2.0, abs=0.2), "logits of such a skill are 2 times what is said"
    assert lost < 0.1


# --- chosen and scored -----------------------------------------------------------------------------------------------


def test_both_together_are_what_is_kept(blended: Swept) -> None:
    summary, blend = blended.summary, blend_of(blended.summary)
    assert blend.test.value < 0.85, "half of the texts are longer than it reads"
    assert summary.test.value > max(blend.test.value, blended.floor("words").test.value)
    assert min(blend.weights) > 0
    assert (blend.gain.champion, blend.gain.challenger) == (blend.test.value, summary.test.value)
    assert summary.winner.validation["validation_accuracy"] > blend.validation["validation_accuracy"]
    assert summary.floor is not None
    assert summary.floor.gain.challenger == summary.test.value
    assert beside.warning(summary) is None
    assert summary.test.readings == 1
    assert summary.test.megabytes > blend.test.megabytes
    assert blend.search is None, "the reference recipe was not confirmed"
    plain = codec.plain(summary)
    del plain["blend"]
    assert codec.parse(Summary, codec.write(plain)) == replace(summary, blend=None), "as a former version wrote it"


def test_weights_are_from_validation_alone(blended: Swept) -> None:
    """The scores on validation are those of what the served model says there."""
    blend, table = read_blend(blended.folder), read_blend(blended.folder).validation
    assert len(table.data) == blended.summary.data.validation
    right = [truth == said for truth, said in zip(table.truths, table.said, strict=True)]
    assert np.mean(right) == pytest.approx(blend.metrics["validation_accuracy"])
    said, _ = packaging.answers(model_of(blended), blended.settings, {"text": texts_of(blended, table.ids)})
    assert said == table.said


@pytest.mark.slow
def test_a_later_winner_is_blended_and_a_blend_can_be_left_out(own: Swept) -> None:
    """The words are still there when another trial wins. Test is not read again where the fine-tune is kept alone."""
    assert own.folder.floor("words").model.exists()
    own.folder.test.write_text(codec.write(replace(reading_of(own.folder), of=("trials/99", None))))
    own.folder.published.unlink()
    kept = own.folder.named(own.summary.winner.folder).outputs
    assert not kept.exists(), "it is no part of the logged model, and so the model is asked again"
    again = sweep.run_sweep(own.settings, own.home)
    assert again.test.readings == 2
    assert blend_of(again).weights == pytest.approx(blend_of(own.summary).weights)
    assert again.test.all == pytest.approx(own.summary.test.all)
    own.folder.published.unlink()
    budget = own.settings.budget.model_copy(update={"blend": False})
    plain = sweep.run_sweep(own.settings.model_copy(update={"budget": budget}), own.home)
    assert plain.blend is None
    assert plain.winner.folder == own.summary.winner.folder
    assert plain.test.readings == 2
    assert plain.test.all == blend_of(own.summary).test.all
    assert reading_of(own.folder).blend is None
    assert fsck(own.settings, own.home, repair=False).endswith(": clean")


def test_words_that_bring_nothing_are_left_out(tmp_path: Path, tiny_model: Models) -> None:
    """The fine-tune has all of it right, so nothing can be better."""
    short = [{"text": text, "label": label} for text, label in tiny.sentences(ROWS, seed=0)]
    done = swept_on(tmp_path, short, tiny_model("bert"))
    assert done.summary.winner.validation["validation_accuracy"] == 1.0
    assert done.summary.blend is None


@pytest.mark.slow
def test_several_labels_have_the_thresholds_of_both(tmp_path: Path, tiny_model: Models) -> None:
    longer = ("search.space.train.epochs.choices=[40]", "search.space.train.learning_rate={low: 3e-3, high: 3.1e-3}")
    done = swept_on(tmp_path, texts(ROWS, topics=True), tiny_model("bert"), *longer, task="multilabel")
    blend = blend_of(done.summary)
    assert done.summary.test.value > blend.test.value
    thresholds = done.summary.winner.fitted["thresholds"]
    assert thresholds == read_blend(done.folder).fitted["thresholds"]
    table = done.tracking.answers(done.summary.winner.run_id, "test")
    assert table is not None
    said, _ = packaging.answers(model_of(done), done.settings, {"text": texts_of(done, table.ids)})
    assert said == table.said


@pytest.mark.chaos
@pytest.mark.parametrize("moment", ["-coordinator.crew.Crew.score:1", "tracking.runs.Tracking.log_winner:1"])
def test_a_result_that_was_cut_off_comes_to_the_same(
    moment: str, blended: Swept, tmp_path: Path, tiny_model: Models
) -> None:
    """Killed when both are scored and nothing is recorded, and when all is recorded and MLflow has not been told."""
    settings, home = settings_of(tmp_path, texts(ROWS), tiny_model("bert")), tracked.new_home(tmp_path / "home")
    request, log = tmp_path / "settings.json", tmp_path / "log"
    request.write_text(settings.model_dump_json())
    environment = {"OMP_NUM_THREADS": "1", "HPSEARCH_HOME": str(home)}
    assert Coordinator(request, log, environment | {"DIE_AT": moment}).wait(SECONDS) < 0, log.read_text()
    assert Coordinator(request, log, environment).wait(SECONDS) == 0, log.read_text()
    found = read_summary(StudyFolder.of(home, settings.study))
    assert found is not None
    assert blend_of(found).weights == pytest.approx(blend_of(blended.summary).weights, rel=1e-3)
    assert found.test.value == blended.summary.test.value
    assert found.test.readings == 1
    assert fsck(settings, home, repair=False).endswith(": clean")


# --- served and promoted ---------------------------------------------------------------------------------------------


def model_of(swept: Swept) -> str:
    run = tracked.client(swept.tracking).get_run(swept.summary.winner.run_id)
    found: str = run.data.tags["hpsearch.model"]
    return found


def texts_of(swept: Swept, ids: list[str]) -> list[str]:
    """By ids, from the user's file."""
    assert swept.settings.task.files is not None
    found = pd.read_csv(str(swept.settings.task.files.train))["text"].tolist()
    by_id = {f"train-{number}": text for number, text in enumerate(found, 2)}
    return [by_id[name] for name in ids]


def test_served_answers_are_those_that_were_scored(blended: Swept) -> None:
    run_id = blended.summary.winner.run_id
    table = blended.tracking.answers(run_id, "test")
    assert table is not None
    right = [truth == said for truth, said in zip(table.truths, table.said, strict=True)]
    assert np.mean(right) == pytest.approx(blended.summary.test.value)
    said, sure = packaging.answers(model_of(blended), blended.settings, {"text": texts_of(blended, table.ids)})
    assert said == table.said
    assert sure is not None
    likely = [row[truth] for row, truth in zip(sure, table.truths, strict=True)]
    assert likely == pytest.approx(table.replies.likelihoods, abs=1e-4)
    uri = Path(loading.fetched(model_of(blended)))
    assert {path.name for path in (uri / "artifacts").iterdir()} >= {"model", "words"}
    requirements = [line.partition("==")[0] for line in (uri / "requirements.txt").read_text().splitlines()]
    assert requirements == list(code.REQUIREMENTS)
    tags = tracked.client(blended.tracking).get_run(run_id).data.tags
    assert [float(weight) for weight in tags["hpsearch.blend"].split()] == pytest.approx(
        blend_of(blended.summary).weights, rel=1e-3
    )


def test_the_champion_is_both_together_and_both_are_checked(own: Swept) -> None:
    said = promote(own.settings, own.home)
    assert "is the champion now" in said
    version = RegisteredModel(own.tracking).version_of("champion")
    assert version is not None
    assert version.run_id == own.summary.winner.run_id
    assert version.tags["hpsearch.blend"]
    assert float(version.tags["hpsearch.test.value"]) == own.summary.test.value
    table = own.tracking.answers(own.summary.winner.run_id, "test")
    assert table is not None
    found = loading.load(champion_uri(own.settings, own.home)).predict(texts_of(own, table.ids))
    assert found["label"].tolist() == table.said
    assert fsck(own.settings, own.home, repair=False).endswith(": clean")
    stored = Path(loading.fetched(champion_uri(own.settings, own.home))) / "artifacts" / "words"
    weights = stored / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    with pytest.raises(FaultsFound, match=r"are not those that were logged \(words\)"):
        fsck(own.settings, own.home, repair=False)
    assert Tracking(own.settings, own.home).weights(own.summary.winner.run_id, "words") is not None


# --- told and checked ------------------------------------------------------------------------------------------------


def test_people_are_told_what_is_in_it(blended: Swept, capsys: pytest.CaptureFixture[str]) -> None:
    summary, blend = blended.summary, blend_of(blended.summary)
    assert page.headline(summary).startswith("tiny with words reaches accuracy")
    first, *_ = beside.findings(summary)
    assert first.startswith("The winner is a fine-tune and the linear model of words as one model, weighed on validati")
    assert f"The fine-tune alone has test accuracy {blend.test.value:.3f}: the words bring +" in first
    Console(width=300).print(page.final_table(summary, [], blended.settings, blended.folder), soft_wrap=True)
    assert "the fine-tune alone" in capsys.readouterr().out
    report = blended.folder.report.read_text()
    assert "<h1>tiny with words reaches" in report
    assert "the fine-tune alone" in report
    assert "validation of complete trials without the words" in report
    assert results.rebuild_report(blended.settings, blended.home).read_text() == report
    parent = tracked.client(blended.tracking).get_run(summary.mlflow.run_id)
    assert parent.data.metrics["test_accuracy"] == summary.test.value
    assert parent.data.metrics["fine_tune_alone_test_accuracy"] == blend.test.value
    card = cards.model_card(blended.settings, summary)
    assert "and a linear model of words, as one model." in card
    assert "- logits of the fine-tune and of the words are added, times " in card


def test_words_that_are_gone_are_a_fault(copy: Swept) -> None:
    assert fsck(copy.settings, copy.home, repair=False).endswith(": clean")
    shutil.rmtree(copy.folder.floor("words").model)
    with pytest.raises(FaultsFound, match=r"the model of the floor words, .* is missing"):
        fsck(copy.settings, copy.home, repair=False)
