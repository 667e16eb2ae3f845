import pytest
import torch
from random_models import TINY
from transformers import AutoConfig, AutoModel

from cbgui.config import override
from cbgui.modeling.cpu.fused_norm import fuse_norms
from cbgui.runs.folder import create_run
from cbgui.training.session import build_trainer


def outcome(model):
    ids = torch.randint(0, 64, (2, 7), generator=torch.Generator().manual_seed(1))
    embedded = model.embed_tokens(ids).detach().requires_grad_()
    hidden = model(inputs_embeds=embedded).last_hidden_state.float()
    # Not the square: the square of a normed state is constant, so its gradient would be nothing but rounding.
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    return hidden.detach(), embedded.grad.float()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize(
    ("kind", "norms"),
    [("llama", 5), ("qwen3", 9), ("olmo2", 9), ("gemma2", 0)],  # Gemma adds one to the weight
)
def test_the_fused_norm_computes_what_the_models_own_does(kind, norms, dtype, tolerance):
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, pad_token_id=0, **TINY)).to(dtype).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.add_(torch.randn_like(parameter) * 0.3)
    own = outcome(model)
    assert fuse_norms(model) == norms
    for expected, found in zip(own, outcome(model), strict=True):
        assert (expected - found).norm() <= tolerance * expected.norm()


def test_a_norm_that_is_trained_keeps_its_form():
    model = AutoModel.from_config(AutoConfig.for_model("llama", **TINY))
    assert fuse_norms(model) == 0


def test_training_in_bfloat16_on_a_cpu_uses_the_fused_norm(short_config, tmp_path):
    config = override(short_config, ["model.dtype=bfloat16"])
    trainer = build_trainer(create_run(tmp_path / "run", config), config)
    norms = [module for module in trainer.model.modules() if type(module).__name__.endswith("RMSNorm")]
    assert norms and all("forward" in vars(module) for module in norms)
