"""Two plain meters of a run: how far must-stop answers have turned away, and how far must-keep answers have moved."""

from __future__ import annotations

from cbgui.runs.history import History
from cbgui.training.diagnostics import BARELY_MOVED, DERAILS, RUNAWAY, UNTOUCHED, slowest_layer
from cbgui.ui.fragments import render
from cbgui.ui.words import say


def meters(past: History, *, refuses: bool) -> str:
    """HTML; empty before the first step. Validation counts where there is one, as training fits its own examples."""
    measured = past.newest.get("validation") or past.newest.get("step")
    if measured is None or not measured.get("cosine"):
        return ""
    _, cosine = slowest_layer(measured)
    bars = [
        {
            "label": say("meters.turned_away"),
            "share": min(max(1 - cosine, 0.0), 1.0),
            "mark": 1 - (UNTOUCHED if refuses else DERAILS),
            "good": cosine < (UNTOUCHED if refuses else DERAILS),
            "wanted": say("meters.right"),
        }
    ]
    if (drift := measured.get("drift")) is not None:
        bars.append(
            {
                "label": say("meters.moved"),
                "share": min(drift / RUNAWAY, 1.0),
                "mark": BARELY_MOVED / RUNAWAY,
                "good": drift < BARELY_MOVED,
                "wanted": say("meters.left"),
            }
        )
    return render("meters", bars=bars)
