"""Which examples make a step: every step holds break and retain examples (arXiv 2406.04313, algorithm 1)."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import replace

from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from cbgui.data.examples import Example
from cbgui.data.rephrased import rephrased as in_another_way
from cbgui.modeling.batch import Encoded
from cbgui.modeling.chat_format import encode


def _endless(items: list[Example], generator: random.Random) -> Iterator[Example]:
    """Endless passes over the items, each in a new random order."""
    while True:
        yield from generator.sample(items, len(items))


class PairedSteps(Dataset):
    """One item for each training step: its break and its retain examples, encoded. The same seed plans the same steps.

    `without_prompt` is the share of break examples that are shown without their prompt, `rephrased` the share of all
    examples whose question is asked in another way.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        break_examples: list[Example],
        retain_examples: list[Example],
        *,
        steps: int,
        break_batch_size: int,
        retain_batch_size: int,
        max_tokens: int,
        without_prompt: float,
        seed: int,
        rephrased: float = 0.0,
    ) -> None:
        # Cached, because the steps are read several times: for the memory estimate, and in training.
        self.encode = functools.cache(functools.partial(encode, tokenizer, max_tokens=max_tokens))
        generator = random.Random(seed)
        breaks = _endless([replace(e, kind="break") for e in break_examples], generator)
        retains = _endless(retain_examples, generator)
        self.plan: list[list[tuple[Example, bool]]] = [
            [(next(breaks), generator.random() >= without_prompt) for _ in range(break_batch_size)]
            + [(next(retains), True) for _ in range(retain_batch_size)]
            for _ in range(steps)
        ]
        if rephrased:
            self.plan = [
                [
                    (in_another_way(e, generator) if generator.random() < rephrased else e, with_prompt)
                    for e, with_prompt in step
                ]
                for step in self.plan
            ]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> list[Encoded]:
        return [self.encode(example, with_prompt=with_prompt) for example, with_prompt in self.plan[step]]
