"""Checkpoints whose weights are stored quantized: which of them are read, and how.

gpt-oss stores its experts in MXFP4, which transformers turns into bfloat16 exactly. LoRA adapts its attention, stored
in bfloat16, so that the merged model keeps the experts as they are stored. In the other forms the adapted weights
themselves are rounded, and nothing could be merged into them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from transformers import Mxfp4Config, PretrainedConfig

from cbgui.errors import InputError

EXPANDED = "mxfp4"  # the one form that is read
NAMES = {
    "bitsandbytes": "with bitsandbytes",
    "fp8": "in FP8",
    "gptq": "with GPTQ",
    "awq": "with AWQ",
    "compressed-tensors": "with compressed-tensors",
}


def stored_form(config: PretrainedConfig) -> str | None:
    """The name of the quantization in which a model's weights are stored; None if they are not quantized."""
    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return None
    return settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method


def refuse_quantized(label: str, folder: Path, settings: dict[str, Any]) -> None:
    """Raises InputError for a model that is stored in a form that cannot be trained. `settings` is its config.json."""
    quantization = settings.get("quantization_config") or settings.get("compression_config")
    if not quantization:
        return
    method = str(quantization.get("quant_method", "")) if isinstance(quantization, dict) else ""
    if method == EXPANDED:
        return
    original = _unquantized(folder)
    remedy = f"choose {original}, from which it was made" if original else "choose the model from which it was made"
    raise InputError(
        f"model {label!r} is stored quantized ({NAMES.get(method, method or 'in an unknown form')}), and an adapter "
        f"cannot be merged into rounded weights; {remedy}, and set model.quantization to nf4 if memory is short."
    )


def _unquantized(folder: Path) -> str | None:
    """The model that the card names as the one that was quantized."""
    try:
        base = (metadata_load(folder / "README.md") or {}).get("base_model")
    except Exception:  # no card, or one that is damaged
        return None
    names = [base] if isinstance(base, str) else base if isinstance(base, list) else []
    return next((name for name in names if isinstance(name, str) and len(name) < 200), None)


def expanding(config: PretrainedConfig) -> dict[str, Any]:
    """Arguments of `from_pretrained` that expand stored weights to the precision that the model computes in."""
    return {"quantization_config": Mxfp4Config(dequantize=True)} if stored_form(config) == EXPANDED else {}
