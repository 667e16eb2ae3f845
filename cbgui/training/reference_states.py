"""The base model's hidden states, computed once for each example and cached on disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from cbgui.modeling.batch import Encoded
from cbgui.modeling.lora import adapter_off
from cbgui.modeling.truncated import TruncatedModel

Sides = tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]


class ReferenceStates:
    """Hidden states of the loss tokens, computed with the adapter off, for the layers that each example's loss reads.

    They are kept in a file of up to `budget` bytes in `folder`; one example of 400 tokens and 4,096 channels takes
    3 MiB for each layer. The file has no name, so it disappears with the process, however that ends, and the operating
    system caches it in memory that is otherwise free.
    """

    def __init__(self, truncated: TruncatedModel, pad_token_id: int, folder: Path, budget: int) -> None:
        self.truncated, self.pad_token_id, self.budget = truncated, pad_token_id, budget
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self.size = 0
        self.kept: dict[Encoded, tuple[int, torch.Tensor]] = {}  # offset in the file; a meta tensor of the same form

    def __call__(self, examples: list[Encoded]) -> Sides:
        """States of the break examples at the target layers, and of the retain examples at the retain layers.

        Layer number -> (tokens, hidden_size), example after example; {} for a side without examples. Of a row with a
        refusal in it, they are the states of the example without it.
        """
        examples = [example.plain for example in examples]
        missing = [example for example in dict.fromkeys(examples) if example not in self.kept]
        found = self._compute(missing) if missing else {}
        found |= {example: self._read(example).to(self.truncated.device) for example in set(examples) - set(missing)}
        for example in missing:
            self._keep(example, found[example])
        sides = [found[e] for e in examples if e.is_break], [found[e] for e in examples if not e.is_break]
        layers = self.truncated.target_layers, self.truncated.retain_layers
        return tuple(
            {layer: torch.cat([states[index] for states in side]) for index, layer in enumerate(numbers) if side}
            for side, numbers in zip(sides, layers, strict=True)
        )

    @torch.no_grad()
    def _compute(self, examples: list[Encoded]) -> dict[Encoded, torch.Tensor]:
        """Example -> (layers, tokens, hidden_size), from one pass over all examples."""
        model = self.truncated.model
        training = model.training
        batch = self.truncated.batch(examples, self.pad_token_id)
        self.truncated.set_training(False)
        try:
            with adapter_off(model):
                sides = self.truncated.hidden_states(batch)
        finally:  # the step is repeated if memory runs out
            self.truncated.set_training(training)
        found = {}
        for states, is_break in zip(sides, (True, False), strict=True):
            side = [example for example in examples if example.is_break == is_break]
            lengths = [example.loss_tokens for example in side]
            parts = zip(*(hidden.split(lengths) for hidden in states.values()), strict=True)
            found |= {example: torch.stack(layers) for example, layers in zip(side, parts, strict=True)}
        return found

    def _keep(self, example: Encoded, states: torch.Tensor) -> None:
        states = states.cpu()
        if self.size + states.nbytes > self.budget:
            return
        try:
            self.file.seek(self.size)
            whole = self.file.write(states.view(torch.uint8).numpy()) == states.nbytes
        except OSError:  # the disk is full
            whole = False
        if whole:
            self.kept[example] = (self.size, torch.empty_like(states, device="meta"))
            self.size += states.nbytes
        else:
            self.budget = 0  # what does not fit is computed again

    def _read(self, example: Encoded) -> torch.Tensor:
        start, form = self.kept[example]
        states = torch.empty_like(form, device="cpu")
        self.file.seek(start)
        self.file.readinto(states.view(torch.uint8).numpy())
        return states
