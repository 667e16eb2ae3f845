"""The frozen model's hidden states, computed once for each example and kept on disk for when it comes round again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from cbgui.data.batches import Encoded
from cbgui.lora import adapter_off
from cbgui.trunk import Trunk

Sides = tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]


class FrozenStates:
    """Hidden states of the tokens that count, without the adapter; of each example only the layers its loss reads.

    They are kept in a file of up to `budget` bytes in `folder`: one example of 400 tokens and 4,096 channels takes
    3 MiB a layer. The file has no name, so it goes with the process however that ends, and the system holds as much of
    it in memory as nothing else needs.
    """

    def __init__(self, trunk: Trunk, pad_token_id: int, folder: Path, budget: int) -> None:
        self.trunk, self.pad_token_id, self.budget = trunk, pad_token_id, budget
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self.size = 0
        self.kept: dict[Encoded, tuple[int, torch.Tensor]] = {}  # where it starts, and its form without memory

    def __call__(self, examples: list[Encoded]) -> Sides:
        """Target layers of the break examples, and retain layers of the retain examples; {} for a side without any.

        Layer number -> (tokens, hidden_size), example after example.
        """
        missing = [example for example in dict.fromkeys(examples) if example not in self.kept]
        found = self._compute(missing) if missing else {}
        found |= {example: self._read(example).to(self.trunk.device) for example in set(examples) - set(missing)}
        for example in missing:
            self._keep(example, found[example])
        sides = [found[e] for e in examples if e.is_break], [found[e] for e in examples if not e.is_break]
        layers = self.trunk.target_layers, self.trunk.retain_layers
        return tuple(
            {layer: torch.cat([states[index] for states in side]) for index, layer in enumerate(numbers) if side}
            for side, numbers in zip(sides, layers, strict=True)
        )

    @torch.no_grad()
    def _compute(self, examples: list[Encoded]) -> dict[Encoded, torch.Tensor]:
        """(layers, tokens, hidden_size) of each example, in one pass."""
        model = self.trunk.model
        training = model.training
        batch = self.trunk.batch(examples, self.pad_token_id)
        self.trunk.set_training(False)
        try:
            with adapter_off(model):
                sides = self.trunk.hidden_states(batch)
        finally:  # memory may run out, and the step begins again
            self.trunk.set_training(training)
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
