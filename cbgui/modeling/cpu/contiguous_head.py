"""The head's input made contiguous, which takes most of the time out of the first token of a batch of answers.

transformers gives the head the last token of each row, a slice. For a slice PyTorch copies the head's weights once for
each row: 80 rows of SmolLM2-135M took 36 s in bfloat16 where the contiguous ones take 0.05 (dev/LOG.md, 2026-11-29).
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel

from cbgui.modeling.cpu import tricks_enabled


def read_contiguous(model: PreTrainedModel) -> None:
    """Let the head of a model on a CPU read contiguous states. Does nothing for a model on a GPU or without a head."""
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and model.device.type == "cpu" and tricks_enabled():
        head.register_forward_pre_hook(_contiguous)


def _contiguous(head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return (arguments[0].contiguous(), *arguments[1:])
