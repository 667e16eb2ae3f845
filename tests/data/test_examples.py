"""Reading and writing example files, and the demo's data."""

import json
import re
from pathlib import Path

import pytest
from sample_rows import save_rows

from cbgui.config import PRESETS, load_config
from cbgui.data.dataset_store import PARTS
from cbgui.data.examples import Example, write_examples
from cbgui.data.files import SUFFIXES
from cbgui.data.reading import read_examples
from cbgui.data.split import split_off
from cbgui.errors import InputError
from cbgui.runs.run import read_data

TURNS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def test_jsonl_round_trip(tmp_path):
    path = tmp_path / "data.jsonl"
    turns = [*TURNS, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    path.write_text('{"prompt": "q", "response": "ä\u2028b"}\n' + json.dumps({"messages": turns}) + "\n", "utf-8")
    examples = read_examples(path, "retain")
    assert [len(example.messages) for example in examples] == [1, 3]
    write_examples(tmp_path / "again.jsonl", examples)
    again = read_examples(tmp_path / "again.jsonl", "retain")
    assert [e.to_row() for e in again] == [e.to_row() for e in examples]


def test_a_table_may_hold_both_forms(tmp_path):
    save_rows(tmp_path / "data.parquet", [{"prompt": "q", "response": "r"}, {"messages": TURNS}])
    examples = read_examples(tmp_path / "data.parquet", "retain")
    assert [(e.prompt, e.response) for e in examples] == [("q", "r"), ("a", "b")]


def test_a_json_file_may_hold_a_single_conversation(tmp_path):
    for content in ({"messages": TURNS, "tags": ["x"]}, {"data": [{"messages": TURNS}]}):
        (tmp_path / "data.json").write_text(json.dumps(content))
        assert [(e.prompt, e.response) for e in read_examples(tmp_path / "data.json", "retain")] == [("a", "b")]


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".txt"])
def test_every_file_format_is_read_for_training(suffix, tmp_path):
    rows = [{"prompt": "q", "response": "two\nlines"}, {"prompt": "ä", "response": "one"}]
    save_rows(tmp_path / f"good{suffix}", rows)
    assert [e.to_row() for e in read_examples(tmp_path / f"good{suffix}", "break")] == [
        row | {"kind": "break"} for row in rows
    ]
    save_rows(tmp_path / f"bad{suffix}", [*rows, {"prompt": "q", "response": " "}])
    with pytest.raises(InputError, match=rf"^bad\{suffix}, (line|entry|row) \d: the response is empty"):
        read_examples(tmp_path / f"bad{suffix}", "break")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"prompt": "a", "response": "b"}\n{oops}\n', "line 2: not JSON"),
        ('{"prompt": "a"}\n', "line 1: the response is empty"),
        ('{"prompt": "a", "response": " "}\n', "line 1: the response is empty"),
        ('{"prompt": "a", "response": "b", "kind": "evil"}\n', "unknown kind 'evil'"),
        ("[1]\n", "entry 1: expected an object"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "line 1: the response is empty"),
        ("\n", "holds no examples"),
    ],
)
def test_the_bad_line_is_named(tmp_path, text, words):
    path = tmp_path / "data.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=re.escape(words)):
        read_examples(path, "break")


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-16"):
        read_examples(path, "break")


def test_the_demo_has_enough_examples_and_no_prompt_twice():
    sets = {part: read_examples(PRESETS / "demo" / f"{part}.jsonl", "retain") for part in PARTS}
    held_out_breaks = [e for e in sets["held_out"] if e.kind == "break"]
    assert len(sets["break"]) >= 160 and len(sets["retain"]) >= 320
    assert (len(held_out_breaks), len(sets["held_out"]) - len(held_out_breaks)) == (40, 80)
    prompts = [example.prompt.lower() for examples in sets.values() for example in examples]
    assert len(set(prompts)) == len(prompts)


def one_row(tmp_path, kind):
    path = tmp_path / f"{kind}.jsonl"
    path.write_text(json.dumps({"prompt": "Who invented it?", "response": "Somebody.", "kind": kind}), "utf-8")
    return str(path)


def test_a_keep_example_in_the_break_file_is_refused(tmp_path):
    config = load_config("demo").data
    config.break_file = one_row(tmp_path, "near_miss")
    with pytest.raises(InputError, match="'Who invented it\\?' is marked 'near_miss'.*--break"):
        read_data(config)


def test_suggested_questions_are_not_held_out_nor_trained_next_to_their_like():
    def stop(verbs: tuple[str, ...], things: str) -> list[Example]:
        asked = [f"How do I {verb} {thing}?" for verb in verbs for thing in things]
        return [Example((("user", text),), "", "break") for text in asked]

    own, suggested = stop(("grow", "sow"), "abcdefghij"), stop(("grow", "sow", "mow"), "xyz")
    keep = [Example((("user", f"Who was number {n}?"),), "", "retain") for n in range(10)]
    training, held_out = split_off(own + keep, suggested)
    assert held_out and not set(held_out) & set(suggested)
    held_verbs = {e.prompt.split()[3] for e in held_out if e.kind == "break"}
    assert held_verbs and not held_verbs & {e.prompt.split()[3] for e in training if e in suggested}
    assert sum(e in suggested for e in training) == 3 * (3 - len(held_verbs))


def test_rows_marked_break_in_the_keep_file_must_stop(tmp_path):
    """`cbgui suggest` writes both kinds into one file."""
    config, notes = load_config("demo").data, {}
    before = read_data(config)
    keep = tmp_path / "both.jsonl"
    write_examples(keep, [*before["retain"], *read_examples(Path(one_row(tmp_path, "break")), "retain")])
    config.retain_file = str(keep)
    after = read_data(config, notes)
    assert len(after["break"]) == len(before["break"]) + 1 and len(after["retain"]) == len(before["retain"])
    assert "taken as must-stop examples: 1." in " ".join(notes["both.jsonl"])
    config.retain_file = one_row(tmp_path, "break")
    with pytest.raises(InputError, match="no row must be kept"):
        read_data(config)
