"""What the C library does with memory that training frees and takes again (docs/performance.md, "Memory on a CPU").

Imports no torch: the settings are read when a process starts, so they are made before anything else.
"""

from __future__ import annotations

import ctypes
import os
import sys

from cbgui.modeling.cpu import tricks_enabled

RESTARTED = "CBGUI_RESTARTED"  # set in a process that has started again
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc, malloc.h


def settings() -> dict[str, str]:
    """Environment variables of a training process; what the user has set already stays.

    glibc: memory in pages of 2 MiB where the system allows it (tunable `glibc.malloc.hugetlb`, from 2.35 on; older
    versions ignore it), and no small freed blocks kept aside, which would separate large ones (`tcache_count`,
    `mxfast`). oneDNN keeps half a MiB for every shape of matrix product in bfloat16; by default it keeps 1,024 shapes.
    On a GPU, PyTorch lets its blocks grow instead of leaving gaps between them.
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
    """Start this process again as `python -m module` with the same arguments and `settings()`.

    glibc reads its settings only when a process starts. Call this before torch is imported and before a lock is taken.
    The pid stays the same. Does nothing the second time, and on systems without glibc.
    """
    if os.environ.pop(RESTARTED, None):
        return
    os.environ.update(settings())
    if sys.platform == "linux":
        os.environ[RESTARTED] = "1"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def return_freed_memory() -> None:
    """From now on, give large freed blocks back to the system at once.

    glibc raises the size from which it does so by itself, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Smaller blocks
    stay with the process, in pieces, and its memory grows with everything that ever passed through it.
    """
    _mallopt({M_MMAP_THRESHOLD: 2**20})


def keep_freed_memory() -> None:
    """From now on, keep freed blocks for the next step, which needs as many.

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
