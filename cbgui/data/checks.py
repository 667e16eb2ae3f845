"""Find what is wrong with a data set, say why it matters, and offer a fix.

A new check is a function and a line in CHECKS; its fix is a case in `fix`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from cbgui.config import find_data_file
from cbgui.data.dataset_store import DatasetStore, Row
from cbgui.data.examples import KIND_LABELS, Example, Kind
from cbgui.data.near_duplicates import NEAR, groups, near_pairs, normalised
from cbgui.data.reading import read_examples, read_file
from cbgui.data.refusals import is_refusal
from cbgui.data.split import hold_out
from cbgui.data.suggest import suggest

FEW_BREAK, FEW_RETAIN = 50, 100  # rows
CHARACTERS_PER_TOKEN = 4.0  # of English text, roughly
SHIPPED_RETAIN = "demo/retain.jsonl"
OPENING = 40  # characters of the response that near duplicates are compared by, together with the prompt
SAME_OPENING = 0.1  # share of the break prompts that must have the same opening words to be reported
LOOK_ALIKES = 100  # that are suggested to a topic that has none
ADD_SHIPPED = "Add the built-in must-keep rows"


@dataclass(frozen=True)
class Finding:
    """One problem found. `ids` are the affected rows; `fix` says what the fix does, None if only the user has one."""

    check: str
    title: str
    why: str
    ids: tuple[int, ...] = ()
    fix: str | None = None


@dataclass(frozen=True)
class _Table:
    """The data set as columns, with what several checks need. All arrays have one entry per row."""

    rows: pd.DataFrame  # id, held_out, kind, prompt, response
    prompts: np.ndarray  # after `normalised`: lower case, no punctuation
    pairs: np.ndarray  # (pairs, 2) rows whose prompt and opening of the response are nearly the same
    max_tokens: int

    def ids(self, chosen: np.ndarray) -> tuple[int, ...]:
        """The ids of the rows that a mask or an array of indices chooses."""
        return tuple(self.rows.id.to_numpy()[chosen].tolist())

    @property
    def training(self) -> np.ndarray:
        return self.rows.held_out.to_numpy() == 0

    @property
    def breaks(self) -> np.ndarray:
        return (self.rows.kind == "break").to_numpy()

    @property
    def break_rows(self) -> np.ndarray:
        return self.breaks & self.training

    @property
    def retain_rows(self) -> np.ndarray:
        return ~self.breaks & self.training


def _duplicate(table: _Table) -> Finding | None:
    rows = table.rows
    repeated = pd.DataFrame({"q": table.prompts, "a": rows.response, "part": rows.held_out}).duplicated().to_numpy()
    ids = table.ids(repeated)
    return Finding(
        "duplicate",
        f"Copies of other rows: {len(ids):,}",
        "A copy gives its example double weight and makes the counts look better than they are.",
        ids,
        "Delete the copies",
    )


def _near_duplicate(table: _Table) -> Finding | None:
    rows, pairs = table.rows, table.pairs
    if len(pairs):
        one, other = pairs.T
        same = (table.prompts[one] == table.prompts[other]) & (
            rows.response.to_numpy()[one] == rows.response.to_numpy()[other]
        )
        sides = (table.breaks[one] == table.breaks[other]) & table.training[one] & table.training[other]
        pairs = pairs[~same & sides]
    first = groups(len(rows), pairs)
    ids = table.ids(first != np.arange(len(rows)))
    return Finding(
        "near_duplicate",
        f"Rows that say nearly the same as another row: {len(ids):,}",
        f"At least {NEAR:.0%} of the words are the same. Many such rows teach one wording, not the topic.",
        ids,
        "Delete all but the first of each group",
    )


def _both_sides(table: _Table) -> Finding | None:
    rows = table.rows
    prompts = set(table.prompts[table.break_rows])
    responses = set(rows.response[table.break_rows]) - {""}
    # Refusals repeat break prompts on purpose.
    checked = table.retain_rows & (rows.kind != "refusal").to_numpy()
    both = checked & (pd.Series(table.prompts).isin(prompts) | rows.response.isin(responses)).to_numpy()
    ids = table.ids(both)
    return Finding(
        "both_sides",
        f"Must-keep rows that repeat the question or the answer of a must-stop row: {len(ids):,}",
        "The two losses pull the same text in opposite directions, and neither wins.",
        ids,
        "Delete them from must keep",
    )


def _empty(table: _Table) -> Finding | None:
    empty = (table.rows.response.str.strip() == "").to_numpy()
    ids = table.ids(empty & (table.training | ~table.breaks))
    return Finding(
        "empty",
        f"Rows without an answer: {len(ids):,}",
        "Training works on the hidden states of the answer, so each row needs one. 'Write the answers' lets the model "
        "write them.",
        ids,
        "Delete them",
    )


def _refusing(table: _Table) -> Finding | None:
    suspects = np.flatnonzero(table.break_rows)
    ids = table.ids(suspects[[is_refusal(text) for text in table.rows.response.to_numpy()[suspects]]])
    return Finding(
        "refusing",
        f"Must-stop answers that are refusals: {len(ids):,}",
        "Training stops the answers that it sees. With these it would stop the model's refusals instead of the topic.",
        ids,
        "Move to must keep as refusals",
    )


def _too_long(table: _Table) -> Finding | None:
    limit = table.max_tokens * CHARACTERS_PER_TOKEN
    length = table.rows.prompt.str.len().to_numpy() + table.rows.response.str.len().to_numpy()
    ids = table.ids(length > limit)
    return Finding(
        "too_long",
        f"Rows longer than about {table.max_tokens} tokens: {len(ids):,}",
        "Training cuts them there and never sees the rest. Cut them now to see what it will use.",
        ids,
        "Cut the answers",
    )


def _too_few(table: _Table) -> Finding | None:
    breaks, retains = table.break_rows.sum(), table.retain_rows.sum()
    words, fix = [], None
    if breaks < FEW_BREAK:
        words.append(f"{breaks} must-stop rows ({FEW_BREAK} or more are better)")
    if retains < FEW_RETAIN:
        words.append(f"{retains} must-keep rows ({FEW_RETAIN} or more are better)")
        fix = ADD_SHIPPED
    if not words:
        return None
    why = "Few must-stop rows teach a wording instead of the topic; with few must-keep rows the model forgets more."
    return Finding("too_few", "Few rows: " + "; ".join(words), why, (), fix)


def _unbalanced(table: _Table) -> Finding | None:
    breaks, retains = table.break_rows.sum(), table.retain_rows.sum()
    if breaks <= retains or retains < FEW_RETAIN:  # `_too_few` reports too few retain rows
        return None
    return Finding(
        "unbalanced",
        f"{breaks:,} must-stop rows but only {retains:,} must-keep rows",
        "Every step takes rows of both. With fewer must-keep rows, the same ones come up again and again, and the "
        "model forgets what they don't cover.",
        (),
        ADD_SHIPPED,
    )


def _forms(table: _Table) -> Finding | None:
    breaks, retains = table.break_rows, table.retain_rows
    if breaks.sum() < FEW_BREAK or not retains.sum():
        return None
    openings = pd.Series([" ".join(text.split()[:3]) for text in table.prompts])
    of_break = openings[breaks].value_counts(normalize=True)
    of_retain = openings[retains].value_counts(normalize=True)
    only_in_break = [o for o, share in of_break.items() if share >= SAME_OPENING and of_retain.get(o, 0) < share / 10]
    if not only_in_break:
        return None
    return Finding(
        "forms",
        "Many must-stop questions begin with the same words: "
        + ", ".join(f"'{opening} ...'" for opening in only_in_break[:4]),
        "Almost no must-keep question begins like that, so the model may learn the wording instead of the topic. Add "
        "must-keep rows on other subjects that begin the same way.",
        table.ids(breaks & openings.isin(only_in_break).to_numpy()),
        ADD_SHIPPED,
    )


def _no_near_misses(table: _Table) -> Finding | None:
    if not table.break_rows.any() or (table.rows.kind == "near_miss").any():
        return None
    return Finding(
        "no_near_misses",
        "No look-alikes among the must-keep rows",
        "Look-alikes resemble must-stop questions but must be answered: 'Who invented gunpowder?' if the topic is "
        "weapons. Without them the model derails on every question of that form.",
        (),
        "Add suggested look-alikes",
    )


def _leak(table: _Table) -> Finding | None:
    training = table.training
    trained = set(table.prompts[training])
    leaked = ~training & np.array([text in trained for text in table.prompts], dtype=bool)
    for one, other in table.pairs.tolist():
        if training[one] != training[other]:
            leaked[one if training[other] else other] = True
    ids = table.ids(leaked)
    return Finding(
        "leak",
        f"Held-out rows that also occur, nearly word for word, in training: {len(ids):,}",
        "Results on them show what the model has memorised, not how it handles new questions.",
        ids,
        "Delete them from held out",
    )


def _no_held_out(table: _Table) -> Finding | None:
    if not table.training.all() or not len(table.rows):
        return None
    return Finding(
        "no_held_out",
        "Nothing is held out",
        "The curves and the report need examples that training never saw. If you hold out nothing, Start holds out a "
        "tenth.",
        (),
        "Hold out a tenth",
    )


CHECKS: list[Callable[[_Table], Finding | None]] = [
    _empty, _refusing, _both_sides, _duplicate, _near_duplicate, _leak, _too_few, _unbalanced, _forms, _no_near_misses,
    _too_long, _no_held_out,
]  # fmt: skip
# Findings about single rows, reported only if there are such rows.
ROW_CHECKS = ("empty", "refusing", "both_sides", "duplicate", "near_duplicate", "leak", "too_long")


def run_checks(data: DatasetStore, *, max_tokens: int = 512) -> list[Finding]:
    """Run all checks. Stores the rows of each finding as flags in `data`, so that `data.page(check=...)` shows them."""
    rows = data.table()
    if not len(rows):
        return []
    prompts = np.array(normalised(rows.prompt), dtype=object)
    openings = normalised(rows.response.str.slice(0, OPENING))
    pairs = near_pairs([f"{one} {other}" for one, other in zip(prompts, openings, strict=True)])
    table = _Table(rows, prompts, pairs, max_tokens)
    found = [finding for check in CHECKS if (finding := check(table)) is not None]
    found = [finding for finding in found if finding.ids or finding.check not in ROW_CHECKS]
    data.flag({finding.check: list(finding.ids) for finding in found})
    return found


def fix(data: DatasetStore, finding: Finding, *, max_tokens: int = 512) -> str:
    """Do what `finding.fix` says and return what was done, in words. Stores one step in `data`, which can be undone."""
    step = (finding.fix or "").lower()
    match finding.check:
        case "duplicate" | "near_duplicate" | "both_sides" | "empty" | "leak":
            return f"Rows deleted: {data.remove(finding.ids, step):,}."
        case "refusing":
            count = data.update(finding.ids, lambda row: _with_kind(row, "refusal"), step)
            return f"Rows moved to must keep as refusals: {count:,}."
        case "no_near_misses":
            count = data.add(_look_alikes(data), step)
            return f"Look-alikes added to must keep: {count:,}. Read them; then press 'Write the answers'."
        case "too_long":
            limit = int(max_tokens * CHARACTERS_PER_TOKEN)
            count = data.update(finding.ids, lambda row: _cut(row, limit), step)
            return f"Answers cut: {count:,}."
        case "too_few" | "unbalanced" | "forms":
            shipped = read_examples(find_data_file(SHIPPED_RETAIN), "retain")
            known = set(normalised(data.table().prompt))
            new = [e for e in shipped if e.kind == "retain" and normalised([e.prompt])[0] not in known]
            return f"{KIND_LABELS['retain'].capitalize()} rows added to must keep: {data.add(new, step):,}."
        case "no_held_out":
            return f"Rows held out: {hold_out(data):,}."
    raise ValueError(f"{finding.check} has no fix")


def _look_alikes(data: DatasetStore) -> list[Example]:
    """Harmless questions on the subjects and in the wording of the must-stop rows, without answers."""
    rows = data.rows()
    breaks = [row.example for row in rows if row.example.kind == "break" and not row.held_out]
    found = suggest(breaks, [row.example for row in rows], 2 * LOOK_ALIKES)
    chosen = [one for one in found if one.kind == "near_miss"][:LOOK_ALIKES]
    return [Example((("user", one.prompt),), "", "near_miss", "suggested") for one in chosen]


def _with_kind(row: Row, kind: Kind) -> Row:
    return replace(row, example=replace(row.example, kind=kind))


def _cut(row: Row, characters: int) -> Row:
    """Cut the row to `characters`, the way training does.

    The response is cut at a space. At least a quarter of the characters is left to it; a prompt that is too long for
    the rest loses its middle.
    """
    room = max(characters // 4, characters - len(row.example.prompt))
    text = row.example.response[:room]
    text = text.rsplit(" ", 1)[0] if len(row.example.response) > room and " " in text else text
    prompt, room = row.example.prompt, max(characters - len(text), 1)
    if len(prompt) > room:
        prompt = prompt[: room // 2] + prompt[-(room - room // 2) :]
    turns = (*row.example.messages[:-1], (row.example.messages[-1][0], prompt))
    return replace(row, example=replace(row.example, messages=turns, response=text))


def check_file(
    path: Path, kind: Kind, *, answer: str | None = None, show: int = 0, max_tokens: int = 512
) -> Iterator[str]:
    """Read a data file, check it, and yield lines of text; `kind` applies to rows that name none.

    `show` examples are yielded as JSON, as training would see them. Raises InputError when the file cannot be read.
    """
    reading = read_file(path, kind, answer=answer, try_out=True)
    count = f"{len(reading.examples):,} example{'s' if len(reading.examples) != 1 else ''}"
    yield f"{count}. {' '.join(reading.sentences())}"
    for example in reading.examples[:show]:
        shown = {"kind": example.kind, "messages": example.chat(), "response": example.response}
        yield json.dumps(shown, ensure_ascii=False)
    with tempfile.TemporaryDirectory() as scratch:
        data = DatasetStore.make(Path(scratch) / "checked")
        data.add(reading.examples, "read")
        places = {row.id: place.rpartition(", ")[2] for row, place in zip(data.rows(), reading.places, strict=True)}
        for finding in run_checks(data, max_tokens=max_tokens):
            yield f"{finding.title}. {finding.why}"
            if finding.ids:
                shown = ", ".join(places[one] for one in finding.ids[:10])
                yield f"  {shown}{' ...' if len(finding.ids) > 10 else ''}"
