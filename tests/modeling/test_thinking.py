"""Answers stand in training where the model writes them, whatever the chat template puts before them."""

from __future__ import annotations

import pytest

from cbgui.config import ModelConfig
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.chat_format import cut_answer, encode, load_tokenizer, prompt_ids, refuse_unfit, tokenize_prompts
from cbgui.modeling.hub import ModelSource

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


def test_an_answer_is_never_a_piece_of_a_thought(demo):
    tokenizer = tokenizer_with(demo, "closes", thinking=True)
    ids = tokenizer("<think>\nHm, well.\n</think>\n\nBecause it is so.", add_special_tokens=False).input_ids
    whole, answer = cut_answer(tokenizer, ids, 3)
    assert tokenizer.decode(answer) == "Because it is" and ids[: len(whole)] == whole and whole[-3:] == answer
    assert cut_answer(tokenizer, ids[:4], 3) == (ids[:4], [])
    tokenizer.thinking = False
    assert cut_answer(tokenizer, ids, 3) == (ids[:3], ids[:3])


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
