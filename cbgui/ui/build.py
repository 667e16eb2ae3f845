"""The app's frame: header and tabs. A new page is a module in pages/ and a line below."""

from __future__ import annotations

import gc
import os
import sys

import gradio as gr
from starlette.middleware import Middleware

from cbgui import hardware, space
from cbgui.errors import InputError
from cbgui.runs import folder, queue
from cbgui.ui.common import (
    TICK,
    catch_errors,
    changes,
    chosen,
    in_memory,
    library,
    pick,
    run_choices,
    show_progress_only_where_it_is_seen,
    shown_topic,
)
from cbgui.ui.pages import chat, data, export, home, report, runs, train
from cbgui.ui.panels import progress, topics
from cbgui.ui.server import downloads, guard, storage, visitors
from cbgui.ui.theme import CSS, SWITCH_THEME, THEME
from cbgui.ui.words import I18N, on_page

# Each look costs the browser the more, the more a page shows: only the page that is open is looked after.
LOOKED_AFTER = ("train", "test", "take")
HEADER_TICK = 4.0  # seconds between two looks at what the header shows
# In the browser: two answers of the server, about two tabs, could come back in the other order.
LOOK_AFTER = f"""() => {{
    const shown = document.querySelector("#tabs [role=tab][aria-selected=true]")?.dataset.tabId;
    return {list(LOOKED_AFTER)}.map(name => ({{__type__: "update", active: name === shown}}));
}}"""
LOOK_AGAIN = 0.02  # seconds until Gradio looks for a click again; its own 0.001 keeps a core 5% busy all day
# Seconds: how often, and after what age, Gradio deletes uploads and downloads.
CACHE, SPACE_CACHE = (3600, 86400), (600, 1800)  # on a Space strangers could fill the disk in a day


def _choices(current: str | None):
    """Keep the chosen run while it exists, else choose the newest."""
    names = run_choices()
    return gr.Dropdown(choices=names, value=chosen(current if current in names else None))


def _device() -> str:
    return f"{hardware.describe()}; {hardware.memory_in_words()}"


def _header(topic: tuple | None, name: str | None, seen: tuple | None) -> tuple:
    """The machine, the header's line, the button that goes on, and the tabs' labels, if they changed since `seen`."""
    try:
        data = shown_topic(topic)
    except InputError:  # deleted in another browser tab; this runs every few seconds, so nothing is said
        data = library().current()
    run = pick(name)
    shown = progress.line(data, run), bool(run and run.adapter_file.is_file()), *progress.labels(data, run)
    if seen and shown == tuple(seen):
        return _device(), *(gr.skip(),) * (len(progress.TABS) + 3)
    line, can_try, *labels = shown
    return _device(), line, gr.Button(visible=can_try), shown, *(gr.Tab(label=label) for label in labels)


def build() -> gr.Blocks:
    kept = SPACE_CACHE if space.on_space() else CACHE
    with gr.Blocks(title="cbgui", analytics_enabled=False, delete_cache=kept) as page:
        with gr.Row(equal_height=False, elem_id="header"):
            with gr.Column(scale=3, min_width=300, elem_id="header-words"):
                with gr.Row(elem_id="title"):
                    gr.Markdown("# cbgui")
                    theme = gr.Button(on_page("header.theme"), size="sm", scale=0, min_width=150, elem_id="theme")
                line = gr.Markdown(elem_id="line", min_height=26)
                device = gr.Markdown(elem_id="device")
            with gr.Column(scale=0, min_width=380):
                run_name = gr.Dropdown(
                    [], value=None, label=on_page("header.run"), allow_custom_value=True, elem_id="run"
                )
                try_it = gr.Button(
                    on_page("header.try_it"), variant="primary", size="sm", visible=False, elem_id="try-it"
                )
        # The Train page shows it; Home and the Topic page, which are built first, use the same model.
        model = gr.Textbox(
            "demo", label=on_page("common.model"), info=on_page("train.model_info"), elem_id="model", render=False
        )
        topic, seen = gr.State(None), gr.State(None)
        ticks = {name: gr.Timer(TICK, active=False) for name in LOOKED_AFTER}
        with gr.Tabs(selected="home", elem_id="tabs", overflow_behavior="wrap") as tabs:
            tab = {name: gr.Tab(on_page(f"tab.{name}"), id=name, elem_id=f"tab-{name}") for name in progress.TABS}
            with tab["home"]:
                after_seeing = home.build(page, tab["home"], tabs, run_name, model, topic)
            with tab["topic"]:
                data.build(page, model, topic)
            with tab["train"]:
                train.build(page, tab["train"], ticks["train"], run_name, model, topic)
            with tab["try"]:
                prompt = chat.build(page, tab["try"], run_name, topic)
            with tab["test"]:
                report.build(page, ticks["test"], run_name)
            with tab["take"]:
                export.build(page, ticks["take"], run_name)
            with tab["history"]:
                runs.build(page, tab["history"], run_name, topic)
        page.load(_choices, run_name, run_name, show_progress="hidden")
        for name in tab:
            tab[name].select(None, None, [*ticks.values()], js=LOOK_AFTER)
        for trigger in (page.load, gr.Timer(HEADER_TICK).tick, changes(run_name), topic.change):
            trigger(
                _header,
                [topic, run_name, seen],
                [device, line, try_it, seen, *tab.values()],
                show_progress="hidden",
                queue=False,
            )
        run_name.input(topics.of_run, [run_name, topic], topic, show_progress="hidden")
        after_seeing(chat.question_to_send, [run_name, prompt], prompt)
        try_it.click(chat.question_to_send, [run_name, prompt], prompt).then(
            lambda: gr.Tabs(selected="try"), None, tabs
        )
        theme.click(None, None, None, js=SWITCH_THEME)
    catch_errors(page)
    show_progress_only_where_it_is_seen(page)
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
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = LOOK_AGAIN
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
        _frontend=False,  # otherwise Gradio gives up where the page takes three seconds to come, as on a busy machine
        show_error=False,
        ssr_mode=False,
        footer_links=[],
        i18n=I18N,
    )
