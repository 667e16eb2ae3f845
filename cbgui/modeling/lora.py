"""LoRA on the truncated model for training, and on some rows of a batch for inference.

In PEFT's own forward, LoRA's product, its scaling and the sum each make a pass over the layer's output, and autograd
keeps the intermediate tensors. Here the matrix product adds LoRA's part to the output directly. The values are PEFT's
(tests/modeling/test_lora.py). A 4-bit weight is unpacked for each product and not kept. Layers with dropout keep PEFT's
forward.
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
from transformers.pytorch_utils import Conv1D

from cbgui.config import LoraConfig
from cbgui.modeling.cpu.onednn import product
from cbgui.modeling.decoder import adapted_modules, text_decoder
from cbgui.modeling.linear import matrix
from cbgui.modeling.truncated import TruncatedModel

ADAPTER = "default"  # PEFT's name for it
INIT_STD = 0.04  # of B where the settings leave it open
# PEFT's layer -> the layers that it wraps
BASE_LAYERS = {PeftLinear: (torch.nn.Linear, Conv1D), PeftLinear4bit: (Linear4bit,)}


def add_lora(truncated: TruncatedModel, config: LoraConfig, seed: int) -> None:
    """Add LoRA with the forward below to all linear layers from `first_layer` on; B starts from N(0, init_std).

    Seeds PyTorch's random numbers with `seed`.
    """
    model = truncated.model
    if getattr(model, "is_loaded_in_4bit", False):
        # PEFT's prepare_model_for_kbit_training would also cast the embedding to float32, which nothing here needs.
        model.requires_grad_(False)
    lora = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=adapted_modules(model, truncated.first_adapted(config)),
    )
    torch.manual_seed(seed)
    truncated.model = get_peft_model(model, lora)
    fuse_lora(truncated.model)
    for module in truncated.model.modules():
        if isinstance(module, BaseTunerLayer):  # autocast casts already; PEFT would go to float32 and back
            module.cast_input_dtype_enabled = False
    init_std = INIT_STD if config.init_std == "auto" else config.init_std
    if init_std:
        for name, parameter in truncated.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=init_std)


@torch.no_grad()
def multiply_adapter(model: PeftModel, strength: float) -> None:
    """Make the adapter's change to every layer `strength` times as large."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.mul_(strength)


def unpacked(weight: torch.Tensor) -> torch.Tensor:
    """The weight as a matrix, (out_features, in_features)."""
    return dequantize_4bit(weight.data, weight.quant_state) if isinstance(weight, Params4bit) else weight


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + scaling * (x A^T) B^T, with gradients for x, A and B; W and bias are frozen.

    x is (..., in_features), A (r, in_features), B (out_features, r). A and B may be float32 when W is bfloat16: the
    products are computed in W's dtype, and the gradients of A and B are returned in theirs.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        a_low, b_low = a.to(rows.dtype), (b * scaling).to(rows.dtype)
        inner = rows @ a_low.t()
        out = product(rows, unpacked(weight), bias)
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
            grad_x = product(grad, unpacked(ctx.weight).t()).addmm_(grad_inner, a_low).view(ctx.shape)
        grad_a = (grad_inner.t() @ rows).to(ctx.dtypes[0])
        grad_b = (grad.t() @ inner).to(ctx.dtypes[1]) * ctx.scaling
        return grad_x, None, None, grad_a, grad_b, None


def _forward(layer: LoraLayer, x: torch.Tensor) -> torch.Tensor:
    weight, bias = matrix(layer.base_layer), layer.base_layer.bias
    x = x.to(weight.quant_state.dtype if isinstance(weight, Params4bit) else weight.dtype)
    if layer.disable_adapters:
        return product(x, unpacked(weight), bias)
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    return _LoraLinear.apply(x, weight, bias, a, b, layer.scaling[ADAPTER])


def fuse_lora(model: PeftModel) -> int:
    """Give every LoRA linear layer of `model`, plain or in 4 bits, the forward above; returns how many there are."""
    count = 0
    for module in model.modules():
        known = type(module) in BASE_LAYERS and type(module.base_layer) in BASE_LAYERS[type(module)]
        if known and isinstance(module.lora_dropout[ADAPTER], torch.nn.Identity):
            module.forward = functools.partial(_forward, module)
            count += 1
    return count


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """PEFT's `disable_adapter()` without its check of every parameter's state, which takes longer than the switch."""
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
    """The adapter applies to the rows of a batch from `first` on; the running batch has `count` rows."""

    first: int = 0
    count: int = 1


def _forward_rows(layer: LoraLayer, rows: AdaptedRows, x: torch.Tensor) -> torch.Tensor:
    out = layer.base_layer(x)
    if layer.disable_adapters:
        return out
    a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    first = rows.first * (x.shape[0] // rows.count)  # some layers get all rows' tokens in one list
    inner = x[first:].reshape(-1, x.shape[-1]).to(a.dtype) @ a.t()
    out[first:].view(-1, out.shape[-1]).addmm_(inner, b.t(), alpha=layer.scaling[ADAPTER])
    return out


def adapt_rows(model: PeftModel) -> AdaptedRows:
    """Let one batch hold rows of both models, for inference. Casts the adapter to the model's dtype.

    PEFT's own way (`adapter_names`) gives the same values, but in float32 and with hooks that are set for every token,
    which took two thirds longer (dev/LOG.md, 2026-11-25).
    """
    rows, full = AdaptedRows(), model.get_base_model()

    def count(module: torch.nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        if (ids := named.get("input_ids")) is not None:
            rows.count = ids.shape[0]

    for module in {full, text_decoder(full)}:
        module.register_forward_pre_hook(count, with_kwargs=True)
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for part in (module.lora_A, module.lora_B):
                part[ADAPTER].to(model.dtype)
            module.forward = functools.partial(_forward_rows, module, rows)
    return rows
