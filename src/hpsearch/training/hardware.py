"""Device and precision of trials: chosen from what the machine has, printed and recorded."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers.utils import is_flash_attn_2_available

from hpsearch.config.settings import HardwareSettings
from hpsearch.errors import RequestError
from hpsearch.state.messages import Hardware

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# How attention is computed. "blocked" stands for all that `kernels` and `encoders` do. The choices for processors were
# measured in experiments/engine. Those for GPUs come from the libraries' own documentation.
ATTENTION = {
    ("cpu", "float32"): "blocked",
    ("cpu", "bfloat16"): "blocked",
    ("cuda", "float32"): "sdpa",
    ("cuda", "tf32"): "sdpa",
    ("cuda", "bfloat16"): "flash_attention_2",
    ("cuda", "float16"): "flash_attention_2",
    ("mps", "float32"): "sdpa",
    ("mps", "bfloat16"): "sdpa",
    ("mps", "float16"): "sdpa",
}

# Errors of torch that have no class of their own: of a processor, of CUDA itself and its library, of Apple's GPU.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
)

COMPILED_LENGTH = 64  # batches of a compiled model are padded to multiples of this number of tokens
COMPILED_SHAPES = 256  # compilations before torch gives up on a model: one per length, batch size, and training or not


def resolve(settings: HardwareSettings, processes: int = 1) -> Hardware:
    """Choose what each worker on this machine computes with, within what the settings ask for.

    The machine has `workers` of them, which share its cores and memory, or its GPUs. Each is of so many processes.

    Raises:
        RequestError: the settings name a device, precision or compiler that the machine does not have, or more
            processes than it has GPUs.
    """
    device = _device(settings.device)
    if settings.compile and device != "cuda":
        raise RequestError(f"hardware.compile=true needs an NVIDIA GPU, and trials run on {device}; leave it out")
    if processes > 1:
        _check_processes(settings, device, processes)
    precision = _precision(settings.precision, device)
    sharing = workers(settings, processes)
    threads = settings.threads if settings.threads != "auto" else max(1, _cores() // (sharing * processes))
    attention = ATTENTION[device, precision]
    # Flash attention needs a GPU of the Ampere generation or a later one.
    if attention == "flash_attention_2" and (
        not is_flash_attn_2_available() or torch.cuda.get_device_capability() < (8, 0)
    ):
        attention = "sdpa"
    on_a_gpu = -(-sharing // (_devices(device) // processes)) if device == "cuda" else 1
    memory = round(_memory(device) / (on_a_gpu if device == "cuda" else sharing * processes) / 2**30, 1)
    name = _name(device)
    return Hardware(device, precision, attention, threads, name, memory, settings.compile, on_a_gpu, processes)


def workers(settings: HardwareSettings, processes: int = 1) -> int:
    """Return the number of workers: what the settings ask for, else as many as have GPUs, or one without GPUs."""
    if settings.workers != "auto":
        return settings.workers
    return max(1, _devices(_device(settings.device)) // processes)


def _check_processes(settings: HardwareSettings, device: str, processes: int) -> None:
    """Raise RequestError if a trial can't be trained by so many processes."""
    asked = f"cluster.processes_per_trial={processes}"
    if device == "mps":
        raise RequestError(f"{asked}: Apple's GPU serves one process only; leave it out")
    needed = workers(settings, processes) * processes
    if device == "cuda" and _devices(device) < needed:
        raise RequestError(
            f"{asked}: each process needs a GPU of its own, which are {needed} with hardware.workers="
            f"{settings.workers}, and there are {_devices(device)}; lower one of them"
        )
    if settings.compile:
        raise RequestError(f"{asked}: hardware.compile=true is for one process; leave one of them out")


def apply(hardware: Hardware) -> None:
    """Apply those parts of the choice that belong to the process and not to a model."""
    torch.set_num_threads(hardware.threads)
    torch.set_float32_matmul_precision("high" if hardware.precision == "tf32" else "highest")
    if hardware.on_a_gpu > 1:  # so what fits for one worker still fits, whatever the others do
        torch.cuda.set_per_process_memory_fraction(1 / hardware.on_a_gpu)
    if hardware.compile:
        torch._dynamo.config.recompile_limit = COMPILED_SHAPES


@contextmanager
def alone(hardware: Hardware) -> Iterator[None]:
    """Compute with the cores of all processes of a trial, while the helpers wait."""
    torch.set_num_threads(hardware.threads * hardware.processes)
    try:
        yield
    finally:
        torch.set_num_threads(hardware.threads)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out; torch has a class of its own for GPUs only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in OUT_OF_MEMORY)


def _device(asked: str) -> str:
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[asked]:
        raise RequestError(f"hardware.device={asked}: torch finds no such device; use hardware.device=auto")
    return asked


def _devices(device: str) -> int:
    return torch.cuda.device_count() if device == "cuda" else 1


def _memory(device: str) -> int:
    """Return the bytes of memory of the first GPU for CUDA, else of the machine."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cores() -> int:
    """Return the number of cores that this process may use; macOS tells only how many the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _precision(asked: str, device: str) -> str:
    fast_bf16 = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "mps": lambda: False,
        "cpu": cpu_has_fast_bf16,
    }[device]()
    if asked == "float16" and device == "cpu":
        raise RequestError("hardware.precision=float16 needs a GPU; use float32 or bfloat16")
    if asked == "tf32" and device != "cuda":
        raise RequestError("hardware.precision=tf32 needs an NVIDIA GPU; use float32 or bfloat16")
    if asked != "auto":
        return asked
    if fast_bf16:
        return "bfloat16"
    return "float16" if device == "cuda" else "float32"


def cpu_has_fast_bf16() -> bool:
    """Return whether bf16 matmul is done in hardware; emulated, it is several times slower than float32."""
    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


def _name(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return device
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), device)
