"""Answers: both models' from one set of weights, streamed (row 0 the base model, row 1 with the adapter, in one batch);
the cosine of their hidden states at each token; answers to a list of requests, written by one model."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

import numpy as np
import torch
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from cbgui.config import InputError, ModelConfig
from cbgui.data.batches import neighbours, prompt_text
from cbgui.lora import AdaptedRows, adapt_rows
from cbgui.models import checkpoint_adapter, load_tokenizer, resolve_model, target_layers
from cbgui.runs import Run
from cbgui.whole import answer_tokens, load_full_model, load_with_adapter

Messages = list[dict[str, str]]
Result = TypeVar("Result")
# All that computes runs in this one thread: each thread that PyTorch computes in has its own OpenMP pool, and with
# more pools than cores a token took half as long again (two cores, measured).
_worker = ThreadPoolExecutor(1, "cbgui-model")


def in_model_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function` in the thread that `stream` and `cosines` compute in; load a chat's model through this."""
    return _worker.submit(function, *arguments).result()


@dataclass
class Pair:
    """Both answers so far."""

    base: str
    short_circuited: str


class _RowStreamer(BaseStreamer):
    """Hands on each step's token ids, one a row (transformers' own streamers take one row only)."""

    def __init__(self) -> None:
        self.queue: Queue[list[int] | Exception | None] = Queue()
        self.prompt_seen = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.queue.put(value.tolist())
        self.prompt_seen = True

    def end(self) -> None:
        self.queue.put(None)


@dataclass
class _Stop(StoppingCriteria):
    event: threading.Event = field(default_factory=threading.Event)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


def _stream(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[list[list[int]]]:
    """Yield the new token ids of all rows, again at each step. Closing the iterator stops generation."""
    tokenizer.padding_side = "left"
    special = tokenizer.chat_template is None
    inputs = tokenizer(texts, return_tensors="pt", add_special_tokens=special, padding=True).to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    streamer, stop = _RowStreamer(), _Stop()

    def generate() -> None:
        try:
            torch.manual_seed(seed)
            with torch.inference_mode():
                model.generate(
                    **inputs,
                    **sampling,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=tokenizer.pad_token_id,
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([stop]),
                )
        except Exception as error:  # handed to the consumer, which would wait for ever otherwise
            streamer.queue.put(error)

    running = _worker.submit(generate)
    rows: list[list[int]] = [[] for _ in texts]
    try:
        while (item := streamer.queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            for row, token in zip(rows, item, strict=True):
                row.append(token)
            yield rows
    finally:
        stop.event.set()
        running.result()


@dataclass
class ChatModel:
    """One run's model in memory."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    target_layers: list[int]
    adapted_rows: AdaptedRows

    def stream(
        self,
        messages: Messages,
        other: Messages | None = None,
        *,
        prefill: str = "",
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Iterator[Pair]:
        """Yield both answers as they grow; `prefill` begins each of them. Closing the iterator stops generation.

        `other` is the short-circuited model's own history, where it differs from the base model's `messages`.
        """
        histories = (messages, messages if other is None else other)
        texts = [prompt_text(self.tokenizer, history) + prefill for history in histories]
        self.adapted_rows.first = 1  # the second row
        for rows in _stream(
            self.model,
            self.tokenizer,
            texts,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
        ):
            yield Pair(*(prefill + self.tokenizer.decode(row, skip_special_tokens=True) for row in rows))

    def cosines(self, messages: Messages, answer: str) -> list[tuple[str, float]]:
        """Each token of `answer`, and the cosine between the two models' hidden states there (mean over the target
        layers): 1 where the breaker leaves the model alone, near 0 where it has turned it away."""
        return in_model_thread(self._cosines, messages, answer)

    @torch.inference_mode()
    def _cosines(self, messages: Messages, answer: str) -> list[tuple[str, float]]:
        special = self.tokenizer.chat_template is None
        prompt = self.tokenizer(prompt_text(self.tokenizer, messages), add_special_tokens=special).input_ids
        ids = self.tokenizer(answer, add_special_tokens=False).input_ids
        if not ids:
            return []
        inputs = torch.tensor([prompt + ids], device=self.model.device)
        states = []
        self.adapted_rows.first = 0
        for adapted in (False, True):
            if adapted:
                hidden = self._hidden(inputs)
            else:
                with self.model.disable_adapter():
                    hidden = self._hidden(inputs)
            states.append([hidden[layer][0, len(prompt) :].float() for layer in self.target_layers])
        per_layer = [torch.cosine_similarity(a, b, dim=-1) for a, b in zip(*states, strict=True)]
        cosine = torch.stack(per_layer).mean(0).tolist()
        return list(zip(_pieces(self.tokenizer, ids), cosine, strict=True))

    def _hidden(self, input_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        body = self.model.get_base_model().base_model  # without the head
        return body(input_ids=input_ids, output_hidden_states=True, use_cache=False).hidden_states


def _pieces(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token, such that they join to the whole (a letter of several tokens stands with its last)."""
    pieces, done = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        if text.endswith("\ufffd") and end < len(ids):
            text = done
        pieces.append(text[len(done) :])
        done = text
    return pieces


def checkpoints(run: Run) -> dict[str, Path]:
    """What can be talked to: "final" and the checkpoints on disk, by name."""
    found = {"final": run.adapter} if (run.adapter / "adapter_model.safetensors").is_file() else {}
    steps = sorted(int(path.parent.name.split("-")[1]) for path in run.path.glob("checkpoints/checkpoint-*/complete"))
    return found | {f"step {step}": run.path / "checkpoints" / f"checkpoint-{step}" for step in steps}


def load_chat_model(run: Run, checkpoint: str = "final") -> ChatModel:
    """Raises InputError when the model or the checkpoint cannot be found."""
    config, known = run.config(), checkpoints(run)
    if checkpoint not in known:
        raise InputError(f"checkpoint {checkpoint!r} of run {run.name!r} does not exist; choose one of the list.")
    source = resolve_model(config.model.name)
    with tempfile.TemporaryDirectory() as scratch:
        adapter = known[checkpoint]
        if checkpoint != "final":
            adapter = Path(scratch)
            checkpoint_adapter(known[checkpoint], source, config.model.name, adapter)
        model = load_with_adapter(source, config.model, adapter)
    layers = target_layers(config.objective, model.config.num_hidden_layers)
    return ChatModel(model, load_tokenizer(source), layers, adapt_rows(model))


def write_answers(
    config: ModelConfig, requests: Sequence[Messages], *, prefill: str = "", max_new_tokens: int = 200
) -> Iterator[tuple[float, dict[int, str]]]:
    """The base model's answers, short requests first: at each token, how much of the work is done (0 to 1), and by
    their request's number the answers that have come to their end with it.

    `prefill` begins every answer and is part of it. Closing the iterator stops. Raises InputError when the model cannot
    be found or does not fit.
    """
    source = resolve_model(config.name)
    model, tokenizer = in_model_thread(load_full_model, source, config), load_tokenizer(source)
    texts = [prompt_text(tokenizer, messages) + prefill for messages in requests]
    ends = set(np.atleast_1d(model.generation_config.eos_token_id).tolist())
    lengths = [len(ids) + max_new_tokens for ids in tokenizer(texts, add_special_tokens=False).input_ids]

    def said(row: list[int]) -> str:
        return (prefill + tokenizer.decode(row, skip_special_tokens=True)).strip()

    before = 0
    for chosen in neighbours(lengths, answer_tokens(model)):
        left = dict(enumerate(chosen))  # row of the batch -> number of the request
        rows: list[list[int]] = []
        stream = _stream(model, tokenizer, [texts[number] for number in chosen], max_new_tokens=max_new_tokens)
        for step, rows in enumerate(stream, 1):
            ended = [place for place in left if rows[place][-1] in ends]
            share = (before + len(chosen) * step / max_new_tokens) / len(texts)
            yield share, {left.pop(place): said(rows[place]) for place in ended}
        before += len(chosen)
        yield before / len(texts), {number: said(rows[place]) for place, number in left.items()}
