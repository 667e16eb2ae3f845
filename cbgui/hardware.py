"""Which device this machine computes on, in which precision, and how much memory there is."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
from pathlib import Path
from typing import Literal

import psutil
import pynvml
import torch

GIB = 2**30
# Bytes in use before any weights are loaded. CPU: Python, PyTorch and transformers (measured). GPU: CUDA's
# context and libraries (766 to 804 MiB on an H200; smaller cards have fewer multiprocessors to serve).
CONTEXT = {"cpu": 440 * 2**20, "cuda": 800 * 2**20}
DATASETS = 80 * 2**20  # the package datasets, which transformers loads where it is installed (measured)
CUDA_BUILD = 363 * 2**20  # what PyTorch's CUDA build takes in addition when the CPU computes (measured)
CUBLAS = 32 * 2**20  # workspace of cuBLAS on a GPU
OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "Invalid buffer size",  # Metal's words for a tensor that is larger than its memory
)


def device() -> torch.device:
    """The device that models are loaded on."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def memory_kind() -> Literal["cpu", "cuda"]:
    """Which memory limits training: the GPU's, or RAM. Apple's GPU shares the processor's memory."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast_dtype(kind: str | None = None) -> torch.dtype:
    """bfloat16 where this machine's device, or the named kind of device, computes in it; otherwise float32."""
    kind = kind or device().type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    # "mps": float32, because bfloat16 needs macOS 14 and an M2.
    if kind == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.bfloat16
    return torch.float32


def memory_for_training() -> int:
    """Bytes that a training process could use: free memory plus what this process holds already."""
    if torch.cuda.is_available():
        return free_memory() + torch.cuda.memory_reserved()
    return free_memory() + psutil.Process().memory_info().rss


def has_datasets() -> bool:
    """Whether transformers will load the package datasets, which cbgui does not need."""
    return importlib.util.find_spec("datasets") is not None


def step_memory() -> int:
    """What a step's event reports: peak bytes on the GPU, or the resident bytes of this process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss + _metal_memory()


def peak_memory() -> int:
    """The most bytes this process has held: resident on a CPU; on a GPU with those of CUDA and of other programs."""
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return total - free - torch.cuda.memory_reserved() + torch.cuda.max_memory_reserved()
    try:
        import resource
    except ImportError:  # Windows
        return psutil.Process().memory_info().peak_wset
    if sys.platform.startswith("linux"):  # ru_maxrss starts at the parent's size when it started this process
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def free_memory() -> int:
    """Free bytes of the GPU, or of RAM where there is no GPU. Metal allows a part of RAM."""
    if torch.cuda.is_available():
        return _gpu_memory()[0]
    if device().type == "mps":
        return max(0, min(free_ram(), torch.mps.recommended_max_memory() - _metal_memory()))
    return free_ram()


def free_ram() -> int:
    """Free bytes of RAM."""
    return psutil.virtual_memory().available


def _metal_memory() -> int:
    """Bytes that this process holds on Apple's GPU; they are RAM, but not resident memory of the process."""
    return torch.mps.driver_allocated_memory() if device().type == "mps" else 0


def _own_gpu() -> int:
    """The number of the GPU that this process computes on: each of several processes has its own."""
    return int(os.environ.get("LOCAL_RANK", 0)) % max(1, torch.cuda.device_count())


def _gpu_memory() -> tuple[int, int]:
    """Free and total bytes of the GPU, as its driver reports them (NVML).

    Asking CUDA would give this process a CUDA context of several hundred MiB for as long as it lives, and the app asks
    on every page load. CUDA is asked only where the driver does not answer.
    """
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(_own_gpu()).uuid}")
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError:  # AMD's cards, for example
        return torch.cuda.mem_get_info()
    return memory.free, memory.total


def is_out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch could not get memory. Its CPU allocator raises a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


def free_cached_memory() -> None:
    """Give back memory that no tensor uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif device().type == "mps":
        torch.mps.empty_cache()


def describe() -> str:
    """The device in one line, for the header and the log."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(_own_gpu())
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    memory = psutil.virtual_memory()
    kind = "Apple GPU" if device().type == "mps" else "CPU"
    return f"{kind}, {psutil.cpu_count()} cores, {memory.total / GIB:.0f} GiB memory"


def memory_in_words() -> str:
    """How much of the device's memory all programs use now, in words."""
    if torch.cuda.is_available():
        free, total = _gpu_memory()
        return f"{(total - free) / GIB:.1f} of {total / GIB:.0f} GiB in use"
    memory = psutil.virtual_memory()
    return f"{(memory.total - memory.available) / GIB:.1f} of {memory.total / GIB:.0f} GiB in use"
