"""Tokenizers that do not fit their model in every way: trained and talked to rightly, or refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from cbgui.config import override
from cbgui.errors import InputError
from cbgui.inference.chat import load_chat_model
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.runs.folder import create_run
from cbgui.training.session import train

FILES = ("tokenizer_config.json", "special_tokens_map.json")


def model_with(folder: Path, tokenizer: PreTrainedTokenizerBase, vocabulary: int, without: tuple[str, ...] = ()) -> str:
    """A tiny model of that many tokens; `without` are special tokens that its tokenizer does not name."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = AutoConfig.for_model("llama", vocab_size=vocabulary, num_key_value_heads=1, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in (folder / name for name in FILES):
        if path.is_file():
            named = {key: value for key, value in json.loads(path.read_text("utf-8")).items() if key not in without}
            path.write_text(json.dumps(named), "utf-8")
    return str(folder)


@pytest.mark.parametrize("case", ["no padding token", "no end token", "padding beyond the embedding", "more tokens"])
def test_it_is_trained_and_talked_to(case, demo, short_config, tmp_path):
    tokenizer, without, extra = load_tokenizer(demo), (), 0
    if case == "no padding token":
        without = ("pad_token",)
    elif case == "no end token":
        without = ("eos_token",)
    elif case == "padding beyond the embedding":
        tokenizer.add_special_tokens({"pad_token": "<|never trained|>"})
        extra = -1
    else:
        extra = 64
    name = model_with(tmp_path / "model", tokenizer, len(tokenizer) + extra, without)
    config = override(short_config, [f"model.name={name}", "training.steps=2", "data.general_keep=0"])
    run = create_run(tmp_path / "run", config)
    train(run)
    assert run.state() == "done"
    chat = load_chat_model(run)
    assert chat.tokenizer.pad_token_id < len(tokenizer) + extra
    messages = [{"role": "user", "content": "Why?"}]
    longer = [*messages, {"role": "assistant", "content": "So."}, *messages]
    *_, answer = chat.stream(messages, longer, max_new_tokens=3)  # of two lengths, so one of them is padded
    assert answer.base is not None


def test_what_does_not_belong_together_is_refused(demo, short_config, tmp_path):
    tokenizer = load_tokenizer(demo)
    name = model_with(tmp_path / "neither", tokenizer, len(tokenizer), ("pad_token", "eos_token"))
    run = create_run(tmp_path / "run", override(short_config, [f"model.name={name}"]))
    with pytest.raises(InputError, match="neither an end token nor a padding token; set eos_token in its"):
        train(run)
    name = model_with(tmp_path / "smaller", tokenizer, 2000)
    run = create_run(tmp_path / "other", override(short_config, [f"model.name={name}"]))
    with pytest.raises(InputError, match="but the model knows 2,000 tokens; the two do not belong together"):
        train(run)


def test_a_model_without_a_template_is_named_and_a_prompt_that_it_cannot_read_refused(demo, short_config, tmp_path):
    """Cases no_template and long_prompt."""
    tokenizer = load_tokenizer(demo)
    tokenizer.chat_template = None
    name = model_with(tmp_path / "model", tokenizer, len(tokenizer))
    settings = json.loads((tmp_path / "model" / "config.json").read_text("utf-8")) | {"max_position_embeddings": 64}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings), "utf-8")
    config = override(short_config, [f"model.name={name}", "training.steps=1", "data.general_keep=0"])
    run = create_run(tmp_path / "run", config)
    train(run)
    said = [event["text"] for event in run.events()[0] if event["kind"] == "status" and "text" in event]
    assert "model has no chat template; its questions are plain lines of text" in said
    chat = load_chat_model(run)
    with pytest.raises(InputError, match=r"the conversation has 1\d\d tokens, and the model reads at most 64"):
        next(chat.stream([{"role": "user", "content": "moss " * 99}], max_new_tokens=1))
