"""Answers: both models' from one set of weights, streamed (row 0 the base model, row 1 with the adapter, in one batch);
the cosine of their hidden states at each token; answers to a list of requests, written by one model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import (
    PreTrainedTokenizerBase,
)

from cbgui.errors import InputError
from cbgui.inference.streaming import Messages, _stream, in_model_thread
from cbgui.modeling.adapter_io import checkpoint_adapter
from cbgui.modeling.architecture import target_layers
from cbgui.modeling.chat_format import load_tokenizer, prompt_text
from cbgui.modeling.full import load_with_adapter
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.lora import AdaptedRows, adapt_rows
from cbgui.runs.run import Run


@dataclass
class Pair:
    """Both answers so far."""

    base: str
    short_circuited: str


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
    found = {"final": run.adapter_folder} if run.adapter_file.is_file() else {}
    return found | {f"step {step}": path for step, path in run.complete_checkpoints().items()}


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
