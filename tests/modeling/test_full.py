"""The full model is held in a form that fits, and its size is known before it is loaded."""

from __future__ import annotations

import re
import shutil

import pytest
import torch
from random_models import TINY
from transformers import AutoConfig, AutoModelForCausalLM

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.evaluation.evaluate import evaluate_run
from cbgui.hardware import CONTEXT
from cbgui.inference.batch_answers import write_answers
from cbgui.inference.chat import load_chat_model
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.full import (
    best_form,
    form_in_words,
    forms,
    full_model_bytes,
    full_model_in_words,
    load_full_model,
    load_with_adapter,
)
from cbgui.modeling.loading import load_options
from cbgui.runs.folder import open_run

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_size_is_known_before_loading(quantization, demo):
    config = ModelConfig(quantization=quantization, dtype="float32")
    model = AutoModelForCausalLM.from_pretrained(
        demo.path, **load_options(config, AutoConfig.from_pretrained(demo.path))
    )
    # The footprint counts parameters only, and bitsandbytes' scales (1.6% of 4-bit weights) are not parameters.
    measured = model.get_memory_footprint(return_buffers=False)
    margin = 1.001 if quantization == "none" else 1.03
    assert 1 <= full_model_bytes(read_model_config(demo), config) / measured < margin


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_tied_embeddings_count_once_and_separate_heads_too(family):
    config = AutoConfig.for_model(family, **TINY)
    model = AutoModelForCausalLM.from_config(config)
    assert full_model_bytes(config, ModelConfig(dtype="float32")) == model.get_memory_footprint(return_buffers=False)


def test_chat_falls_back_to_4_bits_where_memory_is_short(trained, demo, monkeypatch):
    """The truncated model may fit where the full model does not."""
    config, form = trained.config().model, read_model_config(demo)
    assert config.quantization == "none"
    assert form_in_words(load_chat_model(trained).model) == "unquantized"
    monkeypatch.setattr(hardware, "free_memory", lambda: full_model_bytes(form, config) // 2)
    chat = load_chat_model(trained)
    assert chat.model.is_loaded_in_4bit and form_in_words(chat.model) == "in 4 bits"
    *_, pair = chat.stream(HELLO, max_new_tokens=4)
    assert pair.base and pair.short_circuited
    assert "in 4 bits" in full_model_in_words(form, config, hardware.free_memory(), "cpu")
    assert [answers for _, answers in write_answers(ModelConfig(), [HELLO], max_new_tokens=2)][-1][0]


def test_a_model_that_fits_in_no_form_is_refused(trained, cli, demo, monkeypatch):
    monkeypatch.setattr(hardware, "free_memory", lambda: 10 * 2**20)
    done = cli("generate", trained.path, "--prompt", "Hello")
    assert done.returncode == 2 and re.search(r"answers need the full model, 0\.\d GiB in 4 bits", done.stderr)
    assert "Traceback" not in done.stderr
    assert "will not fit" in full_model_in_words(read_model_config(demo), ModelConfig(), 10 * 2**20, "cpu")


def test_a_gpu_that_is_too_small_leaves_the_model_in_ordinary_memory(trained, demo, monkeypatch):
    form = best_form(read_model_config(demo), ModelConfig(), 10 * 2**20, "cuda")
    assert form.in_ram and form.config.quantization == "nf4" and form.config.dtype in ("float32", "bfloat16")
    monkeypatch.setattr(hardware, "memory_kind", lambda: "cuda")
    monkeypatch.setattr(hardware, "free_memory", lambda: 10 * 2**20)
    monkeypatch.setattr("peft.peft_model.infer_device", lambda: "cuda")  # as PEFT does wherever there is a GPU
    model = load_with_adapter(demo, ModelConfig(), trained.adapter_folder)
    assert model.device.type == "cpu" and form_in_words(model) == "in 4 bits in RAM, which is slow"
    monkeypatch.setattr(hardware, "free_ram", lambda: 10 * 2**20)
    with pytest.raises(InputError, match="more than the free memory"):
        load_full_model(demo, ModelConfig())


def test_cudas_own_memory_counts_until_it_is_taken(demo, monkeypatch):
    sizes = []
    for reserved in (0, 2**20):
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda reserved=reserved: reserved)
        sizes.append(next(forms(read_model_config(demo), ModelConfig(dtype="bfloat16"), "cuda")).bytes)
    assert sizes[0] - sizes[1] == CONTEXT["cuda"]


def test_a_report_in_4_bits_does_not_reuse_full_precision_answers(trained, tmp_path, demo, monkeypatch):
    shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    run, ask = open_run(tmp_path / "run"), {"attacks": ["direct"], "limit": 1, "max_new_tokens": 4}
    answers = run.answers_file
    assert evaluate_run(run, **ask)["weights"] == "unquantized"
    once = len(answers.read_text("utf-8").splitlines())
    evaluate_run(run, **ask)
    assert len(answers.read_text("utf-8").splitlines()) == once  # nothing is asked again
    monkeypatch.setattr(
        hardware, "free_memory", lambda: full_model_bytes(read_model_config(demo), run.config().model) // 2
    )
    assert evaluate_run(run, **ask)["weights"] == "in 4 bits"
    assert len(answers.read_text("utf-8").splitlines()) == 2 * once


def test_an_adapter_whose_settings_are_no_adapters_is_named(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    run = open_run(tmp_path / "run")
    (run.adapter_folder / "adapter_config.json").write_text('{"r": 16, "lora_alpha": 16}', "utf-8")
    with pytest.raises(InputError, match="adapter .* cannot be read .* train again"):
        load_chat_model(run)
