"""Which library multiplies on a processor, and what is asked of a GPU, skipped where there is none."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pynvml
import pytest
import torch

from cbgui import hardware
from cbgui.modeling.batch import longest_micro_batch
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


def test_apples_gpu_is_counted_as_what_it_is(monkeypatch):
    """Simulated, as nothing has run on a Mac yet: its memory is the part of RAM that Metal allows, its precision
    float32, and what it holds is not in the process's resident memory."""
    free, allowed, taken, emptied = 20 * 2**30, 10 * 2**30, 3 * 2**30, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: allowed)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: taken)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))
    monkeypatch.setattr(hardware, "free_ram", lambda: free)
    resident = hardware.psutil.Process().memory_info().rss
    assert hardware.device().type == "mps" and hardware.fast_dtype() == torch.float32
    assert hardware.free_memory() == allowed - taken
    assert hardware.memory_for_training() >= allowed - taken
    assert hardware.step_memory() > taken + resident / 2
    assert hardware.describe().startswith("Apple GPU")
    assert longest_micro_batch("mps") == longest_micro_batch(hardware.memory_kind())  # as the estimate plans it
    hardware.free_cached_memory()
    assert emptied
    for words in ("MPS backend out of memory (MPS allocated: 9 GB)", "Invalid buffer size: 40.00 GiB"):
        assert hardware.is_out_of_memory(RuntimeError(words))


def test_each_of_several_processes_asks_for_its_own_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert hardware._own_gpu() == 1
    monkeypatch.delenv("LOCAL_RANK")
    assert hardware._own_gpu() == 0
