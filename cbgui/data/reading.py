"""One reading of a data file, which `check`, training, evaluation and the Topic page share."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from cbgui.data.columns import (
    SAMPLE_ROWS,
    Mapping,
    choose_answer,
    columns_of,
    examples_in,
    guess_mapping,
    likely_answer,
    need_prompts,
)
from cbgui.data.examples import Example, Kind
from cbgui.data.files import Table, open_table
from cbgui.data.notes import Notes
from cbgui.data.tables import NO_VALUE_SAID
from cbgui.errors import InputError


@dataclass(frozen=True)
class Reading:
    """The examples of a file, each with its place; which columns were taken; what else should be known."""

    examples: list[Example]
    places: list[str]  # such as "data.csv, line 3"
    mapping: Mapping
    notes: Notes

    def sentences(self) -> list[str]:
        """How the file was read."""
        return [self.mapping.words(), *self.notes.sentences()]


def read_file(path: Path, kind: Kind, *, answer: str | None = None, try_out: bool = False) -> Reading:
    """Read a data file; `kind` applies to rows that name none, `answer` chooses between the answers of a pair.

    With `try_out`, a pair without `answer` is read with the likelier one, and the notes say so. Raises InputError.
    """
    return read_table(open_table(path), kind, answer=answer, try_out=try_out)


def read_table(table: Table, kind: Kind, *, answer: str | None = None, try_out: bool = False) -> Reading:
    """Like `read_file`, for a file or a pasted text that is open already."""
    first = list(itertools.islice(table.rows, SAMPLE_ROWS))
    rows = [row for _, row in first]
    mapping = guess_mapping(rows, table.notes)
    if not first:
        raise InputError(f"{table.name}: the file holds no examples; add rows with a question and an answer.")
    columns = columns_of(rows)
    need_prompts(mapping, columns, table.name)
    if try_out and answer is None and kind == "break" and mapping.pair and mapping.response is None:
        answer = likely_answer(mapping, rows)
        table.notes.say(
            f"Every row has two answers; shown with those in {answer!r}. Training asks which one the model must not "
            "give: --set data.break_answer=chosen (or rejected)."
        )
    mapping = choose_answer(mapping, kind, answer, table.name, table.notes)
    rows = itertools.chain(first, table.rows)
    found = list(examples_in(rows, mapping, kind, table.name, table.notes, columns))
    if not found:
        raise InputError(f"{table.name}: no row could be used. {table.notes.words()}")
    places, examples = zip(*found, strict=True)
    return Reading(list(examples), list(places), mapping, table.notes)


def read_examples(
    path: Path, kind: Kind, *, answer: str | None = None, notes: list[str] | None = None
) -> list[Example]:
    """Like `read_file`, for training: every example needs a response. `notes` is told how the file was read.

    Raises InputError naming the file and the line.
    """
    reading = read_file(path, kind, answer=answer)
    for place, example in zip(reading.places, reading.examples, strict=True):
        if not example.response:
            why = next((f" {said}" for said in reading.notes.said if said.startswith(NO_VALUE_SAID)), "")
            raise InputError(f"{place}: the response is empty; fill it in or delete the line.{why}")
    if notes is not None:
        notes += reading.sentences()
    return reading.examples
