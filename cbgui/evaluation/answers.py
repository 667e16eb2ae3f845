"""Both models' answers to many prompts, and what each answer costs the base model.

Three things save time: one batch holds rows of both models, the beginning that prompts share is computed once, and the
base model reads the short-circuited model's answers with the keys and values it has computed for the prompts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, PreTrainedTokenizerBase

from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import READ_TOKENS, Answer, ModelPair, Shared
from cbgui.modeling.batch import batches_by_length
from cbgui.modeling.decoder import reads_padding
from cbgui.modeling.full import batch_token_budget, end_tokens
from cbgui.modeling.thinking import EndThoughts, answer_begins, split_answer, thought_tokens


class _Costs(LogitsProcessor):
    """Records the cost of every token that `generate` chooses, in nats under the model that generates it.

    The cost is that before temperature is applied, and only of the first `rows` rows of the batch. Calls `on_token` at
    each token.
    """

    def __init__(self, rows: int, on_token: Callable[[], None]) -> None:
        self.rows, self.on_token = rows, on_token
        self.costs: list[torch.Tensor] = []  # (rows,) each
        self.first: torch.Tensor | None = None  # (rows, vocabulary): logits of the first token
        self.last: torch.Tensor | None = None  # (rows, vocabulary): logits of the newest token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self._record(input_ids)
        self.last = scores[: self.rows]
        if self.first is None:
            self.first = self.last.clone()
        self.on_token()
        return scores

    def _record(self, input_ids: torch.Tensor) -> None:
        if self.last is not None:
            self.costs.append(F.cross_entropy(self.last.float(), input_ids[: self.rows, -1], reduction="none").cpu())

    def per_row(self, sequences: torch.Tensor) -> list[list[float]]:
        """(rows, tokens) costs; `sequences` is what `generate` returned."""
        self._record(sequences)
        return torch.stack(self.costs, dim=1).tolist()


class _WithoutAtFirst(LogitsProcessor):
    """Keeps an answer from beginning with one of the tokens `banned`; a thought may."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, columns: int, banned: list[int]) -> None:
        self.tokenizer, self.columns, self.banned = tokenizer, columns, banned

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = [(ids[: self.columns], ids[self.columns :]) for ids in input_ids.tolist()]
        first = [row for row, (prompt, written) in enumerate(rows) if answer_begins(self.tokenizer, prompt, written)]
        if first:
            scores = scores.clone()
            scores[torch.tensor(first)[:, None], torch.tensor(self.banned)] = -torch.inf
        return scores


@dataclass
class _Batch:
    """Rows of one `generate`, the base model's first. Padding comes after the shared beginning of each prompt."""

    prompts: list[list[int]]
    adapted: list[bool]
    shared: list[Shared]

    @property
    def shared_columns(self) -> int:
        """The number of columns for the shared beginnings, on the left."""
        return max(shared.length for shared in self.shared)

    def tokens(self, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
        """input_ids and attention_mask, each (rows, columns)."""
        rests = [len(prompt) - shared.length for prompt, shared in zip(self.prompts, self.shared, strict=True)]
        ids = torch.full((len(self.prompts), self.shared_columns + max(rests)), pad)
        mask = torch.zeros_like(ids)
        for row, (prompt, shared, rest) in enumerate(zip(self.prompts, self.shared, rests, strict=True)):
            ids[row, : shared.length] = torch.tensor(prompt[: shared.length])
            ids[row, -rest:] = torch.tensor(prompt[shared.length :])
            mask[row, : shared.length] = mask[row, -rest:] = 1
        return ids, mask

    def cache(self) -> DynamicCache:
        """The keys and values of each row's shared beginning, in the columns on the left."""
        cache = DynamicCache()
        any_cache = next((shared.cache for shared in self.shared if shared.cache is not None), None)
        for number, layer in enumerate(() if any_cache is None else any_cache.layers):
            columns = []
            for name in ("keys", "values"):
                template = getattr(layer, name)
                heads, head_size = template.shape[1], template.shape[3]
                column = template.new_zeros(len(self.prompts), heads, self.shared_columns, head_size)
                for row, (shared, adapted) in enumerate(zip(self.shared, self.adapted, strict=True)):
                    if shared.cache is not None:
                        column[row, :, : shared.length] = getattr(shared.cache.layers[number], name)[int(adapted)]
                columns.append(column)
            cache.update(*columns, number)
        return cache


@torch.no_grad()
def generate(
    pair: ModelPair,
    attempts: Sequence[Attempt],
    adapted: Sequence[bool],
    groups: Sequence[Hashable],
    *,
    max_new_tokens: int,
    on_progress: Callable[[float], None] = lambda answers: None,
) -> Iterator[list[tuple[int, Answer]]]:
    """Yield lists of (index of the attempt, its answer), batch by batch.

    `adapted` says for each attempt whether the short-circuited model answers it. Prompts of one group share their
    beginning. Decoding is greedy unless the attempt has a temperature, and free unless it bans refusals. `on_progress`
    is called at each token with the newly finished work, in answers; an exception that it raises stops generation.
    """
    prompts = [pair.prompt_ids(attempt) for attempt in attempts]
    shared = {
        group: pair.share([prompts[row] for row, other in enumerate(groups) if other == group])
        for group in dict.fromkeys(groups)
    }
    tokens, limit = batch_token_budget(pair.model), max_new_tokens + thought_tokens(pair.tokenizer)
    ways = [(attempt.temperature, attempt.bans_refusals) for attempt in attempts]
    for way in sorted(set(ways)):
        rows = [row for row, other in enumerate(ways) if other == way]
        lengths = [len(prompts[row]) + limit for row in rows]
        for positions in batches_by_length(lengths, tokens, equal=reads_padding(pair.model.config)):
            chosen = sorted((rows[position] for position in positions), key=adapted.__getitem__)
            batch = _Batch(
                [prompts[row] for row in chosen],
                [adapted[row] for row in chosen],
                [shared[groups[row]] for row in chosen],
            )
            on_token = functools.partial(on_progress, len(chosen) / limit)
            answers = _answers(pair, batch, *way, max_new_tokens, on_token)
            yield list(zip(chosen, answers, strict=True))


def _answers(
    pair: ModelPair,
    batch: _Batch,
    temperature: float,
    bans_refusals: bool,
    max_new_tokens: int,
    on_token: Callable[[], None],
) -> list[Answer]:
    pad, device, base_count = pair.tokenizer.pad_token_id, pair.model.device, batch.adapted.count(False)
    ids, mask = (tensor.to(device) for tensor in batch.tokens(pad))
    cache = batch.cache() if pair.plain_cache else None
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    costs = _Costs(base_count, on_token)
    processors = LogitsProcessorList([costs])  # the first, because costs are those of free choice
    processors.append(EndThoughts(pair.tokenizer, ids.shape[1]))
    if bans_refusals:
        processors.append(_WithoutAtFirst(pair.tokenizer, ids.shape[1], pair.refusal_starts))
    with pair.base_rows(base_count):
        out = pair.model.generate(
            input_ids=ids,
            attention_mask=mask,
            cache=cache,
            max_new_tokens=max_new_tokens + thought_tokens(pair.tokenizer),
            pad_token_id=pad,
            logits_processor=processors,
            **sampling,
        )
    end = {pad, pair.tokenizer.eos_token_id, *end_tokens(pair.model)}
    answers = out[:, ids.shape[1] :].tolist()
    for answer in answers:
        while answer and answer[-1] in end:
            answer.pop()
    split = [
        split_answer(pair.tokenizer, prompt, answer, max_new_tokens)
        for prompt, answer in zip(batch.prompts, answers, strict=True)
    ]
    thoughts, answers = map(list, zip(*split, strict=True))
    nats: list[float | None] = [None] * len(answers)
    for row, cost in enumerate(costs.per_row(out)):
        if length := len(answers[row]):
            start = len(thoughts[row])
            nats[row] = sum(cost[start : start + length]) / length
    if cache is not None:
        for row, value in _short_circuited_nats(pair, batch, cache, mask, costs.first, thoughts, answers):
            nats[row] = value
    texts = pair.tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [Answer(*parts) for parts in zip(answers, texts, nats, thoughts, strict=True)]


def _short_circuited_nats(
    pair: ModelPair,
    batch: _Batch,
    cache: DynamicCache,
    mask: torch.Tensor,
    first: torch.Tensor,
    thoughts: list[list[int]],
    answers: list[list[int]],
) -> Iterator[tuple[int, float]]:
    """Yield (row, nats per token under the base model) of the short-circuited model's answers.

    Only for prompts that the base model answered in the same batch: `cache` holds its keys and values for them, `first`
    its logits of the first token.
    """
    base_count, prompt_columns = batch.adapted.count(False), mask.shape[1]
    base_row_of = {tuple(prompt): row for row, prompt in enumerate(batch.prompts[:base_count])}
    rows = [r for r in range(base_count, len(answers)) if answers[r] and tuple(batch.prompts[r]) in base_row_of]
    for positions in batches_by_length([len(thoughts[row] + answers[row]) for row in rows], READ_TOKENS):
        chosen = [rows[position] for position in positions]
        base_rows = torch.tensor([base_row_of[tuple(batch.prompts[row])] for row in chosen], device=mask.device)
        ids = pair.padded([thoughts[row] + answers[row] for row in chosen])
        prompt_cache = DynamicCache()
        for number, layer in enumerate(cache.layers):
            keys, values = (states[base_rows, :, :prompt_columns] for states in (layer.keys, layer.values))
            prompt_cache.update(keys, values, number)
        attended = torch.cat([mask[base_rows], torch.ones_like(ids)], dim=1)
        with pair.using(False):
            hidden = pair.body(
                input_ids=ids,
                attention_mask=attended,
                position_ids=(attended.cumsum(-1) - 1)[:, prompt_columns:],
                cache=prompt_cache,
                use_cache=True,
            )[0]
        for position, row in enumerate(chosen):
            start, end = len(thoughts[row]), len(thoughts[row] + answers[row])
            logits = torch.cat([first[base_rows[position], None].float(), pair.logits(hidden[position, : end - 1])])
            yield row, F.cross_entropy(logits[start:], ids[position, start:end]).item()
