"""An example: a prompt, its response and its kind; and its JSON Lines form (docs/data.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cbgui.data.files import Raw, located_rows
from cbgui.errors import InputError

Kind = Literal["break", "retain", "near_miss", "refusal"]
# What the screen calls each kind. All but break are retain examples: to them the model must keep responding as before.
KIND_LABELS: dict[Kind, str] = {
    "break": "must stop",
    "retain": "everyday",
    "near_miss": "look-alike",
    "refusal": "refusal",
}
KIND_PLURALS: dict[Kind, str] = {
    "break": "must-stop questions",
    "retain": "everyday questions",
    "near_miss": "look-alikes",
    "refusal": "refusals",
}


@dataclass(frozen=True)
class Example:
    """`messages` holds every turn before the response, and ends with the user's prompt."""

    messages: tuple[tuple[str, str], ...]  # (role, content)
    response: str
    kind: Kind
    source: str = ""

    @property
    def prompt(self) -> str:
        """The user's last turn."""
        return self.messages[-1][1]

    def chat(self) -> list[dict[str, str]]:
        """The messages in the form that chat templates take."""
        return [{"role": role, "content": content} for role, content in self.messages]

    def to_row(self) -> dict[str, Any]:
        """One row of a data file: prompt and response, or messages for a longer conversation."""
        if len(self.messages) == 1 and self.messages[0][0] == "user":
            return {"prompt": self.prompt, "response": self.response, "kind": self.kind}
        turns = self.chat() + [{"role": "assistant", "content": self.response}]
        return {"messages": turns, "kind": self.kind}


def example_from_row(row: Raw, kind: Kind, where: str, source: str) -> Example:
    """Parse one row; `kind` applies when the row names none.

    Raises InputError with a sentence that begins with `where`.
    """
    if row.get("messages") is not None:  # a table of both forms has empty cells for the columns a row does not use
        turns = row["messages"]
        good = isinstance(turns, list) and all(
            isinstance(turn, dict) and isinstance(turn.get("content"), str) and isinstance(turn.get("role"), str)
            for turn in turns
        )
        if not good or len(turns) < 2 or turns[-1]["role"] != "assistant":
            raise InputError(f"{where}: 'messages' must be a list of role and content that ends with the assistant.")
        messages = tuple((turn["role"], turn["content"]) for turn in turns[:-1])
        response = turns[-1]["content"]
    else:
        for field in ("prompt", "response"):
            if not isinstance(row.get(field), str):
                raise InputError(
                    f"{where}: '{field}' is missing or not text; name the columns prompt and response, or import the "
                    "file on the Data page, where you can choose the columns."
                )
        messages, response = (("user", row["prompt"]),), row["response"]
    if not response.strip():
        raise InputError(f"{where}: the response is empty; fill it in or delete the line.")
    row_kind = row.get("kind") or kind
    if row_kind not in get_args(Kind):
        raise InputError(f"{where}: kind {row_kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
    return Example(messages, response, row_kind, source)


def read_examples(path: Path, kind: Kind) -> list[Example]:
    """Read a file of rows with prompt and response (or messages); `kind` applies to rows that name none.

    Raises InputError naming the file and the line.
    """
    examples = [example_from_row(row, kind, where, path.name) for where, row in located_rows(path)]
    if not examples:
        raise InputError(f"{path.name}: the file holds no examples; add at least one line.")
    return examples


def write_examples(path: Path, examples: list[Example]) -> None:
    """Write JSON Lines."""
    text = "".join(json.dumps(example.to_row(), ensure_ascii=False) + "\n" for example in examples)
    path.write_text(text, encoding="utf-8")
