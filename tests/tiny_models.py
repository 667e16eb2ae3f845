"""Every model type of transformers as a tiny checkpoint of random weights, named as on the hub."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

TYPES = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})
VOCABULARY = 160
LAYERS = 4
# Sizes by the names that configs give them; a config takes those that it knows.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "hidden_dim", "projection_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "mlp_dim"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "decoder_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    "encoder_attention_heads": 4,
    **dict.fromkeys(("num_key_value_heads", "kv_n_heads", "num_kv_heads", "n_head_kv"), 2),
    "head_dim": 16,
    "max_position_embeddings": 128,
    "n_positions": 128,
    "n_ctx": 128,
    "max_seq_len": 128,
    "sliding_window": 8,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_dim"), 32),
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size", "mamba_d_ssm"), 16),
    "mamba_n_heads": 8,
    "mamba_num_heads": 8,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "mamba_n_groups": 1,
    "n_groups": 1,
    "image_size": 28,
    "patch_size": 14,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "num_kv_shared_layers": 1,
    "laurel_rank": 8,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _settings(config_class: type[PretrainedConfig], more: dict[str, Any]) -> dict[str, Any]:
    default = config_class()
    known = {name: value for name, value in default.to_dict().items() if not isinstance(value, dict)}
    attributes = {*known, *getattr(config_class, "attribute_map", {})}
    settings = {name: value for name, value in SIZES.items() if name in attributes}
    settings |= {name: value for name, value in TOKENS.items() if name in attributes}
    special = [name for name in sorted(known) if name.endswith(("_token_id", "_token_index")) and name not in TOKENS]
    settings |= {name: 100 + number for number, name in enumerate(special) if isinstance(known[name], int)}
    for name in default.sub_configs:
        value = getattr(default, name, None)
        if isinstance(value, PretrainedConfig):
            settings[name] = _settings(type(value), {}) | {"model_type": value.model_type}
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(settings.get(name), dict):
            settings[name] |= value
        else:
            settings[name] = value
    return settings


SPECIAL: dict[str, dict[str, Any]] = {}


def tiny_config(model_type: str) -> PretrainedConfig:
    """A small config of the given type. Raises whatever transformers raises where the sizes do not go together."""
    config_class = CONFIG_MAPPING[model_type]
    return config_class(**_settings(config_class, SPECIAL.get(model_type, {})))


def model_class_name(model_type: str) -> str:
    """The class that checkpoints of this type are saved as, with their vision tower where there is one."""
    maps = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return next(mapping[model_type] for mapping in maps if model_type in mapping)


def tiny_model(model_type: str) -> PreTrainedModel:
    """A model whose weights are random everywhere, norms and biases too, so that nothing wrong goes unnoticed."""
    torch.manual_seed(0)
    model = getattr(transformers, model_class_name(model_type))._from_config(
        tiny_config(model_type), dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(noise, alpha=0.1)
    return model.eval()
