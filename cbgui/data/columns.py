"""Turn rows with any columns into examples. A Mapping says which column holds what; `guess_mapping` guesses it."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, get_args

from cbgui.data.examples import Example, Kind
from cbgui.data.names import COLUMN_NAMES, NEVER_TEXT, PAIRS, kind_in, normal
from cbgui.data.notes import Notes
from cbgui.data.refusals import is_refusal
from cbgui.data.tables import Located, Raw
from cbgui.data.transcripts import AWAITS, ENDS, Turn, Unreadable, is_conversation, turns_of
from cbgui.errors import InputError

SAMPLE_ROWS = 200  # rows that the guess looks at
MOSTLY = 0.9  # share of the rows in which a form must be seen
OWN_COLUMNS = {"prompt", "response", "kind"}
WITH_INPUT = ("instruction", "question", "prompt", "behavior")  # may have a second part
UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]{4}")  # scripts without spaces between words
PRINTED = re.compile(r"""\s*(\['|\{'|\[\{'|array\().*[\]})]\s*""", re.S)  # a list or dict as Python prints it


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
    columns = [column for column in columns_of(rows) if not _mostly(rows, column, _is_printed)]
    names = {normal(column): column for column in reversed(columns)}

    def named(role: str) -> str | None:
        known = [names[name] for name in COLUMN_NAMES[role] if name in names]
        return next(
            (column for column in known if any(_filled(row.get(column)) for row in rows)), next(iter(known), None)
        )

    mapping = _guess(rows, columns, names, named)
    kind = named("kind")
    if kind and (normal(kind) == "kind" or _kinds(rows, kind) != {None}):
        mapping = replace(mapping, kind=kind)
    else:
        taken = (mapping.prompt, mapping.response, mapping.messages, mapping.input)
        kinds = [c for c in columns if c not in taken and set() < _kinds(rows, c) <= {"break", "retain", "near_miss"}]
        if len(kinds) == 1:
            mapping = replace(mapping, kind=kinds[0])
        elif kinds and notes is not None:
            shown = ", ".join(map(repr, kinds))
            notes.say(f"Several columns name kinds ({shown}), so none was taken; rename one of them to kind to use it.")
    if notes is not None:
        used = {mapping.prompt, mapping.response, mapping.messages, mapping.kind, mapping.input, *(mapping.pair or ())}
        unused = [c for c in columns_of(rows) if c not in used and any(r.get(c) not in (None, "", []) for r in rows)]
        if unused and mapping.holds_prompts():
            notes.say(f"Columns left out: {', '.join(map(repr, unused))}.")
    return mapping


def _guess(rows: list[Raw], columns: list[str], names: dict[str, str], named) -> Mapping:
    messages, prompt, response = named("messages"), named("prompt"), named("response")
    if messages and not any(is_conversation(row.get(messages)) for row in rows):
        messages = None
    if prompt and normal(prompt) == "user" and not any(re.search(r"\W", str(row.get(prompt) or "")) for row in rows):
        prompt = None  # who wrote it, in a chat log
    pair = next(((names[good], names[bad]) for good, bad in PAIRS if good in names and bad in names), None)
    if pair and response in pair:
        if not prompt and not messages and not _mostly(rows, pair[0], is_conversation):
            return Mapping()
        if messages and (prompt or _mostly(rows, pair[0], is_conversation)) and _mostly(rows, messages, _has_answer):
            messages = None  # it repeats one of the two answers
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
            if len(free) == 2 and not prompt and _questions(rows, free[-1]) > _questions(rows, free[0]):
                free.reverse()
            guess = dict(zip(missing, free, strict=False))
            prompt, response = guess.get("prompt", prompt), guess.get("response", response)
            guessed = bool(guess)
    second = named("input")
    if not prompt or second in (prompt, response) or normal(prompt) not in WITH_INPUT:
        second = None
    if second and not any(_is_text(row.get(second)) for row in rows):
        second = None
    return Mapping(prompt, response, messages, input=second, guessed=guessed)


def _is_printed(cell: Any) -> bool:
    """Whether a cell holds a list or dict as Python prints it, and it is no conversation."""
    return isinstance(cell, str) and bool(PRINTED.fullmatch(cell)) and not is_conversation(cell)


def _filled(cell: Any) -> bool:
    if isinstance(cell, float):
        return not math.isnan(cell)
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None


def _kinds(rows: list[Raw], column: str) -> set[Kind | None]:
    """What the cells of a column name as kinds; None stands for other words."""
    return {kind_in(row[column], column) for row in rows if _filled(row.get(column))}


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell.strip())


def _has_answer(cell: Any) -> bool:
    try:
        return any(role == "assistant" for role, _ in turns_of(cell) or ())
    except Unreadable:
        return True


def _mostly(rows: list[Raw], column: str, test) -> bool:
    cells = [row[column] for row in rows if row.get(column) not in (None, "")]
    return bool(cells) and sum(map(test, cells)) >= MOSTLY * len(cells)


def _questions(rows: list[Raw], column: str) -> int:
    return sum(str(row.get(column) or "").rstrip().endswith(("?", "？", "؟")) for row in rows)


def _holds_text(rows: list[Raw], column: str) -> bool:
    """Whether the column holds sentences or conversations, rather than numbers, words or a few categories."""
    cells = [row[column] for row in rows if row.get(column) not in (None, "")]
    texts = [cell for cell in cells if isinstance(cell, str)]
    if len(texts) < len(cells):
        return _mostly(rows, column, is_conversation)
    spaced = sum(len(text.split()) > 1 or bool(UNSPACED.search(text)) for text in texts)
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
            "command line --set data.break_answer=chosen (or rejected), on the Topic page under 'Answer is in'."
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
    if isinstance(value, datetime) and value.time() == datetime.min.time():
        return value.date().isoformat()
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
        if mapping.response and (mapping.pair or not response):
            response = _answer(row, mapping, notes)[1]
        return before, response
    cell = row.get(mapping.prompt) if mapping.prompt else None
    messages = _turns_in(cell, notes)
    if messages is None:
        prompt = as_text(cell, "question").strip()
        second = as_text(row.get(mapping.input), "question") if mapping.input else ""
        messages = [("user", f"{prompt}\n\n{second}" if second.strip() else prompt)]
    before, response = _answer(row, mapping, notes)
    if isinstance(cell, str) and not _is_plain(cell):  # a prompt with a chat template, which ends in the answer
        response = ENDS.sub("", response)
    turns = before or messages
    return _split(turns) if not response and turns[-1][0] == "assistant" else (turns, response)


def _answer(row: Raw, mapping: Mapping, notes: Notes) -> tuple[list[Turn], str]:
    """The answer, and the turns before it where the cell holds a conversation."""
    cell = row.get(mapping.response) if mapping.response else None
    turns = _turns_in(cell, notes)
    return _split(turns) if turns is not None else ([], as_text(cell, "answer"))


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
    if AWAITS.search(cell):
        return False
    return not cell.lstrip().startswith(("Human:", "<|", "<｜", "<start_of_turn>", "[INST]", "<s>", "### ", "[{"))


def to_example(
    row: Raw, mapping: Mapping, kind: Kind | None, source: str, notes: Notes, where: str = ""
) -> Example | None:
    """Turn one row into an example. A row that cannot be used returns None and is counted in `notes`.

    `kind` is that of a row that names none; None leaves it open, for the caller to find out.
    An empty response is allowed: the model can write it later.
    """
    if (own := _own_example(row, source)) is not None:
        return own
    cell = row.get(mapping.kind) if mapping.kind else None
    if _filled(cell):
        named = kind_in(cell, mapping.kind)
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
        notes.count("with two answers in a row, of which the last was taken", where)
    if not messages or messages[-1][0] != "user" or not messages[-1][1].strip():
        notes.count("without a question, left out", where)
        return None
    return Example(tuple(messages), response.strip(), kind, source)


def _own_example(row: Raw, source: str) -> Example | None:
    """A row as `Example.to_row` writes it, taken word for word; None for any other row."""
    kind, prompt, response = row.get("kind"), row.get("prompt"), row.get("response")
    if row.keys() != OWN_COLUMNS or kind not in get_args(Kind):
        return None
    if not isinstance(prompt, str) or not isinstance(response, str) or not prompt.strip():
        return None
    return Example((("user", prompt),), response.strip(), kind, source)


def examples_in(
    rows: Iterable[Located], mapping: Mapping, kind: Kind | None, source: str, notes: Notes, columns: Iterable[str] = ()
) -> Iterator[tuple[str, Example]]:
    """The examples with their places. Of columns that come after the sample, whose `columns` are known, only a column
    "kind" is used; the others are named in `notes`."""
    known = set(columns)
    for where, row in rows:
        for column in [column for column in row if known and column not in known and _filled(row[column])]:
            known.add(column)
            if mapping.kind is None and normal(column) == "kind":
                mapping = replace(mapping, kind=column)
            else:
                notes.say(f"The column {column!r}, which comes after row {SAMPLE_ROWS}, was left out.")
        example = to_example(row, mapping, kind, source, notes, where)
        if example is not None:
            yield where, example


def to_examples(
    rows: Iterable[Located],
    mapping: Mapping,
    kind: Kind | None,
    source: str,
    notes: Notes,
    *,
    columns: Iterable[str] = (),
    limit: int | None = None,
) -> list[Example]:
    """Turn rows into at most `limit` examples. Raises InputError if no row can be used."""
    examples = (example for _, example in examples_in(rows, mapping, kind, source, notes, columns))
    found = list(itertools.islice(examples, limit))
    if not found:
        raise InputError(f"{source}: no row could be used. {notes.words() or 'It holds no rows.'}")
    return found


def need_prompts(mapping: Mapping, columns: list[str], name: str) -> None:
    """Raises InputError when no column holds the questions."""
    if not mapping.holds_prompts():
        shown = ", ".join(map(repr, columns[:12])) or "none"
        raise InputError(
            f"{name}: no column is known to hold the question; its columns are {shown}. Rename one to prompt and one "
            "to response, or choose them on the Topic page."
        )
