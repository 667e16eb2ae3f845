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
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from cbgui import hardware
from cbgui.data.batches import prompt_text
from cbgui.data.examples import Example
from cbgui.evaluation.attacks import Attempt
from cbgui.lora import AdaptedRows

BATCH_TOKENS, MIN_BATCH_TOKENS = 24_576, 1024  # padded tokens in one pass without gradients
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
    """`ids` without the prefill and without end tokens; `nats`: what they cost the base model that wrote them, a token
    (None for the short-circuited model's)."""

    ids: list[int]
    text: str
    nats: float | None = None


class _Costs(LogitsProcessor):
    """Notes, at each token that `generate` chooses, the choosing model's own nats for it (before any temperature), in
    the first `rows` rows of the batch."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.costs: list[torch.Tensor] = []  # (rows,) each
        self.last: torch.Tensor | None = None  # (rows, vocabulary): the logits that the newest token was chosen from

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.note(input_ids)
        self.last = scores[: self.rows]
        return scores

    def note(self, input_ids: torch.Tensor) -> None:
        if self.last is not None:
            self.costs.append(F.cross_entropy(self.last.float(), input_ids[: self.rows, -1], reduction="none").cpu())

    def per_row(self, sequences: torch.Tensor) -> list[list[float]]:
        """After `generate`: rows x tokens."""
        self.note(sequences)
        return torch.stack(self.costs, dim=1).tolist()


@dataclass
class _Shared:
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
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        token = 2 * config.num_hidden_layers * heads * size * self.model.dtype.itemsize  # keys and values
        # A third of what is free, and a cache that grows is there twice while it is copied.
        self.batch_tokens = max(MIN_BATCH_TOKENS, min(BATCH_TOKENS, hardware.free_memory() // 6 // token))

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

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Row numbers, neighbours in length together, at most `batch_tokens` padded tokens each."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batch: list[int] = []
        for row in order:
            if batch and lengths[row] * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _share(self, prompts: list[list[int]]) -> _Shared:
        """Attacks put the same words before every request; those are read once for all."""
        length = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
        if len(prompts) < 2 or length < MIN_SHARED:
            return _Shared()
        ids = torch.tensor([prompts[0][:length]] * 2, device=self.model.device)
        with self.base_rows(1):
            cache = self.model.get_base_model().base_model(input_ids=ids, use_cache=True).cache
        # Sliding windows and recurrent states would have to know of the padding that follows.
        plain = isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)
        return _Shared(length, cache) if plain else _Shared()

    @torch.no_grad()
    def generate(
        self, attempts: list[Attempt], adapted: list[bool], *, max_new_tokens: int
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield (attempt's number, its answer) batch by batch; greedy unless the attempt has a temperature.

        `adapted` says for each attempt which model answers; both do in one batch, which reads the weights once.
        """
        if not attempts:
            return
        prompts = [self.prompt_ids(attempt) for attempt in attempts]
        shared = self._share(prompts)
        for temperature in sorted({attempt.temperature for attempt in attempts}):
            rows = [row for row, attempt in enumerate(attempts) if attempt.temperature == temperature]
            for batch in self._batches([len(prompts[row]) + max_new_tokens for row in rows]):
                chosen = sorted((rows[position] for position in batch), key=adapted.__getitem__)  # the base model first
                answers = self._generate(
                    [prompts[row] for row in chosen],
                    [adapted[row] for row in chosen],
                    shared,
                    temperature,
                    max_new_tokens,
                )
                yield list(zip(chosen, answers, strict=True))

    def _generate(
        self, prompts: list[list[int]], adapted: list[bool], shared: _Shared, temperature: float, max_new_tokens: int
    ) -> list[Answer]:
        """One batch; padding stands between what is shared and the rest."""
        pad, width = self.tokenizer.pad_token_id, max(map(len, prompts))
        ids = torch.full((len(prompts), width), pad)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : shared.length] = torch.tensor(prompt[: shared.length])
            ids[row, width - len(prompt) + shared.length :] = torch.tensor(prompt[shared.length :])
            mask[row, : shared.length] = mask[row, width - len(prompt) + shared.length :] = 1
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        base = adapted.count(False)
        costs = _Costs(base)
        with self.base_rows(base):
            out = self.model.generate(
                input_ids=ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                cache=shared.rows(adapted),
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                logits_processor=LogitsProcessorList([costs]),
                **sampling,
            )
        end, answers, per_row = {pad, self.tokenizer.eos_token_id}, [], costs.per_row(out)
        for row, new in enumerate(out[:, width:].tolist()):
            while new and new[-1] in end:
                new.pop()
            nats = sum(per_row[row][: len(new)]) / len(new) if new and row < base else None
            answers.append(Answer(new, self.tokenizer.decode(new, skip_special_tokens=True), nats))
        return answers

    def _read(
        self, prompts: list[list[int]], answers: list[list[int]], which: tuple[bool, ...]
    ) -> Iterator[tuple[int, list[torch.Tensor]]]:
        """(row number, the logits of the answer's tokens for each of `which` models), batched, padded on the right."""
        if not prompts:
            return
        pad = self.tokenizer.pad_token_id
        shared = self._share(prompts)
        for batch in self._batches([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
            rows = [prompts[row][shared.length :] + answers[row] for row in batch]
            ids = torch.full((len(rows), max(map(len, rows))), pad)
            for position, row in enumerate(rows):
                ids[position, : len(row)] = torch.tensor(row)
            states = []
            for adapted in which:
                cache = shared.rows([adapted] * len(rows))
                with self.using(adapted):  # padding on the right is never attended to
                    body = self.model.get_base_model().base_model
                    states.append(body(input_ids=ids.to(self.model.device), cache=cache, use_cache=False)[0])
            for position, row in enumerate(batch):
                first = len(prompts[row]) - 1 - shared.length
                yield row, [self._logits(hidden[position, first : first + len(answers[row])]) for hidden in states]

    def _logits(self, hidden: torch.Tensor) -> torch.Tensor:
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
                body = self.model.get_base_model().base_model
                layers = body(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states[1:]
            answers = [hidden[:, len(prompt) :].float() for hidden in layers]
            cosines = torch.stack([F.cosine_similarity(base, short, dim=-1).sum() for base, short in answers])
            totals = cosines if totals is None else totals + cosines
            count += len(answer)
        return (totals / count).tolist() if count else []
