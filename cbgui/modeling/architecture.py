""""""

from __future__ import annotations

import copy
import json

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    PretrainedConfig,
)

from cbgui.config import ObjectiveConfig
from cbgui.errors import InputError
from cbgui.modeling.hub import (
    ModelSource,
)


def read_model_config(source: ModelSource) -> PretrainedConfig:
    """The model's config, checked to be a stack of decoder layers. Raises InputError."""
    try:
        settings = json.loads((source.path / "config.json").read_text("utf-8"))
        own_code = bool(settings.get("auto_map")) and settings.get("model_type") not in transformers.CONFIG_MAPPING
        config = None if own_code else AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise InputError(f"model {source.label!r}: its config.json is not one that transformers knows.") from None
    if own_code:
        raise InputError(
            f"model {source.label!r} brings code of its own, which is never run (trust_remote_code stays off); "
            "choose a model that transformers knows."
        )
    if getattr(config, "vision_config", None) is not None:
        raise InputError(f"model {source.label!r} has a vision tower; choose a text-only model.")
    experts = any(getattr(config, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if experts:
        raise InputError(f"model {source.label!r} routes through a mixture of experts; choose a dense model.")
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or not hasattr(config, "num_hidden_layers"):
        raise InputError(f"model {source.label!r} ({config.model_type}) is not a decoder-only language model.")
    with torch.device("meta"):  # the form alone, no memory
        layers = getattr(AutoModel.from_config(config), "layers", None)
    if not layers or not any(hasattr(layers[0], name) for name in ("self_attn", "attention")):
        raise InputError(
            f"model {source.label!r} ({config.model_type}) is not a decoder-only stack of attention layers."
        )
    return config


def target_layers(objective: ObjectiveConfig, num_hidden_layers: int) -> list[int]:
    """Layer numbers as in transformers' `hidden_states`: layer l is the output of the l-th decoder layer.

    Fractions below 1 count from the depth, rounded. Raises InputError.
    """
    layers = sorted({round(x * num_hidden_layers) if x < 1 else int(x) for x in objective.target_layers})
    if layers[0] < 1 or layers[-1] > num_hidden_layers:
        raise InputError(
            f"objective.target_layers = {objective.target_layers}: the model has {num_hidden_layers} layers; "
            f"choose numbers from 1 to {num_hidden_layers}, or fractions of the depth below 1."
        )
    return layers


def _cut(model_config: PretrainedConfig, kept: int) -> PretrainedConfig:
    """The config of the model's first `kept` layers, per-layer lists such as `layer_types` cut with them."""
    config = copy.deepcopy(model_config)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == model_config.num_hidden_layers:
            setattr(config, name, value[:kept])
    config.num_hidden_layers = kept
    return config


def _layers_to_load(model_config: PretrainedConfig, targets: list[int]) -> int:
    """One past the highest target, which gives its input norm or runs for `retain_layers: all`."""
    return min(targets[-1] + 1, model_config.num_hidden_layers)


def linear_names(model: torch.nn.Module) -> list[str]:
    """Names (last part) of all linear modules in the decoder layers, packed 4-bit ones included."""
    layers = model.layers
    return sorted({name.rsplit(".", 1)[-1] for name, m in layers.named_modules() if isinstance(m, torch.nn.Linear)})
