"""Batches of answers that lose the rows which have ended, so that the others go on faster.

transformers' `generate` computes every row until the longest has ended. Here it is left when a share of the rows have
ended, and called again with the others and their keys and values. The answers are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from cbgui.modeling.decoder import text_config

ENDED = 0.25  # share of a batch's rows that have ended, from which on it is made smaller


@torch.no_grad()
def has_plain_cache(body: PreTrainedModel) -> bool:
    """Whether every layer of a model without its head caches the keys and values of all tokens.

    Sliding windows and recurrent states can neither be padded in the middle nor lose rows; a layer that is skipped
    caches nothing.
    """
    layers = DynamicCache(config=text_config(body.config)).layers
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return False
    output = body(input_ids=torch.ones(1, 2, dtype=torch.long, device=body.device), use_cache=True)
    cache = getattr(output, "cache", None)
    return isinstance(cache, DynamicCache) and all(
        type(layer) is DynamicLayer and layer.keys is not None for layer in cache.layers
    )


class _ManyEnded(StoppingCriteria):
    """Stops `generate` when a share of ENDED of its rows have ended."""

    def __init__(self, ends: set[int], rows: int) -> None:
        self.ends, self.ended = ends, [False] * rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: object) -> torch.Tensor:
        newest = input_ids[:, -1].tolist()
        self.ended = [before or token in self.ends for before, token in zip(self.ended, newest, strict=True)]
        return torch.full((len(self.ended),), sum(self.ended) >= ENDED * len(self.ended), device=input_ids.device)


@dataclass
class ShrinkingBatch:
    """Prompts padded on the left, and what has been written after them.

        while batch.rows:
            batch.shrink(model.generate(**batch.arguments(), ...))

    Without a `cache` (see `has_plain_cache`) one call writes all.
    """

    ids: torch.Tensor  # (rows, columns)
    mask: torch.Tensor  # (rows, columns)
    limit: int  # tokens of an answer
    ends: set[int]  # tokens that end an answer
    cache: DynamicCache | None = None

    def __post_init__(self) -> None:
        self.columns = self.ids.shape[1]  # of the prompts
        self.rows = list(range(len(self.ids)))  # those that have not ended, as numbers of the whole batch
        self.written: list[list[int]] = [[] for _ in self.rows]  # by row of the whole batch

    @property
    def length(self) -> int:
        """How many tokens have been written after each prompt whose answer has not ended."""
        return self.ids.shape[1] - self.columns

    def arguments(self, more: Sequence[StoppingCriteria] = ()) -> dict[str, Any]:
        """What `generate` is called with. `more` are further reasons to stop."""
        shrinks = [_ManyEnded(self.ends, len(self.rows))] if self.cache is not None else []
        return {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "cache": self.cache,
            "max_new_tokens": self.limit - self.length,
            "stopping_criteria": StoppingCriteriaList([*shrinks, *more]),
        }

    def shrink(self, sequences: torch.Tensor) -> list[int]:
        """Take in what `generate` returned. Returns the positions of the rows that go on, in the batch as it was."""
        new = sequences[:, self.ids.shape[1] :].tolist()
        for row, tokens in zip(self.rows, new, strict=True):
            self.written[row] += tokens
        going = [position for position, tokens in enumerate(new) if self.ends.isdisjoint(tokens)]
        if self.cache is None or sequences.shape[1] >= self.columns + self.limit:
            going = []
        added = self.mask.new_ones(len(going), sequences.shape[1] - self.mask.shape[1])
        self.rows, self.ids = [self.rows[position] for position in going], sequences[going]
        self.mask = torch.cat([self.mask[going], added], dim=1)
        if going:
            self.cache.batch_select_indices(torch.tensor(going, device=self.ids.device))
        return going
