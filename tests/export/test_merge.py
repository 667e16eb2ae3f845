"""Merging: the exported weights are the base model's plus the adapter's."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from cbgui.errors import InputError
from cbgui.export.merge import export_run


@pytest.mark.slow
def test_merged_equals_base_and_adapter(trained, demo, tmp_path):
    """In one file and in shards: the weights are those of the adapter that PEFT loads and merges."""
    export_run(trained, tmp_path / "whole")
    export_run(trained, tmp_path / "shards", max_shard_size="100MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    with pytest.raises(InputError, match="exists already"):
        export_run(trained, tmp_path / "whole")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    sharded = AutoModelForCausalLM.from_pretrained(tmp_path / "shards")
    for (name, a), (other, b) in zip(merged.state_dict().items(), sharded.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b)
    base = AutoModelForCausalLM.from_pretrained(demo.path)
    assert torch.equal(base.model.layers[29].mlp.up_proj.weight, merged.model.layers[29].mlp.up_proj.weight)
    assert not torch.equal(base.model.layers[5].mlp.up_proj.weight, merged.model.layers[5].mlp.up_proj.weight)
    adapted = PeftModel.from_pretrained(base.float(), trained.adapter_folder).merge_and_unload()
    weights = [model.model.layers[5].mlp.up_proj.weight.float() for model in (adapted, merged)]
    assert torch.allclose(*weights, atol=1e-2, rtol=1e-2)
