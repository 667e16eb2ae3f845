"""Adding rows: choose a source, look at five rows as they would be added, import. Nothing is added unseen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui import space
from cbgui.data import columns, files, sources
from cbgui.data.catalogue import CATALOGUE, catalogue_rows
from cbgui.data.columns import Mapping, Skipped
from cbgui.data.examples import KIND_LABELS
from cbgui.data.hub_datasets import hub_rows
from cbgui.errors import InputError
from cbgui.modeling.hub import hub_answers
from cbgui.ui.common import KINDS, library, sentences

NONE = "(none)"
BATCH = 5000
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 300
REMEMBERED_ROWS = 20  # that the preview is made from; some of them may give no example
ENTRIES = {entry.title: entry for entry in CATALOGUE}
PREVIEW_COLUMNS = ["question", "answer", "kind"]


def _rows(source: dict[str, Any]) -> Iterator[files.Raw]:
    match source["type"]:
        case "catalogue":
            return catalogue_rows(ENTRIES[source["title"]])
        case "hub":
            return hub_rows(source["name"], source["config"], source["split"])
        case "file":
            return files.read_rows(Path(source["path"]))
        case "paste":
            return iter(sources.paste_rows(source["text"]))
    raise ValueError(source["type"])


def _mapping(prompt: str, response: str, messages: str, kind: str, second: str | None) -> Mapping:
    chosen = [None if value in (NONE, None) else value for value in (prompt, response, messages, kind)]
    return Mapping(*chosen, input=second)


def _preview(rows: list[files.Raw], mapping: Mapping, kind: str) -> pd.DataFrame:
    found, _ = columns.to_examples(rows, mapping, KINDS[kind], "these rows", limit=PREVIEW_ROWS)
    shown = [(e.prompt[:PREVIEW_CHARACTERS], e.response[:PREVIEW_CHARACTERS], KIND_LABELS[e.kind]) for e in found]
    return pd.DataFrame(shown, columns=PREVIEW_COLUMNS)


def _look_at_file(path: str) -> tuple:
    return _look({"type": "file", "path": path, "name": Path(path).name})


def _look_at_public_set(title: str) -> tuple:
    return _look({"type": "catalogue", "title": title, "name": ENTRIES[title].name})


def _look_at_hub(name: str, config: str, split: str) -> tuple:
    return _look({"type": "hub", "name": name.strip(), "config": config, "split": split})


def _look_at_text(text: str) -> tuple:
    return _look({"type": "paste", "text": text, "name": "pasted text", "kind": KIND_LABELS["break"]})


@sentences
def _look(source: dict[str, Any]) -> tuple:
    """Read the first rows and guess which column is which."""
    name = source["name"]
    if source["type"] in ("catalogue", "hub") and not hub_answers():
        raise InputError(
            f"{name}: the Hugging Face hub cannot be reached; connect and open the app again, or use a file."
        )
    rows = list(itertools.islice(_rows(source), columns.SAMPLE_ROWS))
    if not rows:
        raise InputError(f"{name}: there are no rows in it; choose another.")
    if source["type"] == "catalogue":
        entry = ENTRIES[source["title"]]
        mapping, kind = entry.mapping, KIND_LABELS[entry.kind]
    else:
        mapping, kind = columns.guess_mapping(rows), source.get("kind", KIND_LABELS["retain"])
    choices = [NONE, *columns.columns_of(rows)]
    source = source | {"first": rows[:REMEMBERED_ROWS], "input": mapping.input}
    try:
        preview = _preview(rows, mapping, kind)
    except InputError as error:
        preview, words = None, f"**{name}**: {error}"
    else:
        words = f"**{name}**: is this right? If not, choose other columns."
    chosen = [
        gr.Dropdown(choices=choices, value=value or NONE)
        for value in (mapping.prompt, mapping.response, mapping.messages, mapping.kind)
    ]
    return source, gr.Group(visible=True), words, *chosen, kind, preview


def _look_again(source: dict[str, Any] | None, prompt: str, response: str, messages: str, kind: str, other_kind: str):
    """The first five rows with the columns that are chosen now."""
    if not source:
        return gr.skip()
    try:
        mapping = _mapping(prompt, response, messages, kind, source["input"])
        return _preview(source["first"], mapping, other_kind), f"**{source['name']}**: is this right?"
    except InputError as error:
        return None, str(error)


@sentences
def _import(source, prompt, response, messages, kind, other_kind, held_out, limit):
    """Read and add all rows, and report progress."""
    if (limit or 0) < 0:
        raise InputError(f"most rows = {limit:g}: give a number above zero, or 0 for all.")
    data, mapping = library().current(), _mapping(prompt, response, messages, kind, source["input"])
    name, found, skipped = source["name"], [], Skipped()
    most = int(limit) if limit else None
    rows = _rows(source)
    while most is None or len(found) < most:
        batch = list(itertools.islice(rows, BATCH))
        if not batch:
            break
        examples = (columns.to_example(row, mapping, KINDS[other_kind], name, skipped) for row in batch)
        found += [example for example in examples if example is not None]
        space.refuse_over("rows", len(found), space.MAX_ROWS)
        yield f"Reading {name}: {len(found):,} rows so far ...", gr.skip(), gr.skip()
    found = found[:most]
    space.refuse_over("rows", sum(data.counts().values()) + len(found), space.MAX_ROWS)
    if not found:
        raise InputError(f"{name}: no row could be read as an example. {skipped.words() or 'There are no rows in it.'}")
    yield f"Adding {len(found):,} rows ...", gr.skip(), gr.skip()
    data.add(found, f"import {name}", held_out=held_out)
    words = f"**{len(found):,} rows added** from {name}. {skipped.words()}"
    if empty := sum(not example.response for example in found):
        words += f" {empty:,} have no answer yet: under **Write the answers** below, the model can write them."
    yield words, gr.Group(visible=False), data.version()


@sentences
def _type(prompt: str, response: str, kind: str) -> tuple:
    if not (prompt or "").strip():
        raise InputError("question is empty; write what a user would ask.")
    data = library().current()
    row = {"prompt": prompt, "response": response}
    data.add([columns.to_example(row, Mapping("prompt", "response"), KINDS[kind], "typed", Skipped())], "type a row")
    return "**1 row added.**", "", "", data.version()


def _entry_words(title: str) -> str:
    entry = ENTRIES[title]
    warning = "  \n**Warning: this set holds harmful text.** The table shows it as it is." * entry.harmful
    return (
        f"[{entry.name}](https://huggingface.co/datasets/{entry.name}), {entry.size} rows, licence {entry.licence}; "
        f"its rows are of the kind *{KIND_LABELS[entry.kind]}*. {entry.description}{warning}"
    )


def build(version: gr.State) -> None:
    source = gr.State(None)
    kinds, titles = list(KINDS), list(ENTRIES)
    with gr.Accordion("Add rows", open=False, elem_id="add-rows"):
        with gr.Tabs():
            with gr.Tab("File"):
                file = gr.File(
                    label="CSV, TSV, JSON, JSON Lines or Parquet",
                    file_types=list(files.SUFFIXES),
                    height=120,
                    elem_id="file",
                )
            with gr.Tab("Public sets"):
                catalogue = gr.Dropdown(titles, value=titles[0], label="Set", elem_id="catalogue")
                entry_words = gr.Markdown(_entry_words(titles[0]))
                look_at_set = gr.Button("Look at its first rows", size="sm")
            with gr.Tab("Hub"):
                with gr.Row():
                    name = gr.Textbox(label="Dataset", placeholder="owner/name", min_width=160)
                    config = gr.Textbox(label="Configuration", placeholder="default", min_width=120)
                    split = gr.Textbox(label="Split", value="train", min_width=120)
                look_at_hub = gr.Button("Look at its first rows", size="sm")
            with gr.Tab("Paste"):
                text = gr.Textbox(
                    label="JSON Lines, CSV with headings, or one question a line", lines=6, elem_id="paste"
                )
                look_at_text = gr.Button("Look at the rows", size="sm", elem_id="look-paste")
            with gr.Tab("Type one"):
                typed_prompt = gr.Textbox(label="Question", lines=2, elem_id="type-prompt")
                typed_response = gr.Textbox(label="Answer (the model can write it later)", lines=2)
                typed_kind = gr.Radio(kinds, value=KIND_LABELS["break"], label="Kind", elem_id="type-kind")
                add_typed = gr.Button("Add the row", size="sm", elem_id="type-add")
        words = gr.Markdown(elem_id="import-words")
        with gr.Group(visible=False, elem_id="mapping") as mapping:
            with gr.Row():
                chosen_columns = [
                    gr.Dropdown([], label=label, min_width=140, allow_custom_value=True, elem_id=f"map-{key}")
                    for label, key in (
                        ("Question is in", "prompt"),
                        ("Answer is in", "response"),
                        ("or whole conversation in", "messages"),
                        ("Kind is in", "kind"),
                    )
                ]
            with gr.Row():
                kind = gr.Radio(
                    kinds, value=KIND_LABELS["retain"], label="Rows without a kind are", elem_id="map-other", scale=2
                )
                limit = gr.Number(label="Most rows", info="0: all", value=0, precision=0, min_width=100)
                held_out = gr.Checkbox(label="Hold them all out", info="never trained on", elem_id="hold-all-out")
            preview = gr.Dataframe(
                headers=PREVIEW_COLUMNS,
                interactive=False,
                wrap=True,
                max_height=260,
                label="The first five as they will be added",
                column_widths=["36%", "37%", "27%"],
                elem_id="preview",
            )
            with gr.Row():
                do_import = gr.Button("Add these rows", variant="primary", elem_id="import")
                stop = gr.Button("Stop reading")
    looked = [source, mapping, words, *chosen_columns, kind, preview]
    file.upload(_look_at_file, file, looked)
    catalogue.input(_entry_words, catalogue, entry_words)
    look_at_set.click(_look_at_public_set, catalogue, looked)
    look_at_hub.click(_look_at_hub, [name, config, split], looked)
    look_at_text.click(_look_at_text, text, looked)
    choice = [source, *chosen_columns, kind]
    for control in (*chosen_columns, kind):
        control.input(_look_again, choice, [preview, words], show_progress="hidden", trigger_mode="always_last")
    reading = do_import.click(_import, [*choice, held_out, limit], [words, mapping, version], concurrency_limit=1)
    stop.click(lambda: "Stopped; nothing was added.", None, words, cancels=[reading])
    add_typed.click(_type, [typed_prompt, typed_response, typed_kind], [words, typed_prompt, typed_response, version])
