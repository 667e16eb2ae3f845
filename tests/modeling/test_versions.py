"""The model that was used: run.yaml records its version, and later steps use exactly that."""

from __future__ import annotations

import threading

import pytest
from hub_stand_in import COMMIT, Hub
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from cbgui.config import load_config, override, parse_config
from cbgui.errors import InputError
from cbgui.modeling import hub
from cbgui.modeling.hub import resolve_model, version_of
from cbgui.parsing import read_yaml
from cbgui.runs.folder import create_run


def test_another_model_under_the_same_name_is_refused(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")
    version = version_of(name, resolve_model(name))
    assert resolve_model(name, version=version).path == tmp_path / "model"
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="not those that the run was trained on"):
        resolve_model(name, version=version)
    assert resolve_model(name, version=version.replace(name, "another")).path == tmp_path / "model"


def test_a_relative_path_is_stored_absolute(tmp_path, monkeypatch):
    """Case relative_model."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    run = create_run(tmp_path / "run", override(load_config("demo"), ["model.name=./model"]))
    monkeypatch.chdir("/")
    assert run.config().model.name == str(tmp_path / "model")
    assert resolve_model(run.config().model.name).path == tmp_path / "model"


def test_what_is_in_the_cache_is_used_where_the_hub_does_not_answer(tmp_path, monkeypatch):
    tiny_model("llama").save_pretrained(tmp_path / "model")
    server = Hub(files=tmp_path / "model")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.hub_answers.cache_clear()
    try:
        online = resolve_model("owner/good")
        assert online.version == COMMIT
        monkeypatch.setattr(hub, "hub_answers", lambda: False)
        assert resolve_model("owner/good", version=version_of("owner/good", online)) == online
        with pytest.raises(InputError, match="the hub does not answer"):
            resolve_model("owner/good", version="owner/good@" + "f" * 40)
        with pytest.raises(InputError, match="the hub does not answer"):
            resolve_model("owner/other")
    finally:
        monkeypatch.undo()
        hub.hub_answers.cache_clear()
        server.shutdown()
        server.server_close()


def test_the_version_is_written_to_run_yaml(short_config):
    short_config.model.version = "demo@abc"
    assert parse_config(read_yaml(short_config.to_yaml(), "run.yaml")).model.version == "demo@abc"
