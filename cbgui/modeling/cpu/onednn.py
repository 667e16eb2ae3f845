""""""

from __future__ import annotations

import functools

import torch
from torch.nn.functional import linear


@functools.cache
def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether training's products on a CPU go to oneDNN, which makes a kernel for every shape and keeps some.

    In float32 PyTorch gives them to MKL, written for Intel's processors; on AMD's it is the slower one
    (docs/performance.md).
    """
    if dtype != torch.float32:
        return True
    amd = "AMD" in str(torch.cpu.get_capabilities().get("cpu_name", ""))
    return amd and torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + bias: (..., in_features) and (out_features, in_features) -> (..., out_features).

    oneDNN's form (the one that TorchInductor calls) knows no gradients, so it serves only where none are asked.
    """
    float32_on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if float32_on_cpu and not torch.is_grad_enabled() and uses_onednn(torch.float32):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return linear(x, weight, bias)
