"""Every preset is valid, says what it is for, and fits the card that it names."""

from __future__ import annotations

import re

import pytest
from transformers import AutoConfig

from cbgui.config import load_config, preset_names
from cbgui.hardware import GIB
from cbgui.training.memory import estimate_memory
from cbgui.ui.panels import settings as form


def shape(layers: int, hidden: int, intermediate: int, heads: int, key_value_heads: int, vocabulary: int) -> dict:
    return {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
    }


# The shapes of the presets' models, as their config.json on the hub gives them; of vision forms, the text part's.
SHAPES = {
    "HuggingFaceTB/SmolLM3-3B": ("smollm3", shape(36, 2048, 11008, 16, 4, 128256)),
    "mistralai/Ministral-3-8B-Instruct-2512-BF16": (
        "mistral3",
        {"text_config": {"model_type": "ministral3", **shape(34, 4096, 14336, 32, 8, 131072)}},
    ),
    "Qwen/Qwen3.5-9B": (
        "qwen3_5",
        {"text_config": {"model_type": "qwen3_5_text", **shape(32, 4096, 12288, 16, 4, 248320)}},
    ),
    "google/gemma-3-12b-it": (
        "gemma3",
        {"text_config": {"model_type": "gemma3_text", "head_dim": 256, **shape(48, 3840, 15360, 16, 8, 262208)}},
    ),
    "meta-llama/Llama-3.1-8B-Instruct": ("llama", shape(32, 4096, 14336, 32, 8, 128256)),
    "openai/gpt-oss-20b": (
        "gpt_oss",
        {"head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4, **shape(24, 2880, 2880, 64, 8, 201088)},
    ),
    "mistralai/Mistral-Small-24B-Instruct-2501": ("mistral", shape(40, 5120, 32768, 32, 8, 131072)),
}
CARDS = [name for name in preset_names() if name.startswith("gpu-")]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_survives_the_form(name):
    config = load_config(name)
    assert config.description
    assert form.apply(config, form.values_of(config)) == config


def test_there_is_a_preset_for_each_usual_card():
    assert {int(re.search(r"\d+", name)[0]) for name in CARDS} == {6, 8, 12, 16, 24, 32}


@pytest.mark.parametrize("name", CARDS)
def test_the_preset_fits_its_card(name):
    config = load_config(name)
    family, settings = SHAPES[config.model.name]
    model = AutoConfig.for_model(family, **settings)
    card = int(re.search(r"\d+", name)[0]) * 10**9
    result = estimate_memory(model, config, int(card * 0.95), "cuda")
    assert result.total / GIB < card / GIB
