"""What the merged folder holds for transformers 4, and that it loads there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from cbgui.export import older_readers
from cbgui.export.merge import export_run
from cbgui.export.older_readers import suit_older_readers
from cbgui.modeling.chat_format import load_tokenizer, prompt_ids
from cbgui.modeling.hub import ModelSource

# Beside what is installed here; huggingface_hub and tokenizers are of the versions that it asks for.
OLDER = ["transformers>=4.57,<4.58", "huggingface_hub>=0.34,<1", "tokenizers>=0.22,<0.23"]
QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]
LOAD = """
import json, sys, torch, transformers
assert transformers.__version__.startswith("4.57."), transformers.__version__
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template(json.loads(sys.argv[2]), add_generation_prompt=True)
with torch.no_grad():
    logits = model.float()(input_ids=torch.tensor([ids])).logits[0, -1]
stored = transformers.AutoConfig.from_pretrained(sys.argv[1]).torch_dtype
print(json.dumps([ids, logits.tolist(), str(stored)]))
"""


def written(folder: Path, config: dict, tokenizer: dict) -> tuple[dict, dict]:
    """Both files after they were completed."""
    files = folder / "config.json", folder / "tokenizer_config.json"
    for path, settings in zip(files, (config, tokenizer), strict=True):
        path.write_text(json.dumps(settings), "utf-8")
    suit_older_readers(folder)
    return tuple(json.loads(path.read_text("utf-8")) for path in files)


def test_settings_stand_under_their_older_names_too(tmp_path):
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}", "utf-8")
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
    layers = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    config = {
        "dtype": "bfloat16",
        "rope_parameters": yarn,
        "text_config": {"rope_parameters": layers},
        "model_type": "none",
    }
    tokens = {"tokenizer_class": "TokenizersBackend", "extra_special_tokens": ["<a>"]}
    config, tokens = written(tmp_path, config, tokens)
    assert config["torch_dtype"] == config["dtype"] == "bfloat16"
    assert config["rope_theta"] == 1e6 and config["rope_scaling"] == {"rope_type": "yarn", "factor": 4.0}
    assert config["rope_parameters"] == yarn
    text = config["text_config"]
    assert text["rope_theta"] == 1e6 and text["rope_local_base_freq"] == 1e4 and "rope_scaling" not in text
    assert tokens["tokenizer_class"] == "PreTrainedTokenizerFast" and tokens["chat_template"] == "{{ messages }}"
    assert tokens["additional_special_tokens"] == ["<a>"] and "extra_special_tokens" not in tokens


def test_what_is_there_already_stays(tmp_path):
    config = {"torch_dtype": "float16", "rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}, "dtype": "bfloat16"}
    tokens = {"tokenizer_class": "Qwen2Tokenizer", "chat_template": "own"}
    before = json.dumps(config), json.dumps(tokens)
    written(tmp_path, config, tokens)
    assert ((tmp_path / "config.json").read_text("utf-8"), (tmp_path / "tokenizer_config.json").read_text()) == before


@pytest.mark.parametrize("family", ["gemma3_text", "gemma4", "phi3", "gpt_neox"])
def test_transformers_5_reads_the_same_settings(family, tmp_path):
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    before = AutoConfig.from_pretrained(tmp_path).to_dict()
    suit_older_readers(tmp_path)
    after = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert before == {name: after[name] for name in before}


def test_settings_that_would_be_read_otherwise_are_left_alone(tmp_path, monkeypatch):
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    before = (tmp_path / "config.json").read_text("utf-8")
    monkeypatch.setattr(older_readers, "_complete_config", lambda config: config.update(num_hidden_layers=7))
    suit_older_readers(tmp_path)
    assert (tmp_path / "config.json").read_text("utf-8") == before


def test_transformers_5_reads_the_same_tokenizer(demo, tmp_path):
    for path in demo.path.glob("*.j*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    suit_older_readers(tmp_path)
    before, after = load_tokenizer(demo), load_tokenizer(ModelSource(tmp_path, "demo"))
    assert prompt_ids(before, QUESTION) == prompt_ids(after, QUESTION)
    assert before.special_tokens_map == after.special_tokens_map and before.special_texts == after.special_texts


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables of a process in which transformers is 4.57."""
    packages = tmp_path_factory.mktemp("older") / "packages"
    options = ["-q", "--no-deps", "--only-binary", ":all:", "--no-compile", "--target", str(packages)]
    done = subprocess.run([sys.executable, "-m", "pip", "install", *options, *OLDER], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("PyPI does not answer, so transformers 4.57 could not be fetched.")
    return os.environ | {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_the_merged_demo_gives_the_same_logits_in_transformers_4_57(trained, older, tmp_path):
    export_run(trained, tmp_path / "merged")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "merged"), json.dumps(QUESTION)]
    done = subprocess.run(command, env=older, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    ids, logits, dtype = json.loads(done.stdout)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert ids == tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert dtype == str(model.dtype)
    with torch.no_grad():
        expected = model.float()(input_ids=torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(torch.tensor(logits), expected, atol=1e-3, rtol=1e-4)
