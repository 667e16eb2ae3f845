"""The app's frame: header and tabs. A new page is a module in pages/ and a line below."""

from __future__ import annotations

import gc
import os
import sys

import gradio as gr
from starlette.middleware import Middleware

from cbgui import hardware, space
from cbgui.runs import folder, queue
from cbgui.ui.common import catch_errors, chosen, in_memory, run_choices
from cbgui.ui.pages import chat, data, export, report, runs, train
from cbgui.ui.server import downloads, guard, storage, visitors
from cbgui.ui.theme import CSS, THEME

DEVICE_TICK = 5.0  # seconds between two looks at the memory in use
CACHE_CHECK, CACHE_AGE = 3600, 86400  # seconds: how often, and after what age, Gradio deletes uploads and downloads


def _choices(current: str | None):
    """Keep the chosen run while it exists, else choose the newest."""
    names = run_choices()
    return gr.Dropdown(choices=names, value=chosen(current if current in names else None))


def _device() -> str:
    return f"{hardware.describe()}; {hardware.memory_in_words()}"


def build() -> gr.Blocks:
    with gr.Blocks(title="cbgui", analytics_enabled=False, delete_cache=(CACHE_CHECK, CACHE_AGE)) as page:
        with gr.Row(equal_height=False, elem_id="header"):
            gr.Markdown("# cbgui\nShort-circuit a language model: choose what must stop and what it must keep.")
            with gr.Column(scale=0, min_width=380):
                run_name = gr.Dropdown([], value=None, label="Run", allow_custom_value=True, elem_id="run")
                device = gr.Markdown(elem_id="device")
        # The Train page shows it; the Topic page, which is built first, counts tokens with the same model.
        model = gr.Textbox(
            "demo", label="Model", info="demo, a hub id such as owner/name, or a folder", elem_id="model", render=False
        )
        with gr.Tabs():
            with gr.Tab("1 Topic"):
                topic = data.build(page, model)
            with gr.Tab("2 Train") as tab:
                train.build(page, tab, run_name, model, topic)
            with gr.Tab("3 Try") as tab:
                chat.build(page, tab, run_name)
            with gr.Tab("4 Test"):
                report.build(page, run_name)
            with gr.Tab("5 Take away"):
                export.build(page, run_name)
            with gr.Tab("History") as tab:
                runs.build(page, tab, run_name)
        page.load(_choices, run_name, run_name, show_progress="hidden")
        for trigger in (page.load, gr.Timer(DEVICE_TICK).tick):
            trigger(_device, None, device, show_progress="hidden", queue=False)
    catch_errors(page)
    return page


def _has_screen() -> bool:
    """Whether a browser can be opened for whoever started the app: not over ssh, and not on a Space."""
    graphical = sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(graphical) and "SSH_CONNECTION" not in os.environ and not space.on_space()


def launch(
    host: str, port: int | None, *, share: bool = False, auth: tuple[str, str] | None = None, browser: bool = False
) -> None:
    """Serve the app until the program ends; `browser`: open its page."""
    folder.root_folder().mkdir(parents=True, exist_ok=True)
    folder.empty_trash()  # a deleted run can be brought back only until the app closes
    visitors.install()
    storage.keep_tidy(folder.root_folder())
    queue.keep_going(folder.root_folder(), in_memory.drop)
    page = build().queue()
    gc.freeze()  # later collections, with many rows in memory, then skip the app's own objects
    page.launch(
        server_name=host,
        server_port=port,
        theme=THEME,
        css=CSS,
        share=share,
        inbrowser=browser and _has_screen(),
        auth=auth,
        # `downloads` alone serves run files from disk, because it knows whose files they are.
        app_kwargs={
            "routes": downloads.ROUTES,
            "middleware": [Middleware(visitors.Visitors), Middleware(guard.ContentPolicy)],
            "max_body_size": space.MAX_BODY if space.on_space() else None,
            "lifespan": guard.guarded(None if auth or space.on_space() else host, lambda: page.share_url),
        },
        max_file_size=space.MAX_UPLOAD if space.on_space() else None,
        show_error=False,
        ssr_mode=False,
        footer_links=[],
    )
