"""The real huggingface_hub client against a stand-in for the hub: upload and download, and how each can fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub
from random_models import random_sharded_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory, demo) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    random_sharded_model(folder, layers=2, hidden_size=64, intermediate_size=96, shard_layers=2)
    return folder


@pytest.fixture
def hub(model):
    server = Hub(model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def cbgui(hub: Hub, home: Path, *arguments, token: str = TOKEN) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token,
    }
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-m", "cbgui", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert token not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def merged(tmp_path, model) -> Path:
    run = tmp_path / "run"
    (run / "merged").mkdir(parents=True)
    (run / "run.yaml").write_text("{}", "utf-8")
    for path in model.iterdir():
        (run / "merged" / path.name).write_bytes(path.read_bytes())
    (run / "merged" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n", "utf-8")
    return run


@pytest.mark.slow
def test_a_model_is_uploaded_whole_and_private(hub, merged, tmp_path):
    done = cbgui(hub, tmp_path, "upload", merged, "--repo", "owner/good")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/owner/good" in done.stdout
    assert hub.private == {"owner/good": True}
    sent = {path.name: path.read_bytes() for path in (merged / "merged").iterdir()}
    assert hub.received["owner/good"] == sent
    assert not any(TOKEN in path.read_text("utf-8", errors="replace") for path in merged.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo", "token", "words"),
    [
        ("owner/good", "hf_wrong", "does not know this token"),
        ("owner/denied", TOKEN, "write access"),
        ("owner/full", TOKEN, "storage is full"),
    ],
)
def test_an_upload_that_fails_says_why(hub, merged, tmp_path, repo, token, words):
    done = cbgui(hub, tmp_path, "upload", merged, "--repo", repo, token=token)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert "\n" not in done.stderr.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo", "words"),
    [("owner/gated", "is gated"), ("owner/missing", "neither a folder nor a model"), ("owner/broken", "try again")],
)
def test_a_download_that_fails_says_why(hub, tmp_path, repo, words):
    arguments = ["train", "demo", "--output", tmp_path / "run", "--model", repo]
    if repo == "owner/broken":  # the weights are fetched by the training itself
        arguments = ["bench", repo]
    done = cbgui(hub, tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / "run").exists()
