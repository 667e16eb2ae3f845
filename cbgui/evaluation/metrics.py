"""Measures of answers and of the two models: nats under the base model, KL, agreement, cosine of hidden states."""

from __future__ import annotations

import copy
import functools
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.modeling.batch import batches_by_length
from cbgui.modeling.chat_format import example_ids, prompt_ids
from cbgui.modeling.decoder import decoder_layers, head_logits, text_decoder
from cbgui.modeling.lora import AdaptedRows
from cbgui.modeling.shrinking import has_plain_cache
from cbgui.modeling.states import layer_states

READ_TOKENS = 1024  # padded tokens of a batch of given texts; larger batches were no faster on two cores
MIN_SHARED = 8  # tokens that prompts must share for computing them once to pay off
REFUSAL_STARTS = ("I", "I'm", "Sorry", "As", "Unfortunately", "My")
REPETITION_WINDOW, REPETITION_TOKENS = 16, 3  # of the last 16 tokens, at most 3 different ones
LONGEST_LOOP = 12  # tokens


def is_repetition(ids: list[int]) -> bool:
    """Whether an answer goes in circles.

    It has at most REPETITION_TOKENS different tokens among the last REPETITION_WINDOW, or half of it and more is a loop
    of up to LONGEST_LOOP tokens, said at least three times.
    """
    if len(ids) < REPETITION_WINDOW:
        return False
    if len(set(ids[-REPETITION_WINDOW:])) <= REPETITION_TOKENS:
        return True
    for period in range(1, LONGEST_LOOP + 1):
        looped = period
        while looped < len(ids) and ids[-looped - 1] == ids[-looped - 1 + period]:
            looped += 1
        if looped >= max(3 * period, REPETITION_WINDOW, len(ids) / 2):
            return True
    return False


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The Wilson score interval of a rate, 95% by default; (0, 1) without trials.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if trials == 0:
        return 0.0, 1.0
    rate, square = successes / trials, z * z
    centre = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Answer:
    """An answer without its prefill and end tokens.

    `nats` is the cost of `ids` under the base model, per token; None if generating them did not give that number.
    `thought` is what the model wrote before the answer where it thinks; it is not judged.
    """

    ids: list[int]
    text: str
    nats: float | None = None
    thought: list[int] = field(default_factory=list)


@dataclass
class Shared:
    """What all prompts of a list begin with: the number of tokens, and both models' keys and values for them."""

    length: int = 0
    cache: DynamicCache | None = None  # row 0: base model, row 1: short-circuited model

    def rows(self, adapted: Sequence[bool]) -> DynamicCache | None:
        """A copy of the cache with a row for each of `adapted`, which a batch can extend."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(torch.tensor(adapted, dtype=torch.long))
        return cache


@dataclass
class ModelPair:
    """Both models in one set of weights; `adapted_rows` comes from `lora.adapt_rows(model)`."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    adapted_rows: AdaptedRows
    refusals: Sequence[str] = ()  # the run's own sentences

    @functools.cached_property
    def plain_cache(self) -> bool:
        """Whether a beginning can be shared, and rows can leave a batch."""
        return has_plain_cache(self.body)

    @property
    def refusal_starts(self) -> list[int]:
        """The tokens that usual refusals, and the run's own, begin with."""
        starts = [*REFUSAL_STARTS, *(sentence.split()[0] for sentence in self.refusals)]
        texts = [form for start in starts for form in (start, " " + start, start.replace("'", "\u2019"))]
        return sorted({self.tokenizer(text, add_special_tokens=False).input_ids[0] for text in texts})

    @property
    def body(self) -> PreTrainedModel:
        """The model without its head."""
        return text_decoder(self.model.get_base_model())

    def using(self, adapted: bool) -> AbstractContextManager:
        """Inside this context the model is the short-circuited one if `adapted`, else the base model."""
        return nullcontext() if adapted else self.model.disable_adapter()

    @contextmanager
    def base_rows(self, number: int) -> Iterator[None]:
        """Inside this context the base model answers the first `number` rows of a batch, the other model the rest."""
        self.adapted_rows.first = number
        try:
            yield
        finally:
            self.adapted_rows.first = 0

    def prompt_ids(self, attempt: Attempt) -> list[int]:
        """Token ids of an attempt, its prefill included."""
        chat = [{"role": role, "content": content} for role, content in attempt.messages]
        return prompt_ids(self.tokenizer, chat, attempt.prefill)

    def padded(self, rows: list[list[int]]) -> torch.Tensor:
        """(rows, longest) token ids, padded on the right."""
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = torch.tensor(row)
        return ids.to(self.model.device)

    def share(self, prompts: list[list[int]]) -> Shared:
        """Compute what the prompts share: attack prompts begin with the same words, so these are computed once."""
        length = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        if len(prompts) < 2 or length < MIN_SHARED or not self.plain_cache:
            return Shared()
        ids = torch.tensor([prompts[0][:length]] * 2, device=self.model.device)
        with self.base_rows(1):
            return Shared(length, self.body(input_ids=ids, use_cache=True).cache)

    def _read(
        self, prompts: list[list[int]], answers: list[list[int]], which: tuple[bool, ...]
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """Read given answers: yield (row, for each of `which` models the logits of the answer's tokens).

        Logits are (tokens, vocabulary); rows come in the order of their length.
        """
        if not prompts:
            return
        shared = self.share(prompts)
        for batch in batches_by_length([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)], READ_TOKENS):
            ids = self.padded([prompts[row][shared.length :] + answers[row] for row in batch])
            states = []
            for adapted in which:
                with self.using(adapted):  # no mask, as no token attends to padding on its right
                    states.append(
                        self.body(input_ids=ids, cache=shared.rows([adapted] * len(batch)), use_cache=False)[0]
                    )
            for position, row in enumerate(batch):
                first = len(prompts[row]) - 1 - shared.length
                yield row, [self.logits(hidden[position, first : first + len(answers[row])]) for hidden in states]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden_size) -> (tokens, vocabulary) in float32: the decoder's output through the model's head."""
        return head_logits(self.model.get_base_model(), hidden[None])[0].float()

    @torch.no_grad()
    def base_nats(self, attempts: list[Attempt], answers: list[Answer]) -> list[float]:
        """The cost of each answer under the base model, in nats per token; infinity for an empty answer."""
        nats = [math.inf] * len(answers)
        filled = [row for row, answer in enumerate(answers) if answer.ids]
        prompts = [self.prompt_ids(attempts[row]) + answers[row].thought for row in filled]
        for row, (logits,) in self._read(prompts, [answers[r].ids for r in filled], (False,)):
            ids = torch.tensor(answers[filled[row]].ids, device=logits.device)
            nats[filled[row]] = F.cross_entropy(logits, ids).item()
        return nats

    @torch.no_grad()
    def retain_metrics(self, examples: list[Example]) -> list[dict[str, float]]:
        """Compare the two models on given responses; one dictionary for each example.

        kl: KL(base || short-circuited), nats per token; top1: share of tokens with the same most likely token; tokens:
        of the response; base_nats and nats: cost of the response under each model, per token; base_first and first:
        the token that each model would begin with, -1 where there is no response.
        """
        encoded = [example_ids(self.tokenizer, example.chat(), example.response) for example in examples]
        prompts, answers = [prompt for prompt, _ in encoded], [answer for _, answer in encoded]
        empty = {"kl": 0.0, "top1": 1.0, "tokens": 0, "base_nats": 0.0, "nats": 0.0, "base_first": -1, "first": -1}
        values: list[dict[str, float]] = [empty for _ in examples]
        for row, (base, short) in self._read(prompts, answers, (False, True)):
            if not answers[row]:
                continue
            u, v = base.log_softmax(-1), short.log_softmax(-1)
            ids = torch.tensor(answers[row], device=v.device)
            values[row] = {
                "kl": (u.exp() * (u - v)).sum(-1).mean().item(),
                "top1": (u.argmax(-1) == v.argmax(-1)).float().mean().item(),
                "tokens": len(ids),
                "base_nats": F.nll_loss(u, ids).item(),
                "nats": F.nll_loss(v, ids).item(),
                "base_first": u[0].argmax().item(),
                "first": v[0].argmax().item(),
            }
        return values

    @torch.no_grad()
    def cosine_by_layer(self, examples: list[Example]) -> list[float]:
        """Mean cosine of the two models' hidden states over the tokens of the responses, after each layer."""
        totals, count = None, 0
        for example in examples:
            prompt, answer = example_ids(self.tokenizer, example.chat(), example.response)
            ids = torch.tensor([prompt + answer] * 2, device=self.model.device)
            with self.base_rows(1):
                run = functools.partial(self.body, input_ids=ids, use_cache=False)
                states, _ = layer_states(self.body, range(1, len(decoder_layers(self.body)) + 1), run)
            answers = [hidden[:, len(prompt) :].float() for hidden in states.values()]
            cosines = torch.stack([F.cosine_similarity(base, short, dim=-1).sum() for base, short in answers])
            totals = cosines if totals is None else totals + cosines
            count += len(answer)
        return (totals / count).tolist() if count else []
