import resource

import pytest
import torch
from random_models import TINY
from transformers import AutoConfig, AutoModel

from cbgui.config import LoraConfig
from cbgui.data.batches import Encoded
from cbgui.frozen import FrozenStates
from cbgui.models import add_lora
from cbgui.trunk import Trunk

EXAMPLES = [Encoded(tuple(range(1, 9 + n)), 3 * (n % 2), n % 2 == 1) for n in range(6)]


@pytest.fixture
def trunk():
    torch.manual_seed(0)
    trunk = Trunk(AutoModel.from_config(AutoConfig.for_model("llama", **TINY)).float(), [2], [1, 2], {})
    add_lora(trunk, LoraConfig(init_std=0.3), seed=0)
    trunk.use_fast_attention()
    return trunk


def count_passes(trunk, monkeypatch) -> list[int]:
    passes = []
    real = trunk.hidden_states
    monkeypatch.setattr(trunk, "hidden_states", lambda batch: (passes.append(1), real(batch))[1])
    return passes


def equal(one, other) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.allclose(a[layer], b[layer], atol=1e-5) for layer in a)
        for a, b in zip(one, other, strict=True)
    )


def test_states_are_those_without_the_adapter_and_found_again(trunk, tmp_path, monkeypatch):
    frozen_states = FrozenStates(trunk, 0, tmp_path, 2**20)
    passes = count_passes(trunk, monkeypatch)
    first = frozen_states(EXAMPLES[:4])
    assert [layer for side in first for layer in side] == [2, 1, 2]
    with torch.no_grad(), trunk.model.disable_adapter():
        assert equal(first, trunk.hidden_states(trunk.batch(EXAMPLES[:4], 0)))
    passes.clear()
    assert equal(frozen_states(EXAMPLES[3::-1]), frozen_states(EXAMPLES[3::-1])) and not passes
    assert equal(frozen_states(EXAMPLES[:4]), first) and not passes
    mixed = frozen_states([EXAMPLES[0], EXAMPLES[4], EXAMPLES[0]])  # kept, new, kept again
    assert len(passes) == 1 and mixed[0] == {}
    assert torch.equal(mixed[1][2][:8], mixed[1][2][-8:])
    assert list(tmp_path.iterdir()) == []  # nothing to be left behind


def test_a_full_disk_costs_time_and_not_the_run(trunk, tmp_path, monkeypatch):
    frozen_states = FrozenStates(trunk, 0, tmp_path, 2**30)
    expected = FrozenStates(trunk, 0, tmp_path, 0)(EXAMPLES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the write that passes it comes back short, or fails
    try:
        assert equal(frozen_states(EXAMPLES), expected)
        assert 0 < len(frozen_states.kept) < len(EXAMPLES)
        passes = count_passes(trunk, monkeypatch)
        assert equal(frozen_states(EXAMPLES), expected) and len(passes) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_memory_that_runs_out_leaves_the_trunk_as_it_was(trunk, tmp_path, monkeypatch):
    """Training begins the step again, with its dropout, its gradient checkpointing and its adapter."""
    trunk.set_training(True)

    def fails(batch):
        assert not any(module.training for module in trunk.model.modules())
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(trunk, "hidden_states", fails)
        FrozenStates(trunk, 0, tmp_path, 0)(EXAMPLES)
    assert all(module.training for module in trunk.model.modules())
    assert all(p.requires_grad for name, p in trunk.model.named_parameters() if "lora_" in name)
    adapted = trunk.hidden_states(trunk.batch(EXAMPLES, 0))
    assert not equal(FrozenStates(trunk, 0, tmp_path, 0)(EXAMPLES), adapted)
