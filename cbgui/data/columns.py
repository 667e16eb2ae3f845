"""Turn rows with any columns into examples. A Mapping says which column holds what; `guess_mapping` guesses it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from cbgui.data.examples import Example, Kind
from cbgui.data.names import COLUMN_NAMES, NEVER_TEXT, PAIRS, kind_of, normal
from cbgui.data.notes import Notes
from cbgui.data.refusals import is_refusal
from cbgui.data.tables import Located, Raw
from cbgui.data.transcripts import Turn, Unreadable, turns_of
from cbgui.errors import InputError

SAMPLE_ROWS = 200  # rows that the guess looks at
MOSTLY = 0.9  # share of the rows in which a form must be seen


@dataclass(frozen=True)
class Mapping:
    """Which column holds what. `messages` holds a whole conversation and takes precedence over prompt and response."""

    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    kind: str | None = None
    input: str | None = None  # a second part of the prompt, appended to it (Alpaca's form)
    pair: tuple[str, str] | None = None  # the preferred and the rejected answer, of which one has to be chosen
    guessed: bool = False  # from the cells, as the names of the columns say nothing

    def words(self) -> str:
        """Which column was taken for what, as a sentence."""
        prompt = f"{self.prompt!r}, followed by {self.input!r}" if self.input else repr(self.prompt)
        if self.pair and self.response is None:
            response = f"{self.pair[0]!r} or {self.pair[1]!r}"
        else:
            response = repr(self.response)
        parts = {"conversation": repr(self.messages), "question": prompt, "answer": response, "kind": repr(self.kind)}
        known = "; ".join(f"{role}: {column}" for role, column in parts.items() if column != "None")
        return f"Columns: {known or 'none is known'}.{' This is a guess.' if self.guessed else ''}"

    def holds_prompts(self) -> bool:
        """Whether a prompt can be read with it."""
        return bool(self.prompt or self.messages or self.pair)


def columns_of(rows: list[Raw]) -> list[str]:
    """The names of all columns, in the order of their first use."""
    return list(dict.fromkeys(key for row in rows for key in row if isinstance(key, str)))


def guess_mapping(rows: list[Raw], notes: Notes | None = None) -> Mapping:
    """Guess the columns from the names that people use; failing that, from which cells hold sentences.

    `notes` is told which columns are left out.
    """
    rows = rows[:SAMPLE_ROWS]
    columns = columns_of(rows)
    names = {normal(column): column for column in reversed(columns)}

    def named(role: str) -> str | None:
        return next((names[name] for name in COLUMN_NAMES[role] if name in names), None)

    mapping = _guess(rows, columns, names, named)
    kind = named("kind")
    if kind and (normal(kind) == "kind" or any(kind_of(row.get(kind)) for row in rows)):
        mapping = replace(mapping, kind=kind)
    if notes is not None:
        used = {mapping.prompt, mapping.response, mapping.messages, mapping.kind, mapping.input, *(mapping.pair or ())}
        unused = [c for c in columns if c not in used and any(r.get(c) not in (None, "", []) for r in rows)]
        if unused and mapping.holds_prompts():
            notes.say(f"Columns left out: {', '.join(map(repr, unused))}.")
    return mapping


def _guess(rows: list[Raw], columns: list[str], names: dict[str, str], named) -> Mapping:
    messages, prompt, response = named("messages"), named("prompt"), named("response")
    if messages and not any(_is_conversation(row.get(messages)) for row in rows):
        messages = None
    pair = next(((names[good], names[bad]) for good, bad in PAIRS if good in names and bad in names), None)
    if pair and response in pair:
        if prompt is None and not _mostly(rows, pair[0], _is_conversation):
            return Mapping()
        return Mapping(prompt, None, messages, pair=pair)
    if response == prompt:
        response = None
    texts = [c for c in columns if normal(c) not in NEVER_TEXT and _holds_text(rows, c)]
    if not messages and not response:
        messages = next((c for c in texts if _mostly(rows, c, _has_answer)), None)
        if messages:
            return Mapping(messages=messages)
    guessed = False
    if not messages and not (prompt and response):
        second = named("input")
        free = [c for c in texts if c not in (prompt, response, second)]
        missing = [role for role, column in (("prompt", prompt), ("response", response)) if not column]
        if prompt and len(free) == 1 or not prompt and len(free) <= len(missing):
            guess = dict(zip(missing, free, strict=False))
            prompt, response = guess.get("prompt", prompt), guess.get("response", response)
            guessed = bool(guess)
    second = named("input")
    if not prompt or second in (prompt, response) or normal(prompt) not in ("instruction", "question", "prompt"):
        second = None
    if second and not any(_is_text(row.get(second)) for row in rows):
        second = None
    return Mapping(prompt, response, messages, input=second, guessed=guessed)


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell.strip())


def _is_conversation(cell: Any) -> bool:
    try:
        return turns_of(cell) is not None
    except Unreadable:
        return True


def _has_answer(cell: Any) -> bool:
    try:
        return any(role == "assistant" for role, _ in turns_of(cell) or ())
    except Unreadable:
        return True


def _mostly(rows: list[Raw], column: str, test) -> bool:
    cells = [row[column] for row in rows if row.get(column) not in (None, "")]
    return bool(cells) and sum(map(test, cells)) >= MOSTLY * len(cells)


def _holds_text(rows: list[Raw], column: str) -> bool:
    """Whether the column holds sentences or conversations, rather than numbers, words or a few categories."""
    cells = [row[column] for row in rows if row.get(column) not in (None, "")]
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) < len(cells):
        return _mostly(rows, column, _is_conversation)
    spaced = sum(len(text.split()) > 1 for text in texts)
    return spaced > len(texts) / 2 and (len(texts) < 3 or len(set(texts)) > len(texts) / 2)


def choose_answer(mapping: Mapping, kind: Kind, answer: str | None, name: str, notes: Notes) -> Mapping:
    """For preference pairs, take the answers from one of the two columns.

    What must stay is the preferred answer. What must stop is not guessed: `answer` names it (the setting
    data.break_answer). Raises InputError when it is missing or names neither column.
    """
    if mapping.pair is None or mapping.response is not None:
        return mapping
    good, bad = mapping.pair
    if kind != "break":
        notes.say(f"Of each pair of answers, the preferred one ({good!r}) was taken.")
        return replace(mapping, response=good)
    sides = {"chosen": good, "rejected": bad, good: good, bad: bad}
    if answer not in sides:
        raise InputError(
            f"{name}: every row has two answers, {good!r} and {bad!r}; say which one the model must not give: on the "
            "command line --set data.break_answer=chosen (or rejected), on the Data page under 'Answer is in'."
        )
    return replace(mapping, response=sides[answer])


def likely_answer(mapping: Mapping, rows: list[Raw]) -> str:
    """Of a pair of answers, the one that refuses less often, or says more: probably the one that must stop."""
    good, bad = mapping.pair

    def complies(column: str) -> tuple[int, int]:
        answers = [_answer_of(row, column) for row in rows]
        return -sum(map(is_refusal, answers)), sum(map(len, answers))

    return max((bad, good), key=complies)


def _answer_of(row: Raw, column: str) -> str:
    try:
        turns = turns_of(row.get(column))
        return turns[-1][1] if turns else as_text(row.get(column), "answer")
    except Unreadable:
        return ""


def as_text(value: Any, role: str = "cell") -> str:
    """A cell as text; an empty cell, or one that is not a number, is the empty string.

    Raises Unreadable for a list, a dict, bytes and other things that are not text.
    """
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, (list, tuple, dict, set, bytes, bytearray)):
        form = {list: "a list", tuple: "a list", dict: "a structure"}.get(type(value), "binary data")
        raise Unreadable(f"whose {role} is {form}, left out")
    return str(value)


def _split(turns: list[Turn]) -> tuple[list[Turn], str]:
    """The turns before the last answer, and that answer. Without an answer, every turn belongs to the prompt."""
    last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
    return turns[:last], turns[last][1] if last < len(turns) else ""


TAKEN_APART = "Cells that hold a whole conversation as text were taken apart into its turns."


def _read_row(row: Raw, mapping: Mapping, notes: Notes) -> tuple[list[Turn], str]:
    cell = row.get(mapping.messages) if mapping.messages else None
    turns = turns_of(cell)
    if turns is not None:
        if isinstance(cell, str):
            notes.say(TAKEN_APART)
        before, response = _split(turns)
        if not response and mapping.response:
            response = as_text(row.get(mapping.response), "answer")
        return before, response
    cell = row.get(mapping.prompt) if mapping.prompt else None
    messages = _turns_in(cell, notes)
    if messages is None:
        prompt = as_text(cell, "question")
        second = as_text(row.get(mapping.input), "question") if mapping.input else ""
        messages = [("user", f"{prompt}\n\n{second}" if second.strip() else prompt)]
    cell = row.get(mapping.response) if mapping.response else None
    turns = _turns_in(cell, notes)
    if turns is None:
        return messages, as_text(cell, "answer")
    before, response = _split(turns)
    return before or messages, response


def _turns_in(cell: Any, notes: Notes) -> list[Turn] | None:
    """The turns of a conversation in the cell of a prompt or response; None for ordinary text."""
    turns = turns_of(cell) if not _is_plain(cell) else None
    if turns is not None and isinstance(cell, str):
        notes.say(TAKEN_APART)
    return turns


def _is_plain(cell: Any) -> bool:
    """Whether a cell of a prompt or response is ordinary text, even if a line of it begins with "User:"."""
    if not isinstance(cell, str):
        return cell is None
    return not cell.lstrip().startswith(("Human:", "<|", "<start_of_turn>", "[INST]", "<s>", "### ", "[{"))


def to_example(row: Raw, mapping: Mapping, kind: Kind, source: str, notes: Notes, where: str = "") -> Example | None:
    """Turn one row into an example. A row that cannot be used returns None and is counted in `notes`.

    An empty response is allowed: the model can write it later.
    """
    cell = row.get(mapping.kind) if mapping.kind else None
    if cell not in (None, ""):
        named = kind_of(cell)
        if named is None:
            notes.count(f"of the unknown kind {str(cell)[:40]!r}, left out", where)
            return None
        kind = named
    try:
        messages, response = _read_row(row, mapping, notes)
    except Unreadable as error:
        notes.count(str(error), where)
        return None
    while messages and messages[-1][0] == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1][0] != "user" or not messages[-1][1].strip():
        notes.count("without a question, left out", where)
        return None
    return Example(tuple(messages), response.strip(), kind, source)


def to_examples(
    rows: Iterable[Located], mapping: Mapping, kind: Kind, source: str, notes: Notes, *, limit: int | None = None
) -> list[Example]:
    """Turn rows into at most `limit` examples. Raises InputError if no row can be used."""
    examples = (to_example(row, mapping, kind, source, notes, where) for where, row in rows)
    found = list(itertools.islice((example for example in examples if example is not None), limit))
    if not found:
        raise InputError(f"{source}: no row could be used. {notes.words() or 'It holds no rows.'}")
    return found


def need_prompts(mapping: Mapping, columns: list[str], name: str) -> None:
    """Raises InputError when no column holds the questions."""
    if not mapping.holds_prompts():
        shown = ", ".join(map(repr, columns[:12])) or "none"
        raise InputError(
            f"{name}: no column is known to hold the question; its columns are {shown}. Rename one to prompt and one "
            "to response, or choose them on the Data page."
        )
