"""An example: a prompt, its response and its kind; and its JSON Lines form (docs/data.md)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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


def write_examples(path: Path, examples: list[Example]) -> None:
    """Write JSON Lines."""
    text = "".join(json.dumps(example.to_row(), ensure_ascii=False) + "\n" for example in examples)
    path.write_text(text, encoding="utf-8")
