"""Where a chat template puts a thought, and where the answer after it begins.

Models that think write a thought before each answer: between tags (Qwen3, R1) or in a channel of its own (gpt-oss).
Their templates may open the thought themselves.
"""

from __future__ import annotations

import functools
import re

from jinja2 import TemplateError

from cbgui.modeling import templates

MARK = "\ue000answer\ue000"  # stands for an answer in a rendered conversation
# Templates read one of these; where thinking is off, some close the thought themselves.
SWITCHES = ("enable_thinking", "thinking")
_OPENED = re.compile(r"(?:<(?P<tag>[a-z_:]*(?:think|thinking|thought|reasoning))>|(?P<bracket>\[THINK\]))\s*$")
_CLOSED = re.compile(
    r"</[a-z_:]*(?:think|thinking|thought|reasoning)>\s*|\[/THINK\]\s*|<\|channel\|>final<\|message\|>"
)


def switches(thinking: bool) -> dict[str, bool]:
    """What templates are told about thinking."""
    return dict.fromkeys(SWITCHES, thinking)


def opened_tag(prompt: str) -> str:
    """The tag of the thought that a prompt leaves open; "" where it opens none."""
    opened = _OPENED.search(prompt)
    return opened[0].rstrip() if opened else ""


def closing(prompt: str) -> str:
    """What ends the thought that a prompt leaves open; "" where it opens none."""
    opened = _OPENED.search(prompt)
    if opened is None:
        return ""
    tag = "[/THINK]" if opened["bracket"] else f"</{opened['tag']}>"
    return ("" if prompt.endswith("\n") else "\n") + f"\n{tag}\n\n"


def split_thought(response: str) -> tuple[str, str]:
    """(thought with its closing tag, answer); the thought is "" where a response has none."""
    ends = [match.end() for match in _CLOSED.finditer(response)]
    return (response[: ends[-1]], response[ends[-1] :]) if ends else ("", response)


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
