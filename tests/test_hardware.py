"""Which library multiplies on a processor, and what is asked of a GPU, skipped where there is none."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pynvml
import pytest
import torch

from cbgui import hardware
from cbgui.modeling.cpu import onednn


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_asking_for_memory_takes_none_of_it():
    """In a process of its own, which has no CUDA context yet."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        before, asked, with_context = pool.submit(_free_before_and_after).result()
    assert before - asked < 2**25
    assert asked - with_context > 2**26  # a context would have been seen


def _free_before_and_after() -> tuple[int, int, int]:
    """The GPU's free bytes by its driver: at first, after asking through `hardware`, and with a CUDA context."""
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    free = [pynvml.nvmlDeviceGetMemoryInfo(handle).free]
    assert 0 < hardware.free_memory() <= hardware.memory_for_training()
    assert "GiB in use" in hardware.memory_in_words()
    free.append(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    torch.zeros(1, device="cuda")
    free.append(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    return tuple(free)


@pytest.mark.parametrize(("name", "expected"), [("AMD Ryzen 7 5800X", True), ("Intel(R) Xeon(R)", False)])
def test_float32_goes_to_onednn_on_amd_alone(name, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name})
    onednn.uses_onednn.cache_clear()
    try:
        assert onednn.uses_onednn(torch.float32) is expected and onednn.uses_onednn(torch.bfloat16)
    finally:
        onednn.uses_onednn.cache_clear()
