"""Every supported family as a tiny random model, the whole way: train, load the adapter, merge, reload."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from random_models import FAMILIES, SMALL
from tiny_models import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from cbgui.config import load_config, override
from cbgui.export import verify
from cbgui.export.merge import export_run
from cbgui.inference.chat import load_chat_model
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.runs.folder import create_run
from cbgui.runs.run import Run
from cbgui.training.session import train


def trained_run(tmp_path: Path, tokenizer: PreTrainedTokenizerBase, quantization: str) -> Run:
    """A run of three steps on the model in `tmp_path`."""
    tokenizer.save_pretrained(tmp_path / "model")
    for name in ("break", "retain"):
        rows = [{"prompt": f"{name} {i}", "response": f"an answer to {name} {i}, and more"} for i in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = override(
        load_config("demo"),
        [
            f"model.name={tmp_path / 'model'}",
            f"model.quantization={quantization}",
            f"data.break_file={tmp_path / 'break.jsonl'}",
            f"data.retain_file={tmp_path / 'retain.jsonl'}",
            "data.held_out_file=null",
            "objective.reroute=spread",
            "training.steps=3",
            "training.break_batch_size=2",
            "training.retain_batch_size=2",
            "lora.init_std=0.1",
        ],
    )
    run = create_run(tmp_path / "run", config)
    train(run)
    assert run.state() == "done"
    return run


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_train_merge_and_reload(family, quantization, demo, tmp_path, monkeypatch):
    torch.manual_seed(0)
    tokenizer = load_tokenizer(demo)
    settings = {**SMALL, "vocab_size": len(tokenizer)}
    settings["pad_token_id"] = tokenizer.pad_token_id
    for key in {"gpt_neox": ("num_key_value_heads", "head_dim"), "phi3": ("head_dim",)}.get(family, ()):
        settings.pop(key)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).save_pretrained(tmp_path / "model")
    run = trained_run(tmp_path, tokenizer, quantization)
    # Verified in both ways: in memory, and as a model larger than memory is.
    monkeypatch.setattr(verify, "_fits", lambda weights: quantization == "none")
    export_run(run, tmp_path / "merged")

    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    ids = torch.randint(1, 128, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        untouched = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, run.adapter_folder).eval()(input_ids=ids).logits
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(input_ids=ids).logits
    assert not torch.allclose(untouched, adapted, atol=1e-3)
    assert torch.allclose(merged, adapted, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_5", "qwen3_moe", "granitemoehybrid"])
def test_vision_forms_hybrids_and_mixtures_go_the_whole_way(model_type, demo, tmp_path):
    tokenizer = load_tokenizer(demo)
    base = tiny_model(model_type, len(tokenizer))
    base.save_pretrained(tmp_path / "model")
    run = trained_run(tmp_path, tokenizer, "none")
    export_run(run, tmp_path / "merged")
    ids = torch.randint(1, 90, (1, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        untouched = base(input_ids=ids, use_cache=False).logits
        adapted = PeftModel.from_pretrained(base, run.adapter_folder).eval()(input_ids=ids, use_cache=False).logits
        merged = type(base).from_pretrained(tmp_path / "merged").eval()(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(untouched, adapted, atol=1e-3)
    assert torch.allclose(merged, adapted, atol=1e-3, rtol=1e-3)
    chat = load_chat_model(run)
    *_, answers = chat.stream([{"role": "user", "content": "Why?"}], max_new_tokens=3)
    assert isinstance(answers.base, str) and chat.cosines([{"role": "user", "content": "Why?"}], "So it is.")
