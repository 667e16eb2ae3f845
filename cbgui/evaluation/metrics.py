"""Numbers about answers and models: is an answer derailed, refused or given; how far has the model moved elsewhere."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.modeling.batch import neighbours
from cbgui.modeling.chat_format import prompt_text
from cbgui.modeling.lora import AdaptedRows

READ_TOKENS = 1024  # padded tokens in one pass over texts that are there; more were no faster (two cores, measured)
MIN_SHARED = 8  # tokens at the beginning of all prompts that are worth computing apart


def is_repetition(ids: list[int]) -> bool:
    """One or two tokens over and over: at most three different ones among the last sixteen."""
    return len(ids) >= 16 and len(set(ids[-16:])) <= 3


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson score interval of a rate; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    rate, square = successes / trials, z * z
    centre = (rate + square / (2 * trials)) / (1 + square / trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + square / (4 * trials**2)) / (1 + square / trials)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Answer:
    """`ids` without the prefill and without end tokens; `nats`: what they cost the base model, a token, where that was
    found out along the way."""

    ids: list[int]
    text: str
    nats: float | None = None


@dataclass
class Shared:
    """The tokens that all prompts of a list begin with, and both models' keys and values there, computed once."""

    length: int = 0
    cache: DynamicCache | None = None  # row 0 the base model's, row 1 the short-circuited one's

    def rows(self, adapted: Sequence[bool]) -> DynamicCache | None:
        """The cache for a batch of such rows; each batch goes on writing in its own."""
        if self.cache is None:
            return None
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(torch.tensor(adapted, dtype=torch.long))
        return cache


@dataclass
class Pair:
    """The two models in one set of weights; `adapted_rows` is that of `lora.adapt_rows(model)`."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    adapted_rows: AdaptedRows

    def __post_init__(self) -> None:
        # Sliding windows and recurrent states would have to know of the padding after what prompts share.
        layers = DynamicCache(config=self.model.config).layers
        self.plain_cache = bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    @property
    def body(self) -> PreTrainedModel:
        """Without the head."""
        return self.model.get_base_model().base_model

    def using(self, adapted: bool) -> AbstractContextManager:
        return nullcontext() if adapted else self.model.disable_adapter()

    @contextmanager
    def base_rows(self, number: int) -> Iterator[None]:
        """The first so many rows of a batch are the base model's, the others the short-circuited one's."""
        self.adapted_rows.first = number
        try:
            yield
        finally:
            self.adapted_rows.first = 0

    def prompt_ids(self, attempt: Attempt) -> list[int]:
        chat = [{"role": role, "content": content} for role, content in attempt.messages]
        text = prompt_text(self.tokenizer, chat) + attempt.prefill
        return self.tokenizer(text, add_special_tokens=self.tokenizer.chat_template is None).input_ids

    def padded(self, rows: list[list[int]]) -> torch.Tensor:
        """(rows, longest) token ids, padded on the right."""
        ids = torch.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id)
        for position, row in enumerate(rows):
            ids[position, : len(row)] = torch.tensor(row)
        return ids.to(self.model.device)

    def share(self, prompts: list[list[int]]) -> Shared:
        """Attacks put the same words before every request; those are read once for all."""
        length = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        if len(prompts) < 2 or length < MIN_SHARED or not self.plain_cache:
            return Shared()
        ids = torch.tensor([prompts[0][:length]] * 2, device=self.model.device)
        with self.base_rows(1):
            return Shared(length, self.body(input_ids=ids, use_cache=True).cache)

    def _read(
        self, prompts: list[list[int]], answers: list[list[int]], which: tuple[bool, ...]
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """(row number, the logits of the answer's tokens for each of `which` models), batched, padded on the right."""
        if not prompts:
            return
        shared = self.share(prompts)
        for batch in neighbours([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)], READ_TOKENS):
            ids = self.padded([prompts[row][shared.length :] + answers[row] for row in batch])
            states = []
            for adapted in which:
                with self.using(adapted):  # padding on the right is never attended to
                    states.append(
                        self.body(input_ids=ids, cache=shared.rows([adapted] * len(batch)), use_cache=False)[0]
                    )
            for position, row in enumerate(batch):
                first = len(prompts[row]) - 1 - shared.length
                yield row, [self.logits(hidden[position, first : first + len(answers[row])]) for hidden in states]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(tokens, hidden_size) -> (tokens, vocabulary) in float32, as the model itself makes them: after the head,
        Gemma caps them, Cohere and Granite scale them (their `forward` in transformers)."""
        config = self.model.config.get_text_config()
        logits = self.model.get_output_embeddings()(hidden).float()
        logits = logits * (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    @torch.no_grad()
    def base_nats(self, attempts: list[Attempt], answers: list[Answer]) -> list[float]:
        """The base model's mean nats per token of each answer; infinity for an empty one."""
        nats = [math.inf] * len(answers)
        filled = [row for row, answer in enumerate(answers) if answer.ids]
        prompts = [self.prompt_ids(attempts[row]) for row in filled]
        for row, (logits,) in self._read(prompts, [answers[r].ids for r in filled], (False,)):
            ids = torch.tensor(answers[filled[row]].ids, device=logits.device)
            nats[filled[row]] = F.cross_entropy(logits, ids).item()
        return nats

    @torch.no_grad()
    def kept(self, examples: list[Example]) -> list[dict[str, float]]:
        """Per example, over its answer's tokens: kl (base || short-circuited, nats a token), top1 agreement, tokens,
        and both models' nats a token of the answer."""
        prompts = [self.prompt_ids(Attempt(example.messages)) for example in examples]
        answers = [self.tokenizer(e.response, add_special_tokens=False).input_ids for e in examples]
        none = {"kl": 0.0, "top1": 1.0, "tokens": 0, "base_nats": 0.0, "nats": 0.0}  # of an empty answer
        values: list[dict[str, float]] = [none for _ in examples]
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
            }
        return values

    @torch.no_grad()
    def cosine_by_layer(self, examples: list[Example]) -> list[float]:
        """Mean cosine of the two models' hidden states over the answers' tokens, after each layer."""
        totals, count = None, 0
        for example in examples:
            prompt = self.prompt_ids(Attempt(example.messages))
            answer = self.tokenizer(example.response, add_special_tokens=False).input_ids
            ids = torch.tensor([prompt + answer] * 2, device=self.model.device)
            with self.base_rows(1):
                layers = self.body(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[1:]
            answers = [hidden[:, len(prompt) :].float() for hidden in layers]
            cosines = torch.stack([F.cosine_similarity(base, short, dim=-1).sum() for base, short in answers])
            totals = cosines if totals is None else totals + cosines
            count += len(answer)
        return (totals / count).tolist() if count else []
