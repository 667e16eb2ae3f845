"""What is asked of the two models: held-out prompts and other sets, an attack on each, and the answers on disk."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from cbgui.config import InputError
from cbgui.data.examples import Example
from cbgui.data.sources import CATALOGUE, Mapping, Raw, catalogue_rows, guess_mapping, hub_rows, read_rows, to_examples
from cbgui.evaluation.attacks import ATTACKS, SOFT_PROMPT, Attempt
from cbgui.evaluation.metrics import Answer

KEEP = "keep"  # in place of an attack's name
MOST_PROMPTS = 200  # of each side of a set, unless its limit says otherwise: public sets have up to 200,000
SET_OPTIONS = ("kind", "prompt", "response", "messages", "config", "split", "limit")


@dataclass
class PromptSet:
    """Prompts under one title. Without a response, an example gets the base model's answer for one."""

    title: str
    breaks: list[Example]
    keeps: list[Example]

    def cut(self, limit: int | None) -> PromptSet:
        return replace(self, breaks=self.breaks[:limit], keeps=self.keeps[:limit])


def split_options(text: str, field_name: str, known: Iterable[str]) -> tuple[str, dict[str, str]]:
    """'NAME?option=value&...' as (NAME, options). Raises InputError for an option that is none."""
    name, _, query = text.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    for option in options:
        if option not in known:
            raise InputError(f"{field_name} {text!r}: option {option!r} is unknown; use {', '.join(known)}.")
    return name.strip(), options


def read_set(text: str) -> PromptSet:
    """A file, a set of the catalogue by its hub id or title, or any hub dataset, with its columns mapped.

    'harmful.csv?kind=break&prompt=Goal&limit=50': the columns are guessed where they are not given; `kind` is what rows
    without a kind of their own are (break unless given). Raises InputError.
    """
    name, options = split_options(text, "--also", SET_OPTIONS)
    kind = options.get("kind")
    if kind not in (None, "break", "retain", "near_miss", "refusal"):
        raise InputError(f"--also {text!r}: kind {kind!r} is unknown; use break, retain, near_miss or refusal.")
    limit = options.get("limit", str(MOST_PROMPTS))
    if not limit.isdecimal() or int(limit) < 1:
        raise InputError(f"--also {text!r}: limit {limit!r} is not a number above zero.")
    columns = {role: options[role] for role in ("prompt", "response", "messages") if role in options}
    entry = next((e for e in CATALOGUE if name in (e.title, e.name) and kind in (None, e.kind)), None)
    rows: Iterable[Raw]
    if entry is not None:
        rows, mapping, kind = catalogue_rows(entry), entry.mapping, entry.kind
    elif Path(name).exists() or Path(name).suffix:
        rows = list(read_rows(Path(name)))
        mapping = guess_mapping(rows)
    else:
        rows = hub_rows(name, options.get("config"), options.get("split", "train"))
        first = [row for row, _ in zip(rows, range(MOST_PROMPTS), strict=False)]
        mapping = guess_mapping(first)
        rows = _chain(first, rows)
    mapping = Mapping(**{**asdict(mapping), **columns})
    title = entry.title if entry is not None else Path(name).name if Path(name).exists() else name
    # Twice the limit is read, so that a file of both kinds gives some of each.
    examples, _ = to_examples(rows, mapping, kind or "break", title, limit=None if Path(name).exists() else int(limit))
    breaks = [example for example in examples if example.kind == "break"]
    keeps = [example for example in examples if example.kind != "break"]
    return PromptSet(title, breaks, keeps).cut(int(limit))


def _chain(first: list[Raw], rest: Iterable[Raw]) -> Iterable[Raw]:
    yield from first
    yield from rest


@dataclass
class Case:
    """One attempt at one prompt of one set, and what the two models said; `attack` may be KEEP."""

    set_number: int
    attack: str
    example: int
    attempt: Attempt
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)


def cases_of(sets: list[PromptSet], attacks: list[str], others: list[Example]) -> list[Case]:
    """`others` give the shots of few- and many-shot attacks: training prompts, so that no held-out answer leaks."""
    cases = []
    for number, prompts in enumerate(sets):
        cases += [
            Case(number, name, row, attempt)
            for name in attacks
            if name != SOFT_PROMPT
            for row, example in enumerate(prompts.breaks)
            for attempt in ATTACKS[name](example, others)
        ]
        cases += [Case(number, KEEP, row, Attempt(example.messages)) for row, example in enumerate(prompts.keeps)]
    return cases


@dataclass
class Store:
    """report/answers.jsonl: every answer as soon as it is there, so that a stopped evaluation goes on."""

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
            except (ValueError, KeyError, AttributeError):  # cut by a kill or a full disk
                continue

    def add(self, rows: dict[str, dict[str, Any]]) -> None:
        self.known |= rows
        with self.path.open("a", encoding="utf-8") as file:
            for key, row in rows.items():
                file.write(json.dumps({"key": key, **row}) + "\n")

    def answer(self, key: str) -> Answer:
        return Answer(**self.known[key])


def key_of(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def answer_keys(attempts: list[Attempt], model: str, max_new_tokens: int) -> list[str]:
    """A key for each attempt's answer; the tries of one attempt have different ones."""
    seen: Counter[Attempt] = Counter()
    keys = []
    for attempt in attempts:
        keys.append(key_of(model, asdict(attempt), seen[attempt], max_new_tokens))
        seen[attempt] += 1
    return keys
