"""Numbers about answers and models: is an answer derailed, refused or given; how far has the model moved elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from cbgui.data.batches import prompt_text
from cbgui.data.examples import Example
from cbgui.evaluation.attacks import Attempt

BATCH_TOKENS = 6144  # padded tokens in one pass without gradients


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
    """`ids` without the prefill and without end tokens."""

    ids: list[int]
    text: str


@dataclass
class Pair:
    """The two models in one set of weights."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase

    def using(self, adapted: bool) -> AbstractContextManager:
        return nullcontext() if adapted else self.model.disable_adapter()

    def prompt_ids(self, attempt: Attempt) -> list[int]:
        chat = [{"role": role, "content": content} for role, content in attempt.messages]
        text = prompt_text(self.tokenizer, chat) + attempt.prefill
        return self.tokenizer(text, add_special_tokens=self.tokenizer.chat_template is None).input_ids

    def _batches(self, lengths: list[int]) -> Iterator[list[int]]:
        """Row numbers, neighbours in length together, at most BATCH_TOKENS padded tokens each."""
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        batch: list[int] = []
        for row in order:
            if batch and lengths[row] * (len(batch) + 1) > BATCH_TOKENS:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @torch.no_grad()
    def generate(
        self, attempts: list[Attempt], *, adapted: bool, max_new_tokens: int
    ) -> Iterator[list[tuple[int, Answer]]]:
        """Yield (attempt's number, its answer) batch by batch; greedy unless the attempt has a temperature."""
        prompts = [self.prompt_ids(attempt) for attempt in attempts]
        pad = self.tokenizer.pad_token_id
        end = {pad, self.tokenizer.eos_token_id}
        for temperature in sorted({attempt.temperature for attempt in attempts}):
            rows = [row for row, attempt in enumerate(attempts) if attempt.temperature == temperature]
            for batch in self._batches([len(prompts[row]) + max_new_tokens for row in rows]):
                chosen = [rows[position] for position in batch]
                width = max(len(prompts[row]) for row in chosen)
                ids = torch.full((len(chosen), width), pad)
                mask = torch.zeros_like(ids)
                for position, row in enumerate(chosen):
                    ids[position, width - len(prompts[row]) :] = torch.tensor(prompts[row])
                    mask[position, width - len(prompts[row]) :] = 1
                sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
                with self.using(adapted):
                    out = self.model.generate(
                        input_ids=ids.to(self.model.device),
                        attention_mask=mask.to(self.model.device),
                        max_new_tokens=max_new_tokens,
                        pad_token_id=pad,
                        **sampling,
                    )
                answers = []
                for position, row in enumerate(chosen):
                    new = out[position, width:].tolist()
                    while new and new[-1] in end:
                        new.pop()
                    answers.append((row, Answer(new, self.tokenizer.decode(new, skip_special_tokens=True))))
                yield answers

    def _rows(self, prompts: list[list[int]], answers: list[list[int]], adapted: bool):
        """(row number, logits of the answer's tokens) for one model, batched, padded on the right."""
        pad = self.tokenizer.pad_token_id
        for batch in self._batches([len(p) + len(a) for p, a in zip(prompts, answers, strict=True)]):
            rows = [prompts[row] + answers[row] for row in batch]
            ids = torch.full((len(rows), max(map(len, rows))), pad)
            for position, row in enumerate(rows):
                ids[position, : len(row)] = torch.tensor(row)
            with self.using(adapted):  # padding on the right is never attended to
                hidden = self.model.get_base_model().base_model(input_ids=ids.to(self.model.device), use_cache=False)[0]
                head = self.model.get_output_embeddings()
                for position, row in enumerate(batch):
                    start = len(prompts[row]) - 1
                    yield row, head(hidden[position, start : start + len(answers[row])]).float()

    @torch.no_grad()
    def base_nats(self, attempts: list[Attempt], answers: list[Answer]) -> list[float]:
        """The base model's mean nats per token of each answer; infinity for an empty one."""
        nats = [math.inf] * len(answers)
        filled = [row for row, answer in enumerate(answers) if answer.ids]
        prompts = [self.prompt_ids(attempts[row]) for row in filled]
        for row, logits in self._rows(prompts, [answers[r].ids for r in filled], adapted=False):
            ids = torch.tensor(answers[filled[row]].ids, device=logits.device)
            nats[filled[row]] = F.cross_entropy(logits, ids).item()
        return nats

    @torch.no_grad()
    def kept(self, examples: list[Example]) -> list[dict[str, float]]:
        """Per example, over its answer's tokens: kl (base || short-circuited, nats a token), top1 agreement, tokens,
        and both models' nats a token of the answer."""
        prompts = [self.prompt_ids(Attempt(example.messages)) for example in examples]
        answers = [self.tokenizer(e.response, add_special_tokens=False).input_ids for e in examples]
        base = {row: logits.log_softmax(-1) for row, logits in self._rows(prompts, answers, adapted=False)}
        values: list[dict[str, float]] = [{} for _ in examples]
        for row, logits in self._rows(prompts, answers, adapted=True):
            u, v = base.pop(row), logits.log_softmax(-1)
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
            ids = torch.tensor([prompt + answer], device=self.model.device)
            states = []
            for adapted in (False, True):
                with self.using(adapted):
                    output = self.model.get_base_model().base_model(
                        input_ids=ids, output_hidden_states=True, use_cache=False
                    )
                states.append([hidden[0, len(prompt) :].float() for hidden in output.hidden_states[1:]])
            cosines = torch.stack([F.cosine_similarity(a, b, dim=-1).sum() for a, b in zip(*states, strict=True)])
            totals = cosines if totals is None else totals + cosines
            count += len(answer)
        return (totals / count).tolist() if count else []
