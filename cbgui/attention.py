"""Attention for training: examples packed in one row, and on a CPU in blocks of queries.

On a CPU the backward pass of PyTorch's fused attention costs several times what its products do, above all in bfloat16
(docs/benchmarks.md). A block of queries looks only at the keys up to its own end, so nearly half of the products are
never made.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed"
BLOCK = 192  # queries; of 64 to 256 the fastest or close to it for rows of 88 to 600 tokens (docs/benchmarks.md)
LONGEST = 1024  # tokens in a row; the attention weights are kept for the backward pass, and grow with its square


def query_blocks(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention, with the weights of one block of queries at a time.

    query is (examples, heads, tokens, head_dim), key and value (examples, key_value_heads, tokens, head_dim); returns
    (examples, tokens, heads, head_dim). What is not plain causal attention over whole rows goes to transformers' SDPA.
    """
    examples, heads, tokens, head_dim = query.shape
    causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    special = attention_mask is not None or dropout or kwargs.get("softcap") or kwargs.get("position_bias") is not None
    if special or not causal or key.shape[2] != tokens:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    groups = heads // key.shape[1]  # queries that share a key
    scaling = head_dim**-0.5 if scaling is None else scaling
    query = query.reshape(-1, groups, tokens, head_dim)
    key, value = (states.reshape(-1, tokens, states.shape[-1]) for states in (key, value))
    outputs = []
    for start in range(0, tokens, BLOCK):
        end = min(start + BLOCK, tokens)
        later = torch.full((end - start, end), -torch.inf, dtype=query.dtype, device=query.device).triu_(start + 1)
        block = query[:, :, start:end].flatten(1, 2)
        scores = torch.baddbmm(later.repeat(groups, 1), block, key[:, :end].transpose(1, 2), alpha=scaling)
        output = torch.bmm(scores.softmax(-1), value[:, :end])
        outputs.append(output.view(examples, heads, end - start, -1))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention within each example of a packed row; an ordinary batch as transformers' SDPA has it.

    Shapes as above, with one example. `attention_mask` is (1, 1, 1, segments), integers: the tokens of each segment.
    The first, which may be empty, comes before each of the others, and these do not see each other. (transformers
    passes a mask of four dimensions through as it is, masking_utils.)
    """
    if attention_mask is None or attention_mask.is_floating_point() or attention_mask.dtype == torch.bool:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    shared, *lengths = attention_mask.flatten().tolist()
    window, outputs = kwargs.get("sliding_window"), []
    in_blocks = query.device.type == "cpu" and shared + max(lengths) <= LONGEST
    attend = query_blocks if in_blocks else sdpa_attention_forward
    runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
    parts = [shared, *(length * count for length, count in runs)]
    first, *rest = zip(*(states.split(parts, 2) for states in (query, key, value)), strict=True)
    for (length, count), run in zip(runs, rest, strict=True):
        # Neighbours of one length are rows of a batch. The shared tokens ask again in each, so that the plain causal
        # form serves: its fused kernel skips what is masked.
        states = [own.unflatten(2, (count, length))[0].transpose(0, 1) for own in run]
        if shared:
            begin = (before.expand(count, -1, -1, -1) for before in first)
            states = [torch.cat(parts, 2) for parts in zip(begin, states, strict=True)]
        mask, tokens = None, shared + length
        if window is not None and tokens > window:
            mask = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril_().triu_(1 - window)
        output, _ = attend(module, *states, mask, dropout, scaling, **kwargs)
        if not outputs:
            outputs.append(output[:1, :shared])
        outputs.append(output[:, shared:].flatten(0, 1)[None])
    return torch.cat(outputs, 1), None


AttentionInterface.register(PACKED, packed)
AttentionMaskInterface.register(PACKED, sdpa_mask)  # None where causal attention needs no mask
