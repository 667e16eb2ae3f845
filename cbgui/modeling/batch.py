"""Encoded examples, the micro-batches that a step is cut into, and the batches that the model reads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

# Fixed cost of a micro-batch, in tokens: 35 (float32) to 380 (bfloat16) on two CPU cores (dev/LOG.md, 2026-11-26).
MICRO_BATCH_OVERHEAD = 256
# Longest micro-batch on a CPU, in tokens: longer ones gain nothing there and take more memory.
CPU_MICRO_BATCH_TOKENS = 1536
# Rows are padded to a multiple of this, because oneDNN makes a kernel for every shape, which takes milliseconds.
PAD_TO = 32


def longest_micro_batch(device: str) -> int | None:
    """The most tokens of a micro-batch on "cpu" or "cuda"; a longer example gets its own micro-batch."""
    return None if device == "cuda" else CPU_MICRO_BATCH_TOKENS  # Apple's GPU is planned as a CPU is


def padded(tokens: int) -> int:
    """The length of a row that holds the given number of tokens."""
    return -(-tokens // PAD_TO) * PAD_TO


@dataclass(frozen=True)
class Pull:
    """Where the tokens of a break row that refuses are pulled (training/refusal_rows.py). Counted from `loss_start`."""

    numbers: tuple[int, ...]  # the refusal state of each token; -1 for a token that is left alone
    answer: tuple[int, ...]  # the positions of the example's own response
    plain: Encoded  # the example without the refusal, whose reference states its response is compared with


@dataclass(frozen=True)
class Encoded:
    """One example's token ids. Tokens from `loss_start` on count for the loss."""

    ids: tuple[int, ...]
    loss_start: int
    is_break: bool
    pull: Pull | None = None

    @property
    def plain(self) -> Encoded:
        """The example without a refusal in it."""
        return self.pull.plain if self.pull else self

    @property
    def loss_tokens(self) -> int:
        return len(self.ids) - self.loss_start


@dataclass(frozen=True)
class Batch:
    """One micro-batch as the model reads it: each example in its own row, or all of them packed into one row.

    Positions index the flattened batch (rows * tokens) and are grouped by example: (tokens,).
    """

    input_ids: torch.Tensor  # (rows, tokens)
    break_positions: torch.Tensor  # response tokens of break examples
    retain_positions: torch.Tensor  # all tokens of retain examples; shared tokens are repeated for each of them
    position_ids: torch.Tensor | None = None  # (1, tokens) in a packed row
    segments: torch.Tensor | None = None  # (1, 1, 1, segments), tokens of each in a packed row; see packed_attention

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`, except for `segments`, whose values Python reads."""
        names = ("input_ids", "break_positions", "retain_positions", "position_ids")
        values = {name: getattr(self, name) for name in names}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})


def _batch(examples: list[Encoded], positions: list[torch.Tensor], **more: torch.Tensor) -> Batch:
    """Select the loss positions of each side from `positions`, which holds those of all tokens of each example."""
    sides = {}
    for side, is_break in (("break", True), ("retain", False)):
        found = [own[e.loss_start :] for e, own in zip(examples, positions, strict=True) if e.is_break == is_break]
        sides[f"{side}_positions"] = torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
    return Batch(**sides, **more)


def collate(examples: list[Encoded], pad_token_id: int) -> Batch:
    """Each example in its own row, padded on the right to the longest and on to a multiple of PAD_TO."""
    length = padded(max(len(example.ids) for example in examples))
    input_ids = torch.full((len(examples), length), pad_token_id)
    for row, example in enumerate(examples):
        input_ids[row, : len(example.ids)] = torch.tensor(example.ids)
    positions = [torch.arange(len(e.ids)) + row * length for row, e in enumerate(examples)]
    return _batch(examples, positions, input_ids=input_ids)


def shared_tokens(examples: list[Encoded]) -> int:
    """How many tokens all examples begin with; 0 for a single example. Each keeps at least one token of its own."""
    if len(examples) < 2:
        return 0
    shortest = min(len(example.ids) for example in examples)
    return min(len(os.path.commonprefix([example.ids for example in examples])), shortest - 1)


def pack(examples: list[Encoded], pad_token_id: int = 0, multiple: int = 1) -> Batch:
    """All examples in one row, after the tokens that they share at the beginning (a template's system prompt).

    In a causal model the shared tokens have the same hidden states in every example, so they are computed once.
    Padding, up to a `multiple` of tokens, is a segment of its own at the end.
    """
    shared = shared_tokens(examples)
    ids, position_ids, segments = list(examples[0].ids[:shared]), list(range(shared)), [shared]
    positions = []

    def add(own: tuple[int, ...]) -> None:
        ids.extend(own)
        position_ids.extend(range(shared, shared + len(own)))
        segments.append(len(own))

    for example in examples:
        own = torch.arange(len(example.ids) - shared) + len(ids)
        positions.append(torch.cat([torch.arange(shared), own]))
        add(example.ids[shared:])
    if padding := -len(ids) % multiple:
        add((pad_token_id,) * padding)
    return _batch(
        examples,
        positions,
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([position_ids]),
        segments=torch.tensor([[[segments]]]),
    )


def micro_batch_tokens(lengths: list[int], *, packed: bool, shared: int = 0) -> int:
    """Tokens of a micro-batch of examples of these lengths, padding included. Packed, it has `shared` tokens once."""
    return shared + sum(lengths) - shared * len(lengths) if packed else len(lengths) * padded(max(lengths))


def plan_micro_batches(
    lengths: list[int], size: int, *, packed: bool, shared: int = 0, max_tokens: int | None = None
) -> list[list[int]]:
    """Cut a step into micro-batches of at most `size` examples (by their index in `lengths`) at the least total cost.

    A micro-batch costs its tokens plus MICRO_BATCH_OVERHEAD. It holds examples of similar length: in padded rows, a
    step of mixed lengths is cut where that saves padding. Only a single example may be longer than `max_tokens`.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    # For the first n examples: the least cost; the sum of squared sizes, which prefers even cuts at equal cost; the
    # start of the last micro-batch.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        choices = []
        for start in range(max(0, end - size), end):
            tokens = micro_batch_tokens([lengths[i] for i in order[start:end]], packed=packed, shared=shared)
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


def batches_by_length(lengths: list[int], tokens: int, *, equal: bool = False) -> Iterator[list[int]]:
    """Groups of indices in `lengths`, of at most `tokens` with padding; similar lengths together, short ones first.

    With `equal`, those of a group are all of one length, so that none is padded.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        longer = batch and equal and lengths[index] > lengths[batch[0]]
        if batch and (longer or lengths[index] * (len(batch) + 1) > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
