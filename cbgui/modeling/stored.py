"""A model's weights as its files name them, under the names that transformers gives them on loading."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from cbgui.modeling.quantized import ACTIVATION_SCALE, SCALE

BLOCKS, SCALES = "_blocks", "_scales"  # ends of the names of a weight in MXFP4


@dataclass
class _Sources:
    """The stored tensors that a parameter is made of."""

    names: list[str]
    patterns: list[str]  # of the converter, for each of the names; empty where the one tensor is taken as it is
    target: str  # the first parameter that the converter makes


class StoredWeights(Mapping):
    """Parameter name of a full model -> its tensor, read from safetensors files on access.

    `model` may be empty (on the meta device). Weights that are stored under other names or in other forms (experts one
    by one, for example) are found as transformers finds them (core_model_loading.convert_and_load_state_dict_in_model).
    Tied parameters share one stored tensor.
    """

    def __init__(self, model: PreTrainedModel, files: list[Path]) -> None:
        self._model = model
        self._file: dict[str, Path] = {}
        self._form: dict[str, tuple[str, list[int]]] = {}
        for path in files:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is not a mapping)
                    view = file.get_slice(name)
                    self._file[name], self._form[name] = path, (view.get_dtype(), view.get_shape())
        self._scaled = {name for name in self._file if name + SCALE in self._file}  # stored in FP8
        scales = [name for name in self._file if self._scaled and name.endswith((SCALE, ACTIVATION_SCALE))]
        self._scales = {name: self._file.pop(name) for name in scales}
        transforms = get_model_conversion_mapping(model)
        renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
        converters = [t for t in transforms if isinstance(t, WeightConverter)]
        self._converter = {pattern: t for t in converters for pattern in t.source_patterns}
        form, prefix = model.state_dict(), model.base_model_prefix
        self._sources: dict[str, _Sources] = {}
        self._packed: dict[str, str] = {}  # parameter that is stored in MXFP4 -> its blocks
        for stored in sorted(self._file, key=dot_natural_key):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, form)
            if name not in form and stored in form:
                name, pattern = rename_source_key(stored, [], [], prefix, form)
            sources = self._sources.setdefault(name, _Sources([], [], name))
            sources.names.append(stored)
            if pattern is not None:
                sources.patterns.append(pattern)
                first, *others = self._converter[pattern].target_patterns
                for other in others:  # one tensor that becomes several parameters
                    self._sources[name.replace(first, other)] = sources
        for blocks in [name for name in self._sources if name.endswith(BLOCKS)]:
            self._packed[blocks.removesuffix(BLOCKS)] = blocks
        for pair in model.all_tied_weights_keys.items():
            stored = [name for name in pair if name in self._sources]
            for name in pair:
                if stored and name not in self._sources:
                    self._sources[name] = self._sources[stored[0]]

    def deltas(self, name: str, delta: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is added to stored tensors so that `delta` is added to a parameter: stored name -> tensor of its shape.

        A converter only moves numbers (joins, splits, transposes), so numbering the stored ones shows where each goes.
        Raises ValueError where it does more than that.
        """
        sources = self._sources[name]
        if not sources.patterns:
            return {sources.names[0]: delta}
        shapes = [self._shape(stored) for stored in sources.names]
        sizes = [math.prod(shape) for shape in shapes]
        numbers = torch.arange(sum(sizes), dtype=torch.float64).split(sizes)
        made = self._convert(sources, [part.view(shape) for part, shape in zip(numbers, shapes, strict=True)], name)
        places = made.flatten().long()
        if made.shape != delta.shape or not places.double().equal(made.flatten()):
            raise ValueError(f"{name} is more than a rearrangement of {sources.names[0]}")
        flat = torch.zeros(sum(sizes)).index_copy_(0, places, delta.flatten().float())
        parts = [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]
        return dict(zip(sources.names, parts, strict=True))

    def stored_names(self, name: str) -> list[str]:
        """The names of the stored tensors that a parameter is made of."""
        return self._sources[name].names

    def stored_name(self, name: str) -> str | None:
        """The name of the stored tensor that is a parameter as it is; None if there is none."""
        sources = self._sources.get(name)
        return sources.names[0] if sources and not sources.patterns else None

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._packed:
            blocks, scales = self._packed[name], name + SCALES
            return convert_moe_packed_tensors(self[blocks], self[scales])
        sources = self._sources[name]
        if not sources.patterns:
            return self.read(sources.names[0])
        return self._convert(sources, [self.read(stored) for stored in sources.names], name)

    def _convert(self, sources: _Sources, tensors: list[torch.Tensor], name: str) -> torch.Tensor:
        converter = copy.deepcopy(self._converter[sources.patterns[0]])
        for stored, pattern, tensor in zip(sources.names, sources.patterns, tensors, strict=True):
            converter.add_tensor(sources.target, stored, pattern, tensor)
        made = converter.convert(sources.target, model=self._model, config=self._model.config)[name]
        return made[0] if isinstance(made, list) else made

    def _shape(self, stored: str) -> list[int]:
        return self.form(stored)[1]

    def in_file(self, path: Path) -> list[str]:
        """The names of a file's weights, in its order; scales of FP8 weights are none."""
        return [name for name, its_path in self._file.items() if its_path == path]

    def form(self, stored: str) -> tuple[str, list[int]]:
        """(dtype, shape) of a stored weight as it is written again; the dtype by its name in safetensors."""
        dtype, shape = self._form[stored]
        return "BF16" if stored in self._scaled else dtype, shape

    def read(self, stored: str) -> torch.Tensor:
        """A stored weight; one in FP8 is expanded to the dtype of its scales."""
        with safe_open(self._file[stored], "pt") as file:
            weight = file.get_tensor(stored)
        if stored not in self._scaled:
            return weight
        with safe_open(self._scales[stored + SCALE], "pt") as file:
            scales = file.get_tensor(stored + SCALE)
        return Fp8Dequantize(None).convert({"weight": weight, "weight_scale_inv": scales})["weight"]

    def __iter__(self) -> Iterator[str]:
        return itertools.chain(self._sources, self._packed)

    def __len__(self) -> int:
        return len(self._sources) + len(self._packed)
