"""The page: header and tabs. A new tab is a module here and a line below."""

from __future__ import annotations

import gc

import gradio as gr
from starlette.middleware import Middleware

from cbgui import hardware, space
from cbgui.runs import folder, queue
from cbgui.ui.common import chosen, in_memory, run_choices
from cbgui.ui.pages import chat as chat_tab
from cbgui.ui.pages import data as data_tab
from cbgui.ui.pages import export as export_tab
from cbgui.ui.pages import report as report_tab
from cbgui.ui.pages import runs as runs_tab
from cbgui.ui.pages import train as train_tab
from cbgui.ui.server import downloads, visitors
from cbgui.ui.server.visitors import Visitors
from cbgui.ui.theme import CSS, THEME


def _choices(current: str | None):
    """Keep the chosen run while it exists; else the newest."""
    names = run_choices()
    return gr.Dropdown(choices=names, value=chosen(current if current in names else None))


def _device() -> str:
    return f"{hardware.describe()}; {hardware.in_use()}"


def build() -> gr.Blocks:
    with gr.Blocks(title="cbgui", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        with gr.Row(equal_height=False, elem_id="header"):
            gr.Markdown("# cbgui\nShort-circuit a language model: what must break, what must stay.")
            with gr.Column(scale=0, min_width=380):
                run_name = gr.Dropdown([], value=None, label="Run", allow_custom_value=True, elem_id="run")
                device = gr.Markdown(elem_id="device")
        # Made here, since the Data page counts tokens of the same model; shown on the Train page.
        model = gr.Textbox(
            "demo", label="Model", info="demo, a hub id such as owner/name, or a folder", elem_id="model", render=False
        )
        with gr.Tabs():
            with gr.Tab("Data"):
                data_tab.build(page, model)
            with gr.Tab("Train"):
                train_tab.build(page, run_name, model)
            with gr.Tab("Runs") as tab:
                runs_tab.build(page, tab, run_name)
            with gr.Tab("Chat") as tab:
                chat_tab.build(page, tab, run_name)
            with gr.Tab("Report"):
                report_tab.build(page, run_name)
            with gr.Tab("Export"):
                export_tab.build(page, run_name)
        page.load(_choices, run_name, run_name, show_progress="hidden")
        for trigger in (page.load, gr.Timer(5.0).tick):
            trigger(_device, None, device, show_progress="hidden", queue=False)
    return page


def launch(host: str, port: int | None, *, share: bool = False, auth: tuple[str, str] | None = None) -> None:
    """Serve the page until the program is ended."""
    folder.root_folder().mkdir(parents=True, exist_ok=True)
    folder.empty_trash()  # what was deleted could be brought back until the app closed
    visitors.install()
    queue.keep_going(folder.root_folder(), in_memory.drop)
    page = build().queue()
    gc.freeze()  # what is here stays: collections while hundreds of thousands of rows pass need not look at it
    page.launch(
        server_name=host,
        server_port=port,
        theme=THEME,
        css=CSS,
        share=share,
        auth=auth,
        # Nothing is served from disk but through `downloads`, which knows whose files they are.
        app_kwargs={"routes": downloads.ROUTES, "middleware": [Middleware(Visitors)]},
        max_file_size=space.MAX_UPLOAD if space.on_space() else None,
        show_error=False,
        ssr_mode=False,
        footer_links=[],
    )
