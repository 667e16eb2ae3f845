"""Attention for examples that share one row of a batch."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cbgui.modeling.cpu import query_blocks, tricks_enabled

PACKED = "packed"  # the name under which transformers knows this attention


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
    """Causal attention within each example of a packed row; an ordinary batch is passed on to transformers' SDPA.

    query is (1, heads, tokens, head_dim); key and value are (1, key_value_heads, tokens, head_dim). `attention_mask`
    is (1, 1, 1, segments), the number of tokens in each segment as integers; transformers passes masks of four
    dimensions through unchanged (masking_utils). The first segment, which may be empty, is the beginning that all
    examples share. The others attend to it and to themselves. Returns (1, tokens, heads, head_dim) and None.
    """
    if attention_mask is None or attention_mask.is_floating_point() or attention_mask.dtype == torch.bool:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    shared, *lengths = attention_mask.flatten().tolist()
    window, outputs = kwargs.get("sliding_window"), []
    in_blocks = query.device.type == "cpu" and shared + max(lengths) <= query_blocks.LONGEST and tricks_enabled()
    attend = query_blocks.query_blocks if in_blocks else sdpa_attention_forward
    runs = [(length, len(list(run))) for length, run in itertools.groupby(lengths)]
    parts = [shared, *(length * count for length, count in runs)]
    first, *rest = zip(*(states.split(parts, 2) for states in (query, key, value)), strict=True)
    for (length, count), run in zip(runs, rest, strict=True):
        # Neighbours of the same length become rows of a batch. Each row repeats the shared tokens, so that attention is
        # plainly causal and its fused kernel can skip what is masked.
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
AttentionMaskInterface.register(PACKED, sdpa_mask)  # gives None where causal attention needs no mask
