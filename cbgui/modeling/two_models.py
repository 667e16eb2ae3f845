"""Two models of one architecture in one: a breaker that was not made here comes as a whole model, not as an adapter.

Modules whose weights are the same in both are held once; the others hold both forms, so one batch can have rows of both
models as it has with an adapter (lora.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from cbgui.errors import InputError
from cbgui.modeling.decoder import text_decoder
from cbgui.modeling.linear import LINEAR
from cbgui.modeling.lora import AdaptedRows


class LikePeft(torch.nn.Module):
    """A model behind the interface of a PeftModel."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def __getattr__(self, name: str) -> Any:
        """What PeftModel passes on to the model: config, device, dtype, generate, the embedding."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        return self.model(*arguments, **named)

    def get_base_model(self) -> PreTrainedModel:
        return self.model


class TwoModels(LikePeft):
    """Both models; the interface is that of a PeftModel whose adapter makes the changed one.

    `rows.first` says from which row of a batch on the changed model computes.
    """

    def __init__(self, base: PreTrainedModel, changed: PreTrainedModel, name: str) -> None:
        """`changed` must not be used afterwards. `name` is its name in an InputError, which is raised if the two have
        different modules or the same weights, or differ where rows cannot be told apart."""
        super().__init__(base)
        self.rows, self.base_only = AdaptedRows(), False
        _refuse_other_shapes(base, changed, name)
        differing = [path for path in _leaves(base) if not _same(base.get_submodule(path), changed.get_submodule(path))]
        if not differing:
            raise InputError(f"--broken {name!r} has the same weights as --base; give the model that was changed.")
        for path in differing:
            own, other = base.get_submodule(path), changed.get_submodule(path)
            if not _reads_states(own):
                raise InputError(
                    f"--broken {name!r}: its weights differ from the base's in {path} ({type(own).__name__}), which "
                    "cannot be run for both models side by side; only linear layers, embeddings and norms can."
                )
            base.set_submodule(path, Either(own, other, self))
        for module in {base, text_decoder(base)}:
            module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        if (ids := named.get("input_ids")) is not None:
            self.rows.count = ids.shape[0]

    @contextmanager
    def disable_adapter(self) -> Iterator[None]:
        """Inside this context all rows are the base model's."""
        self.base_only = True
        try:
            yield
        finally:
            self.base_only = False


class Either(torch.nn.Module):
    """A module in both forms."""

    def __init__(self, base: torch.nn.Module, changed: torch.nn.Module, both: TwoModels) -> None:
        super().__init__()
        self.base, self.changed = base, changed
        self._both = [both]  # in a list, so that it does not count as a submodule

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        (both,) = self._both
        if both.base_only:
            return self.base(x)
        first = both.rows.first * (x.shape[0] // both.rows.count)  # some layers get all rows' tokens in one list
        if first == 0:
            return self.changed(x)
        if first >= x.shape[0]:
            return self.base(x)
        return torch.cat([self.base(x[:first]), self.changed(x[first:])])


def _leaves(model: PreTrainedModel) -> list[str]:
    """The paths of all modules that hold weights themselves."""
    return [path for path, module in model.named_modules() if list(module.parameters(recurse=False))]


def _reads_states(module: torch.nn.Module) -> bool:
    """Whether its one input has a row for each row of the batch."""
    return isinstance(module, (*LINEAR, torch.nn.Embedding)) or type(module).__name__.endswith("Norm")


def _same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(recurse=False), other.parameters(recurse=False), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def _refuse_other_shapes(base: PreTrainedModel, changed: PreTrainedModel, name: str) -> None:
    shapes = [{path: p.shape for path, p in model.named_parameters()} for model in (base, changed)]
    if (
        different := [path for path in shapes[0] if shapes[0][path] != shapes[1].get(path)]
        or [*shapes[1]][len(shapes[0]) :]
    ):
        raise InputError(
            f"--broken {name!r} is not a changed copy of --base: {different[0]} is missing or has another size; give "
            "the model that it was made from."
        )
