"""Directional ablation: what tells must-stop prompts apart is projected out of the hidden states.

arXiv 2406.11717 removes refusals of chat models so: the direction is the difference between the mean states of the two
kinds of prompts at their last token. Here the prompts are those of the training set, seen by the short-circuited model.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import normalize

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.undoing.questions import Material, Part, Say, evenly
from cbgui.evaluation.undoing.registry import ABLATION
from cbgui.modeling.decoder import decoder_layers
from cbgui.modeling.states import joined, layer_states, parted
from cbgui.modeling.two_models import Either

PROMPTS = 32  # of each side, whose states give the directions
LAYERS = 5  # whose direction is tried everywhere
OWN, ONE = "each layer's own direction", "one layer's direction, at all layers"


def parts(material: Material) -> list[Part]:
    """One curve of a single point, and one whose points are the layers that the direction comes from."""
    pair, questions = material.pair, material.questions
    breaks, keeps = evenly(material.breaks, PROMPTS), evenly(material.keeps, PROMPTS)
    if not breaks or not keeps:
        return []
    prompts = [example.messages for example in [*breaks, *keeps]]

    def own(say: Say) -> list[dict[str, Any]]:
        found = directions(pair, breaks, keeps)
        with ablated(pair, list(found), inside=False):
            answers = questions.ask(pair, lambda: say("all layers"))
        return [questions.point(None, answers)]

    def one(say: Say) -> list[dict[str, Any]]:
        found, points = directions(pair, breaks, keeps), []
        for layer in spread_layers(len(found)):
            with ablated(pair, [found[layer - 1]] * len(found), inside=True):
                answers = questions.ask(pair, lambda layer=layer: say(f"direction of layer {layer}"))
            points.append(questions.point(layer, answers))
        return points

    settings = (prompts, LAYERS)
    return [Part(ABLATION, OWN, "", own, settings), Part(ABLATION, ONE, "layer", one, settings)]


def spread_layers(depth: int) -> list[int]:
    """LAYERS layer numbers, counted from 1, spread over the depth."""
    return sorted({max(1, round(depth * part / (LAYERS + 1))) for part in range(1, LAYERS + 1)})


@torch.no_grad()
def directions(pair: ModelPair, breaks: list[Example], keeps: list[Example]) -> torch.Tensor:
    """(layers, width) of length 1, float32: mean state of break prompts less that of retain prompts.

    The states are the residual stream after each layer of the short-circuited model, at the prompt's last token.
    """
    numbers, states = range(1, len(decoder_layers(pair.body)) + 1), []
    for example in [*breaks, *keeps]:
        ids = torch.tensor([pair.prompt_ids(Attempt(example.messages))], device=pair.model.device)
        of_layers, _ = layer_states(pair.body, numbers, functools.partial(pair.body, input_ids=ids, use_cache=False))
        states.append(torch.stack([of_layers[number][0, -1].float() for number in numbers]))
    of_all = torch.stack(states)  # (prompts, layers, width)
    return normalize(of_all[: len(breaks)].mean(0) - of_all[len(breaks) :].mean(0), dim=-1)


@contextmanager
def ablated(pair: ModelPair, of_layers: list[torch.Tensor], *, inside: bool) -> Iterator[None]:
    """Inside this context each layer's output has no component along its direction in `of_layers`, (width,) each.

    With `inside`, what the norms in a layer read has none either, so that attention and MLP never see it.
    """
    handles = []
    for layer, direction in zip(decoder_layers(pair.body), of_layers, strict=True):

        def after(module: torch.nn.Module, arguments: tuple, output: Any, direction: torch.Tensor = direction) -> Any:
            config, several = pair.body.config, isinstance(output, tuple | list)
            states = joined(config, output[0] if several else output)
            stream = parted(config, without(states, direction))
            return (stream, *output[1:]) if several else stream

        def before(module: torch.nn.Module, arguments: tuple, direction: torch.Tensor = direction) -> tuple:
            reads_stream = arguments and arguments[0].shape[-1] == len(direction)
            return (without(arguments[0], direction), *arguments[1:]) if reads_stream else arguments

        handles.append(layer.register_forward_hook(after))
        handles += [norm.register_forward_pre_hook(before) for norm in _norms(layer) if inside]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _norms(layer: torch.nn.Module) -> list[torch.nn.Module]:
    """The norms directly in a layer, which read its residual stream."""
    return [
        child
        for child in layer.children()
        if type(child.changed if isinstance(child, Either) else child).__name__.endswith("Norm")
    ]


def without(states: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """`states`, (..., width), less their component along `direction`, a (width,) vector of length 1."""
    whole = states.float()
    return (whole - (whole @ direction)[..., None] * direction).to(states.dtype)
