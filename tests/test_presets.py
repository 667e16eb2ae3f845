"""Every preset is valid, says what it is for, and fits the card that it names."""

from __future__ import annotations

import re

import pytest
from transformers import AutoConfig

from cbgui.config import load_config, preset_names
from cbgui.hardware import GIB
from cbgui.training.memory import estimate_memory
from cbgui.ui.panels import settings

# The shapes of the presets' models, as their config.json on the hub gives them: layers, hidden, intermediate, heads,
# key-value heads, vocabulary.
SHAPES = {
    "HuggingFaceTB/SmolLM3-3B": ("smollm3", 36, 2048, 11008, 16, 4, 128256),
    "Qwen/Qwen2.5-7B-Instruct": ("qwen2", 28, 3584, 18944, 28, 4, 152064),
    "Qwen/Qwen3-8B": ("qwen3", 36, 4096, 12288, 32, 8, 151936),
    "microsoft/phi-4": ("phi3", 40, 5120, 17920, 40, 10, 100352),
    "mistralai/Mistral-Small-24B-Instruct-2501": ("mistral", 40, 5120, 32768, 32, 8, 131072),
}
CARDS = [name for name in preset_names() if name.startswith("gpu-")]


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_loads_and_survives_the_form(name):
    config = load_config(name)
    assert config.description
    assert settings.apply(config, settings.values_of(config)) == config


def test_there_is_a_preset_for_each_usual_card():
    assert {int(re.search(r"\d+", name)[0]) for name in CARDS} == {6, 8, 12, 16, 24}


@pytest.mark.parametrize("name", CARDS)
def test_the_preset_fits_its_card(name):
    config = load_config(name)
    family, layers, hidden, intermediate, heads, key_value_heads, vocabulary = SHAPES[config.model.name]
    model = AutoConfig.for_model(
        family,
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        vocab_size=vocabulary,
        pad_token_id=0,
    )
    card = int(re.search(r"\d+", name)[0]) * 10**9
    result = estimate_memory(model, config, int(card * 0.95), "cuda")
    assert result.total / GIB < card / GIB
