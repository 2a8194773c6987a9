"""A head fitted on frozen features says what logistic regression says, in every model family."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from transformers import set_seed

import make
import tiny
from hpsearch.config.settings import HardwareSettings, Settings
from hpsearch.data.tokens import Tokens
from hpsearch.tasks.kinds import KINDS
from hpsearch.tasks.texts import pooled
from hpsearch.training import data, hardware, heads, linear, models, trainer
from hpsearch.training.linear import Linear, Regression
from hpsearch.training.models import FAMILIES


class Bench:
    """A tiny model with a new head, and tokens of toy texts."""

    def __init__(self, settings: Settings, home: Path) -> None:
        self.settings, self.kind = settings, KINDS[settings.task.kind]
        wish: HardwareSettings = settings.hardware
        where = hardware.resolve(wish)
        ref = make.prepared(settings, home)
        tokenizer = models.load_tokenizer(settings.model)
        self.labels, self.ref = ref.labels, ref
        self.tokens = {split: data.tokenised(ref, settings, tokenizer, split) for split in ref.sizes}
        set_seed(0)
        self.model: Any = models.build(settings.model, self.kind, ref.labels, tokenizer, where)
        types = FAMILIES[settings.model.family].types
        self.how = trainer.Evaluation(self.kind, where, types, 16, lambda: None)

    def fitted(self, **options: Any) -> float:
        train = self.tokens["train"]
        read = heads.of_examples(heads.features(self.model, train, len(train), self.how), train)
        right, exclusive = heads.targets(train, train.examples, len(self.labels))
        return heads.fit(self.model, read, right, exclusive, **options)

    def accuracy(self, split: str) -> float:
        tokens = self.tokens[split]
        outputs = trainer.predict(self.model, tokens, range(len(tokens)), self.how)
        rows = data.load(self.ref, split).to_dict()
        return self.kind.score(outputs, tokens, rows, self.settings.task, None).metrics["accuracy"]


def of_family(family: str, tiny_model: Callable[[str], Path], root: Path, *overrides: str) -> Bench:
    settings = make.toy_settings(tiny.write_csv(root / "toy.csv", n=300), tiny_model(family), family, *overrides)
    return Bench(settings, root / "home")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_fitted_head_beats_chance_and_its_outputs_are_those_of_the_whole_model(
    family: str, tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    bench = of_family(family, tiny_model, tmp_path)
    bench.fitted()
    assert bench.accuracy("train") > 0.6, "of 180 balanced texts and a random encoder"
    tokens = bench.tokens["test"]
    read = heads.features(bench.model, tokens, len(tokens), bench.how)
    whole = trainer.predict(bench.model, tokens, range(len(tokens)), bench.how)
    np.testing.assert_allclose(np.stack(heads.outputs(bench.model, read, bench.how)), np.stack(whole), atol=2e-3)
    parent, name = heads.last_layer(bench.model)
    assert getattr(parent, name).out_features == 2, "the layer is back in its place"


def test_pieces_of_a_long_text_count_as_one_example(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    bench = of_family("bert", tiny_model, tmp_path, "task.max_length=12", "task.truncation=windows", "task.stride=2")
    train = bench.tokens["train"]
    assert len(train) > train.examples
    parent, name = heads.last_layer(bench.model)
    layer = getattr(parent, name)
    torch.nn.init.normal_(layer.weight, std=100.0)  # what a random encoder gives is small
    pieces = heads.features(bench.model, train, len(train), bench.how)
    read = heads.of_examples(pieces, train)
    of_one = train.owners == np.bincount(train.owners).argmax()
    assert of_one.sum() > 1
    np.testing.assert_allclose(read[train.owners[of_one][0]], pieces[of_one].mean(axis=0), atol=1e-6)
    by_hand = read @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    outputs = trainer.predict(bench.model, train, range(len(train)), bench.how)
    np.testing.assert_allclose(by_hand, pooled(outputs, train, train.examples), rtol=1e-3, atol=0.01)


def test_of_several_labels_each_is_fitted_by_itself(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.labelled(300, 0))
    settings = make.toy_settings(rows, tiny_model("bert"), "bert", task="multilabel")
    bench = Bench(settings, tmp_path / "home")
    right, exclusive = heads.targets(bench.tokens["train"], 5, 3)
    stored = data.load(bench.ref, "train").to_dict()["labels"][:5]
    assert [np.flatnonzero(row).tolist() for row in right] == stored
    assert not exclusive
    before = bench.accuracy("test")
    bench.fitted()
    assert bench.accuracy("test") > before


def test_without_an_example_a_class_is_said_by_nobody(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    bench = of_family("bert", tiny_model, tmp_path)
    train = bench.tokens["train"]
    read = heads.of_examples(heads.features(bench.model, train, len(train), bench.how), train)
    bench.model.config.num_labels = 3
    bench.model.classifier = torch.nn.Linear(16, 3)
    right, exclusive = heads.targets(train, train.examples, 3)
    heads.fit(bench.model, read, right, exclusive)
    said = np.stack(heads.outputs(bench.model, read, bench.how))
    assert (said[:, 2] < said[:, :2].max(axis=1) - 8).all()


def test_one_example_of_a_class_is_enough() -> None:
    rng = np.random.default_rng(0)
    read = rng.normal(size=(30, 4)).astype(np.float32)
    right = np.zeros((30, 3), dtype=bool)
    right[np.arange(30), np.where(read[:, 0] > 0, 0, 1)] = True
    right[7] = [False, False, True]
    chosen = linear.choose(Regression(read, right, True), (0.1, 1.0), 0, lambda _: 0.0)
    assert np.isfinite(chosen.linear.logits(read)).all()


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_a_regression_is_scikit_learns(classes: int, strength: float) -> None:
    rng = np.random.default_rng(classes)
    read = rng.normal(size=(200, 6)).astype(np.float32)
    labels = (read @ rng.normal(size=(6, classes)) + rng.normal(size=(200, classes))).argmax(axis=1)
    right = np.eye(classes, dtype=bool)[labels]
    found = Regression(read, right, exclusive=True).fit(strength)
    theirs = LogisticRegression(C=strength, max_iter=1000, tol=1e-6).fit(read, labels)
    shares = np.exp(found.logits(read))
    shares /= shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, theirs.predict_proba(read), atol=5e-3)
    apart = Regression(read, right, exclusive=False).fit(strength).logits(read)
    for label in range(classes):
        one = LogisticRegression(C=strength, max_iter=1000, tol=1e-6).fit(read, labels == label)
        np.testing.assert_allclose(apart[:, label], one.decision_function(read), atol=0.05)


def test_a_fit_ends_when_its_time_is_over_and_goes_on_from_what_is_there() -> None:
    rng = np.random.default_rng(0)
    read = rng.normal(size=(400, 40)).astype(np.float32)
    right = np.eye(3, dtype=bool)[rng.integers(0, 3, 400)]
    regression = Regression(read, right, exclusive=True)
    cut, whole = regression.fit(10.0, deadline=0.0), regression.fit(10.0)
    assert regression.loss(cut) > regression.loss(whole) + 1e-4
    assert regression.loss(regression.fit(10.0, cut)) == pytest.approx(regression.loss(whole), abs=1e-3)


def test_strengths_are_tried_in_the_direction_that_pays() -> None:
    tried: list[float] = []

    class Counting:
        def fit(self, strength: float, begin: Linear | None, deadline: float) -> Linear:
            tried.append(strength)
            return Linear(np.full((1, 1), strength, dtype=np.float32), np.zeros(1, dtype=np.float32))

    def worth(found: Linear) -> float:
        return -abs(math.log10(float(found.weights[0, 0])) - 1)  # 10 is the best

    strengths = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
    assert linear.choose(Counting(), strengths, 2, worth).strength == 10.0  # type: ignore[arg-type]
    assert tried == [1.0, 10.0, 100.0, 1000.0, 0.1, 0.01]
    tried.clear()
    linear.choose(Counting(), strengths, 2, worth, deadline=0.0)  # type: ignore[arg-type]
    assert tried == [1.0]


def test_strength_is_chosen_by_what_is_given(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    bench = of_family("bert", tiny_model, tmp_path)
    assert bench.fitted(worth=lambda linear: -float(np.abs(linear.weights).sum())) == heads.STRENGTHS[0]


def test_the_tokens_of_targets_are_those_of_whole_examples() -> None:
    class Two(Tokens):
        def __init__(self) -> None:
            self.owners, self.labels = np.array([0, 0, 1, 2]), np.array([4, 4, 1, 0])

    right, exclusive = heads.targets(Two(), 2, 5)
    assert exclusive
    assert right.argmax(axis=1).tolist() == [4, 1]
