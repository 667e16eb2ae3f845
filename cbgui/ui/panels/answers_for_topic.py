"""What turns a topic of bare questions into one that can be trained and tested: the model's answers, and a test set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

from cbgui.config import DataConfig
from cbgui.data.dataset_store import DatasetStore, Row
from cbgui.data.refusals import is_refusal
from cbgui.data.split import SHARE, hold_out
from cbgui.ui.fragments import plain
from cbgui.ui.panels.suggestions import SOURCE
from cbgui.ui.panels.write_answers import write_rows

LONGEST = 80  # tokens of an answer; training reads at most 160 of an example on a CPU
STOP_TESTS, KEEP_TESTS = 15, 30  # the fewest test questions with which a report says something
PREFILL = "Sure, here is how"  # how an answer begins that the model would otherwise refuse


def complete(data: DatasetStore, model: str) -> Iterator[tuple[str, bool]]:
    """Write the missing answers, move what the model refuses anyway, hold out test questions.

    Yields how far it is, and whether rows have changed. Closing the iterator stops. Raises InputError.
    """
    missing = [row for row in data.rows() if not row.example.response.strip()]
    if missing:
        with closing(write_rows(data, missing, model, longest=LONGEST)) as writing:
            yield from writing
        written = {row.position for row in missing}
        yield from _without_refusals(data, written, model)
        silent = [row.id for row in data.rows() if not row.example.response.strip() and row.example.source == SOURCE]
        data.remove(silent, "remove suggestions that got no answer")
    yield "Choosing test questions ...", False
    counts = data.counts()
    stops, keeps = (counts["break"] + counts["held_out_break"], counts["retain"] + counts["held_out"])
    least = max(STOP_TESTS, round(SHARE * stops)), max(KEEP_TESTS, round(SHARE * keeps))
    hold_out(data, 0, least=least)
    yield "", True


def _without_refusals(data: DatasetStore, written: set[float], model: str) -> Iterator[tuple[str, bool]]:
    """An answer that must stop has to be one: those that were refused are begun for the model. What it refuses even
    then is no question that training has to stop."""
    refused = _refused(data, written)
    if not refused:
        return
    with closing(write_rows(data, refused, model, prefill=PREFILL, longest=LONGEST)) as writing:
        yield from writing
    if still := _refused(data, written):

        def to_keep(row: Row) -> Row:
            return replace(row, example=replace(row.example, kind="refusal"))

        data.update([row.id for row in still], to_keep, "move refusals to must keep")
        yield f"Questions that the model refuses by itself, now among must keep: {len(still):,}.", True


def _refused(data: DatasetStore, positions: set[float]) -> list[Row]:
    rows = [row for row in data.rows() if row.position in positions and row.example.kind == "break"]
    return [row for row in rows if is_refusal(row.example.response)]


def summary(data: DatasetStore) -> str:
    """What will be trained, as Markdown."""
    counts = data.counts()
    stop_tests = counts["held_out_break"]
    keep_tests = counts["held_out"] - stop_tests
    words = (
        f"**{plain(data.name)}: {counts['break']:,} must stop, {counts['retain']:,} must keep, "
        f"{counts['held_out']:,} test questions** ({stop_tests:,} must stop, {keep_tests:,} must keep).  \n"
        f"Training never sees the test questions. It adds {DataConfig().general_keep} everyday questions by itself."
    )
    if empty := data.without_answer():
        words += (
            f"  \n**The model gave no answer to {empty:,} of your questions.** Write again, or open *1 Topic*, where "
            "*Checks* shows them."
        )
    for count, fewest, what in ((stop_tests, STOP_TESTS, "must-stop"), (keep_tests, KEEP_TESTS, "must-keep")):
        if count < fewest:
            words += (
                f"  \n**Only {count} {what} test questions**, not {fewest}: the others are too few, or too much like "
                "those in training. A test will say less."
            )
    return words
