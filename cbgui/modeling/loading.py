"""How weights are loaded: in which precision, quantized or not, on which device."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from cbgui import hardware
from cbgui.config import ModelConfig

# Bytes of a weight in NF4: 4 bits, an 8-bit scale for each 64 weights, a float32 scale for each 256 of these scales.
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def compute_dtype(config: ModelConfig) -> torch.dtype:
    """The precision in which the model computes."""
    return hardware.fast_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def load_options(config: ModelConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained`: safetensors only, and never the model's own code."""
    dtype = compute_dtype(config)
    options = {
        "dtype": dtype,
        "use_safetensors": True,
        "trust_remote_code": False,
        "device_map": {"": hardware.device()},
    }
    if config.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return options
