"""Models of the hub: what is not downloaded."""

from __future__ import annotations

import threading

import pytest
from hub_stand_in import Hub
from huggingface_hub import constants

from cbgui.errors import InputError
from cbgui.modeling import hub


def test_a_space_downloads_no_model_that_would_fill_its_disk(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 3_000_000)
    server = Hub(files=tmp_path)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SPACE_ID", "owner/cbgui")
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "MAX_MODEL", 2)
    hub.hub_answers.cache_clear()
    try:
        with pytest.raises(InputError, match="size of the model in MB = 3"):
            hub.resolve_model("owner/good")
    finally:
        hub.hub_answers.cache_clear()
        server.shutdown()
        server.server_close()
