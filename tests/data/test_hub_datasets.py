"""Data sets of the hub: which of a repository's files are read, and that nothing else can be."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hub_stand_in import Hub
from sample_rows import save_rows

from cbgui.data.hub_datasets import check_id, choose_files, hub_rows
from cbgui.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SHARDS = [f"data/{split}-0000{n}-of-00002.parquet" for split in ("test_sft", "train_sft") for n in range(2)]


@pytest.mark.parametrize(
    "name",
    ["./runs", "runs/_visitors", "/etc/passwd", "owner", "a/b/c", "../x", "hf://a/b", "json", "a/..", "a/b@main", ""],
)
def test_only_a_hub_id_is_looked_up(name):
    with pytest.raises(InputError, match="owner/name"):
        next(hub_rows(name))
    assert check_id("HuggingFaceH4/ultrachat_200k")


@pytest.mark.parametrize(
    ("paths", "configs", "config", "split", "chosen"),
    [
        (["README.md", "rows.jsonl"], None, None, "train", ["rows.jsonl"]),
        (["train.csv", "test.csv"], None, None, "test", ["test.csv"]),
        (["train.csv", "dev.csv"], None, None, "validation", ["dev.csv"]),
        (["my_train.jsonl.gz", "my_test.jsonl.gz"], None, None, "train", ["my_train.jsonl.gz"]),
        (["a/train.csv", "b/train.csv"], None, "b", "train", ["b/train.csv"]),
        (["a.csv", "b.csv", "c.json", "dataset_infos.json", ".x/d.csv"], None, None, "train", ["a.csv", "b.csv"]),
        (SHARDS, [{"data_files": [{"split": "train_sft", "path": "data/train_sft-*"}]}], None, "train_sft", SHARDS[2:]),
        (SHARDS, None, None, "train_sft", SHARDS[2:]),
        (
            ["a.csv", "b.csv"],
            [{"config_name": "one", "data_files": "a.csv"}, {"config_name": "two", "data_files": ["b.csv"]}],
            "two",
            "train",
            ["b.csv"],
        ),
        (["x/y/a.csv", "a.csv"], [{"data_files": "*.csv"}], None, "train", ["a.csv"]),
        (["x/y/a.csv", "a.csv"], [{"data_files": "**/*.csv"}], None, "train", ["a.csv", "x/y/a.csv"]),
        (["x/a.csv", "b.csv"], [{"data_dir": "x", "data_files": "*.csv"}], "default", "train", ["x/a.csv"]),
    ],
)
def test_the_files_of_a_split(paths, configs, config, split, chosen):
    assert choose_files("owner/name", paths, configs, config, split) == chosen


@pytest.mark.parametrize(
    ("configs", "config", "split", "words"),
    [
        (None, None, "dev", "no split 'dev'; choose one of train"),
        ([{"config_name": "one", "data_files": "train.csv"}], "two", "train", "choose one of one"),
        ([{"config_name": n, "data_files": "train.csv"} for n in ("one", "two")], None, "train", "one, two"),
        (None, "two", "train", "no configuration 'two'; leave it empty"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(configs, config, split, words):
    with pytest.raises(InputError, match=words):
        choose_files("owner/name", ["train.csv"], configs, config, split)


FOREIGN = [
    "/etc/passwd", "file:///etc/passwd", "../../../etc/passwd", "http://127.0.0.1/x.csv", "https://example.org/x.csv",
    "hf://datasets/other/private/x.csv", "s3://bucket/x.csv", "zip://x.csv::http://127.0.0.1/x.zip",
]  # fmt: skip


@pytest.mark.parametrize("foreign", FOREIGN)
def test_a_card_cannot_name_a_file_of_the_machine_or_an_address(foreign):
    """Not by its patterns, and not by the names that the repository lists."""
    with pytest.raises(InputError, match="no split"):
        choose_files("owner/name", ["rows.csv", foreign], [{"data_files": foreign}], None, "train")
    with pytest.raises(InputError, match="no split"):
        configs = [{"data_files": foreign.rpartition("/")[2], "data_dir": foreign.rpartition("/")[0]}]
        choose_files("owner/name", ["rows.csv"], configs, None, "train")


READ = """
import json, sys
from cbgui.data import hub_datasets
from cbgui.data.hub_datasets import hub_rows
from cbgui.errors import InputError
hub_datasets.MAX_TEXT_BYTES = 2**20
for split in sys.argv[1:]:
    try:
        print(json.dumps(list(hub_rows("owner/good", None, split))))
    except InputError as error:
        print(json.dumps(str(error)))
print({"datasets", "torch", "transformers"} & set(sys.modules))
"""


def test_rows_come_from_the_hub_alone_in_every_format(tmp_path):
    """A folder of the same name here is not read, nor what the card names outside of the repository."""
    rows = [{"prompt": f"Question {n}", "response": f"Answer {n}"} for n in range(3)]
    repository, here = tmp_path / "repository", tmp_path / "here"
    for folder in (repository, here / "owner" / "good"):
        folder.mkdir(parents=True)
    (here / "owner" / "good" / "train.jsonl").write_text('{"prompt": "of another visitor"}\n')
    names = {"train": "train.parquet", "test": "test.csv", "validation": "dev.json", "packed": "packed.jsonl.gz"}
    for name in list(names.values())[:3]:
        save_rows(repository / name, rows)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (repository / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (repository / "bomb.csv.gz").write_bytes(gzip.compress(b"prompt\n" + b"x" * 2**21))
    hub = Hub(data=repository)
    parts = {split: [name] for split, name in names.items()} | {"foreign": FOREIGN, "bomb": ["bomb.csv.gz"]}
    hub.configs = [{"data_files": [{"split": split, "path": path} for split, path in parts.items()]}]
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    values = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    values.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", READ, *names, "foreign", "bomb"]
    done = subprocess.run(command, cwd=here, env=values, capture_output=True, text=True, timeout=300)
    hub.shutdown()
    hub.server_close()
    *answers, modules = done.stdout.splitlines()
    *read, foreign, bomb = map(json.loads, answers)
    assert read == [rows] * 4, done.stderr
    assert "no split 'foreign'" in foreign and "over 1 MB" in bomb
    assert modules == "set()"
