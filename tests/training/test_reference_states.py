import resource

import pytest
import torch
from random_models import TINY
from transformers import AutoConfig, AutoModel

from cbgui.config import LoraConfig, RunConfig, override
from cbgui.modeling.batch import Encoded
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import TruncatedModel
from cbgui.training.measure import Totals, micro_batch_losses
from cbgui.training.reference_states import ReferenceStates
from cbgui.training.refusal_rows import refusal_row
from cbgui.training.refusal_states import numbered

EXAMPLES = [Encoded(tuple(range(1, 9 + n)), 3 * (n % 2), n % 2 == 1) for n in range(6)]


@pytest.fixture
def truncated():
    torch.manual_seed(0)
    truncated = TruncatedModel(AutoModel.from_config(AutoConfig.for_model("llama", **TINY)).float(), [2], [1, 2], {})
    add_lora(truncated, LoraConfig(init_std=0.3), seed=0)
    truncated.use_packing()
    return truncated


def count_passes(truncated, monkeypatch) -> list[int]:
    passes = []
    real = truncated.hidden_states
    monkeypatch.setattr(truncated, "hidden_states", lambda batch: (passes.append(1), real(batch))[1])
    return passes


def equal(one, other) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.allclose(a[layer], b[layer], atol=1e-5) for layer in a)
        for a, b in zip(one, other, strict=True)
    )


def test_states_are_computed_without_the_adapter_and_found_again(truncated, tmp_path, monkeypatch):
    reference_states = ReferenceStates(truncated, 0, tmp_path, 2**20)
    passes = count_passes(truncated, monkeypatch)
    first = reference_states(EXAMPLES[:4])
    assert [layer for side in first for layer in side] == [2, 1, 2]
    with torch.no_grad(), truncated.model.disable_adapter():
        assert equal(first, truncated.hidden_states(truncated.batch(EXAMPLES[:4], 0)))
    passes.clear()
    assert equal(reference_states(EXAMPLES[3::-1]), reference_states(EXAMPLES[3::-1])) and not passes
    assert equal(reference_states(EXAMPLES[:4]), first) and not passes
    mixed = reference_states([EXAMPLES[0], EXAMPLES[4], EXAMPLES[0]])  # kept, new, kept again
    assert len(passes) == 1 and mixed[0] == {}
    assert torch.equal(mixed[1][2][:8], mixed[1][2][-8:])
    assert list(tmp_path.iterdir()) == []  # no file is left behind


def test_one_break_example_is_enough_where_all_are_pulled(truncated, tmp_path, monkeypatch):
    """The losses stay the same; the cosine, which is only shown, is that of the first."""
    plain = [Encoded(tuple(range(20 + n, 32 + n)), 4, True) for n in range(2)]
    breaks = [refusal_row(one, numbered([(7, 8)]), (7, 8), 3) for one in plain]
    step, refusal = [*breaks, Encoded(tuple(range(1, 12)), 0, False)], torch.randn(3, 32)
    config = override(RunConfig(), ["objective.reroute=refusal"])
    first = [breaks[0], step[2]]
    found = []
    for examples, totals in (
        (step, Totals.of(step)),
        (step, Totals.of(step, compare_one=True)),
        (first, Totals.of(first)),
    ):
        reference_states = ReferenceStates(truncated, 0, tmp_path, 2**20)
        found.append(micro_batch_losses(truncated, examples, config, reference_states, totals, refusal))
        assert len(reference_states.kept) == 1 + totals.answer // 8
    every, one, alone = found
    assert one.reroute.item() == pytest.approx(every.reroute.item(), rel=1e-4)
    assert one.retain.item() == pytest.approx(every.retain.item(), rel=1e-4)
    assert one.cosine == pytest.approx(alone.cosine, rel=1e-4) and one.cosine != every.cosine


def test_a_full_disk_slows_the_run_down_but_does_not_end_it(truncated, tmp_path, monkeypatch):
    reference_states = ReferenceStates(truncated, 0, tmp_path, 2**30)
    expected = ReferenceStates(truncated, 0, tmp_path, 0)(EXAMPLES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))  # the write that exceeds it is cut short or fails
    try:
        assert equal(reference_states(EXAMPLES), expected)
        assert 0 < len(reference_states.kept) < len(EXAMPLES)
        passes = count_passes(truncated, monkeypatch)
        assert equal(reference_states(EXAMPLES), expected) and len(passes) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_running_out_of_memory_leaves_the_model_as_it_was(truncated, tmp_path, monkeypatch):
    """Training repeats the step, so dropout, gradient checkpointing and the adapter must still be on."""
    truncated.set_training(True)

    def fails(batch):
        assert not any(module.training for module in truncated.model.modules())
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(truncated, "hidden_states", fails)
        ReferenceStates(truncated, 0, tmp_path, 0)(EXAMPLES)
    assert all(module.training for module in truncated.model.modules())
    assert all(p.requires_grad for name, p in truncated.model.named_parameters() if "lora_" in name)
    adapted = truncated.hidden_states(truncated.batch(EXAMPLES, 0))
    assert not equal(ReferenceStates(truncated, 0, tmp_path, 0)(EXAMPLES), adapted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_kept_in_the_models_precision(tmp_path, dtype):
    model = AutoModel.from_config(AutoConfig.for_model("llama", **TINY)).to(dtype)
    truncated = TruncatedModel(model, [2], [1, 2], {})
    add_lora(truncated, LoraConfig(init_std=0.3), seed=0)
    reference_states = ReferenceStates(truncated, 0, tmp_path, 2**20)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        reference_states(EXAMPLES)
    assert {form.dtype for _, form in reference_states.kept.values()} == {dtype}
