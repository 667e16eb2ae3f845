"""Causal attention on a CPU in blocks of queries.

The backward pass of PyTorch's fused attention costs several times as much as its products do on a CPU, most of all in
bfloat16. A block of queries needs only the keys up to its own end, so nearly half of the products are saved.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

BLOCK = 192  # queries; the fastest of 64 to 256, or close to it (dev/LOG.md, 2026-11-27)
LONGEST = 1024  # tokens of a row; the stored attention weights grow with the square of its length


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
    """Causal attention over whole rows; anything else is passed on to transformers' SDPA.

    query is (examples, heads, tokens, head_dim); key and value are (examples, key_value_heads, tokens, head_dim).
    Returns (examples, tokens, heads, head_dim) and None for the attention weights.
    """
    examples, heads, tokens, head_dim = query.shape
    causal = kwargs.get("is_causal") is not False and getattr(module, "is_causal", True)
    special = attention_mask is not None or dropout or kwargs.get("softcap") or kwargs.get("position_bias") is not None
    if special or not causal or key.shape[2] != tokens:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    groups = heads // key.shape[1]  # query heads that share a key head
    scaling = head_dim**-0.5 if scaling is None else scaling
    query = query.reshape(-1, groups, tokens, head_dim)
    key, value = (states.reshape(-1, tokens, states.shape[-1]) for states in (key, value))
    outputs = []
    for start in range(0, tokens, BLOCK):
        end = min(start + BLOCK, tokens)
        causal_mask = torch.full((end - start, end), -torch.inf, dtype=query.dtype, device=query.device).triu_(
            start + 1
        )
        block = query[:, :, start:end].flatten(1, 2)
        scores = torch.baddbmm(causal_mask.repeat(groups, 1), block, key[:, :end].transpose(1, 2), alpha=scaling)
        output = torch.bmm(scores.softmax(-1), value[:, :end])
        outputs.append(output.view(examples, heads, end - start, -1))
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None
