import json
import re
from dataclasses import replace

import pytest
from sample_rows import save_rows

from cbgui.config import PRESETS, load_config
from cbgui.data.examples import read_examples, write_examples
from cbgui.data.files import SUFFIXES
from cbgui.errors import InputError
from cbgui.modeling.batch import PAD_TO, Encoded, collate, pack, plan_micro_batches, shared_tokens
from cbgui.modeling.chat_format import encode, load_tokenizer
from cbgui.runs.run import read_data
from cbgui.training.steps import PairedSteps


def cut_into_passes(examples: list[Encoded], size: int, **how) -> list[list[Encoded]]:
    return [
        [examples[place] for place in part] for part in plan_micro_batches([len(e.ids) for e in examples], size, **how)
    ]


def test_jsonl_round_trip(tmp_path):
    path = tmp_path / "data.jsonl"
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    turns += [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    path.write_text('{"prompt": "q", "response": "ä\u2028b"}\n' + json.dumps({"messages": turns}) + "\n", "utf-8")
    examples = read_examples(path, "retain")
    assert [len(example.messages) for example in examples] == [1, 3]
    write_examples(tmp_path / "again.jsonl", examples)
    again = read_examples(tmp_path / "again.jsonl", "retain")
    assert [e.to_row() for e in again] == [e.to_row() for e in examples]


def test_a_table_may_hold_both_forms(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    save_rows(tmp_path / "data.parquet", [{"prompt": "q", "response": "r"}, {"messages": turns}])
    examples = read_examples(tmp_path / "data.parquet", "retain")
    assert [(e.prompt, e.response) for e in examples] == [("q", "r"), ("a", "b")]


def test_one_conversation_alone_in_a_json_file(tmp_path):
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for content in ({"messages": turns, "tags": ["x"]}, {"data": [{"messages": turns}]}):
        (tmp_path / "data.json").write_text(json.dumps(content))
        assert [(e.prompt, e.response) for e in read_examples(tmp_path / "data.json", "retain")] == [("a", "b")]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_file_form_is_read_for_training(suffix, tmp_path):
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
        ('{"prompt": "a"}\n', "line 1: 'response'"),
        ('{"prompt": "a", "response": " "}\n', "line 1: the response is empty"),
        ('{"prompt": "a", "response": "b", "kind": "evil"}\n', "kind 'evil'"),
        ("[1]\n", "line 1: expected an object"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "line 1: 'messages'"),
        ("\n", "holds no examples"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, words):
    path = tmp_path / "data.jsonl"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match=re.escape(words)):
        read_examples(path, "break")


def test_not_text(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_examples(path, "break")


def test_demo_data_is_what_the_issue_asks_for():
    sets = {
        name: read_examples(PRESETS / "demo" / f"{name}.jsonl", "retain") for name in ("break", "retain", "held_out")
    }
    held_break = [e for e in sets["held_out"] if e.kind == "break"]
    assert len(sets["break"]) >= 160 and len(sets["retain"]) >= 320
    assert (len(held_break), len(sets["held_out"]) - len(held_break)) == (40, 80)
    prompts = [example.prompt.lower() for examples in sets.values() for example in examples]
    assert len(set(prompts)) == len(prompts)


def test_tokens_that_count(demo):
    tokenizer = load_tokenizer(demo)
    example = read_examples(PRESETS / "demo" / "break.jsonl", "break")[0]
    encoded = encode(tokenizer, example, 512)
    assert tokenizer.decode(encoded.ids[encoded.loss_start :]) == example.response
    assert example.prompt in tokenizer.decode(encoded.ids[: encoded.loss_start])
    without = encode(tokenizer, example, 512, with_prompt=False)
    assert example.prompt not in tokenizer.decode(without.ids)
    assert without.ids[without.loss_start :] == encoded.ids[encoded.loss_start :]
    prompt = encoded.ids[: encoded.loss_start]
    short = encode(tokenizer, example, len(prompt) + 16)  # more than a quarter is left to the response
    assert short.ids[: len(prompt)] == prompt and short.loss_tokens == 16
    shorter = encode(tokenizer, example, 40)  # less would be: the request loses its middle
    assert shorter.ids == prompt[:15] + prompt[-15:] + encoded.ids[encoded.loss_start :][:10]
    # What must stay is cut alike, and counts whole; a response that needs less than its quarter leaves the rest.
    kept = encode(tokenizer, replace(example, kind="retain"), 40)
    assert kept.ids == shorter.ids and kept.loss_start == 0
    brief = encode(tokenizer, replace(example, response="No."), len(prompt) + 2)
    assert brief.ids[: len(prompt)] == prompt and tokenizer.decode(brief.ids[len(prompt) :]) == "No."


def test_the_demos_examples_begin_alike(demo):
    """With the system prompt, which a pass then computes once."""
    tokenizer, data = load_tokenizer(demo), load_config("demo").data
    sets = read_data(data)
    examples = [encode(tokenizer, e, data.max_tokens) for e in (*sets["break"], *sets["retain"])]
    system = tokenizer("<|im_start|>system\n").input_ids
    assert examples[0].ids[: len(system)] == tuple(system)
    assert shared_tokens(examples) > 20


def test_passes_are_cut_where_that_saves_padding():
    """A pass of its own costs as much as MICRO_BATCH_OVERHEAD of padding."""
    lengths = [700, 80, 90, 720, 88]
    examples = [Encoded(tuple(range(length)), 0, True) for length in lengths]
    cut = [[len(e.ids) for e in part] for part in cut_into_passes(examples, 8, packed=False)]
    assert cut == [[80, 88, 90], [700, 720]]
    assert [len(part) for part in cut_into_passes(examples[:1] * 20, 16, packed=False)] == [10, 10]
    # Ten tokens of padding are no reason to cut.
    assert len(cut_into_passes([examples[1], examples[2]], 8, packed=False)) == 1
    assert all(len(part) <= 2 for part in cut_into_passes(examples, 2, packed=False))
    assert cut_into_passes([], 4, packed=False) == []
    alike = [Encoded(tuple(range(length)), 0, True) for length in [PAD_TO + 1] * 9 + [2 * PAD_TO] * 9]
    assert len(cut_into_passes(alike, 18, packed=False)) == 1  # all are padded to one length: cutting saves nothing


def test_batches_pad_to_the_longest_and_mask_what_counts(demo):
    tokenizer = load_tokenizer(demo)
    breaks = read_examples(PRESETS / "demo" / "break.jsonl", "break")
    retains = read_examples(PRESETS / "demo" / "retain.jsonl", "retain")
    settings = {"steps": 3, "break_batch_size": 3, "retain_batch_size": 5, "max_tokens": 128, "without_prompt": 0.5}
    steps = PairedSteps(tokenizer, breaks, retains, seed=1, **settings)
    again = PairedSteps(tokenizer, breaks, retains, seed=1, **settings)
    assert [steps[i] for i in range(3)] == [again[i] for i in range(3)]
    assert all(one is other for one, other in zip(steps[0], steps[0], strict=True))  # encoded once
    assert steps[0] != PairedSteps(tokenizer, breaks, retains, seed=2, **settings)[0]
    assert [e.is_break for e in steps[0]] == [True] * 3 + [False] * 5
    parts = cut_into_passes(steps[0], 4, packed=False)
    assert sorted(map(len, parts)) == [4, 4]
    batch = collate(steps[0], tokenizer.pad_token_id)
    longest = max(len(e.ids) for e in steps[0])
    rows, length = batch.input_ids.shape
    assert rows == 8 and length % PAD_TO == 0 and longest <= length < longest + PAD_TO
    assert batch.input_ids[0, : len(steps[0][0].ids)].tolist() == list(steps[0][0].ids)
    counted = [token for e in steps[0] if e.is_break for token in e.ids[e.loss_start :]]
    whole = [token for e in steps[0] if not e.is_break for token in e.ids]
    for made in (batch, pack(steps[0])):
        assert made.input_ids.flatten()[made.break_positions].tolist() == counted
        assert made.input_ids.flatten()[made.retain_positions].tolist() == whole
    assert made.input_ids.shape[1] < sum(len(e.ids) for e in steps[0])  # the system prompt stands there once
    assert made.position_ids.max() == longest - 1
    alone = pack(steps[0][:1])
    assert alone.input_ids[0].tolist() == list(steps[0][0].ids)


def test_packed_passes_are_cut_for_their_size_alone():
    examples = [Encoded(tuple(range(length)), 0, True) for length in (700, 80, 90, 720, 88)]
    assert [len(part) for part in cut_into_passes(examples, 8, packed=True)] == [5]
    evenest = [4, 1]  # 958 and 720 tokens
    assert [len(part) for part in cut_into_passes(examples, 4, packed=True)] == evenest


@pytest.mark.parametrize("packed", [True, False])
def test_no_pass_is_longer_than_allowed_unless_one_example_is(packed):
    examples = [Encoded(tuple(range(length)), 0, True) for length in (96, 96, 128, 96, 320, 96)]
    parts = cut_into_passes(examples, 8, packed=packed, max_tokens=256)
    lengths = sorted(sorted(len(e.ids) for e in part) for part in parts)
    assert sum(map(len, lengths)) == len(examples) and [320] in lengths
    shared = cut_into_passes(examples, 8, packed=packed, shared=64, max_tokens=256)
    assert len(shared) == (2 if packed else len(parts))  # 64 + 4 x 32 + 64, and 320
    assert all(sum(part) <= 256 for part in lengths if part != [320])
