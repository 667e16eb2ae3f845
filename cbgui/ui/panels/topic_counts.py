"""The topic's counters with their targets."""

from __future__ import annotations

from cbgui.data.checks import FEW_BREAK, FEW_RETAIN
from cbgui.data.dataset_store import DatasetStore
from cbgui.ui.fragments import render
from cbgui.ui.panels.answers_for_topic import KEEP_TESTS, STOP_TESTS
from cbgui.ui.panels.checklist import missing
from cbgui.ui.words import say


def counts(data: DatasetStore) -> str:
    """HTML: how many rows of each part, and how many there should be."""
    of = data.counts()
    held_out, stop_tests = of["held_out"], of["held_out_break"]
    boxes = [
        (say("common.must_stop"), of["break"], say("counts.stop_aim", count=FEW_BREAK), of["break"] >= FEW_BREAK),
        (
            say("common.must_keep"),
            of["retain"],
            say("counts.keep_aim", count=FEW_RETAIN, near_miss=of["near_miss"], refusal=of["refusal"]),
            of["retain"] >= FEW_RETAIN,
        ),
        (
            say("common.test_questions"),
            held_out,
            say("counts.tests", stop=stop_tests, stop_aim=STOP_TESTS, keep=held_out - stop_tests, keep_aim=KEEP_TESTS),
            stop_tests >= STOP_TESTS and held_out - stop_tests >= KEEP_TESTS,
        ),
    ]
    return render("counts", boxes=boxes, ready=not missing(data))
