"""Generation in one thread, whose tokens arrive as they are generated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Queue
from typing import Any, TypeVar

import torch
from peft import PeftModel
from transformers import (
    BatchEncoding,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
)
from transformers.generation.streamers import BaseStreamer

from cbgui.modeling.decoder import text_decoder
from cbgui.modeling.full import end_tokens
from cbgui.modeling.shrinking import ShrinkingBatch, has_plain_cache

Result = TypeVar("Result")
# Everything is computed in this one thread. Each thread that PyTorch computes in has its own OpenMP pool, and with more
# pools than cores a token took 1.5 times as long (two cores).
_worker = ThreadPoolExecutor(1, "cbgui-model")


def in_model_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function` in the thread that computes; use it to load models and for everything but `stream_tokens`."""
    return _worker.submit(function, *arguments).result()


class _RowStreamer(BaseStreamer):
    """Hands on the token ids of each step, one for each row; transformers' own streamers allow only one row."""

    def __init__(self) -> None:
        self.queue: Queue[tuple[list[int], list[int]] | Exception | None] = Queue()  # rows, and the token of each
        self.rows: list[int] = []
        self.prompt_seen = False

    def begin(self, rows: list[int]) -> None:
        """Expect a call of `generate` with these rows."""
        self.rows, self.prompt_seen = rows, False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt_seen:
            self.queue.put((self.rows, value.tolist()))
        self.prompt_seen = True

    def end(self) -> None:
        """Called at the end of each `generate`, of which there may be several."""


@dataclass
class _Stop(StoppingCriteria):
    event: threading.Event = field(default_factory=threading.Event)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device, dtype=torch.bool)


def stream_tokens(
    model: PreTrainedModel | PeftModel,
    inputs: BatchEncoding,
    *,
    max_new_tokens: int,
    pad_token_id: int,
    temperature: float = 0.0,
    seed: int = 0,
    processors: Sequence[LogitsProcessor] = (),
    prepare: Callable[[], None] = lambda: None,
    on_shrink: Callable[[list[int]], None] | None = None,
) -> Iterator[list[list[int]]]:
    """Yield the new token ids of all rows after each step. Closing the iterator stops generation.

    `inputs` is padded on the left. Temperature 0 decodes greedily. `prepare` is called in the computing thread just
    before generation, for state that other calls change too. With `on_shrink`, rows that have ended leave the batch and
    get no more tokens; it is called with the positions of those that go on. Errors of the model are raised here.
    """
    inputs = inputs.to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    streamer, stop = _RowStreamer(), _Stop()

    def generate() -> None:
        try:
            cache = DynamicCache() if on_shrink and has_plain_cache(text_decoder(model)) else None
            batch = ShrinkingBatch(
                inputs["input_ids"], inputs["attention_mask"], max_new_tokens, end_tokens(model), cache
            )
            torch.manual_seed(seed)
            prepare()
            with torch.inference_mode():
                while batch.rows and not stop.event.is_set():
                    streamer.begin(batch.rows)
                    out = model.generate(
                        **batch.arguments([stop]),
                        **sampling,
                        pad_token_id=pad_token_id,
                        streamer=streamer,
                        logits_processor=LogitsProcessorList(processors),
                    )
                    going = batch.shrink(out)
                    if on_shrink:
                        on_shrink(going)
            streamer.queue.put(None)
        except Exception as error:  # passed on to the consumer, which would otherwise wait for ever
            streamer.queue.put(error)

    running = _worker.submit(generate)
    rows: list[list[int]] = [[] for _ in inputs["input_ids"]]
    try:
        while (item := streamer.queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            for row, token in zip(*item, strict=True):
                rows[row].append(token)
            yield rows
    finally:
        stop.event.set()
        running.result()
