"""Results of an evaluation on disk, so that one that was stopped continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import Answer


@dataclass
class Store:
    """A JSON Lines file of results by key. Each result is written as soon as it is known."""

    path: Path
    known: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.is_file():
            return
        for line in self.path.read_text("utf-8").splitlines():
            try:
                row = json.loads(line)
                self.known[row.pop("key")] = row
            except (ValueError, KeyError, AttributeError):  # a line cut off by a kill or a full disk
                continue

    def add(self, rows: dict[str, dict[str, Any]]) -> None:
        """Append results to the file; `rows` is by key."""
        self.known |= rows
        with self.path.open("a", encoding="utf-8") as file:
            for key, row in rows.items():
                file.write(json.dumps({"key": key, **row}) + "\n")

    def answer(self, key: str) -> Answer:
        """The result under `key`, as an Answer."""
        return Answer(**self.known[key])


def key_of(*parts: Any) -> str:
    """A key for everything that decides a result."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def answer_keys(attempts: list[Attempt], model: str, max_new_tokens: int) -> list[str]:
    """A key for each attempt's answer by `model`. Equal attempts (several tries of one prompt) get different keys."""
    seen: Counter[Attempt] = Counter()
    keys = []
    for attempt in attempts:
        keys.append(key_of(model, asdict(attempt), seen[attempt], max_new_tokens))
        seen[attempt] += 1
    return keys
