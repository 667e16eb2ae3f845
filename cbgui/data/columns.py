""""""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from cbgui.data.examples import Example, Kind
from cbgui.data.files import Raw
from cbgui.errors import InputError

LOOKED_AT = 200  # rows read for the guess
# Names that public sets use, the likeliest first.
NAMES = {
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
ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


@dataclass(frozen=True)
class Mapping:
    """Which column holds what. `messages` holds a whole conversation and goes before `prompt` and `response`."""

    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    kind: str | None = None
    input: str | None = None  # a second part of the request, put under it (Alpaca's form)


@dataclass
class Skipped:
    """Rows that gave no example, counted by reason."""

    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, reason: str) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def words(self) -> str:
        parts = [f"{count:,} {reason}" for reason, count in self.reasons.items()]
        return f"Left out: {'; '.join(parts)}." if parts else ""


def columns_of(rows: list[Raw]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row if isinstance(key, str)))


def guess_mapping(rows: list[Raw]) -> Mapping:
    """Which column is which, by the names public sets use, then by what the cells look like."""
    rows = rows[:LOOKED_AT]
    columns = columns_of(rows)
    lower = {column.lower().strip(): column for column in reversed(columns)}

    def named(role: str) -> str | None:
        return next((lower[name] for name in NAMES[role] if name in lower), None)

    messages = named("messages")
    if messages and not any(isinstance(row.get(messages), list) for row in rows):
        messages = None
    prompt, response = named("prompt"), named("response")
    if response == prompt:
        response = None
    text = [c for c in columns if any(isinstance(r.get(c), str) and " " in r[c].strip() for r in rows)]
    if not messages:  # unnamed columns: the first that holds text asks, the next answers
        prompt = prompt or next((c for c in text if c != response), None)
        if response is None:
            known = {"input", "category", "kind", "type", "label", "source"}
            response = next((c for c in text if c != prompt and c.lower() not in known), None)
    second = lower.get("input") if prompt and prompt.lower() == "instruction" and "input" in lower else None
    kind = named("kind")
    kinds = {row.get(kind) for row in rows} if kind else set()
    if kind and not kinds <= {*get_args(Kind), None, ""}:
        kind = None
    return Mapping(prompt, response, messages, kind, second)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _turns(value: Any) -> list[tuple[str, str]] | None:
    """A conversation as (role, content), also in the from/value form; None when it is not one."""
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
    """One row; None, and a count in `skipped`, when it holds no request. An empty answer is kept: it can be written."""
    if mapping.kind and row.get(mapping.kind) in get_args(Kind):
        kind = row[mapping.kind]
    turns = _turns(row.get(mapping.messages)) if mapping.messages else None
    if turns is not None:
        # Up to the last answer; a conversation that ends with the user has its answer still to come.
        last = max((i for i, (role, _) in enumerate(turns) if role == "assistant"), default=len(turns))
        request, response = turns[:last], turns[last][1] if last < len(turns) else ""
    else:
        request = [("user", _text(row.get(mapping.prompt)))] if mapping.prompt else []
        if request and mapping.input and _text(row.get(mapping.input)).strip():
            request = [("user", f"{request[0][1]}\n\n{_text(row[mapping.input])}")]
        response = _text(row.get(mapping.response)) if mapping.response else ""
    if not request or request[-1][0] != "user" or not request[-1][1].strip():
        skipped.add("without a request")
        return None
    return Example(tuple(request), response.strip(), kind, source)


def to_examples(
    rows: Iterable[Raw], mapping: Mapping, kind: Kind, source: str, *, limit: int | None = None
) -> tuple[list[Example], Skipped]:
    """Examples of `rows` through `mapping`, at most `limit`. Raises InputError when there is not one."""
    if mapping.prompt is None and mapping.messages is None:
        raise InputError(f"{source}: no column holds the request; choose one as 'prompt' or 'messages'.")
    skipped = Skipped()
    examples = (to_example(row, mapping, kind, source, skipped) for row in rows)
    found = list(itertools.islice((example for example in examples if example is not None), limit))
    if not found:
        raise InputError(f"{source}: no row gave an example. {skipped.words() or 'It holds no rows.'}")
    return found, skipped
