"""Which models are accepted, and which of their layers are loaded.

A family that cannot be right gets its entry in REFUSED; how a decoder's parts are called is in decoder.py.
"""

from __future__ import annotations

import json
import re
from typing import Any

import transformers
from transformers import AutoConfig, PretrainedConfig

from cbgui.config import ObjectiveConfig
from cbgui.errors import InputError, brief
from cbgui.modeling.decoder import (
    adapted_modules,
    decoder_layers,
    depth,
    empty_model,
    layer_list,
    model_class,
    text_decoder,
)
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.quantized import refuse_quantized

MOST_LAYERS = 512  # the largest known models have about 130
MAX_CONFIG_BYTES = 4 * 2**20
# Model type -> why it cannot be trained, in words that end a sentence about it.
NEEDS_PICTURE = "needs a picture with every question"
SHARES = "runs some of its layers several times"
DRAFT = "drafts tokens for another model and does not write by itself"
RENAMED = "has layers whose names PEFT 0.21 changes wrongly when it loads an adapter"
REFUSED: dict[str, str] = {
    "blip": NEEDS_PICTURE,
    "blip-2": NEEDS_PICTURE,
    "blt": "reads bytes through several decoders, of which none is the whole model",
    "deepseek_ocr2": RENAMED,
    "diffusion_gemma": "writes by diffusion and not token by token",
    "dory": SHARES,
    "gemma4_assistant": DRAFT,
    "gemma4_unified_assistant": DRAFT,
    "git": NEEDS_PICTURE,
    "hrm_text": SHARES,
    "idefics": NEEDS_PICTURE,
    "instructblip": NEEDS_PICTURE,
    "instructblipvideo": NEEDS_PICTURE,
    "kosmos-2": NEEDS_PICTURE,
    "kosmos-2.5": NEEDS_PICTURE,
    "paligemma": NEEDS_PICTURE,
    "longcat_flash": "counts each of its layers as two, because each has two attention blocks",
    "pi0": "moves a robot and does not write",
    "rwkv": "divides its weights while it runs, which an adapter beside them does not follow",
    "shieldgemma2": "classifies pictures and does not write",
    "trocr": "reads its input through cross-attention",
    "unlimited_ocr": RENAMED,
}


def read_model_config(source: ModelSource) -> PretrainedConfig:
    """The model's config, once it is known that its text decoder can be trained. Raises InputError otherwise."""
    settings = _read_settings(source)
    refuse_quantized(source.label, source.path, settings)
    if settings.get("auto_map") and settings.get("model_type") not in transformers.CONFIG_MAPPING:
        raise InputError(
            f"model {source.label!r} brings its own code, which is never run (trust_remote_code stays off); "
            "choose a model that transformers knows."
        )
    if why := REFUSED.get(settings.get("model_type")):
        raise InputError(f"model {source.label!r} ({settings['model_type']}) {why}; choose another model.")
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    except Exception:  # transformers checks it in many ways
        raise InputError(
            f"model {source.label!r}: transformers does not know its config.json; choose another model."
        ) from None
    if why := _why_not(config):
        raise InputError(f"model {source.label!r} ({config.model_type}) {why}; choose another model.")
    return config


def _read_settings(source: ModelSource) -> dict[str, Any]:
    try:
        with (source.path / "config.json").open("rb") as file:
            return dict(json.loads(file.read(MAX_CONFIG_BYTES)))  # a longer one is cut off, and so no JSON
    except (OSError, ValueError, TypeError):
        raise InputError(
            f"model {source.label!r}: its config.json cannot be read; download the model again, or choose another."
        ) from None


def _why_not(config: PretrainedConfig) -> str:
    """Why a model cannot be trained, as the end of a sentence about it; "" if it can."""
    if config.is_encoder_decoder or model_class(config) is None:
        return "is not a decoder-only language model"
    try:
        count = depth(config)
    except (AttributeError, ValueError):
        return "does not say how many layers its text decoder has (num_hidden_layers)"
    if not isinstance(count, int) or not 0 < count <= MOST_LAYERS:
        return f"has num_hidden_layers = {brief(count)} in its config.json, not a number from 1 to {MOST_LAYERS:,}"
    try:
        decoder = text_decoder(empty_model(config))
    except ImportError as error:  # a vision tower from another library
        library = re.search(r"requires the (\S+) library", str(error))
        return f"needs the library {library[1] if library else 'that its tower uses'}, which is not installed"
    except Exception as error:  # sizes that do not go together, or are none
        return f"has a config.json that makes no model ({type(error).__name__}: {str(error)[:100]})"
    if layer_list(decoder) is None:
        return "is not a decoder-only language model with one list of layers"
    if len(decoder_layers(decoder)) != count:
        return f"has {len(decoder_layers(decoder))} layers, but {count} in its config.json (num_hidden_layers)"
    if not adapted_modules(decoder):
        return "has no linear modules in its layers, which is what LoRA adapts"
    return ""


def target_layers(objective: ObjectiveConfig, num_hidden_layers: int) -> list[int]:
    """The target layers, numbered as in transformers' `hidden_states`: layer l is the output of the l-th decoder layer.

    Values below 1 are fractions of the depth, rounded. Raises InputError when a layer does not exist.
    """
    layers = sorted({round(x * num_hidden_layers) if x < 1 else int(x) for x in objective.target_layers})
    if layers[0] < 1 or layers[-1] > num_hidden_layers:
        raise InputError(
            f"objective.target_layers = {objective.target_layers}: the model has {num_hidden_layers} layers; "
            f"choose numbers from 1 to {num_hidden_layers}, or fractions of the depth below 1."
        )
    return layers


def refusal_layer(objective: ObjectiveConfig, num_hidden_layers: int) -> int:
    """The layer at which answers are pulled to a refusal: the highest target. Raises InputError when no layer is above
    it to say the refusal."""
    layer = target_layers(objective, num_hidden_layers)[-1]
    if layer == num_hidden_layers:
        raise InputError(
            f"objective.target_layers = {objective.target_layers}: with reroute: refusal the layers above the highest "
            f"target say the refusal; choose layers below {num_hidden_layers}."
        )
    return layer


def layers_to_load(model_config: PretrainedConfig, targets: list[int]) -> int:
    """How many decoder layers are loaded: those up to the highest target, and one more.

    `read: normed` needs the input norm of the additional layer, and `retain_layers: all` reads its output.
    """
    return min(targets[-1] + 1, depth(model_config))
