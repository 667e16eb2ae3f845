"""Matrix products of frozen weights by oneDNN, which is faster than MKL on AMD's processors in float32."""

from __future__ import annotations

import functools

import torch
from torch.nn.functional import linear

from cbgui.modeling.cpu import tricks_enabled


@functools.cache
def uses_onednn(dtype: torch.dtype) -> bool:
    """Whether training's matrix products on a CPU go to oneDNN, which makes a kernel for every shape and caches some.

    In bfloat16 PyTorch sends them there itself. In float32 it uses MKL, which is written for Intel's processors.
    """
    if dtype != torch.float32:
        return True
    amd = "AMD" in str(torch.cpu.get_capabilities().get("cpu_name", ""))
    available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return amd and available and tricks_enabled()


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x W^T + bias: (..., in_features) and (out_features, in_features) -> (..., out_features).

    oneDNN's operator, the one that TorchInductor calls, has no gradient, so it is used only where none is needed.
    """
    float32_on_cpu = x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
    if float32_on_cpu and not torch.is_grad_enabled() and uses_onednn(torch.float32):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return linear(x, weight, bias)
