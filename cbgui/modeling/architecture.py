"""What a checkpoint's decoder is: which models are accepted, which layers are loaded, what their parts are called.

A family whose layers, norms or names differ from the usual ones gets its entry here.
"""

from __future__ import annotations

import copy
import json

import torch
import transformers
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from cbgui.config import ObjectiveConfig
from cbgui.errors import InputError, brief
from cbgui.modeling.hub import ModelSource

ATTENTION_NAMES = ("self_attn", "attention")
FINAL_NORM_NAMES = ("norm", "final_layer_norm")
MOST_LAYERS = 512  # the largest known dense models have about 130
MAX_CONFIG_BYTES = 4 * 2**20
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


def read_model_config(source: ModelSource) -> PretrainedConfig:
    """The model's config, once it is known to be a dense stack of attention layers. Raises InputError otherwise."""
    try:
        with (source.path / "config.json").open("rb") as file:
            settings = json.loads(file.read(MAX_CONFIG_BYTES))  # a longer one is cut off, and so no JSON
        own_code = bool(settings.get("auto_map")) and settings.get("model_type") not in transformers.CONFIG_MAPPING
        config = None if own_code else AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    except Exception:  # transformers checks it in many ways
        raise InputError(
            f"model {source.label!r}: transformers does not know its config.json; choose another model."
        ) from None
    if own_code:
        raise InputError(
            f"model {source.label!r} brings its own code, which is never run (trust_remote_code stays off); "
            "choose a model that transformers knows."
        )
    if getattr(config, "vision_config", None) is not None:
        raise InputError(f"model {source.label!r} has a vision tower; choose a text-only model.")
    if any(getattr(config, name, None) for name in EXPERT_COUNTS):
        raise InputError(f"model {source.label!r} is a mixture of experts; choose a dense model.")
    if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING or not hasattr(config, "num_hidden_layers"):
        raise InputError(
            f"model {source.label!r} ({config.model_type}) is not a decoder-only language model; choose one that is."
        )
    count = config.num_hidden_layers
    if not isinstance(count, int) or not 0 < count <= MOST_LAYERS:
        raise InputError(
            f"model {source.label!r}: num_hidden_layers = {brief(count)} in its config.json is not a number from 1 to "
            f"{MOST_LAYERS:,}; choose another model."
        )
    try:
        with torch.device("meta"):  # only its structure, without memory
            layers = getattr(AutoModel.from_config(config), "layers", None)
    except Exception as error:  # sizes that do not go together, or are none
        raise InputError(
            f"model {source.label!r}: its config.json makes no model ({type(error).__name__}: {str(error)[:100]}); "
            "choose another model."
        ) from None
    if not layers or not any(hasattr(layers[0], name) for name in ATTENTION_NAMES):
        raise InputError(
            f"model {source.label!r} ({config.model_type}) is not a decoder-only stack of attention layers; choose one "
            "that is."
        )
    return config


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


def layers_to_load(model_config: PretrainedConfig, targets: list[int]) -> int:
    """How many decoder layers are loaded: those up to the highest target, and one more.

    `read: normed` needs the input norm of the additional layer, and `retain_layers: all` reads its output.
    """
    return min(targets[-1] + 1, model_config.num_hidden_layers)


def truncated_config(model_config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The config of the model's first `layers` layers; per-layer lists such as `layer_types` are cut with them."""
    config = copy.deepcopy(model_config)
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == model_config.num_hidden_layers:
            setattr(config, name, value[:layers])
    config.num_hidden_layers = layers
    return config


def final_norm_name(model: PreTrainedModel) -> str:
    """The attribute that holds the norm after the last layer."""
    return next((name for name in FINAL_NORM_NAMES if hasattr(model, name)), FINAL_NORM_NAMES[-1])


def linear_names(model: torch.nn.Module) -> list[str]:
    """The last part of the names of all linear modules in the decoder layers, including those packed in 4 bits."""
    modules = model.layers.named_modules()
    return sorted({name.rsplit(".", 1)[-1] for name, module in modules if isinstance(module, torch.nn.Linear)})


def decoder_prefix(source: ModelSource) -> str:
    """The attribute that holds the decoder in the full model, such as "model"."""
    config = AutoConfig.from_pretrained(source.path, trust_remote_code=False)
    return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].base_model_prefix
