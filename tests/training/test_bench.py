import pytest
import torch
from transformers import AutoModel

from cbgui.config import RunConfig
from cbgui.training.named_architectures import architecture, random_truncated_model

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "head_dim": 16, "vocab_size": 100}


@pytest.mark.parametrize("name", ["llama-3-8b", "gemma-2-9b"])
def test_random_weights_leave_computed_buffers_as_the_model_has_them(name):
    """Rotary frequencies, and Gemma's scale of the embedding."""
    config = architecture(name)
    for key, value in SIZES.items():
        setattr(config, key, value)
    if name == "gemma-2-9b":
        config.layer_types = config.layer_types[:4]
    settings = RunConfig()
    settings.model.quantization = "nf4"
    model = random_truncated_model(config, settings).model
    expected = dict(AutoModel.from_config(model.config).named_buffers())
    found = {name: buffer for name, buffer in model.named_buffers() if name in expected}
    assert found.keys() == expected.keys()
    assert all(torch.equal(buffer, expected[name]) for name, buffer in found.items())
    weight = model.get_input_embeddings().weight.float()
    assert weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
