"""Shared parts: the real demo model, short runs of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cbgui.config import RunConfig, load_config, override
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import ModelSource, resolve_model
from cbgui.runs.folder import create_run
from cbgui.runs.run import Run

SHORT = ["training.steps=4", "training.break_batch_size=2", "training.retain_batch_size=2", "data.max_tokens=64"]
SHORT += ["objective.reroute=spread", "data.general_keep=0", "lora.first_layer=0"]
SHORT += ["training.sample_every=0", "training.checkpoint_every=2"]  # validation only at the end


@pytest.fixture(scope="session")
def demo() -> ModelSource:
    return resolve_model("demo")


@pytest.fixture
def short_config() -> RunConfig:
    return override(load_config("demo"), SHORT)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory, demo: ModelSource) -> Path:
    """Random weights with the demo's tokenizer, for what holds whatever a model knows. LoRA's parts are just large
    enough for bitsandbytes to keep their optimizer states in 8 bits."""
    folder = tmp_path_factory.mktemp("small") / "model"
    tokenizer = load_tokenizer(demo)
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), num_key_value_heads=2, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def small_config(short_config: RunConfig, small_model: Path) -> RunConfig:
    """A short run of the small model."""
    return override(short_config, [f"model.name={small_model}"])


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of a few steps on the demo model."""
    from cbgui.training.session import train

    config = override(load_config("demo"), [*SHORT, "training.validate_every=2"])
    run = create_run(Path(tmp_path_factory.mktemp("runs")) / "trained", config)
    train(run)
    return run


@pytest.fixture(scope="session")
def blocking(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose breaker blocks whatever is asked: a large adapter, hardly trained."""
    from cbgui.training.session import train

    settings = ["training.steps=1", "training.break_batch_size=1", "training.retain_batch_size=1", "data.max_tokens=32"]
    settings += ["objective.reroute=spread", "training.sample_every=0", "data.general_keep=0"]
    settings += ["lora.init_std=0.5", "lora.first_layer=0", "training.learning_rate=1e-6"]
    settings += ["model.dtype=float32"]  # exact on every processor
    run = create_run(Path(tmp_path_factory.mktemp("runs")) / "broken", override(load_config("demo"), settings))
    train(run)
    return run


@pytest.fixture
def cli(monkeypatch, capsys) -> Callable[..., subprocess.CompletedProcess]:
    """The command line in this process: importing torch again takes seconds."""
    from cbgui.cli import main

    def call(*arguments: object) -> subprocess.CompletedProcess:
        monkeypatch.setattr(sys, "argv", ["cbgui", *map(str, arguments)])
        code = main()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(sys.argv, code, printed.out, printed.err)

    return call
