"""What a topic still lacks, one line each, with the button that leads to it. It follows every change."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from cbgui.data.dataset_store import DatasetStore
from cbgui.data.split import hold_out
from cbgui.ui.common import sentences, shown_topic, tell
from cbgui.ui.panels import parts
from cbgui.ui.words import on_page, say, say_count

LOOK_ALIKES = 50  # below so many, the line about them shows
ADD, SUGGEST, WRITE, HOLD_OUT = "add", "suggest", "write", "hold"
BUTTONS = {  # line -> its button, in the order in which they are shown
    ADD: "add.add_rows",
    SUGGEST: "suggest.suggest",
    WRITE: "common.write_answers",
    HOLD_OUT: "topic.hold_out_tenth",
}
# Once the panel is open, so that it is where the page scrolls to.
SCROLL = "() => setTimeout(() => document.querySelector('#{panel}').scrollIntoView({{behavior: 'smooth'}}), 300)"
Panels = Mapping[str, tuple[gr.Accordion | gr.Tabs, str]]  # line -> what its button opens, and its elem_id


def missing(data: DatasetStore) -> dict[str, str]:
    """Line -> its words, of what is missing; empty when nothing is."""
    of, empty, lines = data.counts(), data.without_answer(), {}
    if not of["break"]:
        lines[ADD] = say("topic.nothing_must_stop")
    elif of["near_miss"] < LOOK_ALIKES:
        lines[SUGGEST] = say("topic.few_look_alikes", count=of["near_miss"])
    if empty:
        lines[WRITE] = say_count("topic.no_answer", empty)
    if of["break"] and not of["held_out"]:
        lines[HOLD_OUT] = say("topic.no_tests")
    return lines


def _shown(version: tuple) -> list:
    lines = missing(shown_topic(version))
    rows = [gr.Row(visible=name in lines) for name in BUTTONS]
    words = [gr.Markdown(f"**!** {lines[name]}") if name in lines else gr.skip() for name in BUTTONS]
    return [*rows, *words]


@sentences
def hold_out_rows(version: tuple) -> tuple:
    data = shown_topic(version)
    tell(say("topic.rows_held_out", count=hold_out(data)))
    return data.version()


def build() -> tuple[list[gr.Row], list[gr.Markdown], dict[str, gr.Button]]:
    """The lines, hidden at first; `connect` gives them their work once the panels are there."""
    rows, words, buttons = [], [], {}
    with gr.Column(elem_id="checklist"):
        for name, key in BUTTONS.items():
            with gr.Row(visible=False, elem_classes="aligned to-do") as row:
                words.append(gr.Markdown(min_width=220, elem_id=f"missing-{name}"))
                buttons[name] = gr.Button(on_page(key), size="sm", scale=0, min_width=220, elem_id=f"to-{name}")
            rows.append(row)
    return rows, words, buttons


def connect(
    version: gr.State, rows: list[gr.Row], words: list[gr.Markdown], buttons: dict[str, gr.Button], panels: Panels
) -> None:
    """Show the lines after every change of the topic, and let their buttons open the panels."""
    version.change(_shown, version, [*rows, *words], show_progress="hidden")
    for name, (panel, elem_id) in panels.items():
        show = _first_part if isinstance(panel, gr.Tabs) else _open
        opened = buttons[name].click(show, None, panel, show_progress="hidden", queue=False)
        opened.then(None, None, None, js=SCROLL.format(panel=elem_id))
    buttons[HOLD_OUT].click(hold_out_rows, version, version)


def _open() -> gr.Accordion:
    return gr.Accordion(open=True)


def _first_part() -> gr.Tabs:
    return gr.Tabs(selected=parts.FIRST)
