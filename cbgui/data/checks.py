"""What is wrong with a data set, in words, and the mend for it. A new check is a function and a line in CHECKS."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cbgui.config import find_data_file
from cbgui.data.columns import columns_of, guess_mapping, to_examples
from cbgui.data.dataset_store import DatasetStore, Row
from cbgui.data.examples import Kind, read_examples
from cbgui.data.files import read_rows
from cbgui.data.near_duplicates import groups, near_pairs, normal
from cbgui.data.refusals import is_refusal
from cbgui.data.split import hold_out

FEW_BREAK, FEW_KEEP = 50, 100
CHARACTERS_PER_TOKEN = 4.0  # of English text; a tokenizer would take a minute for 200,000 rows
SHIPPED_KEEP = "demo/retain.jsonl"
OPENING = 40  # characters of the answer that near-duplicates are compared by, after the request


@dataclass(frozen=True)
class Finding:
    """One thing to look at: the rows concerned, why it matters, and what the mend does (None: only the user can)."""

    check: str
    title: str
    why: str
    ids: tuple[int, ...] = ()
    mend: str | None = None


@dataclass(frozen=True)
class _Table:
    """The data set as columns, with what several checks need."""

    rows: pd.DataFrame  # id, held_out, kind, prompt, response
    request: np.ndarray  # normalized prompts
    pairs: np.ndarray  # near pairs of request and the answer's opening
    max_tokens: int

    def ids(self, chosen: np.ndarray) -> tuple[int, ...]:
        return tuple(self.rows.id.to_numpy()[chosen].tolist())

    @property
    def training(self) -> np.ndarray:
        return self.rows.held_out.to_numpy() == 0

    @property
    def breaks(self) -> np.ndarray:
        return (self.rows.kind == "break").to_numpy()


def _among(texts: np.ndarray, wanted: set[str], where: np.ndarray) -> np.ndarray:
    """Which of `texts` at `where` are `wanted`; false elsewhere."""
    found = np.zeros(len(texts), dtype=bool)
    rows = np.flatnonzero(where)
    found[rows] = [text in wanted for text in texts[rows]]
    return found


def _duplicate(table: _Table) -> Finding | None:
    rows = table.rows
    repeated = pd.DataFrame({"q": table.request, "a": rows.response, "part": rows.held_out}).duplicated().to_numpy()
    ids = table.ids(repeated)
    return Finding(
        "duplicate",
        f"{len(ids):,} copies of other rows",
        "A copy weighs its example twice and makes the counts look better than they are.",
        ids,
        "Delete the copies",
    )


def _near_duplicate(table: _Table) -> Finding | None:
    rows, pairs = table.rows, table.pairs
    if len(pairs):
        one, other = pairs.T
        same = (table.request[one] == table.request[other]) & (
            rows.response.to_numpy()[one] == rows.response.to_numpy()[other]
        )
        sides = (table.breaks[one] == table.breaks[other]) & table.training[one] & table.training[other]
        pairs = pairs[~same & sides]
    first = groups(len(rows), pairs)
    ids = table.ids(first != np.arange(len(rows)))
    return Finding(
        "near_duplicate",
        f"{len(ids):,} rows say nearly the same as another",
        "Four of five words are the same. Many of them teach one wording, not the topic.",
        ids,
        "Keep the first of each",
    )


def _both_sides(table: _Table) -> Finding | None:
    rows = table.rows
    breaks = set(table.request[table.breaks & table.training])
    answers = set(rows.response[table.breaks & table.training]) - {""}
    # A refusal of a request that must break is kept on purpose.
    keep = ~table.breaks & (rows.kind != "refusal").to_numpy() & table.training
    both = keep & (pd.Series(table.request).isin(breaks) | rows.response.isin(answers)).to_numpy()
    ids = table.ids(both)
    return Finding(
        "both_sides",
        f"{len(ids):,} Keep rows have a Break row's request or answer",
        "The two losses pull the same text both ways, and neither wins.",
        ids,
        "Delete them from Keep",
    )


def _empty(table: _Table) -> Finding | None:
    empty = (table.rows.response.str.strip() == "").to_numpy()
    ids = table.ids(empty & (table.training | ~table.breaks))
    return Finding(
        "empty",
        f"{len(ids):,} rows have no answer",
        "Break rows break their answer's hidden states, so they need one. 'Write the answers' lets the model do it.",
        ids,
        "Delete them",
    )


def _refusing(table: _Table) -> Finding | None:
    suspects = np.flatnonzero(table.breaks & table.training)
    ids = table.ids(suspects[[is_refusal(text) for text in table.rows.response.to_numpy()[suspects]]])
    return Finding(
        "refusing",
        f"{len(ids):,} Break answers are refusals",
        "What breaks is the answer that is shown: these would break the model's refusals instead of the topic.",
        ids,
        "Move to Keep as refusals",
    )


def _too_long(table: _Table) -> Finding | None:
    limit = table.max_tokens * CHARACTERS_PER_TOKEN
    length = table.rows.prompt.str.len().to_numpy() + table.rows.response.str.len().to_numpy()
    ids = table.ids(length > limit)
    return Finding(
        "too_long",
        f"{len(ids):,} rows are longer than about {table.max_tokens} tokens",
        "Training cuts them there; what comes after is not learned. Cutting them now shows what will be used.",
        ids,
        "Cut the answers",
    )


def _too_few(table: _Table) -> Finding | None:
    breaks, keep = (table.breaks & table.training).sum(), (~table.breaks & table.training).sum()
    words, mend = [], None
    if breaks < FEW_BREAK:
        words.append(f"{breaks} Break rows, of at least {FEW_BREAK}")
    if keep < FEW_KEEP:
        words.append(f"{keep} Keep rows, of at least {FEW_KEEP}")
        mend = "Add the built-in Keep rows"
    if not words:
        return None
    why = "Few Break rows teach their words instead of the topic; few Keep rows let the model forget the rest."
    return Finding("too_few", "Too few rows: " + " and ".join(words), why, (), mend)


def _unbalanced(table: _Table) -> Finding | None:
    breaks, keep = (table.breaks & table.training).sum(), (~table.breaks & table.training).sum()
    if breaks <= keep or keep < FEW_KEEP:  # too few is said already
        return None
    return Finding(
        "unbalanced",
        f"{breaks:,} Break rows against {keep:,} Keep rows",
        "Every step sees both; with fewer Keep rows the same ones come round again and the rest is not held.",
        (),
        "Add the built-in Keep rows",
    )


def _forms(table: _Table) -> Finding | None:
    breaks, keep = table.breaks & table.training, ~table.breaks & table.training
    if breaks.sum() < FEW_BREAK or not keep.sum():
        return None
    openings = pd.Series([" ".join(text.split()[:3]) for text in table.request])
    of_break = openings[breaks].value_counts(normalize=True)
    of_keep = openings[keep].value_counts(normalize=True)
    alone = [form for form, share in of_break.items() if share >= 0.1 and of_keep.get(form, 0) < share / 10]
    if not alone:
        return None
    return Finding(
        "forms",
        "Break requests begin alike: " + ", ".join(f"'{form} ...'" for form in alone[:4]),
        "Almost no Keep request begins so; the model may break on the form instead of the topic. Add Keep rows that "
        "begin the same way on other subjects.",
        table.ids(breaks & openings.isin(alone).to_numpy()),
        "Add the built-in Keep rows",
    )


def _no_near_misses(table: _Table) -> Finding | None:
    if not (table.breaks & table.training).any() or (table.rows.kind == "near_miss").any():
        return None
    return Finding(
        "no_near_misses",
        "No near misses among the Keep rows",
        "Near misses look like Break requests and must be answered ('Who invented gunpowder?' beside a weapons topic). "
        "Without them the model derails on everything of that form.",
        tuple(_likest(table)),
        "Mark the Keep rows most like Break" if (~table.breaks).any() else None,
    )


def _likest(table: _Table, share: float = 0.1) -> list[int]:
    """Keep rows that share the most rare words with Break requests: at most a tenth of them, at least one word."""
    keep = np.flatnonzero(~table.breaks & table.training)
    words = [set(text.split()) for text in table.request]
    spread = pd.Series([word for row in words for word in row]).value_counts()
    rare = set(spread[spread <= max(3, len(words) * 0.05)].index)
    of_break = set().union(*(words[row] for row in np.flatnonzero(table.breaks & table.training))) & rare
    shared = {row: len(words[row] & of_break) for row in keep}
    best = sorted((row for row in keep if shared[row]), key=lambda row: -shared[row])
    return list(table.ids(np.array(best[: max(1, int(share * len(keep)))], dtype=np.int64)))


def _leak(table: _Table) -> Finding | None:
    rows, training = table.rows, table.training
    leaked = ~training & _among(table.request, set(table.request[training]), ~training)
    for one, other in table.pairs.tolist():
        if training[one] != training[other]:
            leaked[one if training[other] else other] = True
    ids = tuple(rows.id.to_numpy()[leaked].tolist())
    return Finding(
        "leak",
        f"{len(ids):,} held-out rows are nearly in the training rows",
        "Figures on them say how well the model learned by heart, not how it will do.",
        ids,
        "Delete them from held out",
    )


def _no_held_out(table: _Table) -> Finding | None:
    if not table.training.all() or not len(table.rows):
        return None
    return Finding(
        "no_held_out",
        "Nothing is held out",
        "The curves and the report need examples that training never saw. Start holds out a tenth if you do not.",
        (),
        "Hold out a tenth",
    )


CHECKS: list[Callable[[_Table], Finding | None]] = [
    _empty, _refusing, _both_sides, _duplicate, _near_duplicate, _leak, _too_few, _unbalanced, _forms, _no_near_misses,
    _too_long, _no_held_out,
]  # fmt: skip
# Findings about single rows, told only when there are some.
OF_ROWS = ("empty", "refusing", "both_sides", "duplicate", "near_duplicate", "leak", "too_long")


def run_checks(data: DatasetStore, *, max_tokens: int = 512) -> list[Finding]:
    """All findings; the rows of each can then be filtered in `data`."""
    rows = data.table()
    if not len(rows):
        return []
    request = np.array(normal(rows.prompt), dtype=object)
    opening = normal(rows.response.str.slice(0, OPENING))
    pairs = near_pairs([f"{one} {other}" for one, other in zip(request, opening, strict=True)])
    table = _Table(rows, request, pairs, max_tokens)
    found = [finding for check in CHECKS if (finding := check(table)) is not None]
    found = [finding for finding in found if finding.ids or finding.check not in OF_ROWS]
    data.flag({finding.check: list(finding.ids) for finding in found})
    return found


def mend(data: DatasetStore, finding: Finding, *, max_tokens: int = 512) -> str:
    """Do what `finding.mend` says, as one step that can be undone; returns what was done."""
    words = finding.mend or ""
    match finding.check:
        case "duplicate" | "near_duplicate" | "both_sides" | "empty" | "leak":
            return f"{data.remove(finding.ids, words.lower()):,} rows deleted."
        case "refusing":
            count = data.update(finding.ids, lambda row: _with_kind(row, "refusal"), words.lower())
            return f"{count:,} rows moved to Keep as refusals."
        case "no_near_misses":
            count = data.update(finding.ids, lambda row: _with_kind(row, "near_miss"), words.lower())
            return f"{count:,} Keep rows marked as near misses; read them, and write more."
        case "too_long":
            limit = int(max_tokens * CHARACTERS_PER_TOKEN)
            count = data.update(finding.ids, lambda row: _cut(row, limit), words.lower())
            return f"{count:,} answers cut."
        case "too_few" | "unbalanced" | "forms":
            shipped = read_examples(find_data_file(SHIPPED_KEEP), "retain")
            known = set(normal(data.table().prompt))
            new = [e for e in shipped if e.kind == "retain" and normal([e.prompt])[0] not in known]
            return f"{data.add(new, words.lower()):,} ordinary Keep rows added."
        case "no_held_out":
            return f"{hold_out(data):,} rows held out."
    raise ValueError(f"{finding.check} has no mend")


def _with_kind(row: Row, kind: str) -> Row:
    return replace(row, example=replace(row.example, kind=kind))


def _cut(row: Row, characters: int) -> Row:
    """The answer cut at a space so that request and answer together have at most so many characters; at least a
    quarter of them stays with the answer, and a request too long for the rest loses its middle, as in training."""
    room = max(characters // 4, characters - len(row.example.prompt))
    text = row.example.response[:room]
    text = text.rsplit(" ", 1)[0] if len(row.example.response) > room and " " in text else text
    prompt, room = row.example.prompt, max(characters - len(text), 1)
    if len(prompt) > room:
        prompt = prompt[: room // 2] + prompt[-(room - room // 2) :]
    turns = (*row.example.messages[:-1], (row.example.messages[-1][0], prompt))
    return replace(row, example=replace(row.example, messages=turns, response=text))


def check_file(path: Path, kind: Kind, *, max_tokens: int = 512) -> Iterator[str]:
    """What was read from a data file and what is wrong with it, in lines. `kind` is that of rows without one.

    Raises InputError when the file cannot be read.
    """
    rows = list(read_rows(path))
    examples, skipped = to_examples(rows, guess_mapping(rows), kind, path.name)
    yield f"{len(examples)} examples from columns {', '.join(columns_of(rows))}. {skipped.words()}"
    with tempfile.TemporaryDirectory() as scratch:
        data = DatasetStore(Path(scratch) / "checked")
        data.add(examples, "read")
        numbers = {row.id: number for number, row in enumerate(data.rows(), 1)}
        for finding in run_checks(data, max_tokens=max_tokens):
            yield f"{finding.title}. {finding.why}"
            if finding.ids:
                shown = ", ".join(str(numbers[one]) for one in finding.ids[:10])
                yield f"  examples {shown}{' ...' if len(finding.ids) > 10 else ''}"
