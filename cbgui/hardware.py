"""Which device this machine computes on, in which precision, and how much memory is in use."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Literal

import psutil
import pynvml
import torch

NO_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")


def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fast_dtype(kind: str | None = None) -> torch.dtype:
    """bfloat16 where the processor, or what `kind` names, computes in it, else float32."""
    kind = kind or device().type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if kind == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.bfloat16
    return torch.float32


def kind() -> Literal["cpu", "cuda"]:
    """Where the memory is counted; Apple's GPU shares the processor's memory."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def memory_for_training() -> int:
    """Bytes that a training process could come to use: what is free, and what this process has already."""
    if torch.cuda.is_available():
        return free_memory() + torch.cuda.memory_reserved()
    return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def memory_in_use() -> int:
    """Peak bytes on the GPU, or this process's resident bytes on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


def peak_memory() -> int:
    """The most bytes this process has had: resident on a CPU; on a GPU PyTorch's, CUDA's and other programs'."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved() + torch.cuda.max_memory_reserved()
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    if sys.platform.startswith("linux"):  # ru_maxrss starts at what the parent process had when it started this one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not get memory; its CPU allocator says so in a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in NO_MEMORY)


def free_cached_memory() -> None:
    """Give back what no tensor uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _gpu_memory() -> tuple[int, int]:
    """Free and all bytes of the GPU, from its driver (NVML).

    CUDA knows them too, but to ask it gives this process a context of its own there, hundreds of MiB as long as it
    lives, and the app asks for every page. Only where the driver does not say is CUDA asked.
    """
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:  # AMD's cards, for one
        return torch.cuda.mem_get_info()
    return memory.free, memory.total


def free_memory() -> int:
    """Bytes that could be taken now: on the GPU where there is one, else of ordinary memory."""
    return _gpu_memory()[0] if torch.cuda.is_available() else free_ordinary_memory()


def free_ordinary_memory() -> int:
    """Bytes of ordinary memory that could be taken now."""
    return psutil.virtual_memory().available


def describe() -> str:
    """One line for the header and the log."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    memory = psutil.virtual_memory()
    return f"CPU, {psutil.cpu_count()} cores, {memory.total / 2**30:.0f} GiB memory"


def in_use() -> str:
    """How much of the device's memory all programs use now, in words."""
    if torch.cuda.is_available():
        free, total = _gpu_memory()
        return f"{(total - free) / 2**30:.1f} of {total / 2**30:.0f} GiB in use"
    memory = psutil.virtual_memory()
    return f"{(memory.total - memory.available) / 2**30:.1f} of {memory.total / 2**30:.0f} GiB in use"


GIB = 2**30
# Memory that is taken before the first weight: Python, PyTorch and transformers on a CPU (resident, measured); CUDA's
# context and libraries on a GPU (766 to 804 MiB on an H200; smaller cards have fewer multiprocessors to serve).
CONTEXT = {"cpu": 520 * 2**20, "cuda": 800 * 2**20}
CUDA_BUILD = 363 * 2**20  # what of PyTorch's CUDA build is resident besides, where the CPU computes (measured)
CUBLAS = 32 * 2**20  # its workspace on a GPU
