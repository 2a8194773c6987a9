"""Attention and dropout of our own against what they stand for; a step in bfloat16 against one in float64."""

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

import make
import tiny
from hpsearch.data.tokens import collate, model_inputs
from hpsearch.errors import RequestError
from hpsearch.state.messages import Begin, Hardware
from hpsearch.tasks.kinds import KINDS
from hpsearch.training import hardware, kernels, models, trainer
from hpsearch.training.hardware import ATTENTION
from hpsearch.training.trial import Warm
from hpsearch.workers import local
from hpsearch.workers.local import LocalWorkplace

# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.001, 0.1, 0.25, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    dropout, n = kernels.Dropout(p), 1_000_003
    out = dropout(torch.ones(n))
    share = kernels.dropped_share(p)
    assert abs(share - p) <= 1 / 512
    dropped = int((out == 0).sum())
    assert stats.binomtest(dropped, n, share).pvalue > 1e-4 if share else dropped == 0
    assert torch.unique(out[out != 0]).tolist() == pytest.approx([1 / (1 - share)])


def test_neighbours_rows_and_calls_are_dropped_independently() -> None:
    torch.manual_seed(1)
    dropout = kernels.Dropout(0.25)
    first, second = (dropout(torch.ones(512, 1000)) == 0 for _ in range(2))
    n = first.numel()
    for one, other in (
        (first[:, 1:], first[:, :-1]),
        (first[:, 8:], first[:, :-8]),  # bytes of neighbouring words
        (first[1:], first[:-1]),
        (first, second),
    ):
        both = float((one & other).float().mean())
        assert abs(both - 0.25**2) < 5 * math.sqrt(0.25**2 * (1 - 0.25**2) / n)


def test_dropout_follows_the_seed_and_leaves_evaluation_alone() -> None:
    dropout, x = kernels.Dropout(0.3), torch.randn(7, 13)
    made = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        made.append(dropout(x))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    before = torch.get_rng_state()
    assert torch.equal(dropout.eval()(x), x)
    assert torch.equal(dropout.eval()(x, x), 2 * x)
    assert torch.equal(kernels.Dropout(0.0)(x), x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("with_residual", [False, True])
def test_gradients_go_where_values_went(with_residual: bool) -> None:
    x = torch.randn(40, 11, dtype=torch.float64, requires_grad=True)
    residual = torch.randn(40, 11, dtype=torch.float64, requires_grad=True) if with_residual else None
    out = kernels.Dropout(0.5)(x, residual)
    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    mask = (out.detach() - (residual.detach() if residual is not None else 0)) / x.detach()
    assert set(mask.round(decimals=9).unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(x.grad, weight * mask)
    if residual is not None:
        torch.testing.assert_close(residual.grad, weight)


# --- attention --------------------------------------------------------------------------------------------------------


def plain_attention(qkv: torch.Tensor, bias: torch.Tensor | None, scale: float) -> torch.Tensor:
    query, key, value = qkv.unbind(0)
    scores = query @ key.transpose(-1, -2) * scale
    return (scores if bias is None else scores + bias).softmax(-1) @ value


def masks(kind: str, size: int, length: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    if kind == "causal":
        return torch.full((length, length), -math.inf, dtype=torch.float64).triu(1)[None, None]
    lengths = torch.randint(1, length + 1, (size, 1, 1, 1))
    hidden = (torch.arange(length) >= lengths).double()
    return (hidden * -1e30) if kind == "padding" else (hidden * -1e30).expand(size, 1, length, length).clone()


@given(
    size=st.integers(1, 5),
    heads=st.integers(1, 3),
    length=st.integers(1, 17),
    width=st.integers(1, 8),
    kind=st.sampled_from(["none", "causal", "padding", "rows"]),
    block=st.sampled_from([1, 2000, 10**9]),
    seed=st.integers(0, 10**6),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_attention_and_its_gradient_are_the_textbook_s(
    size: int, heads: int, length: int, width: int, kind: str, block: int, seed: int
) -> None:
    torch.manual_seed(seed)
    qkv = torch.randn(3, size, heads, length, width, dtype=torch.float64, requires_grad=True)
    bias, weight = masks(kind, size, length), torch.randn(size, heads, length, width, dtype=torch.float64)
    before, kernels.BLOCK_BYTES = kernels.BLOCK_BYTES, block
    try:
        out = kernels.attention(qkv, bias, 0.7, 0.0)
        (own,) = torch.autograd.grad((out * weight).sum(), qkv)
    finally:
        kernels.BLOCK_BYTES = before
    expected = plain_attention(qkv, bias, 0.7)
    with torch.no_grad():
        torch.testing.assert_close(kernels.attention(qkv, bias, 0.7, 0.0), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(kernels.attention(qkv.detach(), bias, 0.7, 0.0), expected, rtol=1e-10, atol=1e-12)
    (of_plain,) = torch.autograd.grad((expected * weight).sum(), qkv)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(own, of_plain, rtol=1e-10, atol=1e-12)


def test_dropout_of_attention_weights_is_in_values_and_gradients() -> None:
    """With values that pick out single weights, the mask can be read off and put into the textbook's formula."""
    torch.manual_seed(3)
    length = 12
    query_key = torch.randn(2, 3, 2, length, length, dtype=torch.float64)
    qkv = torch.cat([query_key, torch.eye(length, dtype=torch.float64).expand(1, 3, 2, length, length)])
    qkv = qkv.clone().requires_grad_()
    out = kernels.attention(qkv, None, 0.3, 0.25)
    share = (qkv[0] @ qkv[1].transpose(-1, -2) * 0.3).softmax(-1)
    mask = (out / share).detach()
    assert set(mask.round(decimals=9).unique().tolist()) == {0.0, round(4 / 3, 9)}
    assert 0.15 < float((mask == 0).double().mean()) < 0.35
    weight = torch.randn_like(out)
    (own,) = torch.autograd.grad((out * weight).sum(), qkv)
    (expected,) = torch.autograd.grad(((share * mask) @ qkv[2] * weight).sum(), qkv)
    torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)


# --- a whole model ----------------------------------------------------------------------------------------------------


def gradients(model: torch.nn.Module, batch: dict[str, torch.Tensor], kind: str, where: Hardware) -> torch.Tensor:
    """The loss and the gradient of all parameters, one vector."""
    model.zero_grad()
    with trainer.autocast(where):
        outputs = model(**model_inputs(batch))
    loss = KINDS[kind].loss(outputs, batch, batch["labels"].numel(), 0.0, None)
    loss.backward()
    parts = [p.grad.flatten().double() for p in model.parameters() if p.grad is not None]
    return torch.cat([loss.detach().double()[None], *parts])


@pytest.mark.parametrize("task", ["csv", "qa_files"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "gpt2", "modernbert", "deberta"])
def test_in_bfloat16_the_error_is_of_autocast_s_size(
    tmp_path: Path, tiny_model: Callable[[str], Path], family: str, task: str
) -> None:
    """Against float64, over a batch with padding. Autocast rounds matrix products, we what lies between them, too."""
    if task == "csv":
        rows = tiny.write_csv(tmp_path / "toy.csv", n=190)
    else:
        rows = tiny.write_jsonl(tmp_path / "toy.jsonl", tiny.questions(190, 0))
    short = ("task.max_length=32", "task.stride=8") if task == "qa_files" else ()
    settings = make.toy_settings(rows, tiny_model(family), family, "model.dropout=0.0", *short, task=task)
    kind, name = KINDS[settings.task.kind], settings.task.kind
    ref, found = make.prepared(settings, tmp_path), hardware.resolve(settings.hardware)
    warm = Warm(found)
    tokens, tokenizer = warm.tokens(ref, settings, "train"), warm.tokenizer(settings.model)
    items, types = [tokens[i] for i in range(16)], models.FAMILIES[family].types
    batch = collate(items, tokenizer.pad_token_id, types, kind.padding)
    assert len(set(batch["attention_mask"].sum(1).tolist())) > 1

    def vector(attention: str, precision: str, exact: bool = False) -> torch.Tensor:
        where = replace(found, attention=attention, precision=precision)
        torch.manual_seed(0)
        model = models.build(settings.model, kind, ref.labels, tokenizer, where).train()
        return gradients(model.double() if exact else model, batch, name, where)

    exact = vector("eager", "float32", exact=family != "modernbert")  # whose eager attention has NaNs in float64
    single = (vector("blocked", "float32") - exact).norm() / exact.norm()
    assert single < 1e-5
    of_autocast, own = ((vector(path, "bfloat16") - exact).norm() / exact.norm() for path in ("eager", "blocked"))
    assert 1e-4 < of_autocast < 0.1
    assert own < 3 * of_autocast


def test_a_padding_token_inside_a_text_is_counted_as_by_transformers(
    tmp_path: Path, tiny_model: Callable[[str], Path]
) -> None:
    settings = make.toy_settings(tiny.write_csv(tmp_path / "toy.csv", n=40), tiny_model("roberta"), "roberta")
    kind, found = KINDS[settings.task.kind], hardware.resolve(settings.hardware)
    tokenizer = models.load_tokenizer(settings.model)
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[5, 6, pad, 7, 8, 9], [5, 6, 7, 8, pad, pad]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])

    def logits(attention: str, **more: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        model = models.build(settings.model, kind, ("a", "b"), tokenizer, replace(found, attention=attention)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(10)  # as they come its outputs hardly depend on its inputs
            return model(input_ids=ids, attention_mask=mask, **more)["logits"]  # type: ignore[no-any-return]

    reference = logits("eager")
    assert torch.allclose(logits("blocked"), reference, rtol=1e-4)
    straight_on = torch.arange(pad + 1, pad + 7).expand(2, 6)
    assert not torch.allclose(logits("eager", position_ids=straight_on), reference, rtol=1e-2)


# --- what is chosen by device -----------------------------------------------------------------------------------------


CHOICES = {  # device, precision, compute capability where FlashAttention is installed
    ("cpu", "float32", None): "blocked",
    ("cpu", "bfloat16", None): "blocked",
    ("cuda", "bfloat16", (8, 0)): "flash_attention_2",
    ("cuda", "bfloat16", None): "sdpa",
    ("cuda", "float16", (9, 0)): "flash_attention_2",
    ("cuda", "float16", (7, 5)): "sdpa",
    ("cuda", "float32", (8, 0)): "sdpa",
    ("cuda", "tf32", (8, 0)): "sdpa",
    ("mps", "float32", None): "sdpa",
}


@pytest.mark.parametrize("case", CHOICES)
def test_paths_are_chosen_by_device_and_precision(
    case: tuple[str, str, tuple[int, int] | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    device, precision, flash = case
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: flash)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=False: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_flash_attn_2_available", lambda: flash is not None)
    asked = make.compose_settings(f"hardware.device={device}", f"hardware.precision={precision}").hardware
    chosen = hardware.resolve(asked)
    assert (chosen.device, chosen.precision, chosen.attention) == (device, precision, CHOICES[case])
    assert hardware.workers(asked) == (2 if device == "cuda" else 1)


@pytest.mark.parametrize(
    ("visible", "workers", "processes", "on_a_gpu", "gpus"),
    [
        *((None, 2, 1, 1, ["0", "1"]), (None, 4, 1, 2, ["0", "1", "0", "1"]), ("3,5", 3, 1, 2, ["3", "5", "3"])),
        *(("3,5", 1, 2, 1, ["3,5"]), ("3,5,7,8,9", 2, 2, 1, ["3,5", "7,8"])),
    ],
)
def test_workers_take_gpus_in_turn_and_share_their_memory(
    visible: str | None,
    workers: int,
    processes: int,
    on_a_gpu: int,
    gpus: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 if visible is None else len(visible.split(",")))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=False: True)
    parts: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", parts.append)
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    asked = make.compose_settings(f"hardware.workers={workers}", f"hardware.threads={threads}").hardware
    workplace = LocalWorkplace(asked, tmp_path, processes)
    chosen = workplace.hardware
    try:
        hardware.apply(chosen)
    finally:
        torch.set_float32_matmul_precision(before)
    assert (workplace.count, chosen.on_a_gpu, chosen.memory) == (workers, on_a_gpu, 80 / on_a_gpu)
    assert parts == ([0.5] if on_a_gpu == 2 else [])
    started: list[tuple[Begin, str]] = []
    monkeypatch.setattr(
        local, "LocalWorker", lambda _, begin, __, env: started.append((begin, env["CUDA_VISIBLE_DEVICES"]))
    )
    for index in range(workers):
        workplace.start(index, "logs")
    assert [gpu for _, gpu in started] == gpus
    monkeypatch.setattr(torch.cuda, "device_count", lambda: processes)  # as a worker sees it, which finds the same
    assert {hardware.resolve(begin.wish, begin.processes) for begin, _ in started} == {chosen}


def test_every_precision_of_every_device_has_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=False: True)
    can = set()
    for device in ("cpu", "cuda", "mps"):
        for precision in hardware.DTYPES:
            with contextlib.suppress(RequestError):
                can.add((device, hardware._precision(precision, device)))
    assert can == ATTENTION.keys()
    assert len(can) > 6


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17 GB)"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_way_to_say_that_memory_ran_out_is_known(error: Exception) -> None:
    assert hardware.out_of_memory(error)
    assert not hardware.out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))
    assert not hardware.out_of_memory(ValueError("CUDA error: out of memory"))


def test_threads_are_counted_where_the_system_does_not_tell_of_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert hardware.resolve(make.compose_settings("hardware.device=cpu", "hardware.workers=2").hardware).threads == 3


def test_tf32_is_the_gpu_s_alone_and_is_set_for_the_process() -> None:
    with pytest.raises(RequestError, match=r"hardware\.precision=tf32 needs an NVIDIA GPU"):
        hardware.resolve(make.compose_settings("hardware.device=cpu", "hardware.precision=tf32").hardware)
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    try:
        for precision, expected in (("tf32", "high"), ("float32", "highest")):
            hardware.apply(Hardware("cuda", precision, "sdpa", threads, "a GPU", 80.0))
            assert torch.get_float32_matmul_precision() == expected
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_compiler_is_for_nvidia_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"hardware\.compile=true needs an NVIDIA GPU, and trials run on cpu"):
        hardware.resolve(make.compose_settings("hardware.device=cpu", "hardware.compile=true").hardware)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=80 * 2**30))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=False: True)
    chosen = hardware.resolve(make.compose_settings("hardware.compile=true").hardware)
    assert chosen.compile
