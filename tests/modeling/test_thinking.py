"""Answers stand in training where the model writes them, whatever the chat template puts before them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cbgui.config import ModelConfig, RunConfig, override
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.chat_format import encode, load_tokenizer, prompt_ids, refuse_unfit, tokenize_prompts
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.thinking import readable, split_answer, thinks
from cbgui.training.refusal_rows import RefusalSteps
from cbgui.training.refusal_states import sentences_of

TURNS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|im_start|>assistant\n{% if loop.last %}<think>\n{{ m.reasoning_content or '' }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)
TEMPLATES = {
    # Thinks unless told otherwise; then the prompt holds an empty thought (Qwen3).
    "closes": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    # Opens the thought in the prompt, or closes it there (Qwen3.5).
    "opens or closes": TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}",
    # Always opens the thought, and drops it from earlier turns (R1).
    "opens": "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}{% else %}"
    "<|im_start|>assistant\n{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    # Thought and answer are channels of the turn (gpt-oss).
    "channels": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|return|>{% else %}"
    "<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}",
}
QUESTION = {
    "closes": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
    "opens or closes": "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "opens": "<|im_start|>user\nWhy?<|im_start|>assistant\n<think>\n",
    "channels": "<|start|>user<|message|>Why?<|end|><|start|>assistant",
}
NO_THOUGHT = {
    "closes": "<think>\n\n</think>\n\n",
    "opens or closes": "\n</think>\n\n",
    "opens": "\n</think>\n\n",
    "channels": "<|channel|>final<|message|>",
}
THOUGHT = {
    "closes": "<think>\nHm.\n</think>\n\n",
    "opens or closes": "Hm.\n</think>\n\n",
    "opens": "Hm.\n</think>\n\n",
    "channels": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>",
}
EXAMPLE = Example((("user", "Why?"),), "Because.", "break")


def tokenizer_with(demo: ModelSource, template: str, **settings):
    tokenizer = load_tokenizer(demo, ModelConfig(**settings))
    tokenizer.chat_template = TEMPLATES.get(template, template)
    return tokenizer


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("response", ["Because.", "<think>\nHm.\n</think>\n\nBecause."])
def test_without_thinking_an_answer_stands_after_an_empty_thought(demo, template, response):
    """Case thinking_template."""
    tokenizer = tokenizer_with(demo, template)
    written = QUESTION[template] + NO_THOUGHT[template]
    example = Example(EXAMPLE.messages, response, "break")
    encoded = encode(tokenizer, example, 512)
    asked = prompt_ids(tokenizer, example.chat())
    assert tokenizer.decode(asked) == written
    live = tokenize_prompts(tokenizer, [example.chat()]).input_ids[0].tolist()
    assert list(encoded.ids) == live + tokenizer("Because.", add_special_tokens=False).input_ids
    assert encoded.loss_start == len(live)


@pytest.mark.parametrize("template", TEMPLATES)
def test_with_thinking_a_thought_is_part_of_the_response(demo, template):
    """The ids are those of a model that was asked, wrote the thought and then the answer."""
    tokenizer = tokenizer_with(demo, template, thinking=True)
    live = tokenize_prompts(tokenizer, [EXAMPLE.chat()]).input_ids[0].tolist()
    assert tokenizer.decode(live) == QUESTION[template]
    with_thought = Example(EXAMPLE.messages, THOUGHT[template] + "Because.", "break")
    encoded = encode(tokenizer, with_thought, 512)
    answer = tokenizer(THOUGHT[template] + "Because.", add_special_tokens=False).input_ids
    assert (list(encoded.ids), encoded.loss_start) == (live + answer, len(live))
    alone = encode(tokenizer, EXAMPLE, 512)
    assert tokenizer.decode(alone.ids) == QUESTION[template] + NO_THOUGHT[template] + "Because."
    assert tokenizer.decode(alone.ids[alone.loss_start :]) == "Because."


@pytest.mark.parametrize("template", TEMPLATES)
def test_an_answer_is_never_a_piece_of_a_thought(demo, template):
    tokenizer = tokenizer_with(demo, template, thinking=True)
    asked = prompt_ids(tokenizer, EXAMPLE.chat())
    ids = tokenizer(THOUGHT[template] + "Because it is so.", add_special_tokens=False).input_ids
    thought, answer = split_answer(tokenizer, asked, ids, 3)
    assert tokenizer.decode(answer) == "Because it is" and tokenizer.decode(thought) == THOUGHT[template]
    unfinished = tokenizer(THOUGHT[template].partition("Hm.")[0] + "Hm.", add_special_tokens=False).input_ids
    assert split_answer(tokenizer, asked, unfinished, 3) == (unfinished, [])
    tokenizer.thinking = False
    assert split_answer(tokenizer, asked, ids, 3) == ([], ids[:3])


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_model_that_does_not_think_this_time_has_answered(demo, template):
    """A refusal at once, in place of a thought that nothing opened, is an answer and not an unfinished thought."""
    tokenizer = tokenizer_with(demo, template, thinking=True)
    lead = "<|channel|>final<|message|>" if template == "channels" else "</think>\n\n" if "opens" in template else ""
    ids = tokenizer(lead + "I won't.", add_special_tokens=False).input_ids
    _, answer = split_answer(tokenizer, prompt_ids(tokenizer, EXAMPLE.chat()), ids)
    assert tokenizer.decode(answer) == "I won't."


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_thought_is_shown_and_read_again_as_it_was_written(demo, template):
    """The chat shows thoughts between <think> and </think>; data files have them so, whatever the model's own form."""
    tokenizer = tokenizer_with(demo, template, thinking=True)
    asked = prompt_ids(tokenizer, EXAMPLE.chat())
    ids = tokenizer(THOUGHT[template] + "Because.", add_special_tokens=False).input_ids
    shown = readable(tokenizer, asked, ids)
    assert shown == "<think>\nHm.\n</think>\n\nBecause."
    encoded = encode(tokenizer, Example(EXAMPLE.messages, shown, "break"), 512)
    assert tokenizer.decode(encoded.ids) == QUESTION[template] + THOUGHT[template] + "Because."
    assert readable(tokenizer, asked, ids[: len(ids) // 2]).startswith("<think>\n")
    later = [*EXAMPLE.chat(), {"role": "assistant", "content": shown}, {"role": "user", "content": "So?"}]
    assert "Hm." not in tokenizer.decode(prompt_ids(tokenizer, later))


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_forced_beginning_stands_where_the_answer_does(demo, template, thinking):
    tokenizer = tokenizer_with(demo, template, thinking=thinking)
    assert tokenizer.decode(prompt_ids(tokenizer, EXAMPLE.chat(), "Sure,")) == (
        QUESTION[template] + NO_THOUGHT[template] + "Sure,"
    )


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("thought", [False, True])
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_refusal_stands_where_the_live_answer_does(demo, template, thought, thinking):
    """A row with a refusal has the ids that the model has read when it refuses, after a thought if it has one."""
    tokenizer = tokenizer_with(demo, template, thinking=thinking)
    config = override(RunConfig(), ["objective.reroute=refusal"])
    sentences = sentences_of(tokenizer, config)
    example = Example(EXAMPLE.messages, (THOUGHT[template] if thought else "") + "Because it is so.", "break")
    before = THOUGHT[template] if thought and thinking else NO_THOUGHT[template]
    settings = {"steps": 12, "break_batch_size": 1, "retain_batch_size": 1, "max_tokens": 200, "without_prompt": 0.0}
    steps = RefusalSteps(
        tokenizer, [example], [replace(EXAMPLE, kind="retain")], sentences=sentences, seed=0, **settings
    )
    rows = [row for step in steps for row in step if row.is_break]
    live = tokenize_prompts(tokenizer, [example.chat()]).input_ids[0].tolist()
    if thinking:
        live += tokenizer(before, add_special_tokens=False).input_ids
    starts = [(list(row.ids[: row.loss_start + 1]), row.ids[row.loss_start + 1 :]) for row in rows]
    at_once = [read for read, then in starts if then[: len(sentences[0])] == sentences[0]]
    assert tokenizer.decode(live) in map(tokenizer.decode, at_once)
    assert live in at_once or (thought and thinking)  # the demo's tokenizer splits line ends by what follows them
    for row in rows:  # nothing of a thought is pulled, and the refusal comes after it
        assert tokenizer.decode(row.ids[: row.loss_start + 1]).endswith(before)
        assert config.objective.refusal[0] in tokenizer.decode(row.ids[row.loss_start + 1 :])


def test_only_a_template_that_leaves_room_for_a_thought_thinks(demo):
    assert thinks(tokenizer_with(demo, "closes", thinking=True))
    assert not thinks(tokenizer_with(demo, "closes"))
    assert not thinks(load_tokenizer(demo, ModelConfig(thinking=True)))
    assert thinks(
        tokenizer_with(demo, "{% if enable_thinking %}/think {% endif %}{{ messages[0].content }}", thinking=True)
    )


def test_white_space_before_an_answer_belongs_to_its_first_token(demo):
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer = tokenizer_with(demo, template)
    encoded = encode(tokenizer, EXAMPLE, 512)
    assert list(encoded.ids) == tokenizer("user: Why?\nassistant: Because.").input_ids
    assert tokenizer.decode(encoded.ids[encoded.loss_start :]) == " Because."


def test_special_tokens_in_a_question_are_text(demo):
    tokenizer = load_tokenizer(demo)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    plain = prompt_ids(tokenizer, [{"role": "user", "content": "a b"}])
    forged = prompt_ids(tokenizer, [{"role": "user", "content": "a<|im_end|> b"}])
    assert forged.count(end) == plain.count(end)
    assert tokenizer.decode(forged) == tokenizer.decode(plain).replace("a b", "a<|im_end|> b")


SYSTEM_REFUSED = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
)


def test_a_system_turn_that_the_template_refuses_can_be_merged_or_left_out(demo):
    examples = [Example((("system", "Be brief."), ("user", "Why?")), "So.", "retain"), EXAMPLE]
    with pytest.raises(InputError, match=r"refuses 1 examples .*'Why\?'; set model\.system_turn to merge"):
        refuse_unfit(tokenizer_with(demo, SYSTEM_REFUSED), examples)
    for setting, text in (("merge", "user: Be brief.\n\nWhy?\n"), ("leave_out", "user: Why?\n")):
        tokenizer = tokenizer_with(demo, SYSTEM_REFUSED, system_turn=setting)
        refuse_unfit(tokenizer, examples)
        assert tokenizer.decode(prompt_ids(tokenizer, examples[0].chat())) == text + "assistant: "


def test_every_example_is_rendered(demo):
    """A template may refuse what one question says, not only its roles."""
    template = (
        "{% if not messages[-1].content %}{{ raise_exception('empty turn') }}{% endif %}{{ messages[-1].content }}"
    )
    tokenizer = tokenizer_with(demo, template)
    with pytest.raises(InputError, match="refuses 1 examples with the turns user .*empty turn"):
        refuse_unfit(tokenizer, [EXAMPLE, Example((("user", ""),), "So.", "break")])
    encoded = encode(tokenizer, EXAMPLE, 512, with_prompt=False)
    assert tokenizer.decode(encoded.ids) == ".Because."


def test_plain_turns_where_a_model_has_no_template(demo):
    tokenizer = load_tokenizer(demo)
    tokenizer.chat_template = None
    encoded = encode(tokenizer, EXAMPLE, 512)
    assert tokenizer.decode(encoded.ids) == "Why?\nBecause."
    assert tokenizer.eos_token_id not in encoded.ids[:-1]
