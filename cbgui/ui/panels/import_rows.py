"""Adding rows: choose a source, look at five mapped rows, import. Nothing is added before it was seen."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui import space
from cbgui.data import files, sources
from cbgui.data.catalogue import CATALOGUE
from cbgui.data.columns import Mapping
from cbgui.errors import InputError
from cbgui.modeling.hub import hub_answers
from cbgui.ui.common import KIND_WORDS, KINDS, library, sentences

NONE = "(none)"
BATCH = 5000
SIDES = ["break", "ordinary", "near miss", "refusal"]


def _rows(source: dict[str, Any]) -> Iterator[files.Raw]:
    match source["type"]:
        case "catalogue":
            return sources.catalogue_rows(CATALOGUE[source["index"]])
        case "hub":
            return sources.hub_rows(source["name"], source["config"], source["split"])
        case "file":
            return files.read_rows(Path(source["path"]))
        case "paste":
            return iter(sources.paste_rows(source["text"]))
    raise ValueError(source["type"])


def _label(source: dict[str, Any]) -> str:
    return CATALOGUE[source["index"]].name if source["type"] == "catalogue" else source.get("name") or "pasted text"


def _mapping(prompt: str, response: str, messages: str, kind: str, second: str | None) -> Mapping:
    known = [None if value in (NONE, None) else value for value in (prompt, response, messages, kind)]
    return Mapping(*known, input=second)


def _preview(rows: list[files.Raw], mapping: Mapping, side: str) -> pd.DataFrame:
    found, _ = sources.to_examples(rows, mapping, KINDS[side], "these rows", limit=5)
    shown = [(e.prompt[:300], e.response[:300], KIND_WORDS[e.kind]) for e in found]
    return pd.DataFrame(shown, columns=["request", "answer", "kind"])


@sentences
def _look(source: dict[str, Any]) -> tuple:
    """Read the first rows and guess the mapping."""
    if source["type"] in ("catalogue", "hub") and not hub_answers():
        raise InputError(f"{_label(source)}: the hub does not answer; connect and open the app again, or use a file.")
    rows = list(itertools.islice(_rows(source), sources.LOOKED_AT))
    if not rows:
        raise InputError(f"{_label(source)}: it holds no rows; choose another.")
    if source["type"] == "catalogue":
        entry = CATALOGUE[source["index"]]
        mapping, side = entry.mapping, KIND_WORDS[entry.kind]
    else:
        mapping, side = sources.guess_mapping(rows), source.get("side", "ordinary")
    columns = [NONE, *sources.columns_of(rows)]
    source = source | {"first": rows[:20], "input": mapping.input}
    try:
        preview = _preview(rows, mapping, side)
    except InputError as error:
        preview, words = None, f"**{_label(source)}**: {error}"
    else:
        words = f"**{_label(source)}**: is this right? Change the columns if not."
    chosen = [
        gr.Dropdown(choices=columns, value=value or NONE)
        for value in (mapping.prompt, mapping.response, mapping.messages, mapping.kind)
    ]
    return source, gr.Group(visible=True), words, *chosen, side, preview


def _again(source: dict[str, Any] | None, prompt: str, response: str, messages: str, kind: str, side: str):
    """The five rows through the columns as they are now chosen."""
    if not source:
        return gr.skip()
    try:
        mapping = _mapping(prompt, response, messages, kind, source["input"])
        return _preview(source["first"], mapping, side), f"**{_label(source)}**: is this right?"
    except InputError as error:
        return None, str(error)


@sentences
def _import(source, prompt, response, messages, kind, side, held_out, limit):
    """Read all rows, telling how far it is."""
    if (limit or 0) < 0:
        raise InputError(f"rows at most = {limit:g}: give a number above zero, or 0 for all.")
    data, mapping = library().current(), _mapping(prompt, response, messages, kind, source["input"])
    label, found, skipped = _label(source), [], sources.Skipped()
    most = int(limit) if limit else None
    rows = _rows(source)
    while most is None or len(found) < most:
        batch = list(itertools.islice(rows, BATCH))
        if not batch:
            break
        examples = (sources.to_example(row, mapping, KINDS[side], label, skipped) for row in batch)
        found += [example for example in examples if example is not None]
        space.limit("rows", len(found), space.MAX_ROWS)
        yield f"Reading {label}: {len(found):,} rows so far ...", gr.skip(), gr.skip()
    found = found[:most]
    space.limit("rows", sum(data.counts().values()) + len(found), space.MAX_ROWS)
    if not found:
        raise InputError(f"{label}: no row gave an example. {skipped.words() or 'It holds no rows.'}")
    yield f"Adding {len(found):,} rows ...", gr.skip(), gr.skip()
    data.add(found, f"import {label}", held_out=held_out)
    empty = sum(not example.response for example in found)
    words = f"**{len(found):,} rows added** from {label}. {skipped.words()}"
    if empty:
        words += f" {empty:,} have no answer yet: 'Write the answers' below lets the model write them."
    yield words, gr.Group(visible=False), data.version()


@sentences
def _type(prompt: str, response: str, side: str) -> tuple:
    if not (prompt or "").strip():
        raise InputError("request is empty; write what a user would ask.")
    data = library().current()
    rows, skipped = [{"prompt": prompt, "response": response}], sources.Skipped()
    data.add([sources.to_example(rows[0], Mapping("prompt", "response"), KINDS[side], "typed", skipped)], "type a row")
    return "**1 row added.**", "", "", data.version()


def _entry_words(title: str) -> str:
    entry = next(entry for entry in CATALOGUE if entry.title == title)
    warning = "  \n**Warning: this set holds harmful text.** It is shown in the table as it is." * entry.harmful
    return (
        f"[{entry.name}](https://huggingface.co/datasets/{entry.name}), {entry.size} rows, licence {entry.licence}, "
        f"goes to {KIND_WORDS[entry.kind]}. {entry.words}{warning}"
    )


def build(version: gr.State) -> None:
    source = gr.State(None)
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
                titles = [entry.title for entry in CATALOGUE]
                catalogue = gr.Dropdown(titles, value=titles[0], label="Set", elem_id="catalogue")
                entry_words = gr.Markdown(_entry_words(titles[0]))
                take = gr.Button("Look at its first rows", size="sm")
            with gr.Tab("Hub"):
                with gr.Row():
                    name = gr.Textbox(label="Dataset", placeholder="owner/name", min_width=160)
                    config = gr.Textbox(label="Configuration", placeholder="default", min_width=120)
                    split = gr.Textbox(label="Split", value="train", min_width=120)
                take_hub = gr.Button("Look at its first rows", size="sm")
            with gr.Tab("Paste"):
                text = gr.Textbox(
                    label="JSON Lines, CSV with headings, or one request a line", lines=6, elem_id="paste"
                )
                take_text = gr.Button("Look at the rows", size="sm", elem_id="look-paste")
            with gr.Tab("Type one"):
                prompt_one = gr.Textbox(label="Request", lines=2, elem_id="type-prompt")
                response_one = gr.Textbox(label="Answer (may be written later)", lines=2)
                side_one = gr.Radio(SIDES, value="break", label="Kind", elem_id="type-kind")
                add_one = gr.Button("Add the row", size="sm", elem_id="type-add")
        words = gr.Markdown(elem_id="import-words")
        with gr.Group(visible=False, elem_id="mapping") as mapping:
            with gr.Row():
                columns = [
                    gr.Dropdown([], label=label, min_width=140, allow_custom_value=True, elem_id=f"map-{key}")
                    for label, key in (
                        ("Request is in", "prompt"),
                        ("Answer is in", "response"),
                        ("or whole conversation in", "messages"),
                        ("Kind is in", "kind"),
                    )
                ]
            with gr.Row():
                side = gr.Radio(SIDES, value="ordinary", label="Rows without a kind are", elem_id="map-side", scale=2)
                limit = gr.Number(label="Rows at most", info="0: all", value=0, precision=0, min_width=100)
                held_out = gr.Checkbox(label="Hold them all out", info="never trained on", elem_id="hold-all-out")
            preview = gr.Dataframe(
                headers=["request", "answer", "kind"],
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
    looked = [source, mapping, words, *columns, side, preview]
    file.upload(lambda path: _look({"type": "file", "path": path, "name": Path(path).name}), file, looked)
    catalogue.input(_entry_words, catalogue, entry_words)
    take.click(lambda title: _look({"type": "catalogue", "index": titles.index(title)}), catalogue, looked)
    take_hub.click(
        lambda name, config, split: _look({"type": "hub", "name": name.strip(), "config": config, "split": split}),
        [name, config, split],
        looked,
    )
    take_text.click(lambda text: _look({"type": "paste", "text": text, "side": "break"}), text, looked)
    for control in (*columns, side):
        control.input(
            _again, [source, *columns, side], [preview, words], show_progress="hidden", trigger_mode="always_last"
        )
    reading = do_import.click(
        _import, [source, *columns, side, held_out, limit], [words, mapping, version], concurrency_limit=1
    )
    stop.click(lambda: "Stopped; nothing was added.", None, words, cancels=[reading])
    add_one.click(_type, [prompt_one, response_one, side_one], [words, prompt_one, response_one, version])
