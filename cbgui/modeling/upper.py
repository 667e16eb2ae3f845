"""The upper model: the layers above the highest target and the head, which turn given hidden states into logits."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import PreTrainedModel

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.decoder import decoder_layers, head_logits, layer_from, model_class, remove_dropout, text_decoder
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.loading import load_options
from cbgui.modeling.states import parted, state_width

# What a decoder raises that misses something of its lower layers.
NEEDS_ALL_LAYERS = (RuntimeError, AttributeError, LookupError, TypeError, ValueError)


class UpperModel:
    """The full model, whose layer `first` reads given states in place of those of the layers below."""

    def __init__(self, model: PreTrainedModel, first: int, *, empty_below: bool = True) -> None:
        """`empty_below`: the layers below have no weights, and hand on the given states."""
        self.model, self.decoder = model.requires_grad_(False), text_decoder(model)
        self.given: torch.Tensor | None = None  # the input of layer `first`
        layers = decoder_layers(self.decoder)
        for layer in layers[: first * empty_below]:
            layer.forward = lambda *arguments, **named: self.given
        layer_from(self.decoder, first).register_forward_pre_hook(self._give, with_kwargs=True)
        remove_dropout(model)
        for module in model.modules():  # in eval mode a CPU repacks 4-bit weights, which then pass no gradient on
            module.training = isinstance(module, Linear4bit)

    def _give(self, layer: torch.nn.Module, arguments: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        if arguments:
            return (self.given, *arguments[1:]), named
        return arguments, named | {"hidden_states": self.given}

    def logits(self, ids: torch.Tensor, states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits in float32, (positions, vocabulary), at `positions` of the flattened rows.

        `ids`, (rows, tokens), are padded on the right; `states`, (rows, tokens, width), are what the first layers
        would have given for them. Gradients reach `states`.
        """
        device = self.model.device
        self.given = parted(self.decoder.config, states.to(device, self.model.dtype))
        hidden = self.decoder(input_ids=ids.to(device), use_cache=False)[0]
        chosen = hidden.flatten(0, 1).index_select(0, positions.to(device))
        return head_logits(self.model, chosen[None])[0].float()


def load_upper_model(source: ModelSource, config: ModelConfig, first: int) -> UpperModel:
    """Load the layers from `first` on, the embedding and the head; the weights below stay on disk.

    Where the upper layers read more of the lower ones than their states (Gemma 4's shared keys and values), or the
    decoder looks into all its layers, the whole model is loaded.
    """
    model_config = read_model_config(source)
    whole, options = model_class(model_config), load_options(config, model_config)
    try:
        return _without_lower_layers(whole, source, options, first, state_width(model_config))
    except NEEDS_ALL_LAYERS as error:
        if hardware.is_out_of_memory(error):  # the whole model would take even more
            raise
        traceback.print_exc()  # to the run's log
    hardware.free_cached_memory()  # after the except block, because the exception holds on to the first try
    return UpperModel(whole.from_pretrained(source.path, **options), first, empty_below=False)


def _without_lower_layers(
    whole: type[PreTrainedModel], source: ModelSource, options: dict[str, Any], first: int, width: int
) -> UpperModel:
    """The upper layers alone, tried out. Raises one of NEEDS_ALL_LAYERS where they do not run by themselves."""
    upper = UpperModel(_last_layers_class(whole, first).from_pretrained(source.path, **options), first)
    # Five rows, because a decoder that takes a layer's output apart would take two rows apart without a complaint.
    upper.logits(torch.ones(5, 3, dtype=torch.long), torch.randn(5, 3, width), torch.arange(15))
    return upper


def _last_layers_class(whole: type[PreTrainedModel], first: int) -> type[PreTrainedModel]:
    """`whole`, with a text decoder whose first layers hold no weights.

    They stay as objects, because decoders read what kind of layer comes next from them or from their numbers.
    """

    def __init__(self: PreTrainedModel, *arguments: Any, **named: Any) -> None:
        whole.__init__(self, *arguments, **named)
        for layer in decoder_layers(text_decoder(self))[:first]:
            for held in (layer._modules, layer._parameters, layer._buffers):
                held.clear()
            layer._is_hf_initialized = True  # or transformers would look for what was dropped
        left = {name for name, _ in [*self.named_parameters(remove_duplicate=False), *self.named_buffers()]}
        tied = self.all_tied_weights_keys
        if any(name in left and source not in left for name, source in tied.items()):
            raise LookupError("the upper layers share weights with the lower ones")
        self.all_tied_weights_keys = {name: source for name, source in tied.items() if {name, source} <= left}

    names = {"__init__": __init__, "__module__": whole.__module__, "__qualname__": whole.__qualname__}
    return type(whole.__name__, (whole,), names)
