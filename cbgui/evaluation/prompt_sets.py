"""The prompts to ask: a run's held-out ones, and further sets from a file, the catalogue or the hub."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qsl

from cbgui.config import InputError
from cbgui.data.examples import Example, Kind
from cbgui.data.files import SUFFIXES, Raw, read_rows
from cbgui.data.sources import CATALOGUE, LOOKED_AT, catalogue_rows, guess_mapping, hub_rows, to_examples

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
    if kind is not None and kind not in get_args(Kind):
        raise InputError(f"--also {text!r}: kind {kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
    limit = options.get("limit", str(MOST_PROMPTS))
    if not limit.isdecimal() or int(limit) < 1:
        raise InputError(f"--also {text!r}: limit {limit!r} is not a number above zero.")
    columns = {role: options[role] for role in ("prompt", "response", "messages") if role in options}
    entry = next((e for e in CATALOGUE if name in (e.title, e.name) and kind in (None, e.kind)), None)
    rows: Iterable[Raw]
    if entry is not None:
        rows, mapping, kind, title, is_file = catalogue_rows(entry), entry.mapping, entry.kind, entry.title, False
    else:
        is_file = Path(name).exists() or Path(name).suffix.lower() in SUFFIXES
        rows = iter(
            read_rows(Path(name)) if is_file else hub_rows(name, options.get("config"), options.get("split", "train"))
        )
        first = list(itertools.islice(rows, LOOKED_AT))
        mapping, rows = guess_mapping(first), itertools.chain(first, rows)
        title = Path(name).name if is_file else name
    # A file may hold one side after the other, so it is read to its end; a hub set may have no end worth waiting for.
    most = None if is_file else int(limit)
    examples, _ = to_examples(rows, replace(mapping, **columns), kind or "break", title, limit=most)
    breaks = [example for example in examples if example.kind == "break"]
    keeps = [example for example in examples if example.kind != "break"]
    return PromptSet(title, breaks, keeps).cut(int(limit))
