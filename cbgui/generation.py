"""Two answers to one prompt from one set of weights: row 0 the base model, row 1 with the adapter, in one batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import Queue

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from cbgui.data.batches import prompt_text
from cbgui.models import load_tokenizer, load_with_adapter, resolve_model
from cbgui.runs import Run


@dataclass
class Pair:
    """Both answers so far."""

    base: str
    short_circuited: str


class _PairStreamer(BaseStreamer):
    """Hands on each step's two token ids (transformers' own streamers take one row only)."""

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


@dataclass
class ChatModel:
    """One run's model in memory."""

    model: PeftModel
    tokenizer: PreTrainedTokenizerBase

    def stream(
        self, messages: list[dict[str, str]], *, prefill: str = "", max_new_tokens: int = 128, temperature: float = 0.0
    ) -> Iterator[Pair]:
        """Yield both answers as they grow; `prefill` begins each of them. Closing the iterator stops generation."""
        text = prompt_text(self.tokenizer, messages) + prefill
        special = self.tokenizer.chat_template is None
        inputs = self.tokenizer([text, text], return_tensors="pt", add_special_tokens=special).to(self.model.device)
        sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
        streamer, stop = _PairStreamer(), _Stop()

        def generate() -> None:
            try:
                with torch.no_grad():
                    self.model.generate(
                        **inputs,
                        **sampling,
                        max_new_tokens=max_new_tokens,
                        pad_token_id=self.tokenizer.pad_token_id,
                        adapter_names=["__base__", "default"],  # PEFT's mixed-batch inference
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([stop]),
                    )
            except Exception as error:  # handed to the consumer, which would wait for ever otherwise
                streamer.queue.put(error)

        worker = threading.Thread(target=generate, daemon=True)
        worker.start()
        rows: tuple[list[int], list[int]] = ([], [])
        try:
            while (item := streamer.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                for row, token in zip(rows, item, strict=True):
                    row.append(token)
                answers = [prefill + self.tokenizer.decode(row, skip_special_tokens=True) for row in rows]
                yield Pair(*answers)
        finally:
            stop.event.set()
            worker.join()


def load_chat_model(run: Run) -> ChatModel:
    """Raises InputError when the model cannot be found."""
    config = run.config()
    source = resolve_model(config.model.name)
    return ChatModel(load_with_adapter(source, config.model, run.adapter), load_tokenizer(source))
