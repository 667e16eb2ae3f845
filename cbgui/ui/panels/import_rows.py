"""Adding rows: choose a source, look at five rows as they would be added, import. Nothing is added unseen."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui import space
from cbgui.data import columns, files
from cbgui.data.catalogue import CATALOGUE, catalogue_rows
from cbgui.data.columns import Mapping
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import KIND_LABELS, Example, Kind
from cbgui.data.files import Table
from cbgui.data.hub_datasets import hub_rows
from cbgui.data.notes import Notes
from cbgui.data.tables import Located
from cbgui.errors import InputError, error_sentence
from cbgui.modeling.hub import hub_answers
from cbgui.ui.common import KINDS, sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.panels import write_answers

NONE = "(none)"
MUST_STOP, MUST_KEEP = SIDES = ("Must not be answered", "Must be answered")
KEPT_KINDS = [label for label, kind in KINDS.items() if kind != "break"]
THESE, WITHOUT_KIND = "These questions", "Questions whose row names no kind"
NO_SIDE = "?"  # what the preview shows as the kind of a row that has none yet
BATCH = 5000
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 300
REMEMBERED_ROWS = 20  # that the preview is made from; some of them may give no example
ENTRIES = {entry.title: entry for entry in CATALOGUE}
PREVIEW_COLUMNS = ["question", "answer", "kind"]


def _open(source: dict[str, Any]) -> Table:
    match source["type"]:
        case "file":
            return files.open_table(Path(source["path"]))
        case "paste":
            return files.open_text(source["text"])
        case "catalogue":
            rows = catalogue_rows(ENTRIES[source["title"]])
        case _:
            rows = hub_rows(source["name"], source["config"], source["split"])
    return Table(source["name"], ((f"row {number}", row) for number, row in enumerate(rows, 1)))


def _mapping(source: dict[str, Any], prompt: str, response: str, messages: str, kind: str) -> Mapping:
    """The columns as chosen on the page. Raises InputError while one of two answers has to be chosen."""
    chosen = [None if value in (NONE, None) else value for value in (prompt, response, messages, kind)]
    guess: Mapping = source["guess"]
    mapping = Mapping(*chosen, input=guess.input, pair=guess.pair)
    if mapping.pair and mapping.response is None and (mapping.messages is None or guess.messages):
        raise InputError(
            f"every row has two answers, {mapping.pair[0]!r} and {mapping.pair[1]!r}; choose under 'Answer is in' "
            "which of them to add."
        )
    return mapping


def _kind_of(side: str | None, kept_kind: str) -> Kind | None:
    """The kind of rows that name none; None until the user has chosen a side."""
    return None if side not in SIDES else "break" if side == MUST_STOP else KINDS[kept_kind]


def _preview(rows: list[Located], mapping: Mapping, kind: Kind | None) -> pd.DataFrame:
    found = columns.to_examples(rows, mapping, kind, "these rows", Notes(), limit=PREVIEW_ROWS)
    shown = [
        (e.prompt[:PREVIEW_CHARACTERS], e.response[:PREVIEW_CHARACTERS], KIND_LABELS.get(e.kind, NO_SIDE))
        for e in found
    ]
    return pd.DataFrame(shown, columns=PREVIEW_COLUMNS)


def _look_at_file(path: str) -> tuple:
    return _look({"type": "file", "path": path, "name": Path(path).name})


def _look_at_public_set(title: str) -> tuple:
    return _look({"type": "catalogue", "title": title, "name": ENTRIES[title].name})


def _look_at_hub(name: str, config: str, split: str) -> tuple:
    return _look({"type": "hub", "name": name.strip(), "config": config, "split": split})


def _look_at_text(text: str) -> tuple:
    return _look({"type": "paste", "text": text, "name": "pasted text"})


def _look(source: dict[str, Any]) -> tuple:
    """Read the first rows and guess which column is which. What cannot be read leaves nothing to add."""
    try:
        return _looked(source)
    except Exception as error:  # nothing of what was looked at before may stay on the page
        if not isinstance(error, InputError):
            traceback.print_exc()
        return None, gr.Group(visible=False), plain(error_sentence(error)), *[gr.skip()] * 7


def _forget() -> tuple:
    """After the file was taken away."""
    return None, gr.Group(visible=False), "", *[gr.skip()] * 7


def _looked(source: dict[str, Any]) -> tuple:
    name = source["name"]
    packaged = source["type"] == "catalogue" and ENTRIES[source["title"]].packaged
    if source["type"] in ("catalogue", "hub") and not packaged and not hub_answers():
        raise InputError(
            f"{name}: the Hugging Face hub cannot be reached; connect and open the app again, or use a file."
        )
    table = _open(source)
    first = list(itertools.islice(table.rows, columns.SAMPLE_ROWS))
    rows = [row for _, row in first]
    if not rows:
        raise InputError(f"{name}: there are no rows in it; choose another.")
    if source["type"] == "catalogue":
        entry = ENTRIES[source["title"]]
        guess, side = entry.mapping, MUST_STOP if entry.kind == "break" else MUST_KEEP
        kept_kind = KIND_LABELS["retain" if entry.kind == "break" else entry.kind]
    else:  # which side it is on is never guessed
        guess, side, kept_kind = columns.guess_mapping(rows, table.notes), None, KIND_LABELS["retain"]
    source = source | {"first": first[:REMEMBERED_ROWS], "guess": guess, "columns": columns.columns_of(rows)}
    chosen = [value or NONE for value in (guess.prompt, guess.response, guess.messages, guess.kind)]
    preview, words, sides, kept_kinds = _look_again(source, *chosen, side, kept_kind)
    choices = [NONE, *source["columns"]]
    dropdowns = [gr.Dropdown(choices=choices, value=value) for value in chosen]
    words = f"{words} {plain(table.notes.words())}"
    return source, gr.Group(visible=True), words, *dropdowns, sides, kept_kinds, preview


def _look_again(
    source: dict[str, Any] | None,
    prompt: str,
    response: str,
    messages: str,
    kind: str,
    side: str | None,
    kept_kind: str,
) -> tuple:
    """The first five rows with the columns and the side that are chosen now, words about them, and the choices."""
    if not source:
        return (gr.skip(),) * 4
    name, kept_kinds = source["name"], gr.Radio(value=kept_kind, visible=side == MUST_KEEP)
    sides = gr.Radio(value=side, label=THESE if kind in (NONE, None) else WITHOUT_KIND)
    try:
        mapping = _mapping(source, prompt, response, messages, kind)
        columns.need_prompts(mapping, source["columns"], name)
        preview = _preview(source["first"], mapping, _kind_of(side, kept_kind))
        return preview, f"**{plain(name)}**: is this right? If not, choose other columns.", sides, kept_kinds
    except InputError as error:
        return None, f"**{plain(name)}**: {plain(error)}", sides, kept_kinds


def _added(data: DatasetStore, found: list[Example], held_out: bool) -> str:
    """Where the rows went, as Markdown: "**30 added** to *Must stop* of *clinic*"."""
    stopped = sum(example.kind == "break" for example in found)
    parts = {"Held out": len(found)} if held_out else {"Must stop": stopped, "Must keep": len(found) - stopped}
    first, *rest = [f"**{count:,} added** to *{part}*" for part, count in parts.items() if count]
    return " and ".join([first, *(words.replace(" added", "") for words in rest)]) + f" of *{plain(data.name)}*"


@sentences
def _import(version, source, prompt, response, messages, kind, side, kept_kind, held_out, limit) -> Iterator[tuple]:
    """Read and add all rows, and report progress."""
    if not source:
        raise InputError("there is nothing to add; choose a file, a public set or paste rows first.")
    if (limit or 0) < 0:
        raise InputError(f"most rows = {limit:g}: give a number above zero, or 0 for all.")
    data, mapping = shown_topic(version), _mapping(source, prompt, response, messages, kind)
    name, table, found = source["name"], _open(source), []
    columns.guess_mapping([row for _, row in source["first"]], table.notes)  # names the columns that are left out
    kind = _kind_of(side, kept_kind)
    examples = columns.examples_in(table.rows, mapping, kind, name, table.notes, source["columns"])
    most = int(limit) if limit else None
    unchanged = (gr.skip(),) * 5
    while most is None or len(found) < most:
        batch = [example for _, example in itertools.islice(examples, BATCH)]
        if not batch:
            break
        if any(example.kind is None for example in batch):
            raise InputError(f"say whether these questions are ones that {MUST_STOP.lower()}, or {MUST_KEEP.lower()}.")
        found += batch
        space.refuse_over("rows", len(found), space.MAX_ROWS)
        yield f"Reading {plain(name)}: {len(found):,} rows so far ...", *unchanged
    found = found[:most]
    space.refuse_over("rows", sum(data.counts().values()) + len(found), space.MAX_ROWS)
    notes = table.notes.words()
    if not found:
        raise InputError(f"{name}: no row could be read as an example. {notes or 'There are no rows in it.'}")
    yield f"Adding {len(found):,} rows ...", *unchanged
    data.add(found, f"import {name}", held_out=held_out)
    words = f"{_added(data, found, held_out)}, from {plain(name)}. {plain(notes)}"
    if empty := sum(not example.response for example in found):
        words += f" {empty:,} {'has' if empty == 1 else 'have'} no answer yet; the model can write its own."
    shown_part = "Held out" if held_out else "Must stop" if found[0].kind == "break" else "Must keep"
    yield words, gr.Group(visible=False), data.version(), None, shown_part, gr.Column(visible=bool(empty))


@sentences
def _type(version: tuple, prompt: str, response: str, kind: str | None) -> tuple:
    if not (prompt or "").strip():
        raise InputError("question is empty; write what a user would ask.")
    if kind not in KINDS:
        raise InputError("kind is not chosen; say whether this question must stop or must be kept.")
    data = shown_topic(version)
    row = Example((("user", prompt),), (response or "").strip(), KINDS[kind], "typed")
    data.add([row], "type a row")
    return f"{_added(data, [row], False)}.", "", "", data.version(), gr.Column(visible=not row.response)


def _entry_words(title: str) -> str:
    entry = ENTRIES[title]
    warning = "  \n**Warning: this set holds harmful text.** The table shows it as it is." * entry.harmful
    return (
        f"[{entry.name}]({entry.page}), {entry.size} rows, licence {entry.licence}; "
        f"its rows are of the kind *{KIND_LABELS[entry.kind]}*. {entry.description}{warning}"
    )


def build(version: gr.State, model: gr.Textbox, part: gr.Radio) -> gr.Accordion:
    """`part` is which rows the page shows; after an import it shows where the rows went."""
    source = gr.State(None)
    kinds, titles = list(KINDS), list(ENTRIES)
    with gr.Accordion("Add rows", open=False, elem_id="add-rows") as panel:
        with gr.Tabs():
            with gr.Tab("File"):
                file = gr.File(
                    label="CSV, TSV, Excel (.xlsx), JSON, JSON Lines, Parquet or text",
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
                typed_kind = gr.Radio(kinds, value=None, label="Kind", elem_id="type-kind")
                add_typed = gr.Button("Add the row", size="sm", elem_id="type-add")
        words = gr.Markdown(elem_id="import-words")
        offer = write_answers.offer(version, model, "import")
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
                side = gr.Radio(
                    list(SIDES),
                    value=None,
                    label=THESE,
                    elem_id="map-side",
                    elem_classes="sides",
                    min_width=320,
                    scale=2,
                )
                kept_kind = gr.Radio(
                    KEPT_KINDS, value=KEPT_KINDS[0], label="They are", visible=False, elem_id="map-kept", min_width=300
                )
            with gr.Row():
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
                elem_classes="sans",
            )
            with gr.Row():
                do_import = gr.Button("Add these rows", variant="primary", elem_id="import")
                stop = gr.Button("Stop reading")
    looked = [source, mapping, words, *chosen_columns, side, kept_kind, preview]
    file.upload(_look_at_file, file, looked)
    file.clear(_forget, None, looked)
    catalogue.input(_entry_words, catalogue, entry_words)
    look_at_set.click(_look_at_public_set, catalogue, looked)
    look_at_hub.click(_look_at_hub, [name, config, split], looked)
    look_at_text.click(_look_at_text, text, looked)
    choice = [source, *chosen_columns, side, kept_kind]
    for control in (*chosen_columns, side, kept_kind):
        control.input(
            _look_again, choice, [preview, words, side, kept_kind], show_progress="hidden", trigger_mode="always_last"
        )
    reading = do_import.click(
        _import,
        [version, *choice, held_out, limit],
        [words, mapping, version, source, part, offer],
        concurrency_limit=1,
    )
    stop.click(lambda: "Stopped; nothing was added.", None, words, cancels=[reading])
    typed = [typed_prompt, typed_response]
    add_typed.click(_type, [version, *typed, typed_kind], [words, *typed, version, offer])
    return panel
