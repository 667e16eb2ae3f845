"""Uploads and downloads with the real huggingface_hub client against a stand-in for the hub, and how they can fail."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import TOKEN, Hub
from random_models import random_sharded_model

# The clients retry as usual, but without the minutes of waiting between their tries.
WITHOUT_WAITING = "import sys, time; time.sleep = lambda seconds: None; from cbgui.cli import main\n"
ONE = WITHOUT_WAITING + "sys.exit(main())"
# Several command lines in one process, which imports the clients once. Its argument is a JSON list of
# [token, arguments]; it prints a list of [exit code, stdout, stderr].
SEVERAL = (
    WITHOUT_WAITING
    + """
import contextlib, io, json, os
results = []
for os.environ["HF_TOKEN"], arguments in json.loads(sys.argv[1]):
    sys.argv = ["cbgui", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main()
    results.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(results))
"""
)
ROOT = Path(__file__).resolve().parents[2]


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


@contextlib.contextmanager
def serving(model: Path, rows: Path) -> Iterator[Hub]:
    server = Hub(model, rows)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(model, rows):
    with serving(model, rows) as server:
        yield server


def environment(hub: Hub, home: Path, token: str = TOKEN) -> dict[str, str]:
    """Variables for the real client, which reads most of them when it is imported."""
    values = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # as in the jobs of the app
        "HF_HUB_ETAG_TIMEOUT": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": "1",
        "HF_TOKEN": token,
    }
    values.pop("HF_HUB_OFFLINE", None)
    return values


def run(values: dict[str, str], code: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=values, capture_output=True, text=True, timeout=600)
    said = done.stdout + done.stderr
    assert TOKEN not in said and "hf_wrong" not in said and "Traceback" not in said, said
    return done


def merged_run(folder: Path, model: Path) -> Path:
    (folder / "merged").mkdir(parents=True)
    (folder / "run.yaml").write_text("{}", "utf-8")
    for path in model.iterdir():
        (folder / "merged" / path.name).write_bytes(path.read_bytes())
    (folder / "merged" / "README.md").write_text("---\nlicense: mit\n---\n# A model\n", "utf-8")
    return folder


@pytest.mark.slow
def test_all_files_are_uploaded_to_a_private_repository(hub, model, tmp_path):
    """With a token that is given, even where the client takes none by itself, as on a Space."""
    merged = merged_run(tmp_path / "run", model)
    values = environment(hub, tmp_path) | {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    done = run(values, ONE, "upload", merged, "--repo", "owner/good")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/owner/good" in done.stdout
    assert hub.private == {"owner/good": True}
    sent = {path.name: path.read_bytes() for path in (merged / "merged").iterdir()}
    assert hub.received["owner/good"] == sent
    assert not any(TOKEN in path.read_text("utf-8", errors="replace") for path in merged.rglob("*") if path.is_file())


UPLOADS = [
    ("owner/good", "hf_wrong", "does not know this token"),
    ("owner/public", TOKEN, "exists already and is public"),
    ("owner/denied", TOKEN, "write access"),
    ("owner/full", TOKEN, "storage is full"),
    ("owner/torn", TOKEN, "start the upload again; files already uploaded are not sent again"),
    ("owner/slow", TOKEN, "again"),
    ("owner/busy", TOKEN, "too many requests"),
]
DOWNLOADS = [
    ("owner/gated", "is gated"),
    ("owner/missing", "neither a folder nor a model"),
    ("owner/broken", "try again"),
    ("owner/slow", "try again"),
    ("owner/busy", "too many requests"),
]
DATASETS = [
    ("owner/gated", "is gated"),
    ("owner/missing", "not on the hub, or is private"),
    ("owner/broken", "try again"),
    ("owner/slow", "try again"),
    ("owner/busy", "too many requests"),
]


@pytest.fixture(scope="module")
def failures(model, rows, trained, tmp_path_factory) -> dict[tuple[str, str], tuple[int, str, str]]:
    """(command, repository) -> exit code, stdout and stderr."""
    folder = tmp_path_factory.mktemp("hub")
    merged = merged_run(folder / "merged", model)
    asked = {("upload", repo): (token, ["upload", merged, "--repo", repo]) for repo, token, _ in UPLOADS}
    for repo, _ in DOWNLOADS:
        # `train` checks a model without its weights; `bench` downloads the broken ones.
        training = ["train", "demo", "--output", folder / "run", "--model", repo]
        asked["train", repo] = TOKEN, ["bench", repo] if repo == "owner/broken" else training
    for repo, _ in DATASETS:
        asked["evaluate", repo] = TOKEN, ["evaluate", trained.path, "--also", repo]
    with serving(model, rows) as server:
        done = run(environment(server, folder), SEVERAL, json.dumps(list(asked.values()), default=str))
    assert not (folder / "run").exists()
    return dict(zip(asked, json.loads(done.stdout), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("repo", "token", "words"), UPLOADS)
def test_an_upload_that_fails_says_why(failures, repo, token, words):
    code, _, said = failures["upload", repo]
    assert code == 2 and words in said.strip().splitlines()[-1], said  # lines before the last are about retries


@pytest.mark.slow
@pytest.mark.parametrize(("repo", "words"), DOWNLOADS)
def test_a_download_that_fails_says_why(failures, repo, words):
    code, _, said = failures["train", repo]
    assert code == 2 and words in said, said


@pytest.mark.slow
@pytest.mark.parametrize(("repo", "words"), DATASETS)
def test_a_dataset_that_cannot_be_read_says_why(failures, repo, words):
    code, printed, said = failures["evaluate", repo]
    assert code == 2 and words in said, said
    assert "Loading the model" not in printed


@pytest.mark.parametrize("repo", ["owner/good", "owner/late"])
def test_a_dataset_is_read_with_its_columns_mapped(hub, rows, tmp_path, repo):
    """As `--also` does it, through the real datasets client, which also waits for a slow hub."""
    code = "from cbgui.evaluation.prompt_sets import SetOptions, read_set\n"
    code += f"print(read_set('{repo}', SetOptions(limit=3)).breaks)"
    values = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    values.pop("HF_HUB_OFFLINE", None)
    done = run(values, code)
    assert done.stdout.count("Example(") == 3 and "Take 2 leaves." in done.stdout, done.stderr
