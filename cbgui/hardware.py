"""Which device this machine computes on, in which precision, and how much memory is in use."""

from __future__ import annotations

import psutil
import torch


def device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor computes in it, else float32."""
    kind = device().type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if kind == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.bfloat16
    return torch.float32


def memory_in_use() -> int:
    """Peak bytes on the GPU, or this process's resident bytes on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return psutil.Process().memory_info().rss


def describe() -> str:
    """One line for the header and the log."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    memory = psutil.virtual_memory()
    return f"CPU, {psutil.cpu_count()} cores, {memory.total / 2**30:.0f} GiB memory"
