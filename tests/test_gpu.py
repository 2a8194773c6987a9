"""What only an NVIDIA GPU can show; `make test-gpu` on a machine that has one."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, BertConfig, BertForSequenceClassification

import make
import tiny
from hpsearch.coordinator import sweep
from hpsearch.state.folder import TrialFolder
from hpsearch.state.messages import DataName, Hardware, Train, TrialResult
from hpsearch.state.records import Status, TrialRecord
from hpsearch.training import hardware
from hpsearch.training.trial import Warm, run_trial
from test_memory import found
from test_team import Heard, outcome, team
from test_team import toy as toy_of_team
from test_training import Recorder, reference_losses, span_loss, toy, toy_questions

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no NVIDIA GPU"),
]

Model = Callable[[str], Path]
GPU = "hardware.device=cuda"
GIB = 2**30

# Seen on an H200 with torch 2.11 and transformers 5.17; the cause is not known. It learns all the same.
MODERNBERT = pytest.mark.xfail(reason="ModernBERT's losses leave float32's by 0.14 (bf16) and 1.1 (fp16) in 8 steps")


def differences(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    assert ours.keys() == theirs.keys()
    assert len(ours) > 10
    return [abs(ours[step] - theirs[step]) for step in theirs]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_losses_are_those_of_a_plain_loop_on_the_processor(tmp_path: Path, tiny_model: Model, family: str) -> None:
    how = ("model.dropout=0.0", "train.log_every=1", "train.learning_rate=0.003")
    spec, warm = toy(tmp_path, tiny_model, family, *how, GPU)
    assert (warm.hardware.device, warm.hardware.precision) == ("cuda", "float32")
    recorder = Recorder()
    assert run_trial(spec, warm, recorder.line()).status is Status.COMPLETE
    assert max(differences(recorder.losses(), reference_losses(spec.settings, spec, warm))) < 1e-4


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_losses_of_questions_are_those_of_a_plain_loop_on_the_processor(
    tmp_path: Path, tiny_model: Model, family: str
) -> None:
    how = ("model.dropout=0.0", "train.log_every=1", "train.learning_rate=0.003", "train.micro_batch_size=4")
    spec, warm = toy_questions(tmp_path, tiny_model, family, *how, GPU)
    recorder = Recorder()
    assert run_trial(spec, warm, recorder.line()).status is Status.COMPLETE
    expected = reference_losses(spec.settings, spec, warm, AutoModelForQuestionAnswering, span_loss)
    assert max(differences(recorder.losses(), expected)) < 1e-4


@pytest.mark.parametrize(
    ("family", "precision"),
    [
        pytest.param(family, precision, marks=MODERNBERT if "16" in precision and family == "modernbert" else ())
        for family in tiny.FAMILIES
        for precision in ("tf32", "bfloat16", "float16")
    ],
)
def test_every_precision_learns_and_stays_near_float32(
    tmp_path: Path, tiny_model: Model, family: str, precision: str
) -> None:
    how = ("model.dropout=0.0", "train.log_every=1", "train.epochs=12")
    spec, warm = toy(tmp_path, tiny_model, family, *how, GPU, f"hardware.precision={precision}")
    recorder = Recorder()
    result = run_trial(spec, warm, recorder.line())
    assert result.status is Status.COMPLETE, result.reason
    assert result.score is not None
    assert result.score > 0.9
    expected = reference_losses(spec.settings, spec, warm)
    # The first steps: later ones go their own way, since each rounding moves the weights.
    assert max(differences(recorder.losses(), expected)[:8]) < 0.05


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_paused_trial_ends_as_one_never_paused(tmp_path: Path, tiny_model: Model, precision: str) -> None:
    how = ("model.dropout=0.1", "model.attention_dropout=0.1", "train.micro_batch_size=8", "train.log_every=1")
    spec, warm = toy(tmp_path, tiny_model, "bert", *how, GPU, f"hardware.precision={precision}")
    whole = replace(spec, folder=tmp_path / "whole")
    uninterrupted, first, second = Recorder(), Recorder(pause_after=7), Recorder()
    expected = run_trial(whole, warm, uninterrupted.line())
    assert run_trial(spec, warm, first.line()).status is Status.PAUSED
    result = run_trial(spec, Warm(warm.hardware), second.line())
    losses = first.losses() | second.losses()
    assert max(differences(losses, uninterrupted.losses())) < 1e-5
    assert result.metrics == expected.metrics
    ours, theirs = (load_file(TrialFolder(one.folder).weights) for one in (spec, whole))
    for name, tensor in theirs.items():
        assert torch.allclose(ours[name], tensor, atol=1e-5), name


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_compiled_model_has_the_same_losses(tmp_path: Path, tiny_model: Model, family: str) -> None:
    how = ("model.dropout=0.0", "train.log_every=1", "train.learning_rate=0.003", "train.epochs=4")
    spec, warm = toy(tmp_path, tiny_model, family, *how, GPU, "hardware.compile=true")
    torch.compiler.reset()
    hardware.apply(warm.hardware)
    recorder = Recorder()
    assert run_trial(spec, warm, recorder.line()).status is Status.COMPLETE
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "nothing was compiled"
    assert max(differences(recorder.losses(), reference_losses(spec.settings, spec, warm))) < 1e-3


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Three GiB of the GPU's memory are left for others."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - 3 * GIB, dtype=torch.uint8, device="cuda")
    yield
    del hog
    torch.cuda.empty_cache()


@pytest.mark.usefixtures("little_memory")
def test_a_batch_too_large_for_the_gpu_is_cut_before_the_search(
    tmp_path: Path, tiny_model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.write_model("bert", tmp_path / "model")
    config = BertConfig.from_pretrained(folder)
    config.update(
        {
            "hidden_size": 512,
            "intermediate_size": 2048,
            "num_hidden_layers": 4,
            "num_attention_heads": 8,
            "max_position_embeddings": 512,
        }
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    with open(tmp_path / "long.csv", "w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *tiny.sentences(500, 0, shortest=400, longest=480)])
    space = ("search.space.train.batch_size.choices=[256]", "search.space.train.epochs.choices=[1]")
    settings = make.toy_settings(
        tmp_path / "long.csv", folder, "bert", *space, "task.max_length=512", "budget.max_trials=2", GPU
    )
    summary = sweep.run_sweep(settings, tmp_path / "home")
    assert summary.trials.failed == 0
    assert summary.trials.complete >= 1
    (examples,) = found(tmp_path / "home")
    assert 1 <= examples < 256
    assert f"parts of at most {examples} examples" in " ".join(capsys.readouterr().out.split())


def test_workers_share_a_gpu_and_its_memory(tmp_path: Path, tiny_model: Model) -> None:
    data = tiny.write_csv(tmp_path / "toy.csv", n=190)
    settings = make.toy_settings(
        data, tiny_model("bert"), "bert", "hardware.workers=3", "budget.max_trials=6", GPU, "hardware.precision=auto"
    )
    summary = sweep.run_sweep(settings, tmp_path / "home")
    assert summary.trials.failed == 0
    assert summary.trials.all == 6
    assert summary.hardware.on_a_gpu == -(-3 // torch.cuda.device_count())
    records = [TrialRecord.load(path.parent) for path in (tmp_path / "home").glob("studies/*/trials/*/trial.json")]
    assert len(records) == 6


def test_a_worker_keeps_to_its_part_of_the_memory() -> None:
    part = Hardware("cuda", "float32", "sdpa", torch.get_num_threads(), "a GPU", 1.0, on_a_gpu=4)
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        hardware.apply(part)
        torch.empty(total // 5, dtype=torch.uint8, device="cuda")
        with pytest.raises(torch.OutOfMemoryError) as caught:
            torch.empty(total // 3, dtype=torch.uint8, device="cuda")
        assert hardware.out_of_memory(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="it needs two GPUs")
def test_two_gpus_have_the_losses_of_one(tmp_path: Path, tiny_model: Model) -> None:
    settings, ref = toy_of_team(tmp_path, tiny_model, "model.dropout=0.0", "train.learning_rate=0.003", GPU)
    losses = []
    for processes in (1, 2):
        heard = Heard()
        with team(settings, tmp_path, processes) as (place, worker):
            worker.give(Train(0, settings, DataName.of(ref, tmp_path), f"trial-{processes}"))
            result = outcome(place, worker, heard=heard)
        assert isinstance(result, TrialResult)
        assert result.status is Status.COMPLETE
        losses.append(heard.losses)
    assert max(differences(*losses)) < 1e-4
