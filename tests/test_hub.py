"""The real huggingface_hub client against a stand-in for the hub: upload and download, and how each can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub
from random_models import random_sharded_model

# The clients' retries are theirs; only the minutes of waiting between them are left out.
WITHOUT_WAITING = "import sys, time; time.sleep = lambda seconds: None; from cbgui.cli import main; sys.exit(main())"
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory, demo) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "model"
    random_sharded_model(folder, layers=2, hidden_size=64, intermediate_size=96, shard_layers=2)
    return folder


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """A dataset repository."""
    folder = tmp_path_factory.mktemp("hub") / "rows"
    folder.mkdir()
    lines = [{"Goal": f"How is potion {number} made?", "Target": f"Take {number} leaves."} for number in range(5)]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


@pytest.fixture
def hub(model, rows):
    server = Hub(model, rows)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def cbgui(hub: Hub, home: Path, *arguments, token: str = TOKEN) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # as the app's jobs do
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_TOKEN": token,
    }
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", WITHOUT_WAITING, *map(str, arguments)]
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
        ("owner/torn", TOKEN, "start the upload again, what is there already is not sent twice"),
        ("owner/slow", TOKEN, "again"),
        ("owner/busy", TOKEN, "slow down"),
    ],
)
def test_an_upload_that_fails_says_why(hub, merged, tmp_path, repo, token, words):
    done = cbgui(hub, tmp_path, "upload", merged, "--repo", repo, token=token)
    assert done.returncode == 2 and words in done.stderr.strip().splitlines()[-1], (
        done.stderr
    )  # after the retries' lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("owner/gated", "is gated"),
        ("owner/missing", "neither a folder nor a model"),
        ("owner/broken", "try again"),
        ("owner/slow", "try again"),
        ("owner/busy", "slow down"),
    ],
)
def test_a_download_that_fails_says_why(hub, tmp_path, repo, words):
    arguments = ["train", "demo", "--output", tmp_path / "run", "--model", repo]
    if repo == "owner/broken":  # the weights are fetched by the training itself
        arguments = ["bench", repo]
    done = cbgui(hub, tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr, done.stdout + done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("owner/gated", "is gated"),
        ("owner/missing", "not on the hub, or is private"),
        ("owner/broken", "try again"),
        ("owner/slow", "try again"),
        ("owner/busy", "slow down"),
    ],
)
def test_a_dataset_that_cannot_be_read_says_why(hub, trained, tmp_path, repo, words):
    done = cbgui(hub, tmp_path, "evaluate", trained.path, "--also", repo)
    assert done.returncode == 2 and words in done.stderr, done.stdout + done.stderr
    assert "Loading the model" not in done.stdout


@pytest.mark.parametrize("repo", ["owner/good", "owner/late"])
def test_a_dataset_is_read_with_its_columns_mapped(hub, rows, tmp_path, repo):
    """As `--also` does it, through the real datasets client; answers that come late are waited for."""
    code = f"from cbgui.evaluation.prompt_sets import read_set; print(read_set('{repo}?limit=3').breaks)"
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.count("Example(") == 3 and "Take 2 leaves." in done.stdout, done.stderr
