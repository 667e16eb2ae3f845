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

from cbgui.modeling.towers import build_without_timm

NOT_BUILT = {"dots3_note"}  # its config takes no small sizes; its text model, dots3_note_text, is built
TYPES = sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES} - NOT_BUILT)
VOCABULARY = 160
LAYERS = 4
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth", "decoder_layers")
# Sizes by the names that configs give them; a config takes those that it knows.
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "hidden_dim", "projection_dim"), 64),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "mlp_dim"), 96),
    **dict.fromkeys(DEPTHS, LAYERS),
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
    "shared_experts_intermediate_size": 32,
    "index_head_dim": 16,
    "index_n_heads": 4,
    **dict.fromkeys(("swa_num_attention_heads", "swa_num_heads"), 4),
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 16,
    # Towers and projectors, which are only copied.
    **dict.fromkeys(("out_hidden_size", "projector_hidden_size", "vision_hidden_size", "output_channels"), 64),
    **dict.fromkeys(("nemo_conv_channels", "ext_pw_out_channel", "depthwise_separable_out_channel"), 64),
    "alignment_intermediate_size": 96,
    "base_channels": 32,
    "num_res_blocks": 1,
    "num_blocks": 2,
}
TOWERS = {"vision_config", "audio_config"}  # only copied, so that two layers of each are enough
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)


def _settings(config_class: type[PretrainedConfig], more: dict[str, Any]) -> dict[str, Any]:
    default = config_class()
    known = {name: value for name, value in default.to_dict().items() if not isinstance(value, dict)}
    attributes = {*known, *getattr(config_class, "attribute_map", {})}
    # Some types want a list of sizes, one for each stage.
    settings = {name: value for name, value in SIZES.items() if name in attributes and not _is_list(known.get(name))}
    settings |= {name: value for name, value in TOKENS.items() if name in attributes}
    if "kv_lora_rank" in attributes or "qk_rope_head_dim" in attributes:  # the head size follows from others
        settings.pop("head_dim", None)
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    special = [name for name in sorted(known) if name.endswith(("_token_id", "_token_index")) and name not in TOKENS]
    settings |= {name: 100 + number for number, name in enumerate(special) if isinstance(known[name], int)}
    for name in default.sub_configs:
        value = getattr(default, name, None)
        if isinstance(value, PretrainedConfig):
            settings[name] = _settings(type(value), {}) | {"model_type": value.model_type}
            if name in TOWERS:
                settings[name] |= {depth: 2 for depth in DEPTHS if depth in settings[name]}
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(settings.get(name), dict):
            settings[name] |= value
        else:
            settings[name] = value
    return settings


ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MROPE = ROPE | {"mrope_section": [2, 3, 3]}
GEMMA4 = {"layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2}
QWEN4 = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 8} | {
    "indexer_compress_ratio": 2,
    "ple_embed_dim": 16,
}
DOTS3_SLIDING = {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 12, "kv_lora_rank": 8} | {
    "head_dim": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
}
MAMBA_AND_ATTENTION = ["linear_attention", "full_attention"] * 2
# What a type needs besides or instead of SIZES.
SPECIAL: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "audio_config": {"hidden_size": 64, "codebook_dim": 64, "codebook_size": 32},
        "vision_config": {"codebook_size": 32},
        "image_token_offset": 96,
        "audio_token_offset": 128,
    },
    "bailing_hybrid": {"layer_types": MAMBA_AND_ATTENTION, "linear_head_dim": 16, "linear_num_heads": 4},
    "bamba": {"attn_layer_indices": [1, 3]},
    "codegen": {"rotary_dim": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": ROPE}},
    "cosmos3_edge": {"text_config": {"rope_parameters": MROPE}},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]}},
    "deepseek_v4": {"num_key_value_heads": 1, "o_groups": 2, "o_lora_rank": 16, "index_n_heads": 2,
                    "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "dory": {"num_hidden_layers": 8, "n_input_layers": 2, "n_recurrent_layers": 4, "n_output_layers": 2},
    "chameleon": {"vocabulary_map": {"<image>": 90}},
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROPE}}},
    "dots3_note": {"text_config": {"per_layer_config": {}, "head_dim": 16}},
    "dots3_note_text": {"per_layer_config": dict.fromkeys("23", DOTS3_SLIDING)},
    "emu3": {"vocabulary_map": {"<image>": 90}},
    "ernie4_5_vl_moe": {
        "text_config": {"moe_intermediate_size": [32, 16], "rope_parameters": MROPE | {"mrope_section": [3, 3, 2]}}
    },
    "fast_vlm": {"vision_config": {"hidden_size": 64}},
    "perception_lm": {"vision_config": {"model_args": {"embed_dim": 64}}},
    "falcon_h1": {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16},
    "falcon_mamba": {"time_step_rank": 4},
    "florence2": {"vision_config": {"patch_size": [7, 3, 3, 3], "embed_dim": [16, 16, 32, 64]}},
    "gemma3n": {"text_config": {"intermediate_size": [96] * LAYERS}},
    "gemma3n_text": {"intermediate_size": [96] * LAYERS},
    "gemma4": {"text_config": GEMMA4},
    "gemma4_text": GEMMA4,
    "gemma4_unified": {"text_config": GEMMA4},
    "gemma4_unified_text": GEMMA4,
    "glm46v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v": {"text_config": {"rope_parameters": MROPE}},
    "glm4v_moe": {
        "text_config": {"rope_parameters": MROPE | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}}
    },
    "glm5_next": {"text_config": {"layer_types": ["indexed_attention", "linear_attention"] * 2,
                                  "linear_head_dim": 16, "linear_num_heads": 4, "index_kpool": 4,
                                  "num_key_value_heads": 4, "qk_rope_head_dim": 0}},
    "glm_ocr": {"text_config": {"rope_parameters": MROPE}},
    "glmga": {"text_config": {"rope_parameters": MROPE}},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "gptj": {"rotary_dim": 8},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [], "spatial_target_layers": []},
    "granite_docling": {"vision_config": {"out_hidden_size": 64}},
    "granitemoehybrid": {"layer_types": MAMBA_AND_ATTENTION, "shared_intermediate_size": 96},
    "hunyuan_vl": {"text_config": {"rope_parameters": MROPE | {"mrope_section": [2, 2, 2, 2]}}},
    "hy_v4_vl": {"text_config": {"rope_parameters": MROPE | {"mrope_section": [1, 1, 2]}}},
    "inkling_mm_model": {"vision_config": {"n_layers": LAYERS}},
    "inkling2": {"vision_config": {"text_hidden_size": 64}, "text_config": {"unpadded_vocab_size": VOCABULARY}},
    "inkling2_loop": {"vision_config": {"text_hidden_size": 64}, "text_config": {"unpadded_vocab_size": VOCABULARY}},
    "inkling2_loop_text": {"unpadded_vocab_size": VOCABULARY},
    "inkling2_text": {"unpadded_vocab_size": VOCABULARY},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
    "kimi_linear": {"layer_types": MAMBA_AND_ATTENTION, "linear_head_dim": 16, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "molmo2": {
        "adapter_config": {"vision_feature_layer": [3, 1]},
        "vision_config": {"image_default_input_size": [28, 28], "num_hidden_layers": LAYERS},
    },
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "muse_spark": {"vision_config": {"num_hidden_layers": LAYERS},
                   "audio_config": {"num_hidden_layers": LAYERS,
                                    "hidden_sizes": [16, 32, 32, 64], "depths": [1, 1, 1, 1]}},
    "paddleocr_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 90, "text_config": {"rope_parameters": MROPE}},
    "qwen2_5_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen2_vl": {"text_config": {"rope_parameters": MROPE}},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 90},
    "qwen4_exp": {"text_config": QWEN4},
    "qwen4_exp_text": QWEN4,
    "reformer": {"is_decoder": True, "axial_pos_shape": [8, 16], "axial_pos_embds_dim": [32, 32]},
    "xlstm": {"num_blocks": LAYERS, "qk_dim_factor": 1.0},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "mamba_dt_rank": 4, "attention_hidden_size": 128,
              "attention_head_dim": 32, "num_key_value_heads": 4},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 128,
               "attention_head_dim": 32, "num_key_value_heads": 4, "mamba_headdim": 16, "mamba_ngroups": 1,
               "n_mamba_heads": 8},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip


def tiny_config(model_type: str, vocabulary: int = VOCABULARY) -> PretrainedConfig:
    """A small config of the given type. Raises whatever transformers raises where the sizes do not go together."""
    config_class = CONFIG_MAPPING[model_type]
    more = SPECIAL.get(model_type, {})
    config = config_class(**_settings(config_class, more))
    if vocabulary != VOCABULARY:
        config.get_text_config().vocab_size = vocabulary
    return config


def model_class_name(model_type: str) -> str:
    """The class that checkpoints of this type are saved as, with their vision tower where there is one."""
    maps = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return next(mapping[model_type] for mapping in maps if model_type in mapping)


def tiny_model(model_type: str, vocabulary: int = VOCABULARY) -> PreTrainedModel:
    """A model whose weights are random everywhere, norms and biases too, so that nothing wrong goes unnoticed."""
    build_without_timm()
    torch.manual_seed(0)
    model = getattr(transformers, model_class_name(model_type))._from_config(
        tiny_config(model_type, vocabulary), dtype=torch.float32
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(noise, alpha=0.1)
        model.get_input_embeddings().weight[TOKENS["pad_token_id"]] = 0  # some families set it to zero on loading
    return model.eval()
