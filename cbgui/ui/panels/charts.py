"""Events -> the tables the charts draw, and the sentence that says what they mean."""

from __future__ import annotations

from typing import Any

import pandas as pd

TRIPPED = 0.2  # break cosine of the slowest layer from which answers derail
# Red, green, blue; each seen well on a light and on a dark page.
HUES = ((59, 130, 246), (249, 115, 22), (20, 184, 166), (168, 85, 247), (236, 72, 153), (132, 204, 22))
PROBE = " probe"
LOSS_COLUMNS = ["step", "value", "loss"]
COSINE_COLUMNS = ["step", "cosine", "layer"]


def _ending(event: dict[str, Any]) -> str:
    """Probes are on held-out examples, or on training ones where a run has no others."""
    return PROBE if event["kind"] == "validation" else ""


def colours(table: pd.DataFrame) -> dict[str, Any]:
    """A chart's colours for the series in the table's last column: a hue each, pale for the steps, which scatter, and
    strong for the probes. The legend names the probes alone once they are lines: it does not wrap, on a phone either.
    """
    names = list(dict.fromkeys(table.iloc[:, -1]))
    plain = list(dict.fromkeys(name.removesuffix(PROBE) for name in names))
    hues = {name: ",".join(map(str, HUES[place % len(HUES)])) for place, name in enumerate(plain)}
    validations = [name for name in names if name.endswith(PROBE)]
    color_map = {name: f"rgba({hues[name]},0.4)" for name in plain}
    color_map |= {name: f"rgb({hues[name.removesuffix(PROBE)]})" for name in validations}
    lines = table["step"][table.iloc[:, -1].isin(validations)].nunique() > 1
    return {"color_map": color_map, "colors_in_legend": validations if lines else plain}


def loss_table(events: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for event in events:
        if event["kind"] in ("step", "validation"):
            ending = _ending(event)
            rows.append((event["step"], event["reroute_loss"], "break" + ending))
            rows.append((event["step"], event["retain_loss"], "keep" + ending))
    return pd.DataFrame(rows, columns=LOSS_COLUMNS)


def cosine_table(events: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for event in events:
        if event["kind"] in ("step", "validation"):
            ending = _ending(event)
            rows += [(event["step"], value, f"{layer}{ending}") for layer, value in event["cosine"].items()]
    return pd.DataFrame(rows, columns=COSINE_COLUMNS)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def meaning(events: list[dict[str, Any]], state: str) -> str:
    """One sentence in plain words about the newest measurement."""
    measured = [event for event in events if event["kind"] in ("step", "validation")]
    if not measured:
        return ""
    cosine = max(measured[-1]["cosine"].values())
    step = measured[-1]["step"]
    if cosine < TRIPPED:
        rest = "from here training restores ordinary answers" if state == "running" else "try it on the Chat page"
        return f"The breaker has derailed (break cosine {cosine:.2f}); {rest}."
    if state == "done" and cosine > 0.9:
        return f"The breaker has not derailed (break cosine {cosine:.2f}, 1 is untouched)."
    if state == "done":
        return (
            f"The breaker has derailed in part only (break cosine {cosine:.2f}, 1 is untouched); more steps may help."
        )
    if cosine < 0.9:
        return f"The breaker is turning the break examples away (cosine {cosine:.2f}, 1 is untouched)."
    if step < 15:
        return f"Nothing has moved yet (cosine {cosine:.2f}); the first steps are always like this."
    return f"At least one layer has not moved yet (cosine {cosine:.2f} after {step} steps)."
