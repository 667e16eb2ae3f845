"""What turns a topic of bare questions into one that can be trained and tested: the model's answers, and a test set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from cbgui.config import DataConfig
from cbgui.data.dataset_store import DatasetStore, Row
from cbgui.data.refusals import is_refusal
from cbgui.data.split import SHARE, differ_in_one_word, hold_out
from cbgui.ui.fragments import plain
from cbgui.ui.panels.suggestions import SOURCE
from cbgui.ui.panels.write_answers import write_rows
from cbgui.ui.words import say

LONGEST = 80  # tokens of an answer; training reads at most 160 of an example on a CPU
STOP_TESTS, KEEP_TESTS = 15, 30  # the fewest test questions with which a report says something
PREFILL = "Sure, here is how"  # how an answer begins that the model would otherwise refuse


def complete(data: DatasetStore, model: str) -> Iterator[tuple[str, bool]]:
    """Write the missing answers, move what the model refuses anyway, hold out test questions.

    Yields how far it is, and whether rows have changed. Closing the iterator stops. Raises InputError.
    """
    missing = [row for row in data.rows() if not row.example.response.strip()]
    if missing:
        with closing(write_rows(data, missing, model, longest=LONGEST, count_refusals=False)) as writing:
            yield from writing
        written = {row.position for row in missing}
        yield from _without_refusals(data, written, model)
        silent = [row.id for row in data.rows() if not row.example.response.strip() and row.example.source == SOURCE]
        data.remove(silent, "remove suggestions that got no answer")
    yield say("wizard.choosing_tests"), False
    counts = data.counts()
    keeps = counts["retain"] + counts["held_out"] - counts["held_out_break"]
    _hold_out(data, max(KEEP_TESTS, round(SHARE * keeps)))
    yield "", True


def hold_out_stop_tests(data: DatasetStore) -> None:
    """Hold out the must-stop questions that will test the model, before suggestions are made from the others."""
    _hold_out(data, 0)


def _hold_out(data: DatasetStore, keep_tests: int) -> None:
    """Suggested must-stop questions are no measure for the model: none is held out, and those that differ from a test
    question in one word go."""
    rows = data.rows()
    drafted = [row for row in rows if row.example.kind == "break" and row.example.source == SOURCE]
    own = sum(row.example.kind == "break" for row in rows) - len(drafted)
    hold_out(data, 0, least=(kept_for_tests(own), keep_tests), but=[row.id for row in drafted])
    tests = [row.example.prompt for row in data.rows() if row.held_out]
    near = differ_in_one_word([row.example.prompt for row in drafted], tests)
    data.remove(
        [row.id for row, is_near in zip(drafted, near, strict=True) if is_near], "remove copies of test questions"
    )


def kept_for_tests(count: int) -> int:
    """How many of so many must-stop questions are held out to test the model with."""
    return min(max(STOP_TESTS, round(SHARE * count)), (count + 1) // 2)


def _without_refusals(data: DatasetStore, written: set[float], model: str) -> Iterator[tuple[str, bool]]:
    """An answer that must stop has to be one: those that were refused are begun for the model. What it refuses even
    then is no question that training has to stop."""
    refused = _refused(data, written)
    if not refused:
        return
    with closing(write_rows(data, refused, model, prefill=PREFILL, longest=LONGEST, count_refusals=False)) as writing:
        yield from writing
    if still := _refused(data, written):

        def to_keep(row: Row) -> Row:
            return replace(row, example=replace(row.example, kind="refusal"))

        data.update([row.id for row in still], to_keep, "move refusals to must keep")
        yield say("wizard.refused_anyway", count=len(still)), True


def _refused(data: DatasetStore, positions: set[float]) -> list[Row]:
    rows = [row for row in data.rows() if row.position in positions and row.example.kind == "break"]
    return [row for row in rows if is_refusal(row.example.response)]


def summary(data: DatasetStore) -> str:
    """What will be trained, as Markdown."""
    counts = data.counts()
    stop_tests = counts["held_out_break"]
    keep_tests = counts["held_out"] - stop_tests
    words = say(
        "wizard.summary",
        name=plain(data.name),
        stop=counts["break"],
        keep=counts["retain"],
        held_out=counts["held_out"],
        stop_tests=stop_tests,
        keep_tests=keep_tests,
        everyday=DataConfig().general_keep,
    )
    if empty := data.without_answer():
        words += say("wizard.no_answer", count=empty)
    for count, fewest, key in (
        (stop_tests, STOP_TESTS, "wizard.few_stop_tests"),
        (keep_tests, KEEP_TESTS, "wizard.few_keep_tests"),
    ):
        if count < fewest:
            words += say(key, count=count, fewest=fewest)
    return words
