"""Turn rows with any columns into examples. A Mapping says which column holds what; `guess_mapping` guesses it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from cbgui.data.examples import Example, Kind
from cbgui.data.files import Raw
from cbgui.errors import InputError

SAMPLE_ROWS = 200  # rows that the guess looks at
# Column names that public data sets use, most likely first.
COLUMN_NAMES = {
    "messages": ["messages", "conversations", "conversation", "chat", "turns"],
    "prompt": [
        "prompt",
        "instruction",
        "question",
        "goal",
        "behavior",
        "forbidden_prompt",
        "request",
        "query",
        "input",
    ],
    "response": ["response", "answer", "output", "completion", "rejected", "target", "reply", "assistant", "chosen"],
    "kind": ["kind"],
}
NEVER_A_RESPONSE = {"input", "category", "kind", "type", "label", "source"}
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True)
class Mapping:
    """Which column holds what. `messages` holds a whole conversation and takes precedence over prompt and response."""

    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    kind: str | None = None
    input: str | None = None  # a second part of the prompt, appended to it (Alpaca's form)


@dataclass
class Skipped:
    """Rows that could not be used, counted by reason."""

    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def words(self) -> str:
        """A sentence for the screen; empty when no row was skipped."""
        parts = [f"{count:,} {reason}" for reason, count in self.reasons.items()]
        return f"Skipped: {'; '.join(parts)}." if parts else ""


def columns_of(rows: list[Raw]) -> list[str]:
    """The names of all columns, in the order of their first use."""
    return list(dict.fromkeys(key for row in rows for key in row if isinstance(key, str)))


def guess_mapping(rows: list[Raw]) -> Mapping:
    """Guess the columns from the names that public data sets use; failing that, from which cells hold sentences."""
    rows = rows[:SAMPLE_ROWS]
    columns = columns_of(rows)
    lower = {column.lower().strip(): column for column in reversed(columns)}

    def named(role: str) -> str | None:
        return next((lower[name] for name in COLUMN_NAMES[role] if name in lower), None)

    messages = named("messages")
    if messages and not any(isinstance(row.get(messages), list) for row in rows):
        messages = None
    prompt, response = named("prompt"), named("response")
    if response == prompt:
        response = None
    sentences = [c for c in columns if any(isinstance(r.get(c), str) and " " in r[c].strip() for r in rows)]
    if not messages:  # the first column of sentences is taken as the prompt, the next as the response
        prompt = prompt or next((c for c in sentences if c != response), None)
        if response is None:
            response = next((c for c in sentences if c != prompt and c.lower() not in NEVER_A_RESPONSE), None)
    second = lower.get("input") if prompt and prompt.lower() == "instruction" and "input" in lower else None
    kind = named("kind")
    kinds = {row.get(kind) for row in rows} if kind else set()
    if kind and not kinds <= {*get_args(Kind), None, ""}:
        kind = None
    return Mapping(prompt, response, messages, kind, second)


def as_text(value: Any) -> str:
    """A cell as text; an empty cell is the empty string."""
    return value if isinstance(value, str) else "" if value is None else str(value)


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """A conversation as (role, content) pairs, also in the from/value form; None if `value` is not one."""
    if not isinstance(value, list) or not value:
        return None
    turns = []
    for turn in value:
        if not isinstance(turn, dict):
            return None
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        turns.append((ROLES.get(role, role), content))
    return turns


def to_example(row: Raw, mapping: Mapping, kind: Kind, source: str, skipped: Skipped) -> Example | None:
    """Turn one row into an example. Without a prompt, return None and count the row in `skipped`.

    An empty response is allowed: the model can write it later.
    """
    if mapping.kind and row.get(mapping.kind) in get_args(Kind):
        kind = row[mapping.kind]
    turns = _turns(row.get(mapping.messages)) if mapping.messages else None
    if turns is not None:
        # The last answer is the response. In a conversation without an answer, every turn belongs to the prompt.
        last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
        messages, response = turns[:last], turns[last][1] if last < len(turns) else ""
    else:
        messages = [("user", as_text(row.get(mapping.prompt)))] if mapping.prompt else []
        if messages and mapping.input and as_text(row.get(mapping.input)).strip():
            messages = [("user", f"{messages[0][1]}\n\n{as_text(row[mapping.input])}")]
        response = as_text(row.get(mapping.response)) if mapping.response else ""
    if not messages or messages[-1][0] != "user" or not messages[-1][1].strip():
        skipped.add("without a question")
        return None
    return Example(tuple(messages), response.strip(), kind, source)


def to_examples(
    rows: Iterable[Raw], mapping: Mapping, kind: Kind, source: str, *, limit: int | None = None
) -> tuple[list[Example], Skipped]:
    """Turn rows into at most `limit` examples; also say what was skipped. Raises InputError if no row can be used."""
    if mapping.prompt is None and mapping.messages is None:
        raise InputError(f"{source}: no column holds the question; choose one as 'prompt' or 'messages'.")
    skipped = Skipped()
    examples = (to_example(row, mapping, kind, source, skipped) for row in rows)
    found = list(itertools.islice((example for example in examples if example is not None), limit))
    if not found:
        raise InputError(f"{source}: no row could be used. {skipped.words() or 'It holds no rows.'}")
    return found, skipped
