"""A few answers of both models while a run trains.

The truncated model has no head, so the full model is loaded in addition where memory allows, and freed afterwards.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import LogitsProcessorList

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.data.examples import Example
from cbgui.modeling.adapter_io import save_adapter
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.batch import batches_by_length
from cbgui.modeling.chat_format import load_tokenizer, prompt_ids, tokenize_prompts
from cbgui.modeling.decoder import reads_padding
from cbgui.modeling.full import full_model_bytes, load_with_adapter
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.lora import adapt_rows
from cbgui.modeling.thinking import EndThoughts, split_answer, thought_tokens
from cbgui.modeling.truncated import TruncatedModel

MEMORY_FACTOR = 1.3  # times the size of the weights: weights, cache and what generation needs
NEW_TOKENS = 40
THOUGHT = 200  # tokens of a thought before such an answer, so that training soon goes on


def preview(
    truncated: TruncatedModel, source: ModelSource, config: RunConfig, examples: list[Example]
) -> list[dict[str, str]] | None:
    """Greedy answers of NEW_TOKENS tokens to each example's prompt: {"prompt", "kind", "base", "short_circuited"}.

    None when the full model does not fit next to what is in memory now. Leaves PyTorch's random state as it was.
    """
    if MEMORY_FACTOR * full_model_bytes(read_model_config(source), config.model) > hardware.free_memory():
        return None
    base, short_circuited = _answers(truncated, source, config, examples)
    hardware.free_cached_memory()
    return [
        {"prompt": example.prompt, "kind": example.kind, "base": one, "short_circuited": other}
        for example, one, other in zip(examples, base, short_circuited, strict=True)
    ]


@torch.inference_mode()
def _answers(
    truncated: TruncatedModel, source: ModelSource, config: RunConfig, examples: list[Example]
) -> tuple[list[str], list[str]]:
    tokenizer = load_tokenizer(source, config.model)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        save_adapter(truncated, source, config.model.name, Path(scratch))
        model = load_with_adapter(source, config.model, Path(scratch))
        adapted_rows, chats = adapt_rows(model), [example.chat() for example in examples]
        lengths = [len(prompt_ids(tokenizer, chat)) for chat in chats]
        answers = [[""] * len(chats), [""] * len(chats)]
        for batch in batches_by_length(lengths, max(lengths) * len(chats), equal=reads_padding(model.config)):
            adapted_rows.first = len(batch)  # the first half of the rows is the base model's
            inputs = tokenize_prompts(tokenizer, [chats[index] for index in batch] * 2).to(model.device)
            asked = inputs["input_ids"]
            output = model.generate(
                **inputs,
                max_new_tokens=NEW_TOKENS + thought_tokens(tokenizer, THOUGHT),
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                logits_processor=LogitsProcessorList([EndThoughts(tokenizer, asked.shape[1], THOUGHT)]),
            )
            written = zip(asked.tolist(), output[:, asked.shape[1] :].tolist(), strict=True)
            own = [split_answer(tokenizer, prompt, ids, NEW_TOKENS)[1] for prompt, ids in written]
            texts = tokenizer.batch_decode(own, skip_special_tokens=True)
            for side, own_texts in zip(answers, (texts[: len(batch)], texts[len(batch) :]), strict=True):
                for index, text in zip(batch, own_texts, strict=True):
                    side[index] = text
    return answers[0], answers[1]
