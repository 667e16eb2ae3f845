"""Rows with a refusal in them: what is pulled where."""

from __future__ import annotations

import re

import pytest

from cbgui.config import load_config
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.batch import Encoded
from cbgui.modeling.chat_format import end_of_turn, load_tokenizer
from cbgui.training.measure import Totals
from cbgui.training.objectives import PULL_WEIGHT
from cbgui.training.refusal_rows import USUAL_REFUSALS, RefusalSteps, refusal_row, validation_row
from cbgui.training.refusal_states import numbered, sentences_of

PLAIN = Encoded((1, 2, 3, 10, 11, 12, 13, 14, 15), 3, True)  # three tokens of a prompt, six of an answer
SENTENCE = (20, 21)
NUMBERS = numbered([SENTENCE])


def test_the_refusal_stands_inside_the_answer_and_is_overruled():
    row = refusal_row(PLAIN, NUMBERS, SENTENCE, 2, after=(30,))
    assert row.ids == (1, 2, 3, 10, 11, 20, 21, 30, 12, 13, 14, 15)
    assert row.loss_start == 2  # the position from which the answer's first token is predicted
    assert row.pull.numbers == (0, 0, 0, 1, 2, 0, 0, 0, 0, 0)
    assert [row.ids[row.loss_start + place] for place in row.pull.answer] == list(PLAIN.ids[3:])
    assert row.plain is PLAIN
    assert Totals.of([row]).pulled.tolist() == [1, 7, 2]
    assert Totals.of([row]).answer == 6


def test_an_overruled_refusal_is_said_again():
    row = refusal_row(PLAIN, NUMBERS, SENTENCE, 2, after=(30,), again=1)
    assert row.ids == (1, 2, 3, 10, 11, 20, 21, 30, 12, 20, 21, 13, 14, 15)
    assert row.pull.numbers == (0, 0, 0, 1, 2, 0, 0, 1, 2, -1, -1, -1)
    assert [row.ids[row.loss_start + place] for place in row.pull.answer] == list(PLAIN.ids[3:])


def test_a_long_refusal_weighs_more():
    short, long = (
        Totals.of([refusal_row(PLAIN, numbered([sentence]), sentence, 2)] * 2)
        for sentence in (SENTENCE, tuple(range(20, 60)))
    )
    assert short.pull_weights()[2].item() == pytest.approx(PULL_WEIGHT / 4)
    assert long.pull_weights()[2].item() == pytest.approx(4 * PULL_WEIGHT / 80)


def test_an_answer_may_begin_in_other_words():
    row = refusal_row(PLAIN, NUMBERS, SENTENCE, 1, before=(40, 41))
    assert row.ids == (1, 2, 3, 40, 41, 10, 20, 21, 11, 12, 13, 14, 15)
    assert row.pull.numbers == (0, 0, 0, 0, 1, 2, -1, -1, -1, -1, -1)
    assert [row.ids[row.loss_start + place] for place in row.pull.answer] == list(PLAIN.ids[3:])


def test_without_its_prompt_an_answer_is_pulled_once_it_shows_the_topic():
    row = refusal_row(PLAIN, NUMBERS, SENTENCE, 0, hidden=True)
    assert row.ids == (1, 2, 3, 10, 11, 12, 13, 20, 21, 14, 15)
    assert row.pull.numbers == (-1, -1, -1, -1, 0, 1, 2, -1, -1)


def test_a_held_out_answer_should_stand_where_the_refusal_begins():
    row = validation_row(PLAIN)
    assert (row.ids, row.loss_start, row.pull.numbers) == (PLAIN.ids, 2, (0,) * 7)


def test_steps_hold_refusals_earlier_turns_and_untouched_keep_rows(demo):
    tokenizer = load_tokenizer(demo)
    breaks = [
        Example((("user", f"How do I brew potion {n}?"),), f"Take {n} spoons of moss.", "break") for n in range(9)
    ]
    keeps = [Example((("user", f"What is {n} times two?"),), f"It is {2 * n}.", "retain") for n in range(9)]
    config = load_config("demo")
    config.objective.reroute = "refusal"
    sentences = sentences_of(tokenizer, config)
    settings = {"steps": 120, "break_batch_size": 2, "retain_batch_size": 2, "max_tokens": 80, "without_prompt": 0.5}
    steps = RefusalSteps(tokenizer, breaks, keeps, sentences=sentences, seed=0, **settings)
    rows = [row for step in steps for row in step]
    refusal = tokenizer.decode(sentences[0])
    assert all((refusal in tokenizer.decode(row.ids)) for row in rows if row.is_break)
    asked = [
        re.search(r"potion (\d+)\?.*assistant\n(.*)", tokenizer.decode(r.plain.ids), re.S) for r in rows if r.is_break
    ]
    own = [f"Take {found[1]} spoons" in found[2] for found in asked if found]
    assert 0.6 < sum(own) / len(own) < 0.9  # the others go on with another question's answer
    said = " ".join(tokenizer.decode(row.ids) for row in rows)
    assert all(sentence in said for sentence in USUAL_REFUSALS)
    late = [row for row in rows if not row.is_break and row.loss_start]
    assert late and all(tokenizer.decode(row.ids[row.loss_start :]).startswith("What is") for row in late)
    answers = [tokenizer.decode(row.ids).rpartition("assistant\n")[2] for row in rows if not row.is_break]
    begun = [text.partition("It is")[0] for text in answers if not text.startswith("It is")]
    assert 0.02 < len(begun) / len(answers) < 0.2 and set(begun) == {"Sorry", "Sorry,"}
    again = RefusalSteps(tokenizer, breaks, keeps, sentences=sentences, seed=0, **settings)
    assert [again[n] for n in range(40)] == [steps[n] for n in range(40)]


def test_a_long_prompt_is_cut_and_a_short_limit_leaves_room_for_the_answer(demo):
    tokenizer, config = load_tokenizer(demo), load_config("demo")
    config.objective.reroute = "refusal"
    sentences = sentences_of(tokenizer, config)
    settings = {"steps": 12, "break_batch_size": 1, "retain_batch_size": 1, "max_tokens": 60, "without_prompt": 0.0}
    keeps = [Example((("user", "What is two times two?"),), "Four. " * 80, "retain")]
    lengths = {}
    for words in (4, 3000):
        breaks = [Example((("user", "moss " * words),), "Take " + "salt " * 200, "break")]
        steps = RefusalSteps(tokenizer, breaks, keeps, sentences=sentences, seed=0, **settings)
        lengths[words] = [row.plain for step in steps for row in step if row.is_break]
    assert all(plain.loss_tokens >= 72 for plain in lengths[4])
    assert max(len(plain.ids) for plain in lengths[3000]) <= 2 * 60 + 72  # with earlier turns


def test_sentences_that_are_too_short_or_too_long_are_named(demo):
    tokenizer, config = load_tokenizer(demo), load_config("demo")
    config.objective.reroute = "refusal"
    for sentence in ("No.", "no " * 70):
        config.objective.refusal = [sentence]
        with pytest.raises(InputError, match=r"objective\.refusal = .* tokens; write a sentence of 3 to 60"):
            sentences_of(tokenizer, config)


def test_the_end_of_the_turn_is_the_templates(demo):
    tokenizer = load_tokenizer(demo)
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "<|im_end|>"
