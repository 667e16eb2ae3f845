"""Rows from files, pasted text and the hub, and how their columns become examples."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sample_rows import SUBJECTS, save_rows

from cbgui.data import files
from cbgui.data.columns import Mapping, guess_mapping, to_examples
from cbgui.data.notes import Notes
from cbgui.errors import InputError

ROWS = [{"Goal": f"build the {s}", "target": f"First, the {s}.", "n": i} for i, s in enumerate(SUBJECTS[:8])]


def test_the_data_room_imports_neither_torch_nor_transformers():
    code = "import sys, cbgui.data.checks, cbgui.data.catalogue, cbgui.data.library\n"
    code += "print({'torch', 'transformers', 'datasets', 'huggingface_hub', 'httpx2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def examples_of(rows):
    return to_examples((("", row) for row in rows), guess_mapping(rows), "retain", "x", Notes())


@pytest.mark.parametrize("suffix", [suffix for suffix in files.SUFFIXES if suffix != ".txt"])
def test_every_file_format_gives_the_same_rows(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    save_rows(path, ROWS)
    rows = list(files.read_rows(path))
    mapping = guess_mapping(rows)
    assert (mapping.prompt, mapping.response) == ("Goal", "target")
    assert [(e.prompt, e.response) for e in examples_of(rows)] == [(row["Goal"], row["target"]) for row in ROWS]


def test_the_columns_of_public_data_sets_are_guessed():
    alpaca = [{"instruction": "Add", "input": "1 and 2", "output": "It is 3."}]
    assert examples_of(alpaca)[0].prompt == "Add\n\n1 and 2"
    turns = [{"from": "human", "value": "Hello there"}, {"from": "gpt", "value": "Good day."}]
    chat = [{"id": 7, "conversations": [*turns, {"from": "human", "value": "and?"}]}]
    (found,) = examples_of(chat)
    assert (found.messages, found.response) == ((("user", "Hello there"),), "Good day.")
    german = [{"frage": "What is it like?", "zahl": 3, "antwort": "It is like this."}]
    assert guess_mapping(german) == Mapping("frage", "antwort")


BAD_FILES = {
    "a.doc": (b"x", "the ending .doc is not supported; use"),
    "rows": (b"x", "the file name has no ending; use"),
    "a.jsonl": (b'{"prompt": "x"}\n{"prompt": ', "line 2: not JSON"),
    "b.jsonl": (b"[1]\n", "entry 1: expected an object"),
    "a.json": (b"[7]", "entry 1: expected an object"),
    "a.parquet": (b"PAR1 and then nothing", "not a Parquet file"),
    "missing.csv": (None, "does not exist"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_in_one_sentence(name, tmp_path):
    content, words = BAD_FILES[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        list(files.read_rows(tmp_path / name))
    assert "\n" not in str(error.value)
