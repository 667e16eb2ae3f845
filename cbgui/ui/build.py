"""The page: header, four tabs. A new tab is a module here and a line below."""

from __future__ import annotations

import gradio as gr

from cbgui import hardware, runs
from cbgui.ui import chat_tab, data_tab, export_tab, train_tab
from cbgui.ui.common import run_choices
from cbgui.ui.theme import CSS, THEME


def _choices(current: str | None):
    """Keep the chosen run while it exists; else the newest."""
    names = run_choices()
    return gr.Dropdown(choices=names, value=current if current in names else next(iter(names), None))


def build() -> gr.Blocks:
    with gr.Blocks(title="cbgui", analytics_enabled=False) as page:
        with gr.Row(equal_height=False):
            gr.Markdown(f"# cbgui\nShort-circuit a language model. This machine: {hardware.describe()}.")
            run_name = gr.Dropdown(
                [], value=None, label="Run", min_width=200, allow_custom_value=True, elem_id="run", scale=0
            )
        with gr.Tabs():
            with gr.Tab("Data"):
                data_tab.build(page)
            with gr.Tab("Train"):
                train_tab.build(page, run_name)
            with gr.Tab("Chat"):
                chat_tab.build(page, run_name)
            with gr.Tab("Export"):
                export_tab.build(page, run_name)
        page.load(_choices, run_name, run_name, show_progress="hidden")
    return page


def launch(host: str, port: int | None) -> None:
    runs.runs_folder().mkdir(parents=True, exist_ok=True)
    build().queue().launch(
        server_name=host,
        server_port=port,
        theme=THEME,
        css=CSS,
        allowed_paths=[str(runs.runs_folder())],
        show_error=False,
        ssr_mode=False,
        footer_links=[],
    )
