"""The hidden states of a decoder's layers: one vector for each token, whatever the decoder hands from layer to layer.

Hooks read them, because families differ in how they number `hidden_states` (Mamba leaves out the embedding, Llama 3.2
Vision the layers that it skips). Some families keep several states for each token; the losses read these as one long
vector, so that none of them may change unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from cbgui.modeling.decoder import decoder_layers, text_config

# Setting that says how many states a token has -> the dimension that counts them in what layers hand on; None where a
# token's states are one vector there already.
SEVERAL = {"altup_num_inputs": 0, "hc_mult": 2, "hc_count": None}


def _several(config: PretrainedConfig) -> tuple[int, int | None]:
    """How many states each token has, and the dimension that counts them."""
    text = text_config(config)
    found = ((getattr(text, name, None), place) for name, place in SEVERAL.items())
    return next(((count, place) for count, place in found if count), (1, None))


def state_width(config: PretrainedConfig) -> int:
    """The length of a token's vector."""
    return _several(config)[0] * text_config(config).hidden_size


def joined(config: PretrainedConfig, states: torch.Tensor) -> torch.Tensor:
    """What a layer hands on as (rows, tokens, width): all states of a token in one vector."""
    return states if states.dim() == 3 else states.movedim(_several(config)[1], 2).flatten(2)


def parted(config: PretrainedConfig, states: torch.Tensor) -> torch.Tensor:
    """States of shape (rows, tokens, width) in the form in which layers hand them on."""
    count, place = _several(config)
    return states if place is None else states.unflatten(2, (count, -1)).movedim(2, place)


def normed(norm: torch.nn.Module, config: PretrainedConfig, states: torch.Tensor) -> torch.Tensor:
    """States of shape (..., width) with a layer's norm applied to each of a token's states."""
    count = states.shape[-1] // text_config(config).hidden_size
    return norm(states.unflatten(-1, (count, -1))).flatten(-2)


class _AllRead(Exception):
    """Every wanted layer has been read."""


def layer_states(
    decoder: PreTrainedModel, layers: Collection[int], run: Callable[[], Any], *, stop: bool = False
) -> tuple[dict[int, torch.Tensor], Any]:
    """Call `run`, which runs the decoder once; returns the states after the given layers, and what `run` returned.

    Layer number -> (rows, tokens, width). Layer l is the output of the l-th layer, 0 the embedding; a layer that the
    decoder skips hands on the states of the one below. With `stop`, the layers above the highest wanted one do not run,
    and the second value is None.
    """
    found: dict[int, torch.Tensor] = {}
    inner = decoder_layers(decoder)

    def read_input(module: torch.nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        found[0] = arguments[0] if arguments else named["hidden_states"]

    handles = [inner[0].register_forward_pre_hook(read_input, with_kwargs=True)] if 0 in layers else []
    for number, layer in enumerate(inner[: max(layers)]):
        above = [wanted for wanted in layers if wanted > number]

        def read_output(
            module: torch.nn.Module, arguments: tuple, output: Any, number: int = number, above: list[int] = above
        ) -> None:
            found.update(dict.fromkeys(above, output[0] if isinstance(output, tuple | list) else output))
            if stop and number + 1 == max(layers):
                raise _AllRead

        handles.append(layer.register_forward_hook(read_output))
    output = None
    try:
        output = run()
    except _AllRead:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return {layer: joined(decoder.config, found[layer]) for layer in sorted(found)}, output
