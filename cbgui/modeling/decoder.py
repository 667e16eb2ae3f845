"""Where a model's text decoder is, what its layers are, and the model reduced to the first of them.

A checkpoint may hold more than a text decoder: a vision tower, a projector, a head. transformers' own names lead to the
decoder (`get_decoder`), and its own class reads the files, so that every rule for renamed weights applies.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from cbgui.modeling.linear import is_plain_linear
from cbgui.modeling.towers import READ_TEXT, build_without_timm

IS_MIXTURE = "_cbgui_is_mixture"  # attribute of a truncated decoder, whose first layers may all be dense
LAYER_LISTS = ("layers", "h", "blocks")  # what decoders call the list of their layers
INPUT_NORMS = ("input_layernorm", "operator_norm", "norm", "ln_1")  # of a layer, as far as it has one
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "norm_f", "embedding_norm", "ln_f")
# Weights that Mamba's fused kernels read directly, so that an adapter beside them would have no effect there.
FUSED = {"conv1d", "x_proj", "dt_proj"}
ROUTERS = {"gate", "router", "shared_expert_gate"}  # they choose experts, and are left as they are
INDEXERS = {"indexer"}  # they choose the tokens that attention reads, and pass no gradient on
MIXERS = {"altup"}  # they mix the states of a token, and read some of their weights directly
# PEFT takes modules with these names, wherever they are, for a mixture's experts
# (peft.utils.transformers_weight_conversion).
EXPERT_NAMES = {"gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


# Types whose layers take padding on the left of a prompt for text, so that a batch holds prompts of one length only.
READS_PADDING = {"deepseek_v4", "recurrent_gemma", "xlstm"}


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a config that describes the text decoder; the config itself where it describes nothing else."""
    return config.get_text_config(decoder=True)


def setting(config: PretrainedConfig, name: str) -> int | None:
    """A size of the text decoder; the largest where its layers have different ones, None where it has none."""
    text = text_config(config)
    try:
        value = getattr(text, name, None)
    except RuntimeError:  # how transformers refuses a size that differs from layer to layer
        value = [size for layer in text.per_layer_config if (size := getattr(layer, name, None)) is not None]
    return max(value) if isinstance(value, list | tuple) else value


def attention_heads(config: PretrainedConfig) -> tuple[int, int, int]:
    """Heads, heads of keys, and the size of a head; a decoder without attention counts as one head."""
    heads = setting(config, "num_attention_heads") or 1
    size = setting(config, "head_dim") or text_config(config).hidden_size // heads
    return heads, setting(config, "num_key_value_heads") or heads, size


def depth(config: PretrainedConfig) -> int:
    """How many layers the text decoder has."""
    return text_config(config).num_hidden_layers


def reads_padding(config: PretrainedConfig) -> bool:
    """Whether padding before a prompt would change the answer to it."""
    return text_config(config).model_type in READS_PADDING


def model_class(config: PretrainedConfig) -> type[PreTrainedModel] | None:
    """The class that the checkpoint was saved as: its text model with a head, or that together with a vision tower."""
    build_without_timm()
    named = getattr(transformers, (config.architectures or [""])[0], None)
    mappings = [transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING]
    if text_config(config) is not config:
        mappings.reverse()
    known = [mapping[type(config)] for mapping in mappings if type(config) in mapping]
    found = named if named in known else next(iter(known), None)
    return READ_TEXT.get(found, found)


def empty_model(config: PretrainedConfig) -> PreTrainedModel:
    """The full model on PyTorch's meta device, which takes no memory; its precision means nothing."""
    return empty_of_class(model_class(config), config)


def empty_of_class(
    of_class: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """A model of that class on the meta device.

    Given a precision, transformers makes it PyTorch's default for the whole process while it builds the model, so other
    threads compute in it too. Give none where only shapes count.
    """
    with torch.device("meta"):
        return of_class._from_config(copy.deepcopy(config), dtype=dtype)


def text_decoder(model: PreTrainedModel) -> PreTrainedModel:
    """The text decoder of a full model: its embedding and layers, without head and vision tower."""
    decoder = model.get_decoder()
    if layer_list(decoder) is None:  # some classes give themselves or their head
        inner = (getattr(decoder, "model", None), model.base_model)
        return next((m for m in inner if isinstance(m, PreTrainedModel) and layer_list(m)), decoder)
    return decoder


def decoder_prefix(model: PreTrainedModel) -> str:
    """The name of the decoder in the full model, such as "model" or "model.language_model"."""
    decoder = text_decoder(model)
    return next(name for name, module in model.named_modules() if module is decoder)


def layer_list(decoder: torch.nn.Module) -> str | None:
    """The attribute of a decoder that holds the list of its layers; None where it has no such list."""
    lists = (name for name in LAYER_LISTS if isinstance(getattr(decoder, name, None), torch.nn.ModuleList))
    return next(lists, None)


def decoder_layers(decoder: torch.nn.Module) -> torch.nn.ModuleList:
    """The layers of a decoder."""
    return getattr(decoder, layer_list(decoder))


def skipped_layers(decoder: PreTrainedModel) -> set[int]:
    """The places in the list of layers of those that the decoder leaves out where there is no picture."""
    return set(getattr(decoder.config, "cross_attention_layers", None) or ())


def layer_from(decoder: PreTrainedModel, first: int) -> torch.nn.Module:
    """The first layer that runs from place `first` on."""
    layers, skipped = decoder_layers(decoder), skipped_layers(decoder)
    return next(layer for place, layer in enumerate(layers) if place >= first and place not in skipped)


def remove_dropout(model: torch.nn.Module) -> None:
    """Set every dropout of a model to zero. A frozen model that drops states at random is not the base model."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def input_norm(layer: torch.nn.Module) -> torch.nn.Module | None:
    """The norm that a layer applies to its input, if it has one."""
    return next((getattr(layer, name) for name in INPUT_NORMS if hasattr(layer, name)), None)


def final_norm(decoder: torch.nn.Module) -> torch.nn.Module | None:
    """The norm after the last layer, if the decoder has one."""
    return next((getattr(decoder, name) for name in FINAL_NORMS if hasattr(decoder, name)), None)


def has_experts(decoder: torch.nn.Module) -> bool:
    """Whether some layer of the full decoder routes through experts.

    Configs do not tell: dense models have settings for experts too.
    """
    if (known := getattr(decoder, IS_MIXTURE, None)) is not None:
        return known
    return any("experts" in name for name, _ in decoder_layers(decoder).named_parameters())


def adapted_modules(decoder: torch.nn.Module, first: int = 0) -> list[str]:
    """Names in the decoder of the linear modules that LoRA adapts, those packed in 4 bits included.

    Layers before number `first` (the lowest is 0) are left alone, unless no other has such a module.

    In a mixture of experts these are attention and whatever else PEFT does not take for experts; the experts and their
    router stay as they are. So do weights that several layers share, because training would not see what they do above
    the target layers.
    """
    layers, experts, found = decoder_layers(decoder), has_experts(decoder), []
    shared = {name for pair in decoder.all_tied_weights_keys.items() for name in pair}
    skipped = skipped_layers(decoder)
    for name, module in layers.named_modules():
        if not is_plain_linear(module) or f"{layer_list(decoder)}.{name}.weight" in shared:
            continue
        parent, _, last = name.rpartition(".")
        parts = set(name.split("."))
        if parts & (INDEXERS | MIXERS) or int(name.partition(".")[0]) in skipped:
            continue
        mamba = "Mamba" in type(layers.get_submodule(parent)).__name__ or parent.endswith((".mamba", ".mixer"))
        fused = last in FUSED or (last == "out_proj" and mamba)
        expert = experts and (last in EXPERT_NAMES or parts & ROUTERS or "experts" in name)
        if not fused and not expert:
            found.append((int(name.partition(".")[0]), f"{layer_list(decoder)}.{name}"))
    return [name for layer, name in found if layer >= first] or [name for _, name in found]


def is_read_directly(name: str) -> bool:
    """Whether a decoder's own code reads the weight of the linear module of this name, in place of calling it."""
    parts = set(name.split("."))
    return bool(parts & MIXERS) or name.rpartition(".")[2] in FUSED


class _Given(BaseModelOutputWithPast):
    """A decoder's output of which only the last hidden state is known."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def head_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits of the full model for its decoder's output: (rows, tokens, hidden_size) -> (rows, tokens, vocabulary).

    The model's own forward computes them, whatever it does after the decoder: heads, caps, multipliers.
    """
    decoder = text_decoder(model)
    had, forward = "forward" in vars(decoder), decoder.forward
    decoder.forward = lambda *arguments, **named: _Given(last_hidden_state=hidden)
    try:
        ids = torch.zeros(hidden.shape[:2], dtype=torch.long, device=hidden.device)
        return model(input_ids=ids, use_cache=False).logits
    finally:
        if had:
            decoder.forward = forward
        else:
            del decoder.forward


def _drop(module: torch.nn.Module, keep: str) -> None:
    """Remove everything directly in `module` but the submodule `keep`."""
    for held in (module._modules, module._parameters, module._buffers):
        for name in held:
            if name != keep:
                held[name] = None


def first_layers_class(whole: type[PreTrainedModel], layers: int) -> type[PreTrainedModel]:
    """`whole`, of which only the text decoder and the first `layers` of its layers exist.

    The config stays that of the full model, because depth may be part of the arithmetic (MiniCPM's residual scale,
    Gemma's layers that share keys), and the weights keep the names that they have there.
    """

    def __init__(self: PreTrainedModel, config: PretrainedConfig, *arguments: Any, **named: Any) -> None:
        whole.__init__(self, config, *arguments, **named)
        decoder, module = text_decoder(self), self
        for part in decoder_prefix(self).split("."):
            _drop(module, part)
            module._is_hf_initialized = True  # or transformers would look for what was dropped
            module = getattr(module, part)
        setattr(decoder, IS_MIXTURE, has_experts(decoder))
        del decoder_layers(decoder)[layers:]
        left = {name for name, _ in [*self.named_parameters(remove_duplicate=False), *self.named_buffers()]}
        tied = self.all_tied_weights_keys
        self.all_tied_weights_keys = {name: source for name, source in tied.items() if {name, source} <= left}

    names = {"__init__": __init__, "__module__": whole.__module__, "__qualname__": whole.__qualname__}
    return type(whole.__name__, (whole,), names)
