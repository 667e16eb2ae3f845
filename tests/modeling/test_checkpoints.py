"""What lies in a model's folder: which files are its weights, and weights that are stored quantized."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from hub_stand_in import Hub
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model
from transformers import AutoConfig, AutoModelForCausalLM

from cbgui.config import ModelConfig, RunConfig, override
from cbgui.errors import InputError
from cbgui.export import verify
from cbgui.export.merge import merge_weights
from cbgui.export.verify import float32_model, offloaded_model
from cbgui.modeling import hub
from cbgui.modeling.adapter_io import save_adapter
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.full import load_full_model
from cbgui.modeling.hub import ModelSource, resolve_model, weight_files
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import load_truncated_model
from cbgui.training.memory import estimate_memory

CONFIG = override(RunConfig(), ["objective.target_layers=[2]", "model.dtype=float32", "lora.init_std=0.1", "lora.r=4"])
IDS = torch.arange(3, 20)[None]


@pytest.fixture
def llama(tmp_path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def add_strays(folder: Path) -> None:
    """Files that publishers put beside the weights: the same model in another format, and an adapter."""
    for name in ("consolidated.safetensors", "adapter_model.safetensors"):
        save_file({f"{name}.weight": torch.ones(3)}, folder / name)
    (folder / "consolidated.safetensors.index.json").write_text("{}", "utf-8")


def export(folder: Path, merged: Path) -> ModelSource:
    """An adapter on the model in `folder`, merged into it."""
    source = resolve_model(str(folder))
    truncated = load_truncated_model(source, CONFIG)
    add_lora(truncated, CONFIG.lora, seed=0)
    save_adapter(truncated, source, str(folder), merged.with_name("adapter"))
    merge_weights(source, merged.with_name("adapter"), merged)
    return source


def test_strays_are_not_weights(llama, tmp_path):
    """Case consolidated_beside."""
    add_strays(llama)
    assert [path.name for path in weight_files(llama)] == ["model.safetensors"]
    export(llama, tmp_path / "merged")
    assert not list((tmp_path / "merged").glob("cons*")) and not list((tmp_path / "merged").glob("adapter*"))
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(load_file(llama / "model.safetensors"))
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (llama, tmp_path / "merged")]
    assert abs(sizes[0] - sizes[1]) < 0.05 * sizes[0]


def test_of_a_whole_file_and_shards_the_one_that_transformers_reads_is_merged(llama, tmp_path):
    """Case index_and_whole_file."""
    weights = load_file(llama / "model.safetensors")
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    for path in (tmp_path / "shards").glob("model*"):
        path.rename(llama / path.name)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, llama / "model.safetensors", {"format": "pt"})
    assert [path.name for path in weight_files(llama)] == ["model.safetensors"]
    source = export(llama, tmp_path / "merged")
    trained_on = float32_model(source).state_dict()
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert merged["model.norm.weight"].equal(trained_on["model.norm.weight"])
    assert [path.name for path in (tmp_path / "merged").glob("*.index.json")] == []


def test_only_the_weights_that_transformers_reads_are_downloaded(llama, tmp_path, monkeypatch):
    add_strays(llama)
    (llama / "adapter_config.json").write_text("{}", "utf-8")
    server = Hub(files=llama)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.hub_answers.cache_clear()
    try:
        names = {path.name for path in resolve_model("owner/good").path.iterdir()}
    finally:
        hub.hub_answers.cache_clear()
        server.shutdown()
        server.server_close()
    assert names == {"config.json", "generation_config.json", "model.safetensors"}


def test_a_folder_with_an_adapter_is_refused(llama):
    (llama / "adapter_config.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        resolve_model(str(llama))


@pytest.mark.parametrize(
    ("quantization", "words"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "with bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "with GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "with AWQ"),
        ({"quant_method": "compressed-tensors"}, "with compressed-tensors"),
        ({"quant_method": "new"}, r"\(new\)"),
    ],
)
def test_a_quantized_base_is_refused_before_anything_is_loaded(llama, quantization, words):
    """Case prequantized_base."""
    settings = json.loads((llama / "config.json").read_text("utf-8")) | {"quantization_config": quantization}
    (llama / "config.json").write_text(json.dumps(settings), "utf-8")
    source = ModelSource(llama, "it")
    with pytest.raises(InputError, match=f"stored quantized.*{words}.*choose the model from which it was made"):
        read_model_config(source)
    (llama / "README.md").write_text("---\nbase_model:\n- meta/whole-model\n---\n# It\n", "utf-8")
    with pytest.raises(InputError, match="choose meta/whole-model"):
        read_model_config(source)


@pytest.fixture
def mxfp4(tmp_path) -> Path:
    """A gpt-oss as it is published: its experts in MXFP4."""
    model = tiny_model("gpt_oss").bfloat16()
    model.save_pretrained(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inner, outer = weights.pop(name).shape
        shape = (experts, outer, inner // 32, 16)
        weights[f"{name}_blocks"] = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        weights[f"{name}_scales"] = torch.randint(120, 123, shape[:3], dtype=torch.uint8, generator=generator)
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    settings = json.loads((tmp_path / "model" / "config.json").read_text("utf-8"))
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    settings["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    (tmp_path / "model" / "config.json").write_text(json.dumps(settings), "utf-8")
    return tmp_path / "model"


@torch.no_grad()
def test_experts_in_mxfp4_are_expanded_for_training_and_kept_in_the_export(mxfp4, tmp_path):
    source = export(mxfp4, tmp_path / "merged")
    before, after = (load_file(folder / "model.safetensors") for folder in (mxfp4, tmp_path / "merged"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed and all(".self_attn." in name for name in changed)
    adapted = float32_model(source, tmp_path / "adapter")(input_ids=IDS, use_cache=False).logits
    merged = ModelSource(tmp_path / "merged", "merged")
    found = float32_model(merged)(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(found, adapted, rtol=0.05, atol=0.05)  # rounded to bfloat16
    off_disk = offloaded_model(merged, None, torch.device("cpu"))
    torch.testing.assert_close(off_disk(input_ids=IDS, use_cache=False).logits, found, rtol=1e-3, atol=1e-4)
    full = load_full_model(source, ModelConfig(name=str(mxfp4), dtype="float32"))
    assert full.dtype == torch.float32 and not any(p.dtype == torch.uint8 for p in full.parameters())


def test_experts_in_mxfp4_cannot_be_packed_again(mxfp4):
    model_config = AutoConfig.from_pretrained(mxfp4)
    assert estimate_memory(model_config, CONFIG, 2**40, "cpu").config.model.quantization == "none"
    with pytest.raises(InputError, match=r"model\.quantization = nf4: the model is stored in mxfp4"):
        estimate_memory(model_config, override(CONFIG, ["model.quantization=nf4"]), 2**40, "cpu")


def store_in_fp8(folder: Path, model_type: str, blocks: tuple[int, int] | None) -> None:
    """A tiny model as it is published in FP8: with scales for blocks (Qwen3, DeepSeek) or whole weights (Ministral)."""
    tiny_model(model_type).bfloat16().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if ".layers." in name and name.endswith("_proj.weight")]:
        rows, columns = blocks or weights[name].shape
        whole = weights[name].float()
        cut = whole.unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
        scales = cut.abs().amax((1, 3)) / 448
        packed = (cut / scales[:, None, :, None]).reshape(whole.shape).to(torch.float8_e4m3fn)
        weights |= {name: packed, f"{name}_scale_inv": scales if blocks else scales[0, 0].clone()}
        if blocks is None:
            weights[name.replace(".weight", ".activation_scale")] = torch.tensor(1.0)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "config.json").read_text("utf-8"))
    settings["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic" if blocks else "static",
        "weight_block_size": blocks,
        "modules_to_not_convert": ["lm_head", "model.embed_tokens"],
    }
    (folder / "config.json").write_text(json.dumps(settings), "utf-8")


@torch.no_grad()
@pytest.mark.parametrize(
    ("model_type", "blocks"),
    [("llama", (32, 32)), ("ministral3", None), ("qwen3_moe", (32, 32)), ("mistral3", (16, 32))],
)
def test_fp8_is_trained_in_full_precision_and_exported_in_bfloat16(model_type, blocks, tmp_path):
    store_in_fp8(tmp_path / "model", model_type, blocks)
    source = export(tmp_path / "model", tmp_path / "merged")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", tmp_path / "merged"))
    assert after.keys() == {name for name in before if not name.endswith(("_scale_inv", "activation_scale"))}
    assert not any(tensor.dtype == torch.float8_e4m3fn for tensor in after.values())
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text("utf-8"))
    base = float32_model(source)(input_ids=IDS, use_cache=False).logits
    adapted = float32_model(source, tmp_path / "adapter")(input_ids=IDS, use_cache=False).logits
    assert (adapted - base).abs().max() > 0.1
    merged = ModelSource(tmp_path / "merged", "merged")
    found = float32_model(merged)(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(found, adapted, rtol=0.05, atol=0.05)  # rounded to bfloat16
    off_disk = offloaded_model(source, tmp_path / "adapter", torch.device("cpu"))
    torch.testing.assert_close(off_disk(input_ids=IDS, use_cache=False).logits, adapted, rtol=1e-3, atol=1e-3)
    full = load_full_model(source, ModelConfig(name=str(source.path), dtype="float32"))
    torch.testing.assert_close(full(input_ids=IDS, use_cache=False).logits, base, rtol=1e-3, atol=1e-3)
    chosen = estimate_memory(read_model_config(source), CONFIG, 2**40, "cpu")
    assert "the model is stored in FP8, and is taken in float32" in chosen.reasons


@pytest.mark.parametrize("change", ["no scales", "uneven blocks"])
def test_fp8_that_transformers_cannot_expand_is_refused(change, tmp_path):
    store_in_fp8(tmp_path / "model", "llama", (32, 32))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight_scale_inv"
    scales = weights.pop(name)
    if change == "uneven blocks":
        weights[name] = scales.repeat(3, 1)[:5]
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="another FP8 than the one with scales for blocks"):
        read_model_config(ModelSource(tmp_path / "model", "it"))


def test_only_weights_that_are_not_there_make_verification_hold_the_model_whole(monkeypatch, demo):
    for told, goes_on in (
        ("Tensor on device meta is not on the expected device", True),
        ("can't allocate memory", False),
    ):

        def model(told: str = told, **inputs: object) -> None:
            raise RuntimeError(told)

        monkeypatch.setattr(verify, "_offload", lambda *how, model=model: model)
        if goes_on:
            assert offloaded_model(demo, None, torch.device("cpu")) is None
        else:
            with pytest.raises(RuntimeError, match=told):
                offloaded_model(demo, None, torch.device("cpu"))
