"""Checkpoints whose weights are stored quantized: which of them are read, and how.

gpt-oss stores its experts in MXFP4. LoRA adapts its attention, stored in bfloat16, so that the merged model keeps the
experts as they are stored. Fine-grained FP8 (Qwen3, Ministral 3) stores the adapted weights themselves, each
block with a scale; there the merged model is written in bfloat16. transformers expands both as their publishers do.
Other forms are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from safetensors import safe_open
from transformers import FineGrainedFP8Config, Mxfp4Config, PretrainedConfig

from cbgui.errors import InputError
from cbgui.modeling.hub import weight_files

MXFP4, FP8 = "mxfp4", "fp8"
EXPANDED = {MXFP4: Mxfp4Config, FP8: FineGrainedFP8Config}  # the forms that are read
SCALE = "_scale_inv"  # end of the name of an FP8 weight's scales
ACTIVATION_SCALE = "activation_scale"  # end of the name of a scale that full precision does not need
FP8_DTYPES = {"F8_E4M3", "F8_E5M2"}
NAMES = {
    "bitsandbytes": "with bitsandbytes",
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
    """Raises InputError for a model that is stored in a form that cannot be trained. `settings` is its config.json.

    Reads the headers of the weights' files where these are there already.
    """
    text = settings.get("text_config")
    inner = text.get("quantization_config") if isinstance(text, dict) else None
    quantization = settings.get("quantization_config") or settings.get("compression_config")
    if not quantization and not inner:
        return
    method = str(quantization.get("quant_method", "")) if isinstance(quantization, dict) else ""
    if method == MXFP4 or (method == FP8 and _has_scales(folder)):
        return
    original = _unquantized(folder)
    remedy = f"choose {original}, from which it was made" if original else "choose the model from which it was made"
    form = "in another FP8 than the one with scales for blocks" if method == FP8 else method or "in an unknown form"
    raise InputError(
        f"model {label!r} is stored quantized ({NAMES.get(method, form)}), which cbgui does not read; {remedy}, and "
        "set model.quantization to nf4 if memory is short."
    )


def _has_scales(folder: Path) -> bool:
    """Whether every FP8 weight has scales, each for an equal block; True where the weights are not there yet."""
    try:
        files = weight_files(folder)
    except InputError:
        return True
    shapes: dict[str, list[int]] = {}
    packed = []
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                view = file.get_slice(name)
                shapes[name] = view.get_shape()
                packed += [name] * (view.get_dtype() in FP8_DTYPES)
    return all(_fits(shapes[name], shapes.get(name + SCALE)) for name in packed)


def _fits(weight: list[int], scales: list[int] | None) -> bool:
    if scales is None:
        return False
    return len(scales) < 2 or not any(size % blocks for size, blocks in zip(weight, scales, strict=True))


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
    form = stored_form(config)
    return {"quantization_config": EXPANDED[form](dequantize=True)} if form in EXPANDED else {}
