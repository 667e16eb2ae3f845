""""""

from __future__ import annotations

import torch
from transformers import (
    BitsAndBytesConfig,
)

from cbgui import hardware
from cbgui.config import ModelConfig


def compute_dtype(config: ModelConfig) -> torch.dtype:
    return hardware.fast_dtype() if config.dtype == "auto" else getattr(torch, config.dtype)


def load_options(config: ModelConfig) -> dict:
    """For `from_pretrained`: precision, quantization and device; safetensors alone, and no code of the model's own."""
    dtype = compute_dtype(config)
    options = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": False}
    if config.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return options | {"device_map": {"": hardware.device()}}


NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)  # a weight: 4 bits, an 8-bit scale each 64, a float32 scale each 256 of these
