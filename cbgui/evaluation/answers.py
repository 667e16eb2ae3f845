"""Both models' answers to many prompts, and what each answer costs the base model.

Four things save time: one batch holds rows of both models and loses those that have ended, the beginning that prompts
share is computed once, and the base model reads the short-circuited model's answers with the keys and values it has
computed for the prompts.
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
from cbgui.modeling.shrinking import ShrinkingBatch
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
            answers = _answers(pair, batch, *way, max_new_tokens, on_progress)
            yield list(zip(chosen, answers, strict=True))


@dataclass
class _Written:
    """What a batch has written, in the order of its rows."""

    ids: list[list[int]]
    costs: list[list[float]]  # of each token, in nats under the base model; empty for the short-circuited model's rows
    prompt_cache: DynamicCache | None = None  # the base model's keys and values for its prompts
    first: torch.Tensor | None = None  # (base rows, vocabulary): the base model's logits of the first token


def _write(
    pair: ModelPair,
    batch: _Batch,
    temperature: float,
    bans_refusals: bool,
    limit: int,
    on_progress: Callable[[float], None],
) -> _Written:
    """Let the batch answer in at most `limit` tokens. Rows that have ended leave it, so the others go on faster."""
    ids, mask = (tensor.to(pair.model.device) for tensor in batch.tokens(pair.tokenizer.pad_token_id))
    cache = batch.cache() if pair.plain_cache else None
    going = ShrinkingBatch(ids, mask, limit, end_tokens(pair.model), cache)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    end_thoughts = EndThoughts(pair.tokenizer, going.columns)
    banned = [_WithoutAtFirst(pair.tokenizer, going.columns, pair.refusal_starts)] if bans_refusals else []
    written = _Written(going.written, [[] for _ in batch.adapted])
    while rows := going.rows:
        base_count = sum(not batch.adapted[row] for row in rows)
        costs = _Costs(base_count, functools.partial(on_progress, len(rows) / limit))
        with pair.base_rows(base_count):
            out = pair.model.generate(
                **going.arguments(),
                pad_token_id=pair.tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([costs, end_thoughts, *banned]),  # costs are those of free choice
                **sampling,
            )
        for row, cost in zip(rows, costs.per_row(out), strict=False):  # the base model's rows come first
            written.costs[row] += cost
        if cache is not None and written.first is None:
            written.first, written.prompt_cache = costs.first, _part_of(cache, base_count, going.columns)
        end_thoughts.keep(going.shrink(out))
        on_progress((len(rows) - len(going.rows)) * (1 - (out.shape[1] - going.columns) / limit))
    return written


def _part_of(cache: DynamicCache, rows: int, columns: int) -> DynamicCache:
    """A copy of the cache's first `rows` rows and `columns` columns."""
    part = DynamicCache()
    for number, layer in enumerate(cache.layers):
        part.update(layer.keys[:rows, :, :columns].clone(), layer.values[:rows, :, :columns].clone(), number)
    return part


def _answers(
    pair: ModelPair,
    batch: _Batch,
    temperature: float,
    bans_refusals: bool,
    max_new_tokens: int,
    on_progress: Callable[[float], None],
) -> list[Answer]:
    limit = max_new_tokens + thought_tokens(pair.tokenizer)
    written = _write(pair, batch, temperature, bans_refusals, limit, on_progress)
    end = {pair.tokenizer.pad_token_id, pair.tokenizer.eos_token_id, *end_tokens(pair.model)}
    for answer in written.ids:
        while answer and answer[-1] in end:
            answer.pop()
    split = [
        split_answer(pair.tokenizer, prompt, answer, max_new_tokens)
        for prompt, answer in zip(batch.prompts, written.ids, strict=True)
    ]
    thoughts, answers = map(list, zip(*split, strict=True))
    nats: list[float | None] = [None] * len(answers)
    for row in range(batch.adapted.count(False)):
        if length := len(answers[row]):
            start = len(thoughts[row])
            nats[row] = sum(written.costs[row][start : start + length]) / length
    if written.prompt_cache is not None:
        for row, value in _short_circuited_nats(pair, batch, written, thoughts, answers):
            nats[row] = value
    texts = pair.tokenizer.batch_decode(answers, skip_special_tokens=True)
    return [Answer(*parts) for parts in zip(answers, texts, nats, thoughts, strict=True)]


def _short_circuited_nats(
    pair: ModelPair,
    batch: _Batch,
    written: _Written,
    thoughts: list[list[int]],
    answers: list[list[int]],
) -> Iterator[tuple[int, float]]:
    """Yield (row, nats per token under the base model) of the short-circuited model's answers.

    Only for prompts that the base model answered in the same batch, as `written` holds its keys and values for them.
    """
    _, mask = batch.tokens(pair.tokenizer.pad_token_id)
    mask = mask.to(pair.model.device)
    base_count, prompt_columns = batch.adapted.count(False), mask.shape[1]
    base_row_of = {tuple(prompt): row for row, prompt in enumerate(batch.prompts[:base_count])}
    rows = [r for r in range(base_count, len(answers)) if answers[r] and tuple(batch.prompts[r]) in base_row_of]
    for positions in batches_by_length([len(thoughts[row] + answers[row]) for row in rows], READ_TOKENS):
        chosen = [rows[position] for position in positions]
        base_rows = torch.tensor([base_row_of[tuple(batch.prompts[row])] for row in chosen], device=mask.device)
        ids = pair.padded([thoughts[row] + answers[row] for row in chosen])
        prompt_cache = DynamicCache()
        for number, layer in enumerate(written.prompt_cache.layers):
            prompt_cache.update(layer.keys[base_rows], layer.values[base_rows], number)
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
            logits = torch.cat(
                [written.first[base_rows[position], None].float(), pair.logits(hidden[position, : end - 1])]
            )
            yield row, F.cross_entropy(logits[start:], ids[position, start:end]).item()
