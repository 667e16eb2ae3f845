"""The parts of a topic as tabs. Each has a place to drop a file, one to paste questions, and a button for more."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from cbgui.data import files
from cbgui.data.examples import Kind
from cbgui.ui.words import on_page

PARTS = {  # tab -> what the page calls it
    "break": "common.must_stop",
    "retain": "common.must_keep",
    "near_miss": "common.look_alikes",
    "held_out": "common.test_questions",
}
FIRST = "break"
VIEWS = {"retain": "not_near_miss"}  # tab -> what the data set calls its rows, if it is not the tab's name


@dataclass(frozen=True)
class Part:
    """A tab and what is in it."""

    name: str
    tab: gr.Tab
    file: gr.File
    text: gr.Textbox
    look: gr.Button
    more: gr.Button


def part_of(kind: Kind, held_out: bool) -> str:
    """The tab in which a row is shown."""
    return "held_out" if held_out else kind if kind in ("break", "near_miss") else "retain"


def build() -> tuple[gr.Tabs, gr.State, list[Part]]:
    """The tabs, which of them is open, and what is in each."""
    opened = gr.State(FIRST)
    with gr.Tabs(selected=FIRST, elem_id="part", overflow_behavior="wrap") as tabs:
        parts = [_build_part(name) for name in PARTS]
    for part in parts:
        _follow(part, opened)
    return tabs, opened, parts


def _build_part(name: str) -> Part:
    with gr.Tab(on_page(PARTS[name]), id=name, elem_id=f"part-{name}") as tab, gr.Row():
        with gr.Column(min_width=260):
            file = gr.File(
                label=on_page(f"parts.file_{name}"),
                file_types=list(files.SUFFIXES),
                height=170,
                elem_id=f"file-{name}",
            )
        with gr.Column(min_width=260):
            text = gr.Textbox(label=on_page("parts.paste"), lines=2, max_lines=8, elem_id=f"paste-{name}")
            with gr.Row():
                look = gr.Button(on_page("add.look"), size="sm", min_width=130, elem_id=f"look-{name}")
                more = gr.Button(on_page(f"parts.more_{name}"), size="sm", min_width=130, elem_id=f"more-{name}")
    return Part(name, tab, file, text, look, more)


def _follow(part: Part, opened: gr.State) -> None:
    part.tab.select(lambda: part.name, None, opened, show_progress="hidden")
