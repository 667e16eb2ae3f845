"""Examples -> token ids and the tokens that count -> steps that each hold a break and a retain batch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from cbgui.data.examples import Example

# What a pass costs besides its tokens, in tokens: 35 (float32) to 380 (bfloat16) on two CPU cores (docs/benchmarks.md).
PASS_TOKENS = 256
# Rows are padded to a multiple of this: oneDNN makes a kernel for every shape, in milliseconds (docs/benchmarks.md).
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
    """Right-padded tensors, all (examples, tokens): the joint break and retain pass of one micro-batch."""

    input_ids: torch.Tensor
    break_mask: torch.Tensor  # bool: response tokens of break examples
    retain_mask: torch.Tensor  # bool: real tokens of retain examples

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """The request through the model's own chat template; plain turns for a model without one."""
    if tokenizer.chat_template is None:
        return "".join(f"{turn['content']}\n" for turn in messages)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int, *, with_request: bool = True
) -> Encoded:
    """Token ids of request + response, cut at `max_tokens`.

    Break examples count from the response on; retain examples count whole. Without its request, a break example is
    shown with an empty user turn, so that the response itself trips the breaker.
    """
    chat = example.chat() if with_request else [{"role": "user", "content": ""}]
    # A template already writes the special tokens.
    special = tokenizer.chat_template is None
    prompt = tokenizer(prompt_text(tokenizer, chat), add_special_tokens=special).input_ids
    response = tokenizer(example.response, add_special_tokens=False).input_ids
    is_break = example.kind == "break"
    if is_break:  # at least half of what fits is left to the response, the part that counts
        prompt = prompt[-(max_tokens // 2) :]
    ids = (prompt + response)[:max_tokens]
    return Encoded(tuple(ids), len(prompt) if is_break else 0, is_break)


def collate(examples: list[Encoded], pad_token_id: int) -> Batch:
    """Pad to the longest of `examples`, and on to a multiple of PAD_TO."""
    shape = (len(examples), padded(max(len(example.ids) for example in examples)))
    input_ids = torch.full(shape, pad_token_id)
    break_mask, retain_mask = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
    for row, example in enumerate(examples):
        length = len(example.ids)
        input_ids[row, :length] = torch.tensor(example.ids)
        (break_mask if example.is_break else retain_mask)[row, example.loss_start : length] = True
    return Batch(input_ids, break_mask, retain_mask)


def micro_batches(examples: list[Encoded], size: int) -> list[list[Encoded]]:
    """Passes of at most `size` examples, neighbours in length together, with the least cost in all.

    A pass costs its padded tokens and PASS_TOKENS; a step of mixed lengths is cut where that saves padding.
    """
    ordered = sorted(examples, key=lambda example: len(example.ids))
    best: list[tuple[int, int]] = [(0, 0)]  # of the first n examples: the cost, and where their last pass starts
    for end, longest in enumerate(ordered, start=1):
        starts = range(max(0, end - size), end)
        best.append(min((best[s][0] + (end - s) * padded(len(longest.ids)) + PASS_TOKENS, s) for s in starts))
    passes, end = [], len(ordered)
    while end:
        start = best[end][1]
        passes.insert(0, ordered[start:end])
        end = start
    return passes


def _endless(items: list[Example], generator: random.Random) -> Iterator[Example]:
    while True:
        yield from generator.sample(items, len(items))


class PairedSteps(Dataset):
    """One item a training step: its break and its retain examples, encoded. The same seed gives the same steps."""

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
        without_request: float,
        seed: int,
    ) -> None:
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        generator = random.Random(seed)
        breaks = _endless([replace(e, kind="break") for e in break_examples], generator)
        retains = _endless(retain_examples, generator)
        self.plan: list[list[tuple[Example, bool]]] = [
            [(next(breaks), generator.random() >= without_request) for _ in range(break_batch_size)]
            + [(next(retains), True) for _ in range(retain_batch_size)]
            for _ in range(steps)
        ]

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, step: int) -> list[Encoded]:
        return [
            encode(self.tokenizer, example, self.max_tokens, with_request=with_request)
            for example, with_request in self.plan[step]
        ]
