"""Rows from files, pasted text and the hub, and how their columns become examples."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sample_rows import SUBJECTS, save_rows

from cbgui.data import files, sources
from cbgui.data.columns import Mapping, guess_mapping, to_examples
from cbgui.errors import InputError

ROWS = [{"Goal": f"build the {s}", "target": f"First, the {s}.", "n": i} for i, s in enumerate(SUBJECTS[:8])]


def test_the_data_room_imports_neither_torch_nor_transformers():
    code = "import sys, cbgui.data.checks, cbgui.data.catalogue, cbgui.data.library\n"
    code += "print({'torch', 'transformers', 'datasets', 'huggingface_hub', 'httpx2'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_every_file_format_gives_the_same_rows(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    save_rows(path, ROWS)
    rows = list(files.read_rows(path))
    mapping = guess_mapping(rows)
    assert (mapping.prompt, mapping.response) == ("Goal", "target")
    found, _ = to_examples(rows, mapping, "break", path.name)
    assert [(e.prompt, e.response) for e in found] == [(row["Goal"], row["target"]) for row in ROWS]


def test_the_columns_of_public_data_sets_are_guessed():
    alpaca = [{"instruction": "Add", "input": "1 and 2", "output": "It is 3."}]
    mapping = guess_mapping(alpaca)
    assert to_examples(alpaca, mapping, "retain", "x")[0][0].prompt == "Add\n\n1 and 2"
    turns = [{"from": "human", "value": "Hello there"}, {"from": "gpt", "value": "Good day."}]
    chat = [{"id": 7, "conversations": [*turns, {"from": "human", "value": "and?"}]}]
    (found,) = to_examples(chat, guess_mapping(chat), "retain", "x")[0]
    assert (found.messages, found.response) == ((("user", "Hello there"),), "Good day.")
    german = [{"frage": "What is it like?", "zahl": 3, "antwort": "It is like this."}]
    assert guess_mapping(german) == Mapping("frage", "antwort")


BAD_FILES = {
    "a.txt": (b"x", "the ending .txt is not supported; use"),
    "rows": (b"x", "the file name has no ending; use"),
    "a.jsonl": (b'{"prompt": "x"}\n{"prompt": ', "line 2: not JSON"),
    "b.jsonl": (b"[1]\n", "line 1: expected an object"),
    "a.json": (b'["x"]', "entry 1: expected an object"),
    "a.csv": ("é".encode("latin-1") * 5, "not UTF-8"),
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


def test_pasted_text_in_its_three_forms():
    assert sources.paste_rows("one question\n\nanother\n") == [{"prompt": "one question"}, {"prompt": "another"}]
    assert sources.paste_rows('{"prompt": "x"}') == [{"prompt": "x"}]
    assert sources.paste_rows("prompt,response\nx,y") == [{"prompt": "x", "response": "y"}]
    with pytest.raises(InputError, match="empty"):
        sources.paste_rows(" ")
