"""The topic's counters with their targets."""

from __future__ import annotations

from cbgui.data.checks import FEW_BREAK, FEW_RETAIN
from cbgui.data.dataset_store import DatasetStore
from cbgui.ui.fragments import render
from cbgui.ui.panels.answers_for_topic import KEEP_TESTS, STOP_TESTS
from cbgui.ui.panels.checklist import missing


def counts(data: DatasetStore) -> str:
    """HTML: how many rows of each part, and how many there should be."""
    of = data.counts()
    held_out, stop_tests = of["held_out"], of["held_out_break"]
    boxes = [
        ("Must stop", of["break"], f"aim for {FEW_BREAK} or more", of["break"] >= FEW_BREAK),
        (
            "Must keep",
            of["retain"],
            f"aim for {FEW_RETAIN} or more; look-alikes: {of['near_miss']:,}, refusals: {of['refusal']:,}",
            of["retain"] >= FEW_RETAIN,
        ),
        (
            "Held out",
            held_out,
            f"to test with; must stop: {stop_tests:,} of {STOP_TESTS}, keep: {held_out - stop_tests:,} of {KEEP_TESTS}",
            stop_tests >= STOP_TESTS and held_out - stop_tests >= KEEP_TESTS,
        ),
    ]
    return render("counts", boxes=boxes, ready=not missing(data))
