"""The float32 models that verify the export: in memory or offloaded, on the GPU or the CPU."""

from types import SimpleNamespace

import pytest
import torch

from cbgui import hardware
from cbgui.export import verify


@pytest.mark.parametrize("gigabytes", [0.5, 64])
def test_a_model_is_offloaded_if_it_does_not_fit(demo, gigabytes, monkeypatch):
    monkeypatch.setattr(verify.psutil, "virtual_memory", lambda: SimpleNamespace(available=gigabytes * 1e9))
    model = verify.float32_model(demo)  # 0.54 GB in float32
    assert {parameter.is_meta for parameter in model.parameters()} == {gigabytes < 1}


def test_a_full_gpu_is_not_used(trained, demo, monkeypatch):
    """Another run may be training on it during the export."""
    monkeypatch.setattr(hardware, "memory_kind", lambda: "cuda")
    monkeypatch.setattr(hardware, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "cuda")
    monkeypatch.setattr(hardware, "free_memory", lambda: 64 * 2**30)
    assert verify._device(2**30).type == "cuda"
    monkeypatch.setattr(hardware, "free_memory", lambda: 2**29)
    monkeypatch.setattr(verify, "_fits", lambda weights: False)
    with torch.no_grad():
        logits = verify.float32_model(demo, trained.adapter_folder)(input_ids=torch.tensor([[1, 2, 3]])).logits
    assert logits.isfinite().all()
