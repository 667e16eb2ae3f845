"""How near questions lie to the must-stop questions, by the model's own hidden states.

A logistic regression on the mean state of a question's tokens told unseen must-stop questions from unseen harmless ones
in 61 to 63 of 64 cases on two topics (dev/LOG.md, 2026-11-28).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, normalize
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from cbgui.modeling.chat_format import prompt_ids
from cbgui.modeling.decoder import depth, text_decoder
from cbgui.modeling.shrinking import has_plain_cache
from cbgui.modeling.states import layer_states, state_width

DEPTH = 2 / 3  # of the layers; the states there tell topics apart
PENALTY = 0.01  # on the squared weights of the regression
BATCH = 32  # questions
LONGEST = 512  # tokens of a prompt that are read; they tell its topic, and memory is limited


@torch.no_grad()
def prompt_states(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> torch.Tensor:
    """(prompts, width): the mean state of each prompt's own tokens, the first LONGEST of them, of length 1.

    The tokens that the chat template puts around every prompt say nothing about it and are left out. Those before it
    are most of a short prompt, so they are computed once where the model's cache allows it.
    """
    before, after = _shared_ends(tokenizer)
    rows = [prompt_ids(tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    rows = [row[: max(len(row) - after, before + 1)][: before + LONGEST] for row in rows]
    layer = round(DEPTH * depth(model.config))
    # Named, as the default is bfloat16 for as long as transformers loads a model in another thread.
    body, states = text_decoder(model), torch.empty(len(rows), state_width(model.config), dtype=torch.float32)
    shared = _cache_of_shared(body, rows, before)
    first = before if shared else 0  # the token that a row begins with below
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        lengths = torch.tensor([len(rows[index]) - first for index in batch])
        ids = torch.full((len(batch), int(lengths.max())), tokenizer.pad_token_id)
        for row, index in enumerate(batch):  # padded on the right, which no causal state before it sees
            ids[row, : lengths[row]] = torch.tensor(rows[index][first:])
        places = torch.arange(ids.shape[1])
        own = (places >= torch.clamp(lengths - 1, max=before - first)[:, None]) & (places < lengths[:, None])
        inputs = {"input_ids": ids.to(model.device)}
        if shared:
            inputs["cache"] = copy.deepcopy(shared)
            inputs["cache"].batch_repeat_interleave(len(batch))
        else:
            inputs["attention_mask"] = (places < lengths[:, None]).long().to(model.device)
        run = functools.partial(body, **inputs, use_cache=False)
        hidden = layer_states(body, [layer], run, stop=True)[0][layer].float()
        weights = own.to(hidden.device).unsqueeze(-1)
        means = (hidden * weights).sum(1) / weights.sum(1).clamp_min(1)
        states[batch] = normalize(means, dim=-1).cpu()
    return states


def _cache_of_shared(body: PreTrainedModel, rows: list[list[int]], length: int) -> DynamicCache | None:
    """The keys and values of the first tokens, which all rows share; None where that cannot be done."""
    if (
        not length
        or len(rows) < 2
        or any(row[:length] != rows[0][:length] for row in rows)
        or not has_plain_cache(body)
    ):
        return None
    return body(input_ids=torch.tensor([rows[0][:length]], device=body.device), use_cache=True).cache


def _shared_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """How many tokens the chat template puts before and after any prompt."""
    one, other = (prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in ("Blue", "When?"))

    def same(first: list[int], second: list[int]) -> int:
        count = 0
        for a, b in zip(first, second, strict=False):
            if a != b:
                break
            count += 1
        return count

    return same(one, other), same(one[::-1], other[::-1])


class Separator:
    """A logistic regression between the states of must-stop and of harmless prompts, both sides weighing the same."""

    def __init__(self, breaks: torch.Tensor, keeps: torch.Tensor) -> None:
        together = torch.cat([breaks, keeps])
        self.mean, self.spread = together.mean(0), together.std(0) + 1e-6
        labels = torch.cat([torch.ones(len(breaks)), torch.zeros(len(keeps))])
        balance = torch.tensor(len(keeps) / max(len(breaks), 1))
        self.weights = torch.zeros(together.shape[1], requires_grad=True)
        self.offset = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([self.weights, self.offset], max_iter=100)

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = binary_cross_entropy_with_logits(self._logits(together), labels, pos_weight=balance)
            loss = loss + PENALTY * self.weights.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return (states - self.mean) / self.spread @ self.weights + self.offset

    @torch.no_grad()
    def scores(self, states: torch.Tensor) -> list[float]:
        """Log-odds of each state; above 0 it lies on the must-stop side."""
        return self._logits(states).tolist()
