"""Well-known architectures with random weights, for the memory estimate and the bench.

The weights are made, and quantized, one layer at a time, so the full-precision model never exists.
"""

from __future__ import annotations

from typing import Any

import bitsandbytes as bnb
import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.modeling.architecture import target_layers
from cbgui.modeling.decoder import depth
from cbgui.modeling.loading import compute_dtype
from cbgui.modeling.truncated import TruncatedModel, empty_truncated_model


def _architecture(
    model_type: str, hidden: int, intermediate: int, layers: int, heads: int, kv: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        **more,
    }


# Sizes as published in the models' config.json.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _architecture("llama", 576, 1536, 30, 9, 3, 49152),
    "llama-3.2-1b": _architecture("llama", 2048, 8192, 16, 32, 8, 128256, head_dim=64),
    "llama-3.2-3b": _architecture("llama", 3072, 8192, 28, 24, 8, 128256, head_dim=128),
    "llama-3-8b": _architecture("llama", 4096, 14336, 32, 32, 8, 128256),
    "llama-3-70b": _architecture("llama", 8192, 28672, 80, 64, 8, 128256),
    "mistral-7b": _architecture("mistral", 4096, 14336, 32, 32, 8, 32768, sliding_window=None),
    "qwen2.5-7b": _architecture("qwen2", 3584, 18944, 28, 28, 4, 152064),
    "gemma-2-9b": _architecture("gemma2", 3584, 14336, 42, 16, 8, 256000, head_dim=256),
}


def architecture(name: str, layers: int | None = None) -> PretrainedConfig:
    """The config of a named architecture, cut to `layers` layers where that is given."""
    settings = dict(ARCHITECTURES[name])
    if layers is not None:
        settings["num_hidden_layers"] = layers
    return AutoConfig.for_model(settings.pop("model_type"), pad_token_id=0, **settings)


@torch.no_grad()
def _fill(module: torch.nn.Module, config: RunConfig, device: torch.device) -> None:
    """Give `module` and everything below it random weights on `device`, quantized as `config` says."""
    dtype = compute_dtype(config.model)
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and config.model.quantization == "nf4":
            setattr(module, name, _random_linear4bit(child, dtype, device))
        else:
            _fill(child, config, device)
    for name, parameter in list(module.named_parameters(recurse=False)):
        if parameter.is_meta:
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.0
            values = torch.empty(parameter.shape, dtype=dtype, device=device).normal_(1.0 - (scale > 0), scale)
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))


def _random_linear4bit(linear: torch.nn.Linear, dtype: torch.dtype, device: torch.device) -> bnb.nn.Linear4bit:
    packed = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        quant_type="nf4",
        device="meta",
    )
    values = torch.randn(linear.out_features, linear.in_features, dtype=dtype, device=device)
    values *= linear.in_features**-0.5
    packed.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4").to(device)
    if linear.bias is not None:
        packed.bias = torch.nn.Parameter(torch.zeros(linear.out_features, dtype=dtype, device=device))
    return packed


@torch.no_grad()
def _compute_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Let transformers compute rotary frequencies, embedding scales and the like, which must not be random."""
    for module in model.modules():
        missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in missing:
            setattr(module, name, torch.empty_like(getattr(module, name), device=device))
        if missing:
            for parameter in module.parameters():
                parameter._is_hf_initialized = True  # keeps the random weights (transformers.initialization)
            model._init_weights(module)


def random_truncated_model(model_config: PretrainedConfig, config: RunConfig) -> TruncatedModel:
    """A truncated model with random weights on this machine's device."""
    targets = target_layers(config.objective, depth(model_config))
    truncated = empty_truncated_model(model_config, config, targets, compute_dtype(config.model))
    device, model = hardware.device(), truncated.model
    for layer in truncated.layers:
        _fill(layer, config, device)
    on_cpu = config.model.embedding_on_cpu is True
    _fill(model.get_input_embeddings(), config, torch.device("cpu") if on_cpu else device)
    _fill(model, config, device)
    model.is_loaded_in_4bit = config.model.quantization == "nf4"
    for norm in truncated.norms.values():
        _fill(norm, config, device)
    _compute_buffers(model, device)
    if on_cpu and device.type != "cpu":
        truncated.keep_embedding_on_cpu()
    return truncated
