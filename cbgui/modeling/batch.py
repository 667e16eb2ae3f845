"""Examples -> token ids and the tokens that count -> steps that each hold a break and a retain batch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch


def longest_micro_batch(device: str) -> int | None:
    """Tokens of a pass at most, but for one example that is longer."""
    return CPU_MICRO_BATCH_TOKENS if device == "cpu" else None


# What a pass costs besides its tokens, in tokens: 35 (float32) to 380 (bfloat16) on two CPU cores (docs/performance.md).
MICRO_BATCH_OVERHEAD = 256
# Tokens of a pass on a CPU: longer ones gain nothing there, and take more memory (docs/performance.md).
CPU_MICRO_BATCH_TOKENS = 1536
# Rows are padded to a multiple of this: oneDNN makes a kernel for every shape, in milliseconds (docs/performance.md).
PAD_TO = 32


def padded(tokens: int) -> int:
    """The length of a row that holds `tokens`."""
    return -(-tokens // PAD_TO) * PAD_TO


@dataclass(frozen=True)
class Encoded:
    """One example's token ids; tokens from `loss_start` on count for the loss."""

    ids: tuple[int, ...]
    loss_start: int
    is_break: bool

    @property
    def loss_tokens(self) -> int:
        return len(self.ids) - self.loss_start


@dataclass(frozen=True)
class Batch:
    """The joint break and retain pass of one micro-batch: examples in rows of their own, or one after the other in one.

    Places count through the rows, one after the other: (tokens,), example after example.
    """

    input_ids: torch.Tensor  # (rows, tokens)
    break_positions: torch.Tensor  # response tokens of break examples
    retain_positions: torch.Tensor  # all tokens of retain examples; what they share counts for each
    position_ids: torch.Tensor | None = None  # (1, tokens) where the examples share a row, and then
    segments: torch.Tensor | None = None  # (1, 1, 1, segments), tokens of each: see cbgui.attention

    def to(self, device: torch.device) -> Batch:
        """On `device`, but for `segments`, which the program reads."""
        moved = ("input_ids", "break_positions", "retain_positions", "position_ids")
        values = {name: getattr(self, name) for name in moved}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})


def _batch(examples: list[Encoded], places: list[torch.Tensor], **more: torch.Tensor) -> Batch:
    """`places` are those of all tokens of each example."""
    sides = {}
    for side, is_break in (("break", True), ("retain", False)):
        found = [where[e.loss_start :] for e, where in zip(examples, places, strict=True) if e.is_break == is_break]
        sides[f"{side}_positions"] = torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
    return Batch(**sides, **more)


def collate(examples: list[Encoded], pad_token_id: int) -> Batch:
    """Rows padded to the longest of `examples`, and on to a multiple of PAD_TO."""
    length = padded(max(len(example.ids) for example in examples))
    input_ids = torch.full((len(examples), length), pad_token_id)
    for row, example in enumerate(examples):
        input_ids[row, : len(example.ids)] = torch.tensor(example.ids)
    places = [torch.arange(len(e.ids)) + row * length for row, e in enumerate(examples)]
    return _batch(examples, places, input_ids=input_ids)


def shared_tokens(examples: list[Encoded]) -> int:
    """How many tokens two or more examples all begin with; each keeps one of its own."""
    if len(examples) < 2:
        return 0
    shortest = min(len(example.ids) for example in examples)
    return min(len(os.path.commonprefix([example.ids for example in examples])), shortest - 1)


def pack(examples: list[Encoded], pad_token_id: int = 0, multiple: int = 1) -> Batch:
    """All in one row, after the tokens that they begin with alike (a chat template's system prompt).

    In a causal model these have the same hidden states in every example, so they are computed once. Padding, up to a
    `multiple` of tokens, is a last segment of its own.
    """
    shared = shared_tokens(examples)
    ids, positions, places, segments = list(examples[0].ids[:shared]), list(range(shared)), [], [shared]

    def add(own: tuple[int, ...]) -> None:
        ids.extend(own)
        positions.extend(range(shared, shared + len(own)))
        segments.append(len(own))

    for example in examples:
        places.append(torch.cat([torch.arange(shared), torch.arange(len(example.ids) - shared) + len(ids)]))
        add(example.ids[shared:])
    if missing := -len(ids) % multiple:
        add((pad_token_id,) * missing)
    return _batch(
        examples,
        places,
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        segments=torch.tensor([[[segments]]]),
    )


def micro_batch_tokens(lengths: list[int], *, packed: bool, shared: int = 0) -> int:
    """Tokens of a pass over examples of these lengths, padding included; packed ones have the `shared` tokens once."""
    return shared + sum(lengths) - shared * len(lengths) if packed else len(lengths) * padded(max(lengths))


def plan_micro_batches(
    lengths: list[int], size: int, *, packed: bool, shared: int = 0, max_tokens: int | None = None
) -> list[list[int]]:
    """A step's examples, by their places in `lengths`, in passes of at most `size`, with the least cost in all.

    A pass of neighbours in length costs its tokens and MICRO_BATCH_OVERHEAD; in padded rows (not `packed`), a step of mixed
    lengths is cut where that saves padding. With `max_tokens`, only an example longer than that makes a longer pass,
    by itself.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    # Of the first n examples: the cost; of equal ones the evenest, by the sum of squares; where their last pass starts.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        choices = []
        for start in range(max(0, end - size), end):
            tokens = micro_batch_tokens([lengths[place] for place in order[start:end]], packed=packed, shared=shared)
            if max_tokens is None or tokens <= max_tokens or start == end - 1:
                cost, squares, _ = best[start]
                choices.append((cost + tokens + MICRO_BATCH_OVERHEAD, squares + tokens**2, start))
        best.append(min(choices))
    parts, end = [], len(order)
    while end:
        start = best[end][2]
        parts.insert(0, order[start:end])
        end = start
    return parts


def neighbours(lengths: list[int], tokens: int) -> Iterator[list[int]]:
    """Places in `lengths`, neighbours in length together and short ones first, at most so many padded tokens each."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[place] * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
