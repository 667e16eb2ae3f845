"""A few answers of both models in the middle of training, whose trunk has no head: the whole model is loaded beside it,
where memory allows, and let go again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.data.batches import prompt_text
from cbgui.data.examples import Example
from cbgui.lora import adapt_rows
from cbgui.models import ModelSource, load_tokenizer, read_model_config, save_adapter
from cbgui.trunk import Trunk
from cbgui.whole import load_with_adapter, whole_bytes

ROOM = 1.3  # of the weights' size: weights, cache and what generation holds
NEW_TOKENS = 40


def room_for_samples(source: ModelSource, config: RunConfig) -> bool:
    """Whether the whole model fits beside what is in memory now, in the form that is trained."""
    return ROOM * whole_bytes(read_model_config(source), config.model) < hardware.free_memory()


@torch.inference_mode()
def sample_answers(trunk: Trunk, source: ModelSource, config: RunConfig, examples: list[Example]) -> list[dict]:
    """Both answers to each example's request: {"prompt", "kind", "base", "short_circuited"}, greedy, NEW_TOKENS long.

    Leaves PyTorch's random state as it was.
    """
    tokenizer = load_tokenizer(source)
    tokenizer.padding_side = "left"
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        save_adapter(trunk, source, config.model.name, Path(scratch))
        model = load_with_adapter(source, config.model, Path(scratch))
        adapt_rows(model).first = len(examples)
        texts = [prompt_text(tokenizer, example.chat()) for example in examples] * 2
        special = tokenizer.chat_template is None
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=special).to(model.device)
        output = model.generate(
            **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
        )
    answers = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    del model
    hardware.free_cached_memory()
    return [
        {"prompt": example.prompt, "kind": example.kind, "base": base, "short_circuited": short}
        for example, base, short in zip(examples, answers[: len(examples)], answers[len(examples) :], strict=True)
    ]
