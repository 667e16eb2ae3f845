"""Runs: all of them with their state and key figures; open, rename, duplicate, compare, delete and bring back."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui import space
from cbgui.config import flatten
from cbgui.errors import InputError
from cbgui.evaluation.compare import is_of_present_adapter, read_report
from cbgui.evaluation.verdict import worst_answered
from cbgui.runs import folder
from cbgui.runs.disk import version
from cbgui.runs.history import history
from cbgui.runs.run import DATA_FIELDS, Run
from cbgui.training.diagnostics import slowest_layer
from cbgui.ui.common import ask_first, changes, need_run, other_name, pick, row_of, run_choices, sentences, tell
from cbgui.ui.fragments import plain
from cbgui.ui.panels import topics
from cbgui.ui.server.storage import refuse_full, trim_trash
from cbgui.ui.words import language, on_page, say

COLUMNS = ("run", "state", "model", "topic", "started", "minutes", "steps_taken", "break_cosine", "keep_drift")
COLUMNS += ("answered_attacks", "keep_kl")  # from the report of a run that was evaluated

WIDTHS = [f"{width}px" for width in (180, 128, 120, 110, 130, 80, 90, 90, 90, 100, 80)]  # all are seen at 1280 pixels


def _row(run: Run) -> list[Any]:
    """One line of the table."""
    files = (run.config_file, run.events_file, run.report_file, run.dataset_name_file, run.adapter_file)
    return [run.name, say(f"state.{run.state()}"), *_figures(run, language(), *map(version, files))]


@functools.lru_cache(4096)
def _figures(run: Run, spoken: str, *versions: object) -> list[Any]:
    """What stands in the table behind the state, in that language; `versions` are those of the files it comes from.

    Only the ends of the events are read: a long run takes no longer than a short one.
    """
    first, newest = run.first_event(), run.newest("step", "validation")
    step, validation = newest.get("step"), newest.get("validation")
    try:
        model = run.config().model.name
    except InputError:
        model = say("history.settings_unreadable")
    return [
        model,
        run.dataset_name() or say("history.files"),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(first["time"])) if first else "",
        f"{step['trained_seconds'] / 60:.1f}" if step and "trained_seconds" in step else "",
        say("history.steps", step=str(step["step"]), steps=str(step["steps"])) if step else "",
        f"{slowest_layer(validation)[1]:.2f}" if validation else "",
        f"{validation['drift']:.1%}" if validation else "",
        *_reported(run),
    ]


def _reported(run: Run) -> list[str]:
    try:
        report = read_report(run)
    except InputError:  # none, or a damaged one, which must not hide the list
        return ["", ""]
    if not is_of_present_adapter(report, run):
        return [say("history.evaluate_again"), ""]
    return [f"{worst_answered(report):.1%}", f"{report['retain']['kl']:.4f}"]


def _list(open_run: str | None = None) -> tuple:
    rows = [_row(run) for run in folder.list_runs()]
    words = say("history.open_now", name=plain(open_run)) if pick(open_run) else say("history.none_open")
    if not rows:
        words = say("history.none_yet")
    names = [row[0] for row in rows]
    return pd.DataFrame(rows, columns=_headings()), words, gr.Dropdown(choices=names), names


def _headings() -> list[str]:
    return [say(f"history.{name}") for name in COLUMNS]


def _open(names: list[str], event: gr.SelectData):
    row = row_of(event)
    return gr.Dropdown(choices=names, value=names[row]) if row < len(names) else gr.skip()


def _validation_curves(runs: list[Run]) -> pd.DataFrame:
    """Break cosine of the slowest layer and drift of the retain examples, at each validation of each run."""
    points = [
        (event["step"], slowest_layer(event)[1], event["drift"], run.name)
        for run in runs
        for event in history(run).points()
        if event["kind"] == "validation"
    ]
    return pd.DataFrame(points, columns=["step", "cosine", "drift", "run"])


def _differing_settings(runs: list[Run]) -> pd.DataFrame:
    """The settings in which the runs differ, a column for each run, without the paths of their data files."""
    columns = {run.name: flatten(run.config().model_dump(exclude={"data": set(DATA_FIELDS.values())})) for run in runs}
    table = pd.DataFrame(columns)
    differing = table[table.nunique(axis=1, dropna=False) > 1].reset_index(names=say("history.setting"))
    if differing.empty:
        return pd.DataFrame(
            [[say("history.all_same")] + [""] * len(columns)], columns=[say("history.setting"), *columns]
        )
    return differing


@sentences
def _compare(names: list[str]) -> tuple:
    runs = [run for name in names or [] if (run := pick(name)) is not None]
    if len(runs) < 2:
        raise InputError(say("history.choose_two"))
    curves = _validation_curves(runs)
    if curves.empty:
        raise InputError(say("history.not_validated"))
    plots = [
        gr.LinePlot(
            value=curves,
            visible=True,
            title=say(f"history.{measure}"),
            x_title=say("charts.step"),
            y_title=say(f"charts.{measure}"),
        )
        for measure in ("cosine", "drift")
    ]
    return *plots, gr.Dataframe(value=_differing_settings(runs), visible=True)


@sentences
def _rename(name: str | None, new: str):
    moved = folder.rename(need_run(name), new or "")
    if changed := other_name(new, moved.name):
        tell(changed.strip())
    return gr.Dropdown(choices=run_choices(), value=moved.name), ""


@sentences
def _duplicate(name: str | None):
    space.refuse_over("runs", len(folder.list_runs()) + 1, space.MAX_RUNS)
    refuse_full()
    copy = folder.duplicate(need_run(name))
    tell(say("history.duplicated", name=copy.name))
    return gr.Dropdown(choices=run_choices(), value=copy.name)


@sentences
def _delete(name: str | None):
    run = need_run(name)
    place = folder.delete(run)
    trim_trash()
    names = run_choices()
    button = gr.Button(say("common.bring_back_name", name=run.name), visible=True)
    return gr.Dropdown(choices=names, value=next(iter(names), None)), str(place), button


@sentences
def _bring_back(place: str | None):
    trash = folder.trashed()  # may hold what was deleted before the page was loaded anew
    if not place and not trash:
        raise InputError(say("history.nothing_deleted"))
    run = folder.restore(Path(place) if place else trash[-1])
    return (
        gr.Dropdown(choices=run_choices(), value=run.name),
        None,
        _back_button(),
    )


def _back_button() -> gr.Button:
    """Shown while there is something to bring back."""
    return gr.Button(say("common.bring_back"), visible=bool(folder.trashed()))


def _curve(y: str) -> gr.LinePlot:
    return gr.LinePlot(
        x="step",
        y=y,
        color="run",
        height=260,
        min_width=300,
        visible=False,
    )


def build(page: gr.Blocks, tab: gr.Tab, run_name: gr.Dropdown, topic: gr.State) -> None:
    gr.Markdown(on_page("history.about"))
    words = gr.Markdown()
    shown = gr.State([])
    place = gr.State(None)
    table = gr.Dataframe(
        headers=_headings(),
        interactive=False,
        wrap=True,
        column_widths=WIDTHS,
        max_height=420,
        label=on_page("history.runs"),
        show_label=False,
        elem_id="runs",
        elem_classes="sans",
    )
    with gr.Row(elem_classes="aligned"):
        new = gr.Textbox(label=on_page("common.new_name"), elem_id="rename-to", min_width=140)
        rename = gr.Button(on_page("history.rename"), size="sm", elem_id="rename", min_width=120)
        duplicate = gr.Button(on_page("history.duplicate"), size="sm", elem_id="duplicate-run", min_width=120)
        delete = gr.Button(on_page("history.delete"), size="sm", elem_id="delete-run", min_width=120)
        back = gr.Button(on_page("common.bring_back"), size="sm", visible=False, elem_id="bring-back", min_width=120)
    delete_sure = ask_first(delete, on_page("history.delete_question"), on_page("common.delete_yes"))
    with gr.Row(elem_classes="aligned"):
        chosen = gr.Dropdown([], multiselect=True, label=on_page("history.to_compare"), elem_id="compare-runs", scale=3)
        compare = gr.Button(on_page("history.compare"), interactive=False, elem_id="compare", min_width=120)
    with gr.Row():
        cosine = _curve("cosine")
        drift = _curve("drift")
    differences = gr.Dataframe(
        interactive=False,
        label=on_page("history.differences"),
        visible=False,
        wrap=True,
        elem_id="differences",
        elem_classes="sans",
    )
    for trigger in (tab.select, changes(run_name), page.load):
        trigger(_list, run_name, [table, words, chosen, shown], show_progress="hidden")
    for trigger in (tab.select, page.load):
        trigger(_back_button, None, back, show_progress="hidden")
    opened = table.select(_open, shown, run_name, show_progress="hidden")
    opened.success(topics.of_run, [run_name, topic], topic, show_progress="hidden")
    chosen.change(
        lambda names: gr.Button(interactive=len(names or []) > 1), chosen, compare, show_progress="hidden", queue=False
    )
    compare.click(_compare, chosen, [cosine, drift, differences])
    rename.click(_rename, [run_name, new], [run_name, new])
    duplicate.click(_duplicate, run_name, run_name)
    delete_sure.click(_delete, run_name, [run_name, place, back])
    back.click(_bring_back, place, [run_name, place, back])
