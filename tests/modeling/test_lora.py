import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from random_models import TINY
from transformers import AutoConfig, AutoModel

from cbgui.modeling.cpu import onednn
from cbgui.modeling.cpu.onednn import product
from cbgui.modeling.lora import fuse_lora


def quantized(model: torch.nn.Module) -> torch.nn.Module:
    """The model with the linear modules of its layers in 4 bits."""
    for module in model.layers.modules():
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear):
                packed = Linear4bit(child.in_features, child.out_features, child.bias is not None, child.weight.dtype,
                                    quant_type="nf4")  # fmt: skip
                packed.weight.data = child.weight.data
                packed.bias = child.bias
                setattr(module, name, packed.to("cpu"))
    model.is_loaded_in_4bit = True
    return model


def adapted(dtype: torch.dtype, dropout: float = 0.0, quantization: str = "none"):
    torch.manual_seed(0)
    # Qwen2's q, k and v have a bias
    model = AutoModel.from_config(AutoConfig.for_model("qwen2", **TINY)).to(dtype)
    model = quantized(model) if quantization == "nf4" else model
    settings = LoraConfig(r=4, lora_alpha=6, lora_dropout=dropout, target_modules="all-linear")
    model = get_peft_model(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn_like(parameter.data.float()) * 0.2
    return model


def outcome(model, dtype):
    ids = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        hidden = model(input_ids=ids).last_hidden_state.float()
    # Not the square: the square of a normed state is constant, so its gradient would be nothing but rounding.
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad(), model.disable_adapter():
        frozen = model(input_ids=ids).last_hidden_state.float()
    return hidden.detach(), gradients, frozen


@pytest.mark.parametrize("with_onednn", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "of_gradients"),
    # In layers this small, bfloat16's gradients differ by up to 0.09 between the two forms (twelve seeds); both are as
    # far from float32's.
    [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 5e-2, 0.15)],
)
def test_the_fused_layer_computes_what_pefts_does(
    dtype, tolerance, of_gradients, quantization, with_onednn, monkeypatch
):
    monkeypatch.setattr(onednn, "uses_onednn", lambda dtype: with_onednn)
    model = adapted(dtype, quantization=quantization)
    hidden, gradients, frozen = outcome(model, dtype)
    assert fuse_lora(model) == 14
    fused, fused_gradients, fused_frozen = outcome(model, dtype)
    assert torch.allclose(hidden, fused, atol=tolerance, rtol=tolerance)
    assert torch.allclose(frozen, fused_frozen, atol=tolerance, rtol=tolerance)
    assert set(gradients) == set(fused_gradients) and len(gradients) == 28
    for name, gradient in gradients.items():
        assert (gradient - fused_gradients[name]).norm() <= of_gradients * gradient.norm() + 1e-9, name


def test_onednns_product_is_the_ordinary_one_and_keeps_the_gradient(monkeypatch):
    monkeypatch.setattr(onednn, "uses_onednn", lambda dtype: True)
    x, weight, bias = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8), torch.randn(5)
    expected = torch.nn.functional.linear(x, weight, bias)
    with torch.no_grad():
        assert torch.allclose(product(x, weight, bias), expected, atol=1e-5)
    product(x, weight, bias).sum().backward()
    assert torch.allclose(x.grad, weight.sum(0).expand_as(x), atol=1e-5)


def test_dropout_keeps_pefts_own_forward():
    assert fuse_lora(adapted(torch.float32, dropout=0.1)) == 0
