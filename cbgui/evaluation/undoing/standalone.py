"""The short-circuited model alone, as ordinary weights: what somebody has who was given the merged model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora.layer import LoraLayer
from torch import nn

from cbgui import hardware
from cbgui.errors import InputError
from cbgui.evaluation.metrics import ModelPair
from cbgui.modeling.decoder import text_decoder
from cbgui.modeling.lora import ADAPTER, AdaptedRows, unpacked
from cbgui.modeling.two_models import Either, LikePeft

HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


class Standalone(LikePeft):
    """One model that `generate` can ask as it asks a pair: every row is this model's."""

    def disable_adapter(self) -> AbstractContextManager:
        return nullcontext()


def standalone(pair: ModelPair) -> ModelPair:
    """A copy of the pair's short-circuited model with the adapter merged and 4-bit weights unpacked.

    Takes `standalone_bytes` of memory. `pair` stays as it is.
    """
    base = pair.model.get_base_model()
    # For what is in `memo`, deepcopy takes the value there: adapters are never copied, and tied weights stay tied.
    memo: dict[int, Any] = {}
    for module in {base, text_decoder(base)}:
        for name in HOOKS:  # they count the rows of the pair's batches
            memo[id(getattr(module, name))] = OrderedDict()
    for path, module in _changing(base):
        memo[id(module)] = _plain(path, module, memo)
    model = copy.deepcopy(base, memo).requires_grad_(False).eval()
    return ModelPair(Standalone(model), pair.tokenizer, AdaptedRows(), pair.refusals)


def standalone_bytes(pair: ModelPair) -> int:
    """Bytes of the weights of `standalone(pair)`."""
    base, dtype = pair.model.get_base_model(), pair.model.dtype
    changing = dict(_changing(base))
    sizes: dict[int, int] = {}
    for path, module in base.named_modules():
        if any(outer in changing for outer in _outer(path)):
            continue
        read = _read_weights(module) if path in changing else module
        for parameter in read.parameters(recurse=False):
            state = getattr(parameter, "quant_state", None)
            count = parameter.numel() if state is None else state.shape.numel()
            sizes[id(parameter)] = count * (parameter.element_size() if state is None else dtype.itemsize)
    return sum(sizes.values())


def free_bytes(pair: ModelPair) -> int:
    """Free bytes on the device that the pair is on."""
    return hardware.free_ram() if pair.model.device.type == "cpu" else hardware.free_memory()


def refuse_larger(needed: int, pair: ModelPair, method: str, what: str) -> None:
    """Raises InputError when `what`, `needed` bytes for the method of that name, does not fit into free memory."""
    free = free_bytes(pair)
    if needed > free:
        raise InputError(
            f"--undo {method} needs {what}, {needed / hardware.GIB:.1f} GiB, and {free / hardware.GIB:.1f} GiB are "
            "free; leave it out, or use a machine with more memory."
        )


def _outer(path: str) -> Iterator[str]:
    """The paths of the modules around `path`."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path


def _changing(base: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of whatever is another module in the copy, the outermost ones only."""
    last = None
    for path, module in base.named_modules():
        if last is not None and path.startswith(f"{last}."):
            continue
        if isinstance(module, (LoraLayer, Either, Linear4bit)):
            last = path
            yield path, module


def _read_weights(module: nn.Module) -> nn.Module:
    """The module inside `module` whose weights the copy gets."""
    if isinstance(module, Either):
        return module.changed
    return module.base_layer if isinstance(module, LoraLayer) else module


@torch.no_grad()
def _plain(path: str, module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """An ordinary module that computes what `module` does in the short-circuited model."""
    inner = _read_weights(module)
    if isinstance(inner, Linear4bit):
        weight = unpacked(inner.weight)
        plain: nn.Module = nn.Linear(*reversed(weight.shape), bias=inner.bias is not None, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        if inner.bias is not None:
            plain.bias = nn.Parameter(inner.bias.detach().clone(), requires_grad=False)
    else:
        plain = copy.deepcopy(inner, memo)
    if isinstance(module, LoraLayer):
        change = module.get_delta_weight(ADAPTER)
        plain.weight.data = (plain.weight.float() + change.float()).to(plain.weight.dtype)
    return plain
