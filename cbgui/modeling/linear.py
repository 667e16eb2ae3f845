"""What a linear module is: PyTorch's own, one packed in 4 bits, or GPT-2's, whose weight is transposed."""

from __future__ import annotations

import torch
from bitsandbytes.nn import Linear4bit
from transformers.pytorch_utils import Conv1D

LINEAR = (torch.nn.Linear, Conv1D)  # bitsandbytes' modules are subclasses of the first
PLAIN = (*LINEAR, Linear4bit)
SAME = {"FalconLinear"}  # subclasses that compute the same in code of their own


def is_plain_linear(module: torch.nn.Module) -> bool:
    """Whether the module is linear and nothing more: subclasses may compute something else from the same weight."""
    own_forward = type(module).forward not in {kind.forward for kind in PLAIN}
    return isinstance(module, LINEAR) and (not own_forward or type(module).__name__ in SAME)


def sizes(module: torch.nn.Module) -> tuple[int, int]:
    """(in_features, out_features) of a linear module."""
    return (module.nx, module.nf) if isinstance(module, Conv1D) else (module.in_features, module.out_features)


def matrix(module: torch.nn.Module) -> torch.Tensor:
    """The weight of a linear module as (out_features, in_features), without a copy; one in 4 bits is left packed."""
    return module.weight.t() if isinstance(module, Conv1D) else module.weight
