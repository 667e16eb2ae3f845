"""Conversations in the cells of a table, and columns that are left out. test_reading.py has further forms."""

from __future__ import annotations

import json

import pytest
from test_reading import CASES, READ, REFUSED, shown

from cbgui.data.library import Library
from cbgui.data.reading import read_file
from cbgui.runs import folder
from cbgui.ui.panels import import_rows

TWO = [("Who is it?", "It is me."), ("So what?", "No.")]
FORMS = {
    "Llama 2's form": "[INST] {} [/INST] {}",
    "Guanaco's form": "### Human: {}### Assistant: {}",
    "HH-RLHF's form": "\n\nHuman: {}\n\nAssistant: {}",
    "a chat log": "User: {}\nAssistant: {}",
}


@pytest.mark.parametrize("heading", ["text", "transcript", "text,note", None])
@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_whole_conversations(form, heading, tmp_path):
    """Under a heading that says nothing, beside another column, or without a heading."""
    cells = ['"' + FORMS[form].format(*pair) + '"' for pair in TWO]
    lines = [heading, *(f"{cell},x" for cell in cells)] if heading and "," in heading else [heading, *cells]
    (tmp_path / "a.csv").write_text("\n".join(filter(None, lines)) + "\n", "utf-8")
    reading = read_file(tmp_path / "a.csv", "break")
    assert [(e.messages, e.response) for e in reading.examples] == [((("user", q),), a) for q, a in TWO]


def test_an_answer_inside_the_question_is_the_answer(tmp_path):
    """Where some rows alone hold a whole conversation."""
    rows = [{"prompt": "Who is it?"}, {"prompt": "[INST] So what? [/INST] No."}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    reading = read_file(tmp_path / "a.jsonl", "break")
    assert [(e.prompt, e.response) for e in reading.examples] == [("Who is it?", ""), ("So what?", "No.")]


def test_a_system_column_is_said_to_be_left_out(tmp_path):
    row = {"system": "Be kind.", "prompt": "Who?", "response": "Me.", "tools": [{"name": "clock"}]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    assert "Columns left out: 'system', 'tools'." in read_file(tmp_path / "a.jsonl", "break").sentences()


@pytest.mark.parametrize("name", READ)
def test_the_page_adds_what_check_shows_and_training_reads(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    data = Library(tmp_path / folder.DATASETS).create("mine")
    source, _, words, *dropdowns, _, kept_kind, preview = import_rows._look_at_file(str(CASES / name))
    chosen = [dropdown.value for dropdown in dropdowns]
    if name == "hh_rlhf.jsonl":  # which of the two answers must stop is asked
        assert preview is None and "two answers" in words
        chosen[1] = "chosen"
    else:
        assert "is this right?" in words and len(preview) == min(5, len(READ[name][0]))
    *_, (said, *_) = import_rows._import(
        data.version(), source, *chosen, import_rows.MUST_STOP, kept_kind.value, False, 0
    )
    expected, told = READ[name]
    assert sorted(shown(row.example for row in data.rows())) == sorted(expected)
    assert "added" in said
    if "left out" in told:
        assert "left out" in said


@pytest.mark.parametrize("name", REFUSED)
def test_the_page_refuses_what_check_refuses(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    source, _, words, *_ = import_rows._look_at_file(str(CASES / name))
    assert source is None and REFUSED[name].partition(":")[0] in words
