"""From examples to the micro-batches of a step: token ids, padding, packing, and which tokens count for the loss."""

from dataclasses import replace

import pytest

from cbgui.config import PRESETS, load_config
from cbgui.data.reading import read_examples
from cbgui.modeling.batch import PAD_TO, Encoded, collate, pack, plan_micro_batches, shared_tokens
from cbgui.modeling.chat_format import encode, load_tokenizer
from cbgui.runs.run import read_data
from cbgui.training.steps import PairedSteps


def encoded_of(*lengths: int) -> list[Encoded]:
    return [Encoded(tuple(range(length)), 0, True) for length in lengths]


def micro_batches(examples: list[Encoded], size: int, **options) -> list[list[Encoded]]:
    plan = plan_micro_batches([len(e.ids) for e in examples], size, **options)
    return [[examples[index] for index in part] for part in plan]


def test_the_response_counts_of_break_examples_and_all_of_retain_examples(demo):
    tokenizer = load_tokenizer(demo)
    example = read_examples(PRESETS / "demo" / "break.jsonl", "break")[0]
    encoded = encode(tokenizer, example, 512)
    assert tokenizer.decode(encoded.ids[encoded.loss_start :]) == example.response
    assert example.prompt in tokenizer.decode(encoded.ids[: encoded.loss_start])
    without = encode(tokenizer, example, 512, with_prompt=False)
    assert example.prompt not in tokenizer.decode(without.ids)
    assert without.ids[without.loss_start :] == encoded.ids[encoded.loss_start :]
    assert encode(tokenizer, replace(example, kind="retain"), 512) == Encoded(encoded.ids, 0, False)


def test_a_long_example_is_cut_and_a_quarter_is_left_to_the_response(demo):
    tokenizer = load_tokenizer(demo)
    example = read_examples(PRESETS / "demo" / "break.jsonl", "break")[0]
    encoded = encode(tokenizer, example, 512)
    prompt, response = encoded.ids[: encoded.loss_start], encoded.ids[encoded.loss_start :]
    short = encode(tokenizer, example, len(prompt) + 16)  # 16 tokens are more than a quarter
    assert short.ids == prompt + response[:16]
    shorter = encode(tokenizer, example, 40)  # the prompt loses its middle
    assert shorter.ids == prompt[:15] + prompt[-15:] + response[:10]
    assert encode(tokenizer, replace(example, kind="retain"), 40).ids == shorter.ids
    brief = encode(tokenizer, replace(example, response="No."), len(prompt) + 2)  # needs less than a quarter
    assert brief.ids[: len(prompt)] == prompt and tokenizer.decode(brief.ids[len(prompt) :]) == "No."


def test_the_demos_examples_share_the_system_prompt(demo):
    tokenizer, data = load_tokenizer(demo), load_config("demo").data
    sets = read_data(data)
    examples = [encode(tokenizer, e, data.max_tokens) for e in (*sets["break"], *sets["retain"])]
    system = tokenizer("<|im_start|>system\n").input_ids
    assert examples[0].ids[: len(system)] == tuple(system)
    assert shared_tokens(examples) > 20


def test_padded_micro_batches_are_split_where_that_saves_padding():
    """Another micro-batch costs as much as MICRO_BATCH_OVERHEAD tokens of padding."""
    mixed = encoded_of(700, 80, 90, 720, 88)
    split = [[len(e.ids) for e in part] for part in micro_batches(mixed, 8, packed=False)]
    assert split == [[80, 88, 90], [700, 720]]
    assert [len(part) for part in micro_batches(encoded_of(700) * 20, 16, packed=False)] == [10, 10]
    assert len(micro_batches(encoded_of(80, 90), 8, packed=False)) == 1  # saves ten tokens only
    assert all(len(part) <= 2 for part in micro_batches(mixed, 2, packed=False))
    assert micro_batches([], 4, packed=False) == []
    same_padded_length = encoded_of(*[PAD_TO + 1] * 9, *[2 * PAD_TO] * 9)
    assert len(micro_batches(same_padded_length, 18, packed=False)) == 1  # splitting saves nothing


def test_packed_micro_batches_are_split_by_size_only():
    examples = encoded_of(700, 80, 90, 720, 88)
    assert [len(part) for part in micro_batches(examples, 8, packed=True)] == [5]
    most_even = [4, 1]  # 958 and 720 tokens
    assert [len(part) for part in micro_batches(examples, 4, packed=True)] == most_even


@pytest.mark.parametrize("packed", [True, False])
def test_only_a_single_long_example_exceeds_the_token_limit(packed):
    examples = encoded_of(96, 96, 128, 96, 320, 96)
    parts = micro_batches(examples, 8, packed=packed, max_tokens=256)
    lengths = sorted(sorted(len(e.ids) for e in part) for part in parts)
    assert sum(map(len, lengths)) == len(examples) and [320] in lengths
    assert all(sum(part) <= 256 for part in lengths if part != [320])
    shared = micro_batches(examples, 8, packed=packed, shared=64, max_tokens=256)
    assert len(shared) == (2 if packed else len(parts))  # 64 + 4 x 32 + 64 tokens, and 320


def test_steps_are_reproducible_and_batches_point_at_the_tokens_that_count(demo):
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
    assert sorted(map(len, micro_batches(steps[0], 4, packed=False))) == [4, 4]
    padded, packed = collate(steps[0], tokenizer.pad_token_id), pack(steps[0])
    longest = max(len(e.ids) for e in steps[0])
    rows, length = padded.input_ids.shape
    assert rows == 8 and length % PAD_TO == 0 and longest <= length < longest + PAD_TO
    assert padded.input_ids[0, : len(steps[0][0].ids)].tolist() == list(steps[0][0].ids)
    break_tokens = [token for e in steps[0] if e.is_break for token in e.ids[e.loss_start :]]
    retain_tokens = [token for e in steps[0] if not e.is_break for token in e.ids]
    for batch in (padded, packed):
        assert batch.input_ids.flatten()[batch.break_positions].tolist() == break_tokens
        assert batch.input_ids.flatten()[batch.retain_positions].tolist() == retain_tokens
    assert packed.input_ids.shape[1] < sum(len(e.ids) for e in steps[0])  # the system prompt is there once
    assert packed.position_ids.max() == longest - 1
    assert pack(steps[0][:1]).input_ids[0].tolist() == list(steps[0][0].ids)
