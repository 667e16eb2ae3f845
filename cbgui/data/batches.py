"""Examples -> token ids and the tokens that count -> steps that each hold a break and a retain batch."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from cbgui.data.examples import Example

# What a pass costs besides its tokens, in tokens: 35 (float32) to 380 (bfloat16) on two CPU cores (docs/benchmarks.md).
PASS_TOKENS = 256
# Tokens of a pass on a CPU: longer ones gain nothing there, and take more memory (docs/benchmarks.md).
CPU_PASS_TOKENS = 1536
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
    """The joint break and retain pass of one micro-batch: examples in rows of their own, or one after the other in one.

    Places count through the rows, one after the other: (tokens,), example after example.
    """

    input_ids: torch.Tensor  # (rows, tokens)
    break_places: torch.Tensor  # response tokens of break examples
    retain_places: torch.Tensor  # all tokens of retain examples; what they share counts for each
    position_ids: torch.Tensor | None = None  # (1, tokens) where the examples share a row, and then
    segments: torch.Tensor | None = None  # (1, 1, 1, segments), tokens of each: see cbgui.attention

    def to(self, device: torch.device) -> Batch:
        """On `device`, but for `segments`, which the program reads."""
        moved = ("input_ids", "break_places", "retain_places", "position_ids")
        values = {name: getattr(self, name) for name in moved}
        return replace(self, **{name: value.to(device) for name, value in values.items() if value is not None})


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
    shown with an empty user turn, so that the response itself trips the breaker. At least a quarter is left to the
    response; a request too long for the rest loses its middle: what a sequence begins with (BOS) matters to all of it.
    """
    chat = example.chat() if with_request else [{"role": "user", "content": ""}]
    # A template already writes the special tokens.
    special = tokenizer.chat_template is None
    prompt = tokenizer(prompt_text(tokenizer, chat), add_special_tokens=special).input_ids
    response = tokenizer(example.response, add_special_tokens=False).input_ids
    is_break = example.kind == "break"
    room = max_tokens - min(max_tokens // 4, len(response))
    if len(prompt) > room:
        prompt = prompt[: room // 2] + prompt[-(room - room // 2) :]
    ids = (prompt + response)[:max_tokens]
    return Encoded(tuple(ids), len(prompt) if is_break else 0, is_break)


def _batch(examples: list[Encoded], places: list[torch.Tensor], **more: torch.Tensor) -> Batch:
    """`places` are those of all tokens of each example."""
    sides = {}
    for side, is_break in (("break", True), ("retain", False)):
        found = [where[e.loss_start :] for e, where in zip(examples, places, strict=True) if e.is_break == is_break]
        sides[f"{side}_places"] = torch.cat(found) if found else torch.zeros(0, dtype=torch.long)
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


def pass_tokens(lengths: list[int], *, packed: bool, shared: int = 0) -> int:
    """Tokens of a pass over examples of these lengths, padding included; packed ones have the `shared` tokens once."""
    return shared + sum(lengths) - shared * len(lengths) if packed else len(lengths) * padded(max(lengths))


def passes(
    lengths: list[int], size: int, *, packed: bool, shared: int = 0, max_tokens: int | None = None
) -> list[list[int]]:
    """A step's examples, by their places in `lengths`, in passes of at most `size`, with the least cost in all.

    A pass of neighbours in length costs its tokens and PASS_TOKENS; in padded rows (not `packed`), a step of mixed
    lengths is cut where that saves padding. With `max_tokens`, only an example longer than that makes a longer pass,
    by itself.
    """
    order = sorted(range(len(lengths)), key=lambda place: lengths[place])
    # Of the first n examples: the cost; of equal ones the evenest, by the sum of squares; where their last pass starts.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(order) + 1):
        choices = []
        for start in range(max(0, end - size), end):
            tokens = pass_tokens([lengths[place] for place in order[start:end]], packed=packed, shared=shared)
            if max_tokens is None or tokens <= max_tokens or start == end - 1:
                cost, squares, _ = best[start]
                choices.append((cost + tokens + PASS_TOKENS, squares + tokens**2, start))
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
        # Each example once: steps are gone through several times.
        self.encode = functools.cache(functools.partial(encode, tokenizer, max_tokens=max_tokens))
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
        return [self.encode(example, with_request=with_request) for example, with_request in self.plan[step]]
