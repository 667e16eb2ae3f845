import pytest
import torch
from random_models import TINY
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from cbgui.modeling import packed_attention
from cbgui.modeling.batch import PAD_TO, Encoded, collate
from cbgui.modeling.cpu import onednn, query_blocks
from cbgui.modeling.truncated import TruncatedModel

IDS = torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(1))


def outcome(model, implementation: str):
    """Logits and gradients of two rows; the packed attention gets the same two in one row."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    ids, more = IDS, {}
    if implementation == packed_attention.PACKED:
        ids = IDS.view(1, -1)
        more["attention_mask"] = torch.tensor([[[[0, 11, 11]]]])
        more["position_ids"] = torch.arange(11).repeat(2)[None]
    logits = model(input_ids=ids, use_cache=False, **more).logits.view(2, 11, -1)
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
        ("mistral", {"sliding_window": 4}),  # needs a mask
        ("gemma3_text", {"query_pre_attn_scalar": 100, "head_dim": 8}),  # scales its scores differently
    ],
)
@pytest.mark.parametrize("block", [4, 64])
def test_blocks_of_queries_attend_as_the_plain_form_does(kind, more, block, monkeypatch):
    monkeypatch.setattr(query_blocks, "BLOCK", block)
    model = tiny(kind, **more)
    plain, plain_gradients = outcome(model, "eager")
    blocks, block_gradients = outcome(model, packed_attention.PACKED)
    assert torch.allclose(plain, blocks, atol=1e-5)
    for name, gradient in plain_gradients.items():
        assert (gradient - block_gradients[name]).norm() <= 1e-4 * gradient.norm() + 1e-9, name


@pytest.mark.parametrize("padding", [0, 1])
def test_generation_gives_the_answers_of_sdpa(padding):
    model = tiny("llama").eval()
    ids = torch.cat([torch.zeros(2, padding, dtype=torch.long), IDS.clamp_min(1)], 1)
    answers = []
    for implementation in ("sdpa", packed_attention.PACKED):
        model.set_attn_implementation(implementation)
        answers.append(model.generate(ids, attention_mask=(ids > 0).long(), max_new_tokens=6, do_sample=False))
    assert torch.equal(*answers)


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [("llama", packed_attention.PACKED), ("gemma2", "eager")],  # Gemma 2 caps its scores
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_examples_are_packed_where_the_model_runs_sdpa(dtype, kind, chosen):
    truncated = TruncatedModel(tiny(kind).model.to(dtype), [1], [1], {})
    truncated.use_packing()
    assert truncated.model.config._attn_implementation == chosen
    assert truncated.packed == (chosen == packed_attention.PACKED)


@pytest.mark.parametrize(
    ("dtype", "with_onednn", "multiple"),
    [(torch.float32, False, 1), (torch.float32, True, PAD_TO), (torch.bfloat16, True, PAD_TO)],
)
def test_a_packed_row_is_padded_for_onednn_on_a_cpu(dtype, with_onednn, multiple, monkeypatch):
    monkeypatch.setattr(onednn, "uses_onednn", lambda dtype: with_onednn)
    truncated = TruncatedModel(tiny("llama").model.to(dtype), [2], [1], {})
    truncated.use_packing()
    examples = [Encoded(tuple(range(1, 1 + n)), 3, n > 8) for n in (7, 9, 12)]
    batch = truncated.batch(examples, 0)
    tokens = batch.input_ids.shape[1]
    assert tokens == -(-(6 + 1 + 3 + 6) // multiple) * multiple and batch.segments.sum() == tokens
    found, rows = truncated.hidden_states(batch), truncated.hidden_states(collate(examples, 0))
    for packed, expected in zip(found, rows, strict=True):
        for layer, states in expected.items():
            assert (packed[layer] - states).norm() <= 0.02 * states.norm()


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_neighbours_of_the_same_length_are_attended_to_at_once(kind, monkeypatch):
    monkeypatch.setattr(onednn, "uses_onednn", lambda dtype: False)  # no padding
    truncated = TruncatedModel(tiny(kind, **({"sliding_window": 5} if kind == "mistral" else {})).model, [2], [1], {})
    truncated.use_packing()
    begin = (1, 2, 3)
    starts_and_lengths = ((10, 6), (20, 6), (30, 6), (40, 9), (50, 6))
    examples = [Encoded(begin + tuple(range(n, n + length)), 2, n % 20 == 0) for n, length in starts_and_lengths]
    batches = []

    def counted(module, query, *rest, **more):
        batches.append(tuple(query.shape[::2]))
        return attend(module, query, *rest, **more)

    attend = query_blocks.query_blocks
    monkeypatch.setattr(query_blocks, "query_blocks", counted)
    outcomes = []
    for batch in (truncated.batch(examples, 0), collate(examples, 0)):
        truncated.model.zero_grad()
        sides = truncated.hidden_states(batch)
        sum(states.square().sum() for side in sides for states in side.values()).backward()
        gradients = {name: p.grad.clone() for name, p in truncated.model.named_parameters() if p.grad is not None}
        outcomes.append(([side[layer] for side, layer in zip(sides, (2, 1), strict=True)], gradients))
    assert set(batches) == {(3, 9), (1, 12), (1, 9)}
    (packed, gradients), (rows, expected) = outcomes
    for found, states in zip(packed, rows, strict=True):
        assert torch.allclose(found, states, atol=1e-5)
    for name, gradient in expected.items():
        assert (gradient - gradients[name]).norm() <= 1e-4 * gradient.norm() + 1e-9, name


def test_a_model_that_misreads_a_packed_row_keeps_padded_rows(monkeypatch):
    def across_examples(module, query, key, value, attention_mask, *rest, **more):
        return sdpa_attention_forward(module, query, key, value, None, *rest, **more)

    for packs, function in ((True, packed_attention.packed), (False, across_examples)):
        monkeypatch.setitem(AttentionInterface._global_mapping, packed_attention.PACKED, function)
        truncated = TruncatedModel(tiny("llama").model, [1], [1], {})
        truncated.use_packing()
        assert truncated.packed == packs
        assert truncated.model.config._attn_implementation == (packed_attention.PACKED if packs else "sdpa")
