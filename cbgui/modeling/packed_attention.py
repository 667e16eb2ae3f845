"""Attention for training: examples packed in one row, and on a CPU in blocks of queries.

On a CPU the backward pass of PyTorch's fused attention costs several times what its products do, above all in bfloat16
(docs/performance.md). A block of queries looks only at the keys up to its own end, so nearly half of the products are
never made.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from cbgui.modeling.cpu import query_blocks

PACKED = "packed"


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
    in_blocks = query.device.type == "cpu" and shared + max(lengths) <= query_blocks.LONGEST
    attend = query_blocks.query_blocks if in_blocks else sdpa_attention_forward
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
