"""The topics as wholes: copy, make, load, export, delete and bring back."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from cbgui.data.dataset_store import DatasetStore
from cbgui.errors import InputError
from cbgui.ui.common import ask_first, download_on_click, library, other_name, pick, sentences, shown_topic, tell
from cbgui.ui.server.storage import download_folder
from cbgui.ui.words import on_page, say


def opened(data: DatasetStore) -> tuple:
    """Show `data`, with no row in the editor."""
    return data.version(), gr.Group(visible=False), None


def of_run(name: str | None, version: tuple | None) -> Any:
    """The topic that the run was made from, to be shown with it; nothing to do if it is shown or gone."""
    run = pick(name)
    topic = run and run.dataset_name()
    if not topic or (version and version[0] == topic) or topic not in library().readable():
        return gr.skip()
    return library().choose(topic).version()


@sentences
def _duplicate(version: tuple, name: str) -> tuple:
    return _made(name, library().duplicate(shown_topic(version), name))


@sentences
def _create(name: str) -> tuple:
    return _made(name, library().create(name))


@sentences
def _load(source: str, name: str) -> tuple:
    return _made(name, library().load(Path(source.strip()), name))


def _made(name: str, data: DatasetStore) -> tuple:
    if changed := other_name(name, data.name):
        tell(changed.strip())
    return opened(data)


@sentences
def _restore_demo() -> tuple:
    return opened(library().choose(library().restore_demo().name))


@sentences
def _delete(version: tuple) -> tuple:
    data = shown_topic(version)
    library().delete(data)
    tell(say("topics.deleted", name=data.name))
    return *opened(library().current()), _back_button()


@sentences
def _bring_back() -> tuple:
    data = library().restore()
    tell(say("topics.is_back", name=data.name))
    return *opened(library().choose(data.name)), _back_button()


def _back_button() -> gr.Button:
    deleted = library().deleted()
    return gr.Button(
        say("common.bring_back_name", name=deleted[-1]) if deleted else say("common.bring_back"), visible=bool(deleted)
    )


@sentences
def _export(version: tuple) -> str:
    data = shown_topic(version)
    with tempfile.TemporaryDirectory() as scratch:
        if not data.export(Path(scratch)):
            raise InputError(say("topics.empty", name=f"{data.name!r}"))
        # Gradio serves it from the temporary folder and deletes it after a day.
        return shutil.make_archive(str(download_folder() / data.name), "zip", scratch)


def build(page: gr.Blocks, version: gr.State) -> Callable[[list[Any]], None]:
    """Returns what connects the buttons with the outputs that `opened` fills, once these are built."""
    with gr.Accordion(on_page("topics.heading"), open=False):
        with gr.Row(elem_classes="aligned"):
            new_name = gr.Textbox(label=on_page("common.new_name"), elem_id="new-name")
            duplicate = gr.Button(on_page("topics.copy"), size="sm", elem_id="duplicate")
            create = gr.Button(on_page("topics.create"), size="sm", elem_id="new-topic")
            export = gr.Button(on_page("topics.export"), size="sm", elem_id="export-data")
        with gr.Row(elem_classes="aligned"):
            source = gr.Textbox(label=on_page("topics.folder"), elem_id="load-folder")
            load = gr.Button(on_page("topics.load"), size="sm", elem_id="load-data")
            demo = gr.Button(on_page("topics.restore_demo"), size="sm")
        with gr.Row(elem_classes="aligned"):
            delete = gr.Button(on_page("topics.delete"), size="sm", elem_id="delete-topic")
            back = gr.Button(on_page("common.bring_back"), size="sm", visible=False, elem_id="bring-back-topic")
        sure = ask_first(delete, on_page("topics.delete_question"), on_page("common.delete_yes"))
    page.load(_back_button, None, back, show_progress="hidden")
    download_on_click(export, _export, [version])

    def connect(shows: list[Any]) -> None:
        duplicate.click(_duplicate, [version, new_name], shows)
        create.click(_create, new_name, shows)
        load.click(_load, [source, new_name], shows)
        demo.click(_restore_demo, None, shows)
        sure.click(_delete, version, [*shows, back])
        back.click(_bring_back, None, [*shows, back])

    return connect
