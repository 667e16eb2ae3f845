import pytest
import torch
from random_models import TINY
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cbgui import attention
from cbgui.trunk import Trunk

IDS = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(1))


def outcome(model, implementation: str):
    model.set_attn_implementation(implementation)
    model.zero_grad()
    logits = model(input_ids=IDS, use_cache=False).logits
    logits.square().sum().backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def tiny(kind: str, **more):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY, **more)).float()


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("llama", {}),
        ("llama", {"head_dim": 12}),
        ("mistral", {"sliding_window": 4}),  # a mask of its own
        ("gemma3_text", {"query_pre_attn_scalar": 100, "head_dim": 8}),  # scores scaled otherwise
    ],
)
@pytest.mark.parametrize("block", [4, 64])
def test_blocks_of_queries_attend_as_the_plain_form_does(kind, more, block, monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", block)
    model = tiny(kind, **more)
    plain, plain_gradients = outcome(model, "eager")
    blocks, block_gradients = outcome(model, attention.NAME)
    assert torch.allclose(plain, blocks, atol=1e-5)
    for name, gradient in plain_gradients.items():
        assert (gradient - block_gradients[name]).norm() <= 1e-4 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("padding", [0, 1])
def test_answers_written_token_by_token_are_those_of_sdpa(padding):
    model = tiny("llama").eval()
    ids = torch.cat([torch.zeros(2, padding, dtype=torch.long), IDS.clamp_min(1)], 1)
    answers = []
    for implementation in ("sdpa", attention.NAME):
        model.set_attn_implementation(implementation)
        answers.append(model.generate(ids, attention_mask=(ids > 0).long(), max_new_tokens=6, do_sample=False))
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    ("dtype", "longest", "kind", "chosen"),
    [
        (torch.bfloat16, 1024, "llama", attention.NAME),
        (torch.bfloat16, 1025, "llama", "sdpa"),  # the weights that are kept grow with the square
        (torch.float32, 64, "llama", attention.PACKED),
        (torch.bfloat16, 64, "gemma2", "eager"),  # soft-capped scores
    ],
)
def test_blocks_are_chosen_where_they_were_measured_faster(dtype, longest, kind, chosen):
    model = tiny(kind).model.to(dtype)
    Trunk(model, [1], [1], {}).use_fast_attention(longest)
    assert model.config._attn_implementation == chosen


def test_a_model_that_reads_a_packed_row_otherwise_keeps_padded_rows(monkeypatch):
    def across_examples(module, query, key, value, attention_mask, *rest, **more):
        return sdpa_attention_forward(module, query, key, value, None, *rest, **more)

    for packs, function in ((True, attention.packed), (False, across_examples)):
        monkeypatch.setitem(AttentionInterface._global_mapping, attention.PACKED, function)
        trunk = Trunk(tiny("llama").model, [1], [1], {})
        trunk.use_fast_attention(64)
        assert trunk.packed == packs
        assert trunk.model.config._attn_implementation == (attention.PACKED if packs else "sdpa")
