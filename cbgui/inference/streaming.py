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
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

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
) -> Iterator[list[list[int]]]:
    """Yield the new token ids of all rows after each step. Closing the iterator stops generation.

    `inputs` is padded on the left. Temperature 0 decodes greedily. `prepare` is called in the computing thread just
    before generation, for state that other calls change too. Errors of the model are raised here.
    """
    inputs = inputs.to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    streamer, stop = _RowStreamer(), _Stop()

    def generate() -> None:
        try:
            torch.manual_seed(seed)
            prepare()
            with torch.inference_mode():
                model.generate(
                    **inputs,
                    **sampling,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=pad_token_id,
                    streamer=streamer,
                    logits_processor=LogitsProcessorList(processors),
                    stopping_criteria=StoppingCriteriaList([stop]),
                )
        except Exception as error:  # passed on to the consumer, which would otherwise wait for ever
            streamer.queue.put(error)

    running = _worker.submit(generate)
    rows: list[list[int]] = [[] for _ in inputs["input_ids"]]
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
