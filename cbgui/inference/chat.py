"""Chat with both models at once: one set of weights, row 0 of the batch the base model, row 1 with the adapter."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from cbgui.errors import InputError
from cbgui.inference.streaming import in_model_thread, stream_tokens
from cbgui.modeling.adapter_io import checkpoint_adapter
from cbgui.modeling.architecture import target_layers
from cbgui.modeling.chat_format import Messages, example_ids, load_tokenizer, prompt_ids, tokenize_prompts
from cbgui.modeling.decoder import depth, reads_padding, text_config, text_decoder
from cbgui.modeling.full import load_with_adapter
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.lora import AdaptedRows, adapt_rows
from cbgui.modeling.states import layer_states
from cbgui.modeling.thinking import EndThoughts, readable, thought_tokens
from cbgui.runs.run import Run

FINAL = "final"  # the finished adapter, among a run's checkpoints


@dataclass
class Answers:
    """Both models' answers so far."""

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
    ) -> Iterator[Answers]:
        """Yield both answers as they grow; each begins with `prefill`. Closing the iterator stops generation.

        A thought stands between <think> and </think>, and is ended after THOUGHT_TOKENS tokens.

        `other` is the short-circuited model's history where it differs from the base model's `messages`.
        """
        histories = [messages, messages if other is None else other]
        lengths = {len(prompt_ids(self.tokenizer, history, prefill)) for history in histories}
        self._refuse_long(max(lengths))
        together = len(lengths) == 1 or not reads_padding(self.model.config)
        written = ["", ""]
        for first, part in [(0, histories)] if together else enumerate([one] for one in histories):
            inputs = tokenize_prompts(self.tokenizer, part, prefill)
            asked = inputs["input_ids"].tolist()
            for rows in stream_tokens(
                self.model,
                inputs,
                max_new_tokens=max_new_tokens + thought_tokens(self.tokenizer),
                pad_token_id=self.tokenizer.pad_token_id,
                temperature=temperature,
                seed=seed,
                processors=[EndThoughts(self.tokenizer, len(asked[0]))],
                prepare=functools.partial(setattr, self.adapted_rows, "first", 1 - first),
            ):
                pairs = zip(asked, rows, strict=True)
                texts = [prefill + readable(self.tokenizer, prompt, row) for prompt, row in pairs]
                written[first : first + len(texts)] = texts
                yield Answers(*written)

    def _refuse_long(self, tokens: int) -> None:
        most = getattr(text_config(self.model.config), "max_position_embeddings", None)
        if most and tokens > most:
            raise InputError(
                f"the conversation has {tokens:,} tokens, and the model reads at most {most:,}; shorten it or begin a "
                "new one."
            )

    def cosines(self, messages: Messages, answer: str) -> list[tuple[str, float]]:
        """Each token of `answer` with the cosine between both models' hidden states there, averaged over target layers.

        1 = unchanged, near 0 = derailed.
        """
        return in_model_thread(self._cosines, messages, answer)

    @torch.inference_mode()
    def _cosines(self, messages: Messages, answer: str) -> list[tuple[str, float]]:
        prompt, ids = example_ids(self.tokenizer, messages, answer)
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
        return list(zip(_token_texts(self.tokenizer, ids), cosine, strict=True))

    def _hidden(self, input_ids: torch.Tensor) -> dict[int, torch.Tensor]:
        """Target layer -> its hidden states, (1, tokens, width)."""
        body = text_decoder(self.model.get_base_model())  # without the head
        return layer_states(body, self.target_layers, lambda: body(input_ids=input_ids, use_cache=False), stop=True)[0]


def _token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[str]:
    """The text of each token; together they are the whole text.

    A character split over several tokens is shown with the last one.
    """
    texts, done = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        if text.endswith("\ufffd") and end < len(ids):
            text = done
        texts.append(text[len(done) :])
        done = text
    return texts


def adapters(run: Run) -> dict[str, Path]:
    """Adapters to chat with, by name: FINAL and the checkpoints on disk."""
    found = {FINAL: run.adapter_folder} if run.adapter_file.is_file() else {}
    return found | {f"step {step}": path for step, path in run.complete_checkpoints().items()}


def load_chat_model(run: Run, checkpoint: str = FINAL) -> ChatModel:
    """Load the run's model with the given checkpoint. Raises InputError if either cannot be found or does not fit."""
    config, known = run.config(), adapters(run)
    if checkpoint not in known:
        raise InputError(f"checkpoint {checkpoint!r} of run {run.name!r} does not exist; choose one from the list.")
    if checkpoint == FINAL:
        run.need_adapter()
    source = resolve_model(config.model.name, version=config.model.version)
    with tempfile.TemporaryDirectory() as scratch:
        adapter = known[checkpoint]
        if checkpoint != FINAL:
            adapter = Path(scratch)
            checkpoint_adapter(known[checkpoint], source, config.model.name, adapter)
        model = load_with_adapter(source, config.model, adapter)
    layers = target_layers(config.objective, depth(model.config))
    return ChatModel(model, load_tokenizer(source, config.model), layers, adapt_rows(model))
