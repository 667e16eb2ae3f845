"""The arithmetic of one LoRA linear layer: forward and backward for training, and forward for some rows of a batch.

PEFT's own forward makes three passes over the layer's output (LoRA's product, its scaling, the sum) and autograd keeps
and moves the same tensors again; here LoRA's product is accumulated into the output by the matrix product itself. The
values are PEFT's (`tests/test_lora.py`). A 4-bit weight is unpacked for each product and not kept. Layers with dropout
keep PEFT's forward. In float32 on AMD's processors the products are oneDNN's, which is sooner there than MKL
(docs/performance.md).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora.bnb import Linear4bit as PeftLinear4bit
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer

from cbgui.config import LoraConfig
from cbgui.modeling.architecture import linear_names
from cbgui.modeling.cpu.onednn import product
from cbgui.modeling.truncated import TruncatedModel


def add_lora(truncated: TruncatedModel, config: LoraConfig, seed: int) -> None:
    """Wrap the truncated model with LoRA on all its linear layers; B starts from N(0, init_std)."""
    model = truncated.model
    if getattr(model, "is_loaded_in_4bit", False):
        # peft's prepare_model_for_kbit_training would cast the embedding to fp32; nothing here needs that.
        model.requires_grad_(False)
    lora = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=linear_names(model),
    )
    torch.manual_seed(seed)
    truncated.model = get_peft_model(model, lora)
    fuse(truncated.model)
    for module in truncated.model.modules():
        if isinstance(module, BaseTunerLayer):  # autocast casts; PEFT would take the input to fp32 and back
            module.cast_input_dtype_enabled = False
    if config.init_std:
        for name, parameter in truncated.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=config.init_std)


ADAPTER = "default"
BASE = {PeftLinear: torch.nn.Linear, PeftLinear4bit: Linear4bit}  # layers that are known -> what they must be around


def _unpacked(weight: torch.nn.Parameter) -> torch.Tensor:
    """The weight as a matrix, (out_features, in_features)."""
    return dequantize_4bit(weight.data, weight.quant_state) if isinstance(weight, Params4bit) else weight


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling * (x A^T) B^T, with gradients for x, A and B; W and bias are frozen.

    x is (..., in_features), A (r, in_features), B (out_features, r). A and B may be float32 beside a bfloat16 W; the
    products are in W's dtype, and their gradients come back in their own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.nn.Parameter,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a_low, b_low = a.to(rows.dtype), (b * scaling).to(rows.dtype)
        inner = rows @ a_low.t()
        out = product(rows, _unpacked(weight), bias)
        out.addmm_(inner, b_low.t())
        ctx.save_for_backward(rows, a_low, b_low, inner)
        ctx.weight, ctx.shape, ctx.scaling, ctx.dtypes = weight, x.shape, scaling, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, a_low, b_low, inner = ctx.saved_tensors
        grad = grad.reshape(-1, grad.shape[-1])
        grad_inner = grad @ b_low
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad, _unpacked(ctx.weight).t()).addmm_(grad_inner, a_low).view(ctx.shape)
        grad_a = (grad_inner.t() @ rows).to(ctx.dtypes[0])
        grad_b = (grad.t() @ inner).to(ctx.dtypes[1]) * ctx.scaling
        return grad_x, None, None, grad_a, grad_b, None


def _forward(layer: LoraLayer, x: torch.Tensor) -> torch.Tensor:
    weight, bias = layer.base_layer.weight, layer.base_layer.bias
    x = x.to(weight.quant_state.dtype if isinstance(weight, Params4bit) else weight.dtype)
    if layer.disable_adapters:
        return product(x, _unpacked(weight), bias)
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return _LoraLinear.apply(x, weight, bias, a, b, layer.scaling[ADAPTER])


def fuse(model: PeftModel) -> int:
    """Give every LoRA linear layer of `model`, plain or in 4 bits, the forward above; returns how many."""
    count = 0
    for module in model.modules():
        known = type(module) in BASE and type(module.base_layer) is BASE[type(module)]
        if known and isinstance(module.lora_dropout[ADAPTER], torch.nn.Identity):
            module.forward = functools.partial(_forward, module)
            count += 1
    return count


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """PEFT's `disable_adapter()` without its look at the state of every parameter, which takes longer than the switch
    itself and is had before each pass of the frozen model (docs/performance.md)."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@dataclass
class AdaptedRows:
    """The adapter works on the rows of a batch from `first` on."""

    first: int = 0


def _forward_rows(layer: LoraLayer, rows: AdaptedRows, x: torch.Tensor) -> torch.Tensor:
    out = layer.base_layer(x)
    if layer.disable_adapters:
        return out
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    inner = x[rows.first :].reshape(-1, x.shape[-1]).to(a.dtype) @ a.t()
    out[rows.first :].view(-1, out.shape[-1]).addmm_(inner, b.t(), alpha=layer.scaling[ADAPTER])
    return out


def adapt_rows(model: PeftModel) -> AdaptedRows:
    """For inference: both models in one batch. PEFT's own way (`adapter_names`) gives the same, in float32 and with
    hooks set anew at each token, which took two thirds of the time again (docs/performance.md).

    The adapter is cast to the model's dtype for it.
    """
    rows = AdaptedRows()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for part in (module.lora_A, module.lora_B):
                part[ADAPTER].to(model.dtype)
            module.forward = functools.partial(_forward_rows, module, rows)
    return rows
