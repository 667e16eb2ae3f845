"""How the C library handles memory that training frees and allocates again.

Imports no torch: the settings are read when a process starts, so they must be set before anything else.
"""

from __future__ import annotations

import ctypes
import os
import sys

from cbgui.modeling.cpu import tricks_enabled

RESTARTED = "CBGUI_RESTARTED"  # set in a process that has started again
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h


def environment_for_training() -> dict[str, str]:
    """Environment variables of a training process; what the user has set already stays.

    glibc uses pages of 2 MiB where the system allows it (tunable `glibc.malloc.hugetlb`; versions before 2.35 ignore
    it). It keeps no small freed blocks aside (`tcache_count`, `mxfast`), because they would separate large ones. oneDNN
    stores half a MiB for every shape of matrix product in bfloat16, by default for 1,024 shapes. On a GPU, PyTorch lets
    its blocks grow instead of leaving gaps between them.
    """
    variables = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    if tricks_enabled():
        tunables = {"hugetlb": 1, "tcache_count": 0, "mxfast": 0}
        variables |= {
            "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in tunables.items()),
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128",
        }
    return {name: os.environ.get(name, value) for name, value in variables.items()}


def restart_with_settings(module: str) -> None:
    """Start this process again as `python -m module` with the same arguments and `environment_for_training()`.

    glibc reads its settings only when a process starts. Call this before torch is imported and before a lock is taken.
    The pid stays the same. Does nothing the second time, and on systems without glibc.
    """
    if os.environ.pop(RESTARTED, None):
        return
    os.environ.update(environment_for_training())
    if sys.platform == "linux":
        os.environ[RESTARTED] = "1"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def return_freed_memory() -> None:
    """From now on, give large freed blocks back to the system at once.

    By default glibc raises the threshold for this by itself, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Smaller
    blocks stay with the process, and its heap becomes fragmented and grows.
    """
    _mallopt({M_MMAP_THRESHOLD: 2**20})


def keep_freed_memory() -> None:
    """From now on, keep freed blocks for the next step, which needs the same amount.

    Otherwise glibc gives the end of the heap back after a step, and the system clears the same pages again in the next
    one. Setting one threshold fixes the other (mallopt(3)), so both are set.
    """
    _mallopt({M_MMAP_THRESHOLD: 32 * 2**20, M_TRIM_THRESHOLD: 2**31 - 1})


def _mallopt(values: dict[int, int]) -> None:
    if not tricks_enabled():
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS, Windows, musl
        return
    for parameter, value in values.items():
        mallopt(parameter, value)
