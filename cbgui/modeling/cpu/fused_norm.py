"""RMS norm in fewer passes over its input, for training in bfloat16 on a CPU (Zhang, Sennrich 2019, arXiv 1910.07467).

transformers' form makes several passes over float32 copies of the hidden states, and more of them backward. A step in
bfloat16 takes 7% less time without them (dev/LOG.md, 2026-11-27). The values are the same
(tests/modeling/cpu/test_fused_norm.py).
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from cbgui.modeling.cpu import tricks_enabled


class _RmsNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, with a gradient for x; the weight is frozen.

    x is (..., size), weight is (size,). The mean is computed in float32, everything else in x's dtype.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        wide = x.float()
        mean = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        inverse = mean.add_(eps).rsqrt_()
        normed = (wide * inverse if wide is x else wide.mul_(inverse)).to(x.dtype)
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, inverse, weight = ctx.saved_tensors
        grad = grad * weight
        along = (grad * normed).sum(-1, keepdim=True, dtype=torch.float32).div_(normed.shape[-1])
        grad = torch.addcmul(grad, normed, along.to(grad.dtype), value=-1)
        return grad.mul_(inverse.to(grad.dtype)), None, None


def _forward(weight: torch.Tensor, eps: float, x: torch.Tensor) -> torch.Tensor:
    return _RmsNorm.apply(x, weight, eps)


@torch.no_grad()
def fuse_norms(model: torch.nn.Module) -> int:
    """Give every frozen RMS norm of `model` the forward above; returns how many there are.

    Norms that compute something else (Gemma's adds one to its weight) are recognised by their result on random numbers
    and left as they are.
    """
    if not tricks_enabled():
        return 0
    count = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not type(module).__name__.endswith("RMSNorm") or eps is None or weight is None or weight.requires_grad:
            continue
        forward = functools.partial(_forward, weight, eps)
        states = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)).to(weight)
        expected, found = module(states), forward(states)
        if expected.dtype == found.dtype and torch.allclose(expected, found, rtol=2e-2, atol=1e-3):
            module.forward = forward
            count += 1
    return count
