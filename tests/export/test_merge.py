"""Merging: the exported weights are the base model's plus the adapter's."""

import gc
import mmap
import os
import shutil

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cbgui.errors import InputError
from cbgui.export import merge
from cbgui.export.merge import export_run
from cbgui.runs.run import Run


@pytest.mark.slow
def test_merged_equals_base_and_adapter(trained, demo, tmp_path):
    """In one file and in shards: the weights are those of the adapter that PEFT loads and merges."""
    export_run(trained, tmp_path / "whole")
    export_run(trained, tmp_path / "shards", max_shard_size="100MB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    with pytest.raises(InputError, match="exists already; choose another folder, or pass --replace"):
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


def test_a_merge_belongs_to_its_adapter_and_the_old_one_stays_until_the_new_one_is_whole(
    trained, tmp_path, monkeypatch
):
    run = Run(tmp_path / "run")
    shutil.copytree(trained.path, run.path, ignore=shutil.ignore_patterns("merged", "report"))
    monkeypatch.setattr(merge, "verify", lambda *arguments: 0.0)
    assert not run.is_merged()
    export_run(run, run.merged_folder)
    os.utime(run.adapter_file, (2e9, 2e9))  # a copied folder, or a clock that was set
    assert run.is_merged()
    before = (run.merged_folder / "SHA256SUMS").read_text("utf-8")

    weights = load_file(run.adapter_file)
    save_file({name: 2 * tensor for name, tensor in weights.items()}, run.adapter_file, metadata={"format": "pt"})
    assert not run.is_merged()

    def fails(*arguments):
        raise InputError("it differs.")

    with monkeypatch.context() as patch, pytest.raises(InputError, match="it differs"):
        patch.setattr(merge, "verify", fails)
        export_run(run, run.merged_folder, replace=True)
    assert (run.merged_folder / "SHA256SUMS").read_text("utf-8") == before
    old = run.merged_folder.with_name("merged.old.part")
    run.merged_folder.rename(old)  # killed between the two renames
    export_run(run, run.merged_folder, replace=True)
    assert run.is_merged() and not old.exists()
    assert (run.merged_folder / "SHA256SUMS").read_text("utf-8") != before
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="exists already"):  # not a merged model of ours
        export_run(run, tmp_path / "mine", replace=True)


def test_no_file_of_a_folder_is_mapped_when_the_folder_is_renamed(trained, tmp_path, monkeypatch):
    """Windows would refuse that. Models are in reference cycles, so that they do not go by themselves."""
    mapped = []

    def verify(run, source, part, tell):
        with next(part.glob("*.safetensors")).open("rb") as file:
            model = [mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)]
        model.append(model)
        return 0.0

    def move(source, target):
        mapped.extend(one.path for one in psutil.Process().memory_maps() if str(source) in one.path)
        source.rename(target)

    monkeypatch.setattr(merge, "verify", verify)
    monkeypatch.setattr(merge, "move", move)
    gc.disable()
    try:
        export_run(trained, tmp_path / "merged")
    finally:
        gc.enable()
    assert (tmp_path / "merged" / "SHA256SUMS").is_file() and mapped == []
