"""Where a chat template puts a thought, and where the answer begins, in text.

Models that think write a thought before each answer: between tags (Qwen3, R1, Magistral) or in a channel of its own
(gpt-oss, Gemma 4). Their templates may open the thought themselves.
"""

from __future__ import annotations

import functools
import re

from jinja2 import TemplateError

from cbgui.modeling import templates

MARK = "\ue000answer\ue000"  # stands for an answer in a rendered conversation
# Templates read one of these; where thinking is off, some close the thought themselves.
SWITCHES = ("enable_thinking", "thinking")
TAG = r"[a-z_:]*(?:think|thinking|thought|reasoning)"
# What opens a thought -> what closes it. Other models use tags.
CHANNELS = {
    "<|channel|>analysis<|message|>": "<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|channel>thought\n": "<channel|>",
    "[THINK]": "[/THINK]",
}
PLAIN = "<think>\n", "\n</think>\n\n"  # how a thought is shown, and kept in data files
_OPENING = "|".join([rf"<(?P<tag>{TAG})>", *(re.escape(opening.rstrip()) for opening in CHANNELS)])
_OPENED = re.compile(rf"(?:{_OPENING})\s*$")
_OPENS = re.compile(rf"\s*(?:{_OPENING})\s*")
_FINAL = r"(?:<\|end\|><\|start\|>assistant)?<\|channel\|>final<\|message\|>"
_CLOSED = re.compile(rf"\s*(?:</{TAG}>|\[/THINK\]|{_FINAL})\s*|<channel\|>")


def switches(thinking: bool) -> dict[str, bool]:
    """What templates are told about thinking."""
    return dict.fromkeys(SWITCHES, thinking)


def opened_tag(prompt: str) -> str:
    """What opens the thought that a prompt leaves open; "" where it opens none."""
    opened = _OPENED.search(prompt)
    return opened[0].rstrip() if opened else ""


def closing(prompt: str) -> str:
    """What ends the thought that a prompt leaves open; "" where it opens none."""
    opened = _OPENED.search(prompt)
    if opened is None:
        return ""
    for opening, ending in CHANNELS.items():
        if opened[0].startswith(opening.rstrip()):
            return ending
    return ("" if prompt.endswith("\n") else "\n") + f"\n</{opened['tag']}>\n\n"


def begins(prompt: str, written: str) -> bool:
    """Whether what a model wrote after a prompt begins with a thought, an empty one included."""
    return bool(opened_tag(prompt) or _OPENS.match(written) or _CLOSED.match(written))


def ending(prompt: str, written: str) -> str:
    """What would end the thought in which a model is after it wrote `written`; "" where it is in none."""
    if not begins(prompt, written) or _CLOSED.search(written):
        return ""
    opened = _OPENS.match(written)
    return closing(opened[0] if opened else prompt).lstrip("\n" if written.endswith("\n") else "")


def has_just_closed(written: str) -> bool:
    """Whether a thought ends at the end of `written`."""
    return any(match.end() == len(written) for match in _CLOSED.finditer(written))


def split_thought(response: str) -> tuple[str, str]:
    """(thought with its closing tag, answer); the thought is "" where a response has none."""
    closed = _CLOSED.search(response)
    return (response[: closed.end()], response[closed.end() :]) if closed else ("", response)


def inner(thought: str) -> str:
    """The words of a thought without what opens and closes it."""
    opened = _OPENS.match(thought)
    return _CLOSED.sub("", thought[opened.end() if opened else 0 :]).strip()


def in_form_of(template: str, response: str) -> str:
    """A response whose thought is marked as the model of a chat template marks it."""
    thought, answer = split_thought(response)
    own = next((pair for pair in CHANNELS.items() if re.match(r"\W+\w+\W+", pair[0])[0] in template), None)
    if not thought or own is None or own[1] in thought:
        return response
    return own[0] + inner(thought) + own[1] + answer


@functools.lru_cache(1024)
def lead(template: str, roles: tuple[str, ...], thinking: bool, tokens: tuple[tuple[str, str], ...], model: str) -> str:
    """What stands between a rendered prompt and an answer without a thought: an empty thought, a channel's name.

    Found by rendering a conversation of these `roles` with an answer. It may be white space, which belongs to the
    answer's first token. Raises as `templates.render` does.
    """
    settings = dict(tokens) | switches(thinking)
    chat = [{"role": role, "content": "x"} for role in roles]
    prompt = templates.render(template, chat, settings, model)
    try:
        answered = [*chat, {"role": "assistant", "content": MARK}]
        before, found, _ = templates.render(template, answered, settings, model, prompt=False).partition(MARK)
    except TemplateError:
        before, found = "", ""
    between = before[len(prompt) :] if found and before.startswith(prompt) else ""
    return between + closing(prompt + between)


@functools.lru_cache(256)
def can_think(template: str, tokens: tuple[tuple[str, str], ...], model: str) -> bool:
    """Whether a template leaves room for a thought, or asks differently for one. Raises as `templates.render` does."""
    if lead(template, ("user",), True, tokens, model).strip():
        return True
    chat = [{"role": "user", "content": "x"}]
    asked = [templates.render(template, chat, dict(tokens) | switches(on), model) for on in (False, True)]
    return asked[0] != asked[1]
