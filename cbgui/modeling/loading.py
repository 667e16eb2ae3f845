"""How weights are loaded: in which precision, quantized or not, on which device."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import BitsAndBytesConfig, PretrainedConfig
from transformers.quantizers.base import get_keys_to_not_convert

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.modeling.decoder import empty_model, is_read_directly
from cbgui.modeling.linear import LINEAR
from cbgui.modeling.quantized import expanding, stored_form

# Bytes of a weight in NF4: 4 bits, an 8-bit scale for each 64 weights, a float32 scale for each 256 of these scales.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
CPU_OUTPUTS = 32  # bitsandbytes' CPU kernel computes so many outputs at a time


def quantizations(model_config: PretrainedConfig, asked: str) -> list[str]:
    """The quantizations that may be chosen, best first, where `asked` was asked for.

    Raises InputError for one that the model cannot have: transformers does not pack weights that are stored packed.
    """
    possible = ["none", "nf4"] if stored_form(model_config) is None else ["none"]
    if asked == "auto":
        return possible
    if asked not in possible:
        raise InputError(
            f"model.quantization = {asked}: the model is stored in {stored_form(model_config)}, which is expanded to "
            "full precision and cannot be packed again; set it to none."
        )
    return [asked]


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """The precision in which the model computes."""
    return hardware.fast_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def fit_to_cpu_kernel(model: torch.nn.Module) -> None:
    """Let 4-bit layers whose widths bitsandbytes' CPU kernel cannot take be dequantized for each product instead.

    The kernel wants multiples of 32 outputs and of a block's inputs, and stops with an assertion otherwise
    (bitsandbytes 0.50, `_convert_weight_packed_for_cpu`).
    """
    for module in model.modules():
        if isinstance(module, Linear4bit) and (
            module.out_features % CPU_OUTPUTS or module.in_features % module.weight.blocksize
        ):
            module.support_avx512bf16_for_cpu = False


def load_options(config: ModelConfig, model_config: PretrainedConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained`: safetensors only, and never the model's own code."""
    dtype = compute_dtype(config)
    options = {
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": False,
        "device_map": {"": hardware.device()},
    }
    options |= expanding(model_config)
    if config.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=_not_packed(model_config),
        )
    return options


def _not_packed(model_config: PretrainedConfig) -> list[str] | None:
    """The modules that stay as they are in NF4, where code reads their weights directly; None for transformers' choice,
    the head."""
    model = empty_model(model_config)
    read = [name for name, m in model.named_modules() if isinstance(m, LINEAR) and is_read_directly(name)]
    return [*get_keys_to_not_convert(model), *read] if read else None
