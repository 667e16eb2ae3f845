"""The prompts of an evaluation: a run's held-out set, and further sets from a file, the catalogue or the hub."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from cbgui.data.catalogue import CATALOGUE, catalogue_rows
from cbgui.data.columns import SAMPLE_ROWS, choose_answer, columns_of, guess_mapping, need_prompts, to_examples
from cbgui.data.examples import Example, Kind
from cbgui.data.files import SUFFIXES, open_table
from cbgui.data.hub_datasets import hub_rows
from cbgui.data.notes import Notes
from cbgui.data.tables import Located, Raw
from cbgui.errors import InputError

MAX_PROMPTS = 200  # of each side of a further set by default; public sets have up to 200,000


@dataclass
class PromptSet:
    """Break and retain prompts under one title. The base model writes the responses that are missing."""

    title: str
    breaks: list[Example]
    retains: list[Example]

    @classmethod
    def of(cls, title: str, examples: list[Example]) -> PromptSet:
        """Sort examples into the two sides."""
        breaks = [example for example in examples if example.kind == "break"]
        return cls(title, breaks, [example for example in examples if example.kind != "break"])

    def cut(self, limit: int | None) -> PromptSet:
        """At most `limit` examples of each side, as many of each kind as there are; the same ones each time."""
        return replace(self, breaks=_sample(self.breaks, limit), retains=_sample(self.retains, limit))


def _sample(examples: list[Example], limit: int | None) -> list[Example]:
    """At most `limit` examples in their order: from each kind as many, spread over the whole list."""
    if limit is None or len(examples) <= limit:
        return examples
    of_kind: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        of_kind.setdefault(example.kind, []).append(row)
    chosen: list[int] = []
    for left, rows in zip(range(len(of_kind), 0, -1), sorted(of_kind.values(), key=len), strict=True):
        count = min(len(rows), (limit - len(chosen)) // left)  # what a rare kind lacks, the others get
        chosen += [rows[number * len(rows) // count] for number in range(count)]
    return [examples[row] for row in sorted(chosen)]


@dataclass(frozen=True)
class SetOptions:
    """How a set is read. A column that is None is taken from the catalogue or guessed."""

    kind: str | None = None  # of rows that name none; "break" by default
    prompt: str | None = None
    response: str | None = None
    messages: str | None = None
    config: str | None = None  # of a hub dataset
    split: str = "train"
    limit: int = MAX_PROMPTS  # of each side

    def columns(self) -> dict[str, str]:
        """The columns that were given, by their role in `Mapping`."""
        roles = {"prompt": self.prompt, "response": self.response, "messages": self.messages}
        return {role: column for role, column in roles.items() if column is not None}


def _located(rows: Iterable[Raw]) -> Iterator[Located]:
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def read_set(name: str, options: SetOptions | None = None) -> PromptSet:
    """Read a file, a set of the catalogue (by its title or hub id), or any hub dataset. Raises InputError."""
    options = options or SetOptions()
    kind = options.kind
    if kind is not None and kind not in get_args(Kind):
        raise InputError(f"--also-kind {kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
    entry = next((e for e in CATALOGUE if name in (e.title, e.name) and kind in (None, e.kind)), None)
    notes = Notes()
    rows: Iterable[Located]
    known: list[str] = []
    if entry is not None:
        rows, mapping, kind, title, is_file = (
            _located(catalogue_rows(entry)),
            entry.mapping,
            entry.kind,
            entry.title,
            False,
        )
    else:
        path = Path(name)
        is_file = path.exists() or path.suffix.lower() in SUFFIXES
        rows = open_table(path).rows if is_file else _located(hub_rows(name, options.config, options.split))
        first = list(itertools.islice(rows, SAMPLE_ROWS))
        raw = [row for _, row in first]
        title = path.name if is_file else name
        mapping, rows = replace(guess_mapping(raw), **options.columns()), itertools.chain(first, rows)
        known = columns_of(raw)
        need_prompts(mapping, known, title)
        # A pair's answers do not matter to a must-stop prompt: the base model's own answer is what must not come.
        mapping = choose_answer(mapping, kind or "break", "rejected", title, notes)
    # A file may hold all break rows and then all retain rows, so it is read to its end; a hub dataset may be too long
    # for that.
    most = None if is_file else options.limit
    mapping = replace(mapping, **options.columns())
    examples = to_examples(rows, mapping, kind or "break", title, notes, columns=known, limit=most)
    return PromptSet.of(title, examples).cut(options.limit)
