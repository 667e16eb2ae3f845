import json

import pytest
import torch
import transformers
from peft import PeftModel
from random_models import FAMILIES, SMALL
from transformers import AutoConfig, AutoModelForCausalLM

from cbgui.config import ObjectiveConfig, RunConfig, load_config, override
from cbgui.errors import InputError
from cbgui.modeling import hub
from cbgui.modeling.adapter_io import save_adapter
from cbgui.modeling.architecture import read_model_config, target_layers
from cbgui.modeling.batch import Batch, Encoded, collate
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import ModelSource, resolve_model
from cbgui.modeling.lora import add_lora
from cbgui.modeling.packed_attention import PACKED
from cbgui.modeling.truncated import load_truncated_model

# Models with soft-capped scores keep transformers' plain attention and padded rows.
PACKS = {family: family != "gemma2" for family in FAMILIES}


@pytest.fixture
def family(request, tmp_path) -> ModelSource:
    settings = dict(SMALL)
    if request.param == "gpt_neox":
        for key in ("num_key_value_heads", "head_dim"):
            settings.pop(key)
    if request.param == "phi3":
        settings.pop("head_dim")
    if request.param in ("mistral", "gemma2", "gemma3_text"):
        settings["sliding_window"] = 8
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, **settings)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / request.param)
    return ModelSource(tmp_path / request.param, request.param)


def random_ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 128, shape, generator=torch.Generator().manual_seed(1))


def in_rows(ids: torch.Tensor) -> Batch:
    """All tokens of every row count, as of break examples."""
    return collate([Encoded(tuple(row), 0, True) for row in ids.tolist()], 0)


def small_config(*settings: str) -> RunConfig:
    return override(RunConfig(), ["objective.target_layers=[2, 3]", "model.dtype=float32", *settings])


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_the_truncated_model_has_the_full_models_hidden_states(family):
    """The truncated model's hidden states at the targets are those of the full model, and nothing above is loaded."""
    truncated = load_truncated_model(family, small_config("objective.read=residual"))
    assert len(truncated.model.layers) == 3
    assert not hasattr(truncated.model, "lm_head")
    full = AutoModelForCausalLM.from_pretrained(family.path).eval()
    ids = random_ids(2, 9)
    with torch.no_grad():
        ours, _ = truncated.hidden_states(in_rows(ids))
        theirs = full(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in (2, 3):
        assert torch.allclose(ours[layer], theirs[layer].reshape(-1, 64), atol=1e-5)


def _gradients(truncated, batch):
    truncated.model.zero_grad()
    states = truncated.hidden_states(batch)[0]
    sum((hidden.float() * torch.arange(64)).sin().sum() for hidden in states.values()).backward()
    return states, {name: p.grad for name, p in truncated.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(("family", "packs"), PACKS.items(), indirect=["family"])
def test_packed_examples_have_the_states_and_gradients_of_padded_ones(family, packs, quantization):
    """With a shared beginning, and windows shorter than the examples; what cannot be packed stays in padded rows."""
    config = small_config(f"model.quantization={quantization}", "lora.init_std=0.1")
    truncated = load_truncated_model(family, config)
    add_lora(truncated, config.lora, seed=0)
    ids = random_ids(3, 23)
    ids[:, :5] = ids[0, :5]
    examples = [Encoded(tuple(row[:length].tolist()), 3, True) for row, length in zip(ids, (23, 17, 20), strict=True)]
    truncated.set_training(True)
    padded = collate(examples, 0)
    expected, gradients = _gradients(truncated, padded)
    truncated.use_packing()
    assert truncated.packed == packs
    batch = truncated.batch(examples, 0)
    assert (batch.input_ids.numel() in (50, 64)) == packs  # 5 + 18 + 12 + 15, or padded for oneDNN
    found, packed_gradients = _gradients(truncated, batch)
    assert truncated.model.config._attn_implementation == (
        PACKED if packs else truncated.model.config._attn_implementation
    )
    for layer, states in expected.items():
        assert torch.allclose(found[layer], states, atol=1e-4)
    assert gradients.keys() == packed_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, packed_gradients[name], rtol=1e-2, atol=1e-3 * gradient.abs().max()), name


@pytest.mark.parametrize("family", FAMILIES, indirect=True)
def test_adapter_loads_on_the_full_model_and_does_the_same_there(family, tmp_path):
    config = small_config("lora.init_std=0.2", "lora.first_layer=0.5")
    truncated = load_truncated_model(family, config)
    add_lora(truncated, config.lora, seed=0)
    trained = {name for name, parameter in truncated.model.named_parameters() if parameter.requires_grad}
    assert {int(name.partition("layers.")[2].partition(".")[0]) for name in trained} == {1, 2}
    save_adapter(truncated, family, str(family.path), tmp_path / "adapter")
    full = AutoModelForCausalLM.from_pretrained(family.path)
    adapted = PeftModel.from_pretrained(full, tmp_path / "adapter").eval()
    truncated.model.eval()
    ids = random_ids(1, 9)
    with torch.no_grad():
        ours = truncated.hidden_states(in_rows(ids))[0][3]
        theirs = adapted(input_ids=ids, output_hidden_states=True).hidden_states[3][0]
        with adapted.disable_adapter():
            base = adapted(input_ids=ids, output_hidden_states=True).hidden_states[3][0]
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(base, theirs, atol=1e-3)


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_nf4_has_gradients_after_a_reference_pass(family):
    """In eval mode bitsandbytes packs 4-bit weights for the CPU; packed ones would let no gradient through."""
    config = small_config("model.quantization=nf4", "lora.init_std=0.1")
    truncated = load_truncated_model(family, config)
    add_lora(truncated, config.lora, seed=0)
    assert any(type(m).__name__ == "Linear4bit" for m in truncated.model.modules())
    batch = in_rows(random_ids(2, 9))
    gradients = []
    for _ in range(2):
        truncated.set_training(True)
        truncated.model.zero_grad()
        truncated.hidden_states(batch)[0][3].float().square().sum().backward()
        gradients.append({n: p.grad.clone() for n, p in truncated.model.named_parameters() if p.grad is not None})
        truncated.set_training(False)
        with torch.no_grad(), truncated.model.disable_adapter():
            truncated.hidden_states(batch)
    assert all("lora_" in name for name in gradients[0]) and len(gradients[0]) == 2 * 7 * 3
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-5), name


def test_target_layers():
    assert target_layers(ObjectiveConfig(), 32) == [10, 20]
    assert target_layers(ObjectiveConfig(target_layers=[10, 20]), 30) == [10, 20]
    with pytest.raises(InputError, match="30 layers"):
        target_layers(ObjectiveConfig(target_layers=[31]), 30)


def test_unusable_model_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        resolve_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}", "utf-8")
    with pytest.raises(InputError, match="safetensors"):
        resolve_model(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="safetensors"):
        resolve_model(str(tmp_path))
    with pytest.raises(InputError, match="no such folder"):
        resolve_model("./nowhere")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "t5"}, "decoder-only"),
        ({"model_type": "bert"}, "decoder-only"),
        ({"model_type": "nothing-known"}, "transformers does not know"),
    ],
)
def test_models_that_are_not_supported_are_refused(tmp_path, settings, words):
    (tmp_path / "config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(InputError, match=words):
        read_model_config(ModelSource(tmp_path, "it"))


def test_a_silent_hub_is_asked_only_once(monkeypatch):
    calls = []

    def silent(*args, **kwargs):
        calls.append(kwargs["timeout"])
        raise hub.httpx2.ConnectTimeout("silent")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.httpx2, "head", silent)
    hub.hub_answers.cache_clear()
    assert not hub.hub_answers() and not hub.hub_answers()
    assert calls == [3.0]
    with pytest.raises(InputError, match="hub does not answer"):
        resolve_model("owner/name")


def test_demo_chats(demo):
    tokenizer = load_tokenizer(demo)
    assert tokenizer.chat_template
    assert transformers.AutoConfig.from_pretrained(demo.path).num_hidden_layers == 30
    assert load_config("demo").model.name == "demo"


@pytest.mark.parametrize("family", ["gemma2"], indirect=True)
def test_an_embedding_on_the_cpu_stays_there_when_trainer_moves_the_model(family):
    """Trainer and accelerate move the whole model to their device; here, to PyTorch's meta device."""
    config = small_config()
    ids = in_rows(random_ids(1, 9))
    with torch.no_grad():
        expected = load_truncated_model(family, config).hidden_states(ids)[0][3]
        truncated = load_truncated_model(family, config)
        truncated.keep_embedding_on_cpu()
        assert torch.equal(truncated.hidden_states(ids)[0][3], expected)
    add_lora(truncated, config.lora, seed=0)
    truncated.model.to("meta")
    assert truncated.device.type == "meta"
    assert truncated.model.get_input_embeddings()(ids.input_ids).device.type == "cpu"  # still can be looked up
