"""What every model family owes every task kind, on the project's own path from rows to a served model."""

import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import Dropout
from transformers import PreTrainedModel

import make
import tiny
import tracked
from hpsearch.config.settings import Settings
from hpsearch.data.tokens import Tokens, collate, model_inputs
from hpsearch.serving import packaging
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import Decision, TrialResult
from hpsearch.state.records import Status
from hpsearch.tasks.kind import Kind
from hpsearch.tasks.kinds import KINDS
from hpsearch.tracking.logged import log_model
from hpsearch.training import data, encoders, hardware, kernels, models
from hpsearch.training.models import FAMILIES
from hpsearch.training.trainer import Evaluation, make_trainer, predict
from hpsearch.training.trial import Line, TrialSpec, Warm, run_trial

# isort: split
import mlflow

CASES = list(itertools.product(FAMILIES, KINDS))
assert FAMILIES.keys() == set(tiny.FAMILIES)


@dataclass(frozen=True)
class Toy:
    """A problem that a tiny model learns."""

    task: str
    overrides: tuple[str, ...]
    write: Callable[[Path], Path]
    """Into a folder."""
    enough: float
    """Score of a model that has learnt. Guessed classes are right in half of the texts; all labels given to all texts
    have an F1 of 0.67; who finds metals and colours but does not read the question answers half of the questions; no
    entity is found by chance."""


TOYS = {
    "text_classification": Toy(
        "csv", ("train.epochs=8",), lambda folder: tiny.write_csv(folder / "reviews.csv", 400), 0.9
    ),
    "multilabel_classification": Toy(
        "multilabel",
        ("train.epochs=16",),
        lambda folder: tiny.write_jsonl(folder / "labelled.jsonl", tiny.labelled(400, 0)),
        0.85,
    ),
    "question_answering": Toy(
        "qa_files",
        ("train.epochs=20", "task.max_length=32", "task.stride=8"),  # so that some contexts need two windows
        lambda folder: tiny.write_jsonl(folder / "questions.jsonl", tiny.questions(400, 0)),
        0.8,
    ),
    "token_classification": Toy(
        "ner_files",
        ("train.epochs=20", "task.max_length=20", "task.stride=5"),  # so that some texts need two windows
        lambda folder: tiny.write_jsonl(folder / "tagged.jsonl", tiny.tagged(400, 0)),
        0.9,
    ),
}


@dataclass(frozen=True)
class Trained:
    """A complete trial."""

    spec: TrialSpec
    warm: Warm
    result: TrialResult

    @property
    def settings(self) -> Settings:
        return self.spec.settings

    @property
    def kind(self) -> Kind:
        return KINDS[self.settings.task.kind]

    @property
    def types(self) -> bool:
        return FAMILIES[self.settings.model.family].types

    @property
    def tokens(self) -> Tokens:
        return self.warm.tokens(self.spec.data, self.settings, "validation")

    def model(self, attention: str = "blocked", precision: str = "float32", **changes: float) -> PreTrainedModel:
        """The saved model, loaded anew, with these of the model's settings changed."""
        saved = self.settings.model.model_copy(update={"path": str(TrialFolder(self.spec.folder).model), **changes})
        where = replace(self.warm.hardware, attention=attention, precision=precision)
        tokenizer = self.warm.tokenizer(self.settings.model)
        return models.build(saved, self.kind, self.spec.data.labels, tokenizer, where)

    def outputs(self, model: PreTrainedModel, batch_size: int, precision: str = "float32") -> list[np.ndarray]:
        where = replace(self.warm.hardware, precision=precision)
        how = Evaluation(self.kind, where, self.types, batch_size, lambda: None)
        return predict(model, self.tokens, range(len(self.tokens)), how)

    def exact(self) -> tuple[np.ndarray, float]:
        """Outputs in float64, and how far from them float32 may be: four times what transformers' own path is."""
        found = np.concatenate(self.outputs(self.model("eager").double(), 64))
        return found, 4 * float(np.abs(np.concatenate(self.outputs(self.model("eager"), 64)) - found).max())

    def rows(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = data.load(self.spec.data, "validation").to_dict()
        return found

    def predictions(self) -> list[Any]:
        """The trial's own of its validation examples, as a user reads them."""
        outputs = self.outputs(self.model(), self.settings.train.evaluation_batch_size)
        made = self.kind.score(outputs, self.tokens, self.rows(), self.settings.task, self.result.fitted).predictions
        return self.kind.answers(made, self.spec.data.labels)


def line(pause_after: int | None = None) -> Line:
    steps = itertools.count(1)
    return Line(
        point=lambda _: None,
        rung=lambda _: Decision.CONTINUE,
        heard=lambda: Decision.PAUSE if next(steps) == pause_after else None,
        alive=lambda: None,
        retimed=lambda _: None,
    )


@pytest.fixture(scope="module", autouse=True)
def old_objects_left_alone() -> Iterator[None]:
    """Each trial collects garbage, which takes long after all these imports."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Not those of other tests: these can learn all toy problems."""
    folder = tmp_path_factory.mktemp("models")
    return {family: tiny.write_model(family, folder / family, spread=0.14) for family in FAMILIES}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {kind: toy.write(folder) for kind, toy in TOYS.items()}


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def trained(
    request: pytest.FixtureRequest,
    files: dict[str, Path],
    tiny_models: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    family, kind = request.param
    toy, home = TOYS[kind], tmp_path_factory.mktemp(f"{family}-{kind}")
    settings = make.toy_settings(
        files[kind], tiny_models[family], family, "model.dropout=0.0", *toy.overrides, task=toy.task
    )
    spec = TrialSpec(0, settings, make.prepared(settings, home), home / "trial")
    models.check(settings.model, settings.task)
    warm = Warm(hardware.resolve(settings.hardware))
    return Trained(spec, warm, run_trial(spec, warm, line()))


def test_it_learns(trained: Trained) -> None:
    assert trained.result.status is Status.COMPLETE, trained.result.reason
    assert trained.result.score is not None
    assert trained.result.score > TOYS[trained.kind.name].enough


def test_what_is_saved_is_what_was_scored(trained: Trained) -> None:
    outputs = trained.outputs(trained.model(), trained.settings.train.evaluation_batch_size)
    scores = trained.kind.score(outputs, trained.tokens, trained.rows(), trained.settings.task, None)
    assert {f"validation_{name}": value for name, value in scores.metrics.items()} == trained.result.metrics
    assert scores.fitted == trained.result.fitted  # thresholds lie between outputs, to the last bit


def test_paused_and_resumed_it_ends_with_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    settings = trained.settings.model_copy(
        update={
            "train": trained.settings.train.model_copy(update={"epochs": 0.3}),
            "model": trained.settings.model.model_copy(update={"dropout": 0.1, "attention_dropout": 0.1}),
        }
    )
    specs = [replace(trained.spec, settings=settings, folder=tmp_path / name) for name in ("whole", "parts")]
    whole = run_trial(specs[0], trained.warm, line())
    paused = run_trial(specs[1], trained.warm, line(pause_after=1))
    assert paused.status is Status.PAUSED
    assert 0 < paused.step < whole.total_steps
    resumed = run_trial(specs[1], Warm(trained.warm.hardware), line())
    assert resumed.metrics == whole.metrics
    assert resumed.fitted == whole.fitted
    expected, found = (load_file(TrialFolder(spec.folder).weights) for spec in specs)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


def test_padding_changes_nothing(trained: Trained) -> None:
    lengths, local = trained.tokens.lengths, trained.settings.model.family == "modernbert"
    assert lengths.max() - lengths.min() > (10 if local else 1), "some padding has only padding around it"
    model, (exact, rounding) = trained.model(), trained.exact()
    assert rounding < 1e-3
    for size in (1, len(trained.tokens)):
        np.testing.assert_allclose(np.concatenate(trained.outputs(model, size)), exact, rtol=0, atol=rounding)


def test_paths_agree(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = kernels.attention
    for caller in (kernels, encoders):
        monkeypatch.setattr(caller, "attention", lambda *given: calls.append(1) or real(*given))
    exact, rounding = trained.exact()
    assert rounding < 1e-3
    plain = np.concatenate(trained.outputs(trained.model("sdpa"), 64))
    assert not calls
    np.testing.assert_allclose(plain, exact, rtol=0, atol=rounding)
    own = np.concatenate(trained.outputs(trained.model("blocked"), len(trained.tokens)))
    family = FAMILIES[trained.settings.model.family]
    of_last = trained.kind.reads_first_token and family.layout is not None
    layers = 0 if family.attention is not None else 1 if of_last else 2
    assert len(calls) == layers, "both layers take our path; of the last one token may be enough"
    np.testing.assert_allclose(own, exact, rtol=0, atol=rounding)
    half = np.concatenate(trained.outputs(trained.model("blocked", "bfloat16"), 64, precision="bfloat16"))
    assert np.abs(half - plain).mean() < 0.02 * plain.std()


def test_a_family_s_own_attention_is_taken_whatever_the_hardware_s(trained: Trained) -> None:
    own = FAMILIES[trained.settings.model.family].attention
    there = trained.warm.hardware.of_study(1)
    chosen = models.with_attention(there, trained.settings.model)
    assert chosen == replace(there, attention=own or "blocked")
    model = trained.model("blocked")
    assert model.config._attn_implementation == chosen.attention
    dropouts = {type(part) for part in model.modules() if isinstance(part, Dropout)}
    assert dropouts <= {kernels.Dropout}, "on a processor none is left to torch"


def test_weights_saved_in_half_precision_are_trained_in_float32(trained: Trained, tmp_path: Path) -> None:
    """As DeBERTa's are on the hub."""
    trained.model().half().save_pretrained(tmp_path / "half")
    trained.warm.tokenizer(trained.settings.model).save_pretrained(tmp_path / "half")
    saved = trained.settings.model.model_copy(update={"path": str(tmp_path / "half")})
    assert {tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.float16}
    models.check(saved, trained.settings.task)
    tokenizer = trained.warm.tokenizer(saved)
    model = models.build(saved, trained.kind, trained.spec.data.labels, tokenizer, trained.warm.hardware)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_token_types_go_to_those_who_take_them(trained: Trained, tmp_path: Path) -> None:
    given: list[dict[str, torch.Tensor]] = []
    model = trained.model()
    model.register_forward_pre_hook(lambda _, args, kwargs: given.append(kwargs), with_kwargs=True)
    trained.outputs(model, len(trained.tokens))
    trainer = make_trainer(trained.settings, trained.kind, model, trained.tokens, trained.warm.hardware, tmp_path)
    batch = trainer.data_collator([trained.tokens[0], trained.tokens[1]])
    trainer.compute_loss(model, batch, num_items_in_batch=4)
    takes = {"input_ids", "attention_mask"}
    if trained.kind.name == "question_answering" and getattr(model.config, "type_vocab_size", 0) > 1:
        takes.add("token_type_ids")
    assert [inputs.keys() for inputs in given] == [takes, takes]
    if "token_type_ids" in takes:
        for i, types in enumerate(given[1]["token_type_ids"]):
            of_context = np.flatnonzero(trained.tokens.of_piece("characters", i)[:, 0] >= 0)
            expected = np.zeros(len(types))
            expected[of_context[0] : of_context[-1] + 2] = 1  # and the separator behind it
            assert types.tolist() == expected.tolist()


def test_dropout_is_what_the_settings_say(trained: Trained) -> None:
    family, tokens = FAMILIES[trained.settings.model.family], trained.tokens
    config = type(trained.model().config)()
    for name in (*family.dropout, *family.attention_dropout, family.positions):
        assert hasattr(config, name)  # another name would be kept, and nobody would read it
    pad = trained.warm.tokenizer(trained.settings.model).pad_token_id
    batch = collate([tokens[i] for i in range(8)], pad, trained.types, trained.kind.padding)
    inputs = model_inputs(batch)

    def noise(**rates: float) -> float:
        """How far training-mode outputs are from those of prediction."""
        model = trained.model(**rates)
        with torch.no_grad():
            quiet = trained.kind.outputs(model.eval()(**inputs))
            return float((trained.kind.outputs(model.train()(**inputs)) - quiet).abs().max())

    rates = {
        part.p for part in trained.model(dropout=0.3, attention_dropout=0.2).modules() if isinstance(part, Dropout)
    }
    assert rates <= {0.3, 0.2}, "some part keeps a rate of its own"
    assert noise(dropout=0.0, attention_dropout=0.0) < 1e-6
    assert noise(dropout=0.3, attention_dropout=0.0) > 1e-4
    assert noise(dropout=0.0, attention_dropout=0.3) > 1e-4


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An experiment of a temporary store, which is MLflow's while this module runs."""
    home = tracked.new_home(tmp_path_factory.mktemp("home"))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
    yield mlflow.MlflowClient().create_experiment("toy", artifact_location=(home / "artifacts").as_uri())
    mlflow.set_tracking_uri(before)


@pytest.mark.slow
def test_served_it_predicts_as_in_its_trial(trained: Trained, experiment: str) -> None:
    described = packaging.describe(trained.settings, trained.spec.data.labels, trained.result.fitted)
    raw = pd.DataFrame({role: trained.rows()[role] for role in trained.kind.inputs})
    run_id = mlflow.MlflowClient().create_run(experiment).info.run_id
    examples = {role: raw[role].tolist()[:2] for role in trained.kind.inputs}
    model, script = TrialFolder(trained.spec.folder).model, trained.kind.product.script
    uri = log_model(run_id, {"model": model}, script, described, examples, "# a card")
    predicted = mlflow.pyfunc.load_model(uri).predict(raw)
    said = [without_scores(one) for one in predicted.iloc[:, 0]]  # label, labels, answer or entities
    assert said == [without_scores(one) for one in trained.predictions()]


def without_scores(answer: Any) -> Any:
    """Entities without what rounding may change."""
    if not isinstance(answer, list):
        return answer
    return [{k: v for k, v in one.items() if k != "score"} if isinstance(one, dict) else one for one in answer]
