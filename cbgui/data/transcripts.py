"""A whole conversation in one cell, in the forms that people store it in, as turns of (role, content)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from cbgui.data.notes import Notes

Turn = tuple[str, str]  # role (system, user or assistant) and content
ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "instruction", "question", "q"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "chatbot", "model", "chatgpt", "ai", "response", "answer", "a"), "assistant"
    ),
    **dict.fromkeys(("system", "developer"), "system"),
}
TOOLS = {"tool", "function", "ipython", "observation", "function_call", "tool_call", "tool_response"}
SPEAKERS = {"role", "from", "speaker"}  # keys of a turn
CONTENTS = {"content", "value", "text", "parts", "message"}
CALLS = {"tool_calls", "function_call"}
ARRAY = re.compile(r"\Aarray\((\[.*\]),\s*dtype=object\)\Z", re.S)  # a list as numpy prints it
NEXT_TURN = re.compile(r"""\}\s+\{(?=['"](?:role|content|from|value)['"]:)""")  # numpy writes no comma between them
LONGEST_LITERAL = 10**6  # characters of a conversation written as a Python list
# Markers of a turn, each with its role as a group. The text up to the next marker is the turn.
MARKERS = [
    re.compile(r"<\|im_start\|>\s*(\w+)\s*\n"),
    re.compile(r"<\|start_header_id\|>\s*(\w+)\s*<\|end_header_id\|>\s*"),
    re.compile(r"<\|(user|assistant|system)\|>\s*"),
    re.compile(r"<｜(User|Assistant)｜>"),
    re.compile(r"<start_of_turn>\s*(\w+)\s*\n"),
    re.compile(r"(?:^|\n)#{2,3} *(Human|User|Instruction|Question|Input|Assistant|Response|Answer|System) *:\s*", re.I),
    re.compile(r"#{3} *(Human|User|Assistant|System) *:\s*", re.I),
    re.compile(r"(?:^\s*|\n\n)(Human|Assistant|System): *"),
    re.compile(r"(?:^\s*|\n)(Human|User|USER|Assistant|ASSISTANT|AI|Bot|System|Q|A) *: *"),
]
PLAIN = MARKERS[-1]  # so common in ordinary text that an answer has to follow
ENDS = re.compile(
    r"(<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<｜end▁of▁sentence｜>|</s>|<\|endoftext\|>|<\|end_of_text\|>|\n\nHuman:)\s*$"
)
INST = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=(?:<s>)?\s*\[INST\]|\Z)", re.S)
AWAITS = re.compile(
    r"\n(#+ *(Assistant|Answer|Response)|Assistant|AI|Bot|A) *:\s*\Z", re.I
)  # the end of a prompt in such a form
SYSTEM = re.compile(r"\A\s*<<SYS>>(.*?)<</SYS>>", re.S)
ASKED = re.compile(r"[*_]*(?:q|question|frage)\s*\d*\s*:[*_]*\s*(.*)", re.I | re.S)  # a line of a text file
ANSWERED = re.compile(r"[*_]*(?:a|answer|antwort)\s*\d*\s*:[*_]*\s*(.*)", re.I | re.S)


class Unreadable(Exception):
    """A cell that is not text. The message goes on from "Rows ": "whose answer is a list"."""


def turns_of(value: Any) -> list[Turn] | None:
    """A conversation as turns; None if `value` is not one. Raises Unreadable for tool calls, images and the like."""
    if isinstance(value, dict) and _is_turn(value):
        lists = all(isinstance(part, list) for part in value.values())  # a list for each key, as datasets stores turns
        value = (
            [dict(zip(value, turn, strict=False)) for turn in zip(*value.values(), strict=False)] if lists else [value]
        )
    if isinstance(value, list):
        return _turns_of_list(value)
    if isinstance(value, str):
        return _turns_of_text(value)
    return None


def is_conversation(value: Any) -> bool:
    """Whether `value` is a conversation, also one that cannot be read."""
    try:
        return turns_of(value) is not None
    except Unreadable:
        return True


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and bool(SPEAKERS & value.keys()) and bool((CONTENTS | CALLS) & value.keys())


def _turns_of_list(turns: list[Any]) -> list[Turn] | None:
    if not turns or not all(_is_turn(turn) for turn in turns):
        return None
    found = []
    for turn in turns:
        role = next(turn[key] for key in turn if key in SPEAKERS)
        if not isinstance(role, str):
            raise Unreadable("with a turn whose role is not a word, left out")
        name = role.strip().lower()
        if name in TOOLS or any(turn.get(key) for key in CALLS):
            raise Unreadable("with tool calls, left out")
        if name not in ROLES:
            raise Unreadable(f"with a turn of the unknown role {role!r}, left out")
        found.append((ROLES[name], _content(next((turn[key] for key in turn if key in CONTENTS), None))))
    return found


def _content(value: Any) -> str:
    """A turn's content, which OpenAI and Gemini also write as a list of parts."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    parts = value if isinstance(value, list) else [value]
    texts = [part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None for part in parts]
    if any(not isinstance(text, str) for text in texts):
        raise Unreadable("with parts that are not text (images, sounds, files), left out")
    return "\n".join(texts)


def _turns_of_text(text: str) -> list[Turn] | None:
    stripped = text.strip()
    if stripped.startswith(("[", "{", "array([")) and stripped.endswith(("]", "}", "dtype=object)")):
        turns = _parsed(stripped)
        if isinstance(turns, (list, dict)):
            return turns_of(turns)
    if "[INST]" in text:
        return _turns_of_inst(text)
    found = [turns for marker in MARKERS if (turns := _marked(text, marker))]
    turns = next((turns for turns in found if any(role == "assistant" for role, _ in turns)), next(iter(found), None))
    if turns and turns[-1] == ("assistant", ""):  # a prompt that ends where the answer is to begin
        turns.pop()
    return turns


def _parsed(text: str) -> Any:
    """A conversation that a CSV file holds as JSON, or as Python or numpy print it; None if it is neither."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if len(text) > LONGEST_LITERAL or "{" not in text[:9]:
        return None
    try:
        return ast.literal_eval(NEXT_TURN.sub("}, {", ARRAY.sub(r"\1", text)))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _turns_of_inst(text: str) -> list[Turn] | None:
    """Llama 2's and Mistral's form."""
    turns: list[Turn] = []
    for prompt, answer in INST.findall(text):
        if system := SYSTEM.match(prompt):
            turns.append(("system", system[1].strip()))
            prompt = prompt[system.end() :]
        turns.append(("user", prompt.strip()))
        if answer := ENDS.sub("", answer).strip():
            turns.append(("assistant", answer))
    return turns or None


def _marked(text: str, marker: re.Pattern) -> list[Turn] | None:
    """The turns between markers; None unless the user speaks first (after a system prompt)."""
    found = list(marker.finditer(text))
    turns: list[Turn] = []
    for place, match in enumerate(found):
        end = found[place + 1].start() if place + 1 < len(found) else len(text)
        content = ENDS.sub("", text[match.end() : end].rstrip()).strip()
        name = match[1].lower()
        if name == "input" and turns and turns[-1][0] == "user":  # Alpaca's second part of the prompt
            turns[-1] = ("user", f"{turns[-1][1]}\n\n{content}" if content else turns[-1][1])
        else:
            turns.append((ROLES.get(name, name), content))
    roles = [role for role, _ in turns if role != "system"]
    if not roles or roles[0] != "user" or set(roles) > {"user", "assistant"}:
        return None
    if found[0].start() > 0 and text[: found[0].start()].strip(" \n<s>|beginoftx_") and marker in (PLAIN, MARKERS[-2]):
        return None  # ordinary text in which such a word comes up
    if marker is PLAIN and "assistant" not in roles:
        return None
    return turns


def asks(line: str) -> bool:
    """Whether a line of text begins as a question: "Q: ..."."""
    return bool(ASKED.match(line))


def questions_and_answers(lines: Iterable[str], name: str, notes: Notes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a text in which questions begin with "Q:" or the like, and answers with "A:"."""
    notes.say("Lines that begin with Q: or Question: were read as questions, and those with A: or Answer: as answers.")
    where, row, part = "", {}, "prompt"
    for number, line in enumerate(lines, 1):
        if match := ASKED.match(line):
            if row:
                yield where, row
            where, row, part = f"{name}, line {number}", {"prompt": match[1]}, "prompt"
        elif row and (match := ANSWERED.match(line)):
            part = "response"
            row[part] = row.get(part, "") + match[1]
        elif row:
            row[part] += line
        elif line.strip():
            notes.count("before the first question, left out", f"{name}, line {number}")
    if row:
        yield where, row
