"""Every model type of transformers as a tiny random checkpoint: right the whole way, or refused in one sentence."""

import functools
import gc
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bitsandbytes.nn import Linear4bit
from cli_process import ROOT
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import TYPES, model_class_name, tiny_config, tiny_model
from transformers import PreTrainedModel

from cbgui.config import RunConfig, override
from cbgui.errors import InputError
from cbgui.export.merge import merge_weights
from cbgui.export.verify import offloaded_model
from cbgui.modeling.adapter_io import save_adapter
from cbgui.modeling.architecture import NEEDS_PICTURE, REFUSED, read_model_config
from cbgui.modeling.batch import Encoded, collate
from cbgui.modeling.decoder import (
    decoder_layers,
    has_experts,
    head_logits,
    model_class,
    reads_padding,
    text_decoder,
)
from cbgui.modeling.full import load_full_model
from cbgui.modeling.hub import ModelSource, weight_files
from cbgui.modeling.lora import adapt_rows, adapter_off, add_lora
from cbgui.modeling.states import layer_states
from cbgui.modeling.truncated import TruncatedModel, load_truncated_model
from cbgui.modeling.upper import load_upper_model
from cbgui.training.measure import Totals, micro_batch_losses
from cbgui.training.reference_states import ReferenceStates

CONFIG = override(
    RunConfig(), ["objective.target_layers=[2, 3]", "model.dtype=float32", "lora.init_std=0.1", "lora.r=4"]
)
LENGTHS = (23, 17, 20)  # tokens; longer than the sliding windows of the tiny models
PAGE = ROOT / "docs" / "models.md"
# Plain decoders, vision forms, hybrids, two mixtures of experts, and others whose layers are unusual.
NF4_TYPES = ["llama", "mistral", "qwen3", "gemma2", "phi3", "smollm3", "olmo2"]
NF4_TYPES += ["gemma3", "qwen3_5", "lfm2", "qwen3_moe", "gpt_oss", "gpt2", "gemma3n_text", "mamba2", "zamba2", "mllama"]
HELD_WHOLE = {"beam", "dbrx", "jetmoe"}  # verify holds these in memory
NO_WRITERS = ("diffusion_gemma", "gemma4_assistant", "pi0", "shieldgemma2", "trocr")
NUMBERED_OTHERWISE = {"mamba", "mamba2", "falcon_mamba", "mllama"}  # transformers leaves out the embedding, or layers
TIMM_TOWERS, TOWER_WEIGHT = {"gemma3n", "fast_vlm", "perception_lm"}, "model.vision_tower.timm_model.stem.weight"
SAME = {"rtol": 1e-3, "atol": 1e-4}


# What is said of types that do not write text by themselves, and those of them that do.
OTHER_KINDS = {f"refused: it {why}" for name, why in REFUSED.items() if name in NO_WRITERS} | {
    "refused: it is not a decoder-only language model",
    "refused: it is not a decoder-only language model with one list of layers",
}
WRITERS = {"cpmant", "reformer", "xlnet"}
REFUSED_MIXTURES = {"deepseek_ocr2", "longcat_flash", "unlimited_ocr"}


def examples() -> list[Encoded]:
    ids = torch.randint(3, 90, (3, max(LENGTHS)), generator=torch.Generator().manual_seed(1))
    ids[:, :5] = ids[0, :5]
    return [Encoded(tuple(row[:length].tolist()), 3, True) for row, length in zip(ids, LENGTHS, strict=True)]


def states_alone(model: PreTrainedModel) -> dict[int, torch.Tensor]:
    """Layer -> the examples' states, each from a pass of its own: (tokens, width). They are what the layer hands on."""
    found = {2: [], 3: []}
    for example in examples():
        outputs: dict[int, Any] = {}
        hooks = []
        for number, layer in enumerate(decoder_layers(text_decoder(model)), 1):
            keep = functools.partial(
                lambda outputs, number, *called: outputs.update({number: called[-1]}), outputs, number
            )
            hooks.append(layer.register_forward_hook(keep))
        theirs = model(input_ids=torch.tensor([example.ids]), output_hidden_states=True, use_cache=False).hidden_states
        for hook in hooks:
            hook.remove()
        for layer, states in found.items():
            output = outputs[max(number for number in outputs if number <= layer)]
            output = output[0] if isinstance(output, tuple | list) else output
            assert model.config.model_type in NUMBERED_OTHERWISE or output.equal(theirs[layer])
            if output.dim() == 4:  # several states for each token: the first dimension or the third counts them
                output = torch.cat(list(output) if len(output) > 1 else list(output.unbind(2)), -1)
            states.append(output[0, example.loss_start :])
    return {layer: torch.cat(states) for layer, states in found.items()}


def near(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """Token by token: the difference is small beside each token's own norm."""
    return bool(((found - expected).norm(dim=-1) <= 2e-3 * expected.norm(dim=-1) + 1e-5).all())


def check_states(truncated: TruncatedModel, expected: dict[int, torch.Tensor]) -> None:
    for batch in (collate(examples(), 0), truncated.batch(examples(), 0)):
        found = truncated.hidden_states(batch)[0]
        for layer in truncated.target_layers:
            assert near(found[layer], expected[layer]), f"states of layer {layer}"


def check_upper(source: ModelSource, full: PreTrainedModel, config: RunConfig) -> None:
    """The layers above the highest target and the head make the full model's logits of its own states."""
    layer = 3
    ids = torch.tensor([examples()[0].ids])
    states, found = layer_states(text_decoder(full), [layer], lambda: full(input_ids=ids, use_cache=False))
    states = states[layer].clone().requires_grad_()
    upper = load_upper_model(source, config.model, layer)
    with torch.enable_grad():
        logits = upper.logits(ids, states, torch.arange(ids.shape[1]))
        logits.square().sum().backward()
    torch.testing.assert_close(logits.detach(), found.logits[0].float(), **SAME)
    assert states.grad.abs().sum() > 0


def train(truncated: TruncatedModel, folder: Path) -> None:
    """Three steps along the gradient, each of which would take a twentieth off the loss if that were straight.

    The adapter changes, the base model's weights do not.
    """
    sides = [*examples(), Encoded(examples()[0].ids, 0, False)]
    references = ReferenceStates(truncated, 0, folder, 2**20)
    trained = [p for p in truncated.model.parameters() if p.requires_grad]
    frozen = {n: p.detach().clone() for n, p in truncated.model.named_parameters() if not p.requires_grad}
    before = [p.detach().clone() for p in trained]
    losses = []
    truncated.set_training(True)
    for _ in range(3):
        truncated.model.zero_grad()
        found = micro_batch_losses(truncated, sides, CONFIG, references, Totals(50, 23))
        loss = found.reroute + found.retain
        loss.backward()
        losses.append(loss.item())
        steepness = sum(p.grad.square().sum().item() for p in trained if p.grad is not None)
        with torch.no_grad():
            for parameter in trained:
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=0.05 * losses[-1] / steepness)
    truncated.set_training(False)
    assert min(losses[1:]) < losses[0], losses
    for parameter, old in zip(trained, before, strict=True):
        assert parameter.isfinite().all() and not parameter.equal(old)
    for name, parameter in truncated.model.named_parameters():
        assert parameter.requires_grad or parameter.equal(frozen[name]), name


def check_two_models(adapted: PeftModel, ids: torch.Tensor, base: torch.Tensor, changed: torch.Tensor) -> None:
    """One batch of both models gives what each gives alone; so do rows that are padded on the left."""
    adapt_rows(adapted).first = 1
    both = adapted(input_ids=ids.expand(2, -1), use_cache=False).logits
    torch.testing.assert_close(both[0], base[0], **SAME)
    torch.testing.assert_close(both[1], changed[0], **SAME)


def check_padding(adapted: PeftModel, ids: torch.Tensor, changed: torch.Tensor) -> None:
    padded = ids if reads_padding(adapted.config) else F.pad(ids, (5, 0))
    mask = (torch.arange(padded.shape[1])[None] >= padded.shape[1] - ids.shape[1]).long()
    found = adapted.generate(
        input_ids=torch.cat([padded, padded]), attention_mask=torch.cat([mask, mask]), max_new_tokens=3,
        do_sample=False, pad_token_id=0, output_logits=True, return_dict_in_generate=True, eos_token_id=None,
    )  # fmt: skip
    torch.testing.assert_close(found.logits[0][1], changed[0, -1], rtol=1e-2, atol=1e-3)


def stored_names(folder: Path) -> set[str]:
    names = set()
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    return names


def add_tower(folder: Path) -> None:
    """Weights as a tower of timm has them, which the model lacks where timm is not installed."""
    path = folder / "model.safetensors"
    save_file(load_file(path) | {TOWER_WEIGHT: torch.rand(3, 5)}, path, metadata={"format": "pt"})


def tower(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")[TOWER_WEIGHT]


@torch.no_grad()
def check_full(source: ModelSource, truncated: TruncatedModel, full: PreTrainedModel, folder: Path) -> None:
    ids = torch.tensor([examples()[0].ids])
    base = full(input_ids=ids, use_cache=False).logits
    hidden = text_decoder(full)(input_ids=ids, use_cache=False)[0]
    torch.testing.assert_close(head_logits(full, hidden), base, **SAME)
    save_adapter(truncated, source, str(source.path), folder / "adapter")
    adapted = PeftModel.from_pretrained(full, folder / "adapter").eval()
    check_states(truncated, states_alone(adapted.get_base_model()))
    changed = adapted(input_ids=ids, use_cache=False).logits
    assert not torch.allclose(changed, base, atol=1e-3)
    with adapted.disable_adapter():
        torch.testing.assert_close(adapted(input_ids=ids, use_cache=False).logits, base, **SAME)
    merge_weights(source, folder / "adapter", folder / "merged")
    assert stored_names(folder / "merged") == stored_names(source.path)
    if full.config.model_type in TIMM_TOWERS:
        assert tower(folder / "merged").equal(tower(source.path))
    merged = model_class(full.config).from_pretrained(folder / "merged", dtype=torch.float32).eval()
    torch.testing.assert_close(merged(input_ids=ids, use_cache=False).logits, changed, **SAME)
    off_disk = offloaded_model(source, folder / "adapter", torch.device("cpu"))
    assert off_disk is not None or full.config.model_type in HELD_WHOLE
    off_disk = off_disk or merged
    torch.testing.assert_close(off_disk(input_ids=ids, use_cache=False).logits, changed, **SAME)
    check_two_models(adapted, ids, base, changed)
    check_padding(adapted, ids, changed)


def check(model_type: str, folder: Path) -> str:
    """Raises AssertionError where something is wrong; returns what is said of the type in the table."""
    source = ModelSource(folder / "model", model_type)
    if model_type in REFUSED:
        source.path.mkdir()
        (source.path / "config.json").write_text(json.dumps({"model_type": model_type}), "utf-8")
    else:
        config = tiny_config(model_type)
        config.architectures = [model_class_name(model_type)]
        config.save_pretrained(source.path)
    try:
        config = read_model_config(source)
    except InputError as error:
        sentence = str(error)
        assert sentence.startswith(f"model {model_type!r}") and sentence.endswith("; choose another model.")
        return "refused: it " + sentence.partition(") ")[2].removesuffix("; choose another model.")
    tiny_model(model_type).save_pretrained(source.path)
    if model_type in TIMM_TOWERS:
        add_tower(source.path)
    torch.manual_seed(0)
    truncated = load_truncated_model(source, CONFIG)
    full = model_class(config).from_pretrained(source.path, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = states_alone(full)
        check_states(truncated, expected)
        check_upper(source, full, CONFIG)
    add_lora(truncated, CONFIG.lora, seed=0)
    truncated.use_packing()
    truncated.set_training(False)
    with torch.no_grad(), adapter_off(truncated.model):
        check_states(truncated, expected)
    train(truncated, folder)
    check_full(source, truncated, full, folder)
    kind = "mixture of experts" if has_experts(text_decoder(full)) else "dense"
    return f"{kind}, {'packed' if truncated.packed else 'padded rows'}"


@pytest.fixture(scope="module", autouse=True)
def collect_less() -> Iterator[None]:
    """Nothing of what is imported is looked through again each time that Python collects garbage."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("model_type", NF4_TYPES)
def test_nf4_is_right_too(model_type, tmp_path):
    """In 4 bits: the truncated states, training, and the adapter on the full model, alone and beside the base."""
    source = ModelSource(tmp_path / "model", model_type)
    tiny_model(model_type).save_pretrained(source.path)
    config = override(CONFIG, ["model.quantization=nf4"])
    truncated = load_truncated_model(source, config)
    full = load_full_model(source, config.model)
    assert any(isinstance(m, Linear4bit) for m in truncated.layers.modules())
    for module in full.modules():  # the CPU kernel rounds scales to bfloat16; compare without it
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    truncated.set_training(False)
    with torch.no_grad():
        check_states(truncated, states_alone(full))
    add_lora(truncated, config.lora, seed=0)
    truncated.use_packing()
    train(truncated, tmp_path)
    with torch.no_grad():
        save_adapter(truncated, source, str(source.path), tmp_path / "adapter")
        ids = torch.tensor([examples()[0].ids])
        base = full(input_ids=ids, use_cache=False).logits
        adapted = PeftModel.from_pretrained(full, tmp_path / "adapter").eval()
        check_states(truncated, states_alone(adapted.get_base_model()))
        changed = adapted(input_ids=ids, use_cache=False).logits
        check_two_models(adapted, ids, base, changed)


def share(found: dict[str, str]) -> str:
    """The sentences of docs/models.md that say how many types are trained."""

    def count(names: set[str]) -> str:
        trained = sum(not found[name].startswith("refused") for name in names)
        return f"{trained} of {len(names)} ({trained / len(names):.1%})"

    pictures = {name for name, said in found.items() if said == f"refused: it {NEEDS_PICTURE}"}
    others = {name for name, said in found.items() if said in OTHER_KINDS} - WRITERS
    text = set(found) - others - pictures
    mixtures = {name for name, said in found.items() if said.startswith("mixture")} | REFUSED_MIXTURES
    return (
        f"Of transformers' decoders that answer a question in text, cbgui trains {count(text)}; without mixtures of "
        f"experts {count(text - mixtures)}. Encoders, models of encoder and decoder, diffusion, drafters, and models "
        "that classify or move robots are not counted, nor those that need a picture with every question (with them: "
        f"{count(text | pictures)})."
    )


def test_the_page_says_what_share_is_trained():
    assert share(in_the_page()) in " ".join(PAGE.read_text("utf-8").split())


def in_the_page() -> dict[str, str]:
    """Model type -> what docs/models.md says of it."""
    rows = re.findall(r"^\| (.+?) \| (`.+`) \|$", PAGE.read_text("utf-8"), re.M)
    return {name: said for said, names in rows for name in re.findall("`(.+?)`", names)}


@pytest.mark.parametrize("model_type", TYPES)
def test_a_type_is_right_or_refused(model_type, tmp_path):
    """And docs/models.md says so; dev/write_models_table.py writes its table."""
    assert check(model_type, tmp_path) == in_the_page()[model_type]
