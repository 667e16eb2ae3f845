"""Events as the tables that the charts draw, when to draw them, and the sentence that says what they mean."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr
import pandas as pd

from cbgui.runs.history import History
from cbgui.training.diagnostics import DERAILS, FIRST_STEPS, UNTOUCHED, slowest_layer
from cbgui.training.trials import KINDS
from cbgui.ui.words import on_page, say

# RGB values; each colour is visible on a light and on a dark page.
HUES = ((59, 130, 246), (249, 115, 22), (20, 184, 166), (168, 85, 247), (236, 72, 153), (132, 204, 22))
REDRAW_SECONDS = 6.0  # of a run that trains: four charts take the browser half a second, from training on a CPU
TARGET_COLOUR = "rgb(148,163,184)"
LOSS_COLUMNS = ["step", "value", "loss"]
COSINE_COLUMNS = ["step", "cosine", "layer"]
TRIAL_COLUMNS = ["step", "percent", "questions"]


def validation() -> str:
    """What follows the name of a series that was measured on held-out examples."""
    return say("charts.validation")


def _target() -> str:
    return say("charts.target", cosine=f"{DERAILS:g}")


def _harmed(kind: str) -> str:
    return say("charts.harmed", kinds=say(f"kind.many_{kind}"))


def _trial_colours() -> dict[str, str]:
    names = [say("charts.blocked"), say("charts.refused"), *map(_harmed, KINDS)]
    return dict(zip(names, (f"rgb{hue}" for hue in HUES), strict=False))


def measurements(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that are points of the charts."""
    return [event for event in events if event["kind"] in ("step", "validation")]


def colours(table: pd.DataFrame) -> dict[str, Any]:
    """A chart's colours for the series in the table's last column: one hue for each, pale for the steps, which
    scatter, and strong for validation.

    The legend does not wrap on a phone, so once the validation series are lines it names only those.
    """
    ending, target = validation(), _target()
    names = [name for name in dict.fromkeys(table.iloc[:, -1]) if name != target]
    plain = list(dict.fromkeys(name.removesuffix(ending) for name in names))
    hues = {name: ",".join(map(str, HUES[index % len(HUES)])) for index, name in enumerate(plain)}
    validations = [name for name in names if name.endswith(ending)]
    color_map = {name: f"rgba({hues[name]},0.4)" for name in plain}
    color_map |= {name: f"rgb({hues[name.removesuffix(ending)]})" for name in validations}
    are_lines = table["step"][table.iloc[:, -1].isin(validations)].nunique() > 1
    legend = validations if are_lines else plain
    if target in set(table.iloc[:, -1]):
        color_map[target] = TARGET_COLOUR
    return {"color_map": color_map, "colors_in_legend": legend}


def _ending(event: dict[str, Any]) -> str:
    return validation() if event["kind"] == "validation" else ""


def loss_table(events: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for event in measurements(events):
        rows.append((event["step"], event["reroute_loss"], say("common.must_stop_small") + _ending(event)))
        rows.append((event["step"], event["retain_loss"], say("common.must_keep_small") + _ending(event)))
    return pd.DataFrame(rows, columns=LOSS_COLUMNS)


def _sides(losses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The losses of must stop and of must keep, which is twenty times smaller and so has a chart of its own."""
    is_stop = losses["loss"].str.startswith(say("common.must_stop_small"))
    return losses[is_stop], losses[~is_stop]


def _look(part: pd.DataFrame, whole: pd.DataFrame) -> dict[str, Any]:
    """The colours that the series of `part` have in the table that it was cut from."""
    look, names = colours(whole), set(part.iloc[:, -1])
    return look | {"colors_in_legend": [name for name in look["colors_in_legend"] if name in names]}


def cosine_table(events: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for event in measurements(events):
        rows += [(event["step"], value, f"{layer}{_ending(event)}") for layer, value in event["cosine"].items()]
    return pd.DataFrame(rows, columns=COSINE_COLUMNS)


def _with_target(table: pd.DataFrame, limits: list[int]) -> pd.DataFrame:
    """The cosines with a line where they must arrive."""
    line = pd.DataFrame([(step, DERAILS, _target()) for step in limits], columns=COSINE_COLUMNS)
    return pd.concat([table, line], ignore_index=True) if len(table) else table


def trial_table(trials: list[dict[str, Any]]) -> pd.DataFrame:
    """Shares in percent: of the strength that was trained for, and at the end of the one that was chosen."""
    refuses = any(event.get("refused") for event in trials)
    last = {event["step"]: event for event in trials if event["strength"] == 1 or event.get("chosen")}
    rows = []
    for event in last.values():
        if event["breaks"]:
            rows.append((event["step"], 100 * event["blocked"] / event["breaks"], say("charts.blocked")))
            if refuses:
                rows.append((event["step"], 100 * event.get("refused", 0) / event["breaks"], say("charts.refused")))
        for kind, (number, of) in event["hurt"].items():
            if of:
                rows.append((event["step"], 100 * number / of, _harmed(kind)))
    return pd.DataFrame(rows, columns=TRIAL_COLUMNS)


def trade_off(trials: list[dict[str, Any]]) -> str:
    """What each strength of the finished adapter does, as a Markdown table; empty where only one was tried."""
    chosen = next((event for event in reversed(trials) if event.get("chosen")), None)
    if chosen is None:
        return ""
    tried = {event["strength"]: event for event in trials if event["step"] == chosen["step"]}
    if len(tried) < 2:
        return ""
    rows = []
    for strength, event in sorted(tried.items()):
        mark = say("charts.chosen") if strength == chosen["strength"] else ""
        harmed = ", ".join(
            say("charts.some_of", number=number, of=of, kinds=say(f"kind.many_{kind}"))
            for kind, (number, of) in event["hurt"].items()
        )
        refused = say("charts.refused_of_them", count=event["refused"]) if event.get("refused") else ""
        blocked = say("charts.number_of", number=event["blocked"], of=event["breaks"])
        rows.append(f"| {strength:g} | {blocked}{refused} | {harmed} | {mark} |")
    return "\n".join([say("charts.trade_off"), "|---|---|---|---|", *rows])


@dataclass(frozen=True)
class Drawn:
    """What the charts of a page show: how many measurements of which run, and with which axes and colours."""

    run: str
    measured: int
    look: tuple
    settled: bool
    at: float = 0.0  # seconds, by time.monotonic


def update(run: str, past: History, drawn: Drawn | None, *, running: bool) -> tuple[tuple[Any, ...], Drawn]:
    """Updates for the charts that `build` made, and what they show then. Call it until that is `settled`.

    The charts of a run that is `running` are drawn every REDRAW_SECONDS at most.

    A Gradio chart whose axis or colours change builds a new picture, and ignores values that arrive meanwhile. So a
    chart of another run is emptied before it is drawn, and drawn again after its look has changed.
    """
    points = past.points()
    limits = [0, past.newest["step"]["steps"] if "step" in past.newest else 1]
    losses, cosines = loss_table(points), _with_target(cosine_table(points), limits)
    tables = *_sides(losses), cosines, trial_table(past.trials)
    looks = [
        {"x_lim": limits, **titles, **(_look(part, whole) if len(part) else {})}
        for part, whole, titles in zip(tables[:3], (losses, losses, cosines), _titles(), strict=True)
    ]
    shares = {"color_map": _trial_colours(), "colors_in_legend": list(dict.fromkeys(tables[3].questions))}
    looks.append({"x_lim": limits, "x_title": say("charts.step"), "y_title": say("charts.percent"), **shares})
    # With an empty table, a chart would treat its number columns as categories.
    values = [table if len(table) else None for table in tables]
    look = tuple(str(look) for look in looks)
    if drawn is None or drawn.run != run:
        return tuple(gr.LinePlot(value=None, **look) for look in looks), Drawn(run, -1, look, False)
    if drawn.look != look:
        plots = tuple(gr.LinePlot(value=value, **look) for value, look in zip(values, looks, strict=True))
        return plots, Drawn(run, past.measured, look, False)
    recent = running and time.monotonic() - drawn.at < REDRAW_SECONDS
    if drawn.settled and (recent or drawn.measured == past.measured):
        return (gr.skip(),) * 4, drawn
    return tuple(gr.LinePlot(value=value) for value in values), Drawn(run, past.measured, look, True, time.monotonic())


def _titles() -> list[dict[str, str]]:
    """Of the axes of the first three charts. In a chart, the browser does not look texts up as it does on a page."""
    step = say("charts.step")
    cosine = {"x_title": step, "y_title": say("charts.cosine"), "color_title": say("charts.layer")}
    return [{"x_title": step}, {"x_title": step}, cosine]


def draw_again(drawn: Drawn | None) -> Drawn | None:
    """Let the next `update` draw what is shown already, for a picture that was made while its tab was hidden."""
    return drawn and replace(drawn, settled=False)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        say("status.minutes", minutes=minutes, seconds=f"{rest:02d}")
        if minutes
        else say("status.seconds", seconds=rest)
    )


def meaning(events: list[dict[str, Any]], state: str, refuses: bool = False) -> str:
    """One plain sentence about the newest measurement; empty when there is none.

    `refuses`: the run trains a refusal, which may hold although the cosine is far above zero.
    """
    measured = measurements(events)
    if not measured:
        return ""
    held_out = [event for event in measured if event["kind"] == "validation"]
    step, (layer, cosine) = measured[-1]["step"], slowest_layer((held_out or measured)[-1])
    scale = say("status.scale", cosine=f"{cosine:.2f}")
    if cosine < DERAILS and not refuses:
        rest = say("status.restores") if state == "running" else say("status.open_try")
        return say("status.now_blocked", scale=scale, rest=rest)
    if refuses and cosine < UNTOUCHED and state in ("done", "stopped"):
        return say("status.turned_away", scale=scale)
    if state == "done" and cosine > UNTOUCHED:
        return say("status.not_blocked", scale=scale)
    if state == "done":
        return say("status.partly_blocked", scale=scale)
    if cosine < UNTOUCHED:
        return say("status.turning_away", scale=scale)
    if step < FIRST_STEPS:
        return say("status.nothing_moved", scale=scale)
    return say("status.not_moved", layer=layer, step=str(step), scale=scale)


def build() -> tuple[list[gr.LinePlot], gr.Markdown, gr.Column]:
    """The charts that `update` draws, the table of strengths, and the column that holds it and the last chart."""
    # Headings above the charts, because a phone cuts off a chart's own title.
    with gr.Row():
        with gr.Column(min_width=300):
            gr.Markdown(on_page("train.losses"))
            losses = [_loss_chart("loss-chart"), _loss_chart("keep-chart")]
        with gr.Column(min_width=300):
            gr.Markdown(on_page("train.break_cosine"))
            cosine = gr.LinePlot(
                x="step",
                y="cosine",
                color="layer",
                show_label=False,
                height=346,
                y_lim=[-0.5, 1.0],
                elem_id="cosine-chart",
                elem_classes="chart",
            )
    with gr.Column(visible=False) as trials:
        gr.Markdown(on_page("train.held_out_chart"))
        tried = gr.LinePlot(
            x="step",
            y="percent",
            color="questions",
            color_title=" ",
            show_label=False,
            height=200,
            y_lim=[0, 100],
            elem_id="trial-chart",
            elem_classes="chart",
        )
        strengths = gr.Markdown(elem_id="strengths")
    return [*losses, cosine, tried], strengths, trials


def _loss_chart(elem_id: str) -> gr.LinePlot:
    return gr.LinePlot(
        x="step",
        y="value",
        color="loss",
        y_title=" ",
        color_title=" ",
        show_label=False,
        height=165,
        elem_id=elem_id,
        elem_classes="chart",
    )
