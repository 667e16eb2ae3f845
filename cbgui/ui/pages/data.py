"""Data: the sets with their counts, one page of rows that can be edited in place, and what adds, checks and mends them.

Every change is on disk when it is seen; `version` (name, steps) says which state the page shows.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.chat_format import encode, load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.ui.common import KIND_WORDS, KINDS, library, sentences
from cbgui.ui.panels import checks as checks_panel
from cbgui.ui.panels import import_rows as import_panel
from cbgui.ui.panels.checks import CHECK_NAMES

PAGE = 25
COLUMNS = ["row", "request", "answer", "kind"]
PARTS = {"Break": "break", "Keep": "retain", "Held out": "held_out"}
ANY = "any"
CELL = 400  # characters of a cell that are shown; the whole text is in the row's own box


def _counts(data: DatasetStore) -> str:
    c = data.counts()
    held = f"{c['held_out_break']:,} Break, {c['held_out'] - c['held_out_break']:,} Keep" if c["held_out"] else "none"
    boxes = [
        ("Break", c["break"], "what must stop"),
        ("Keep", c["retain"], f"what must stay: {c['near_miss']:,} near misses, {c['refusal']:,} refusals"),
        ("Held out", c["held_out"], held),
    ]
    cells = "".join(
        f"<div><b>{count:,}</b><span>{title}</span><small>{words}</small></div>" for title, count, words in boxes
    )
    return f'<div class="counts">{cells}</div>'


def _page(part: str, search: str, kind: str, check: str, page: float) -> tuple[list[list[Any]], int, int]:
    """(rows of the table, page, pages)."""
    data = library().current()
    filters = {
        "search": search or "",
        "kind": KINDS.get(kind),
        "check": check if check != ANY else None,
    }
    page = max(1, int(page or 1))
    part_name = None if filters["check"] else PARTS.get(part, "break")
    rows, total = data.page(part_name, **filters, offset=(page - 1) * PAGE, limit=PAGE)
    pages = max(1, -(-total // PAGE))
    if page > pages:
        return _page(part, search, kind, check, pages)
    shown = [[r.id, r.example.prompt[:CELL], r.example.response[:CELL], KIND_WORDS[r.example.kind]] for r in rows]
    return shown, page, pages, total


def _show(part: str, search: str, kind: str, check: str, page: float) -> tuple:
    shown, page, pages, total = _page(part, search, kind, check, page)
    words = f"{total:,} rows, page {page:,} of {pages:,}"
    if not total:
        filtered = (search or "").strip() or kind != ANY or check != ANY
        words = "No row passes these filters." if filtered else "No rows here yet. **Add rows** below."
    return pd.DataFrame(shown, columns=COLUMNS), shown, words, gr.Number(value=page)


def _refresh(part: str, search: str, kind: str, check: str, page: float) -> tuple:
    names, data = library().names(), library().current()
    last = data.last_step()
    undo = gr.Button(f"Undo: {last}" if last else "Undo", interactive=last is not None)
    return (
        gr.Dropdown(choices=names, value=data.name),
        _counts(data),
        undo,
        *_show(part, search, kind, check, page),
    )


def _number(cell: Any) -> int | None:
    """A row's number; None for the empty cell of a row that the user added (beside it, numbers come as floats)."""
    try:
        return int(float(cell))
    except (TypeError, ValueError):
        return None


@sentences
def _edited(table: pd.DataFrame, shown: list[list[Any]], part: str) -> tuple | Any:
    """Cells that were changed in the table, written to their rows; a row that was added there, to the set."""
    data = library().current()
    old = {int(row[0]): row for row in shown}
    for identifier, prompt, response, kind in table.fillna("").itertuples(index=False):
        row = old.get(_number(identifier))
        if row is None and _number(identifier) is None and str(prompt).strip():
            usual = "break" if part == "Break" else "retain"
            new = Example((("user", str(prompt)),), str(response), KINDS.get(kind, usual), "typed")
            data.add([new], "type a row", held_out=part == "Held out")
        if row is None or [prompt, response, kind] == row[1:]:
            continue
        (whole,) = data.get([row[0]]) or [None]
        if whole is None:
            continue
        # A cell that was shown cut and not touched keeps its whole text.
        prompt = whole.example.prompt if prompt == row[1] else prompt
        response = whole.example.response if response == row[2] else response
        data.edit(row[0], prompt=str(prompt), response=str(response), kind=KINDS.get(kind, str(kind)))
    return data.version()


@sentences
def _select(shown: list[list[Any]], event: gr.SelectData) -> tuple:
    """The chosen row in whole, and how the model reads it."""
    index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
    if not shown or index >= len(shown):
        return (gr.skip(),) * 6
    found = library().current().get([shown[index][0]])
    if not found:
        return (gr.skip(),) * 6
    row = found[0]
    words = f"Row {row.id}, from {row.example.source or 'this data set'}{', held out' if row.held_out else ''}"
    e = row.example
    return row.id, gr.Group(visible=True), words, e.prompt, e.response, KIND_WORDS[e.kind]


@sentences
def _template(identifier: int | None, model: str) -> Any:
    found = library().current().get([identifier] if identifier else [])
    if not found:
        raise InputError("no row is chosen; click one in the table.")
    tokenizer = load_tokenizer(resolve_model(model.strip() or "demo", weights=False))
    encoded = encode(tokenizer, found[0].example, 4096)
    before = tokenizer.decode(encoded.ids[: encoded.loss_start])
    counted = tokenizer.decode(encoded.ids[encoded.loss_start :])
    parts = [(before, None)] if before else []
    return gr.HighlightedText(value=[*parts, (counted, "counts")], visible=True)


@sentences
def _save(identifier: int | None, prompt: str, response: str, kind: str) -> tuple:
    data = library().current()
    if identifier is None or not data.get([identifier]):
        raise InputError("no row is chosen; click one in the table.")
    data.edit(identifier, prompt=prompt, response=response, kind=KINDS[kind])
    return data.version(), gr.Group(visible=False), None


@sentences
def _delete(identifier: int | None) -> tuple:
    data = library().current()
    if identifier is None or not data.remove([identifier], "delete a row"):
        raise InputError("no row is chosen; click one in the table.")
    return data.version(), gr.Group(visible=False), None


def _undo() -> tuple:
    data = library().current()
    words = data.undo()
    gr.Info(f"Taken back: {words}." if words else "There is nothing to undo.")
    return data.version()


@sentences
def _export() -> str:
    data = library().current()
    with tempfile.TemporaryDirectory() as scratch:
        if not data.export(Path(scratch)):
            raise InputError(f"data set {data.name!r} is empty; add rows first.")
        # Gradio serves it from the temporary folder and removes it after a day.
        return shutil.make_archive(str(Path(tempfile.mkdtemp()) / data.name), "zip", scratch)


def build(page: gr.Blocks, model: gr.Textbox) -> None:
    version = gr.State(None)
    shown = gr.State([])
    chosen = gr.State(None)
    gr.Markdown(
        "**Break** holds requests whose answers must stop. **Keep** holds what must be answered as before: ordinary "
        "requests, near misses that look like Break, refusals. Training turns the first away and holds the second."
    )
    counts = gr.HTML(min_height=84, elem_id="counts")
    with gr.Row(elem_classes="beside"):
        name = gr.Dropdown([], label="Data set", elem_id="data-set", min_width=160)
        undo = gr.Button("Undo", interactive=False, elem_id="undo", min_width=220, scale=0, size="sm")
    with gr.Accordion("Save as, load, export", open=False):
        with gr.Row(elem_classes="beside"):
            new_name = gr.Textbox(label="New name", placeholder="letters, digits, - and _", elem_id="new-name")
            duplicate = gr.Button("Save a copy under it", size="sm", elem_id="duplicate")
            create = gr.Button("New, empty", size="sm", elem_id="new-data")
            export = gr.DownloadButton("Export as JSON Lines (zip)", size="sm", elem_id="export-data")
        with gr.Row(elem_classes="beside"):
            folder = gr.Textbox(label="Folder with break.jsonl, retain.jsonl, held_out.jsonl", elem_id="load-folder")
            load = gr.Button("Load it under the new name", size="sm", elem_id="load-data")
            demo = gr.Button("Bring the demo data back", size="sm")
    with gr.Row(elem_classes="beside"):
        part = gr.Radio(list(PARTS), value="Break", label="Show", elem_id="part", min_width=320, scale=2)
        search = gr.Textbox(label="Search", placeholder="in requests and answers", min_width=140, elem_id="search")
        kind = gr.Dropdown([ANY, *KINDS], value=ANY, label="Kind", min_width=100, elem_id="kind")
        check = gr.Dropdown(
            [(ANY, ANY), *((words, check) for words, check in CHECK_NAMES.items())],
            value=ANY,
            label="Found by check",
            min_width=140,
            elem_id="check-filter",
        )
    table = gr.Dataframe(
        headers=COLUMNS,
        datatype=["number", "str", "str", "str"],
        interactive=True,
        static_columns=[0],
        wrap=True,
        line_breaks=False,
        max_chars=160,
        max_height=460,
        show_label=False,
        label="Rows",
        column_widths=["70px", "36%", "46%", "110px"],
        elem_id="rows",
    )
    with gr.Row(elem_classes="beside"):
        words = gr.Markdown(elem_id="page-words")
        back = gr.Button("Previous page", size="sm", min_width=104, scale=0)
        number = gr.Number(
            1, label="Page", show_label=False, precision=0, minimum=1, min_width=70, scale=0, elem_id="page"
        )
        forward = gr.Button("Next page", size="sm", min_width=104, scale=0, elem_id="next-page")
    with gr.Group(visible=False, elem_id="row-editor") as editor:
        row_words = gr.Markdown()
        prompt = gr.Textbox(label="Request", lines=3, max_lines=12, elem_id="row-prompt")
        response = gr.Textbox(label="Answer", lines=5, max_lines=20, elem_id="row-response")
        row_kind = gr.Radio(list(KINDS), label="Kind")
        with gr.Row():
            save = gr.Button("Save the row", variant="primary", elem_id="row-save")
            delete = gr.Button("Delete the row", elem_id="row-delete")
            template = gr.Button("As the model reads it", elem_id="row-template")
        read = gr.HighlightedText(
            label="Through the model's chat template; what is coloured counts for the loss",
            visible=False,
            show_whitespaces=True,
            color_map={"counts": "teal"},
            elem_id="template",
        )
    import_panel.build(version)
    checks_panel.build(version, model, check)

    filters = [part, search, kind, check, number]
    view = [table, shown, words, number]
    # One after the other: the page asked for last is the one that stays.
    in_order = {"show_progress": "hidden", "concurrency_id": "rows", "concurrency_limit": 1}
    version.change(_refresh, filters, [name, counts, undo, *view], **in_order)
    for control in (part, search, kind):
        control.input(  # a key pressed while the last one is searched for must not be lost
            lambda *values: _show(*values[:-1], 1), filters, view, trigger_mode="always_last", **in_order
        )
    check.change(lambda *values: _show(*values[:-1], 1), filters, view, **in_order)
    number.submit(_show, filters, view, **in_order)
    back.click(lambda *values: _show(*values[:-1], (values[-1] or 1) - 1), filters, view, **in_order)
    forward.click(lambda *values: _show(*values[:-1], (values[-1] or 1) + 1), filters, view, **in_order)
    table.input(_edited, [table, shown, part], version, show_progress="hidden")
    selected = [chosen, editor, row_words, prompt, response, row_kind]
    table.select(_select, shown, selected, show_progress="hidden")
    save.click(_save, [chosen, prompt, response, row_kind], [version, editor, chosen])
    delete.click(_delete, chosen, [version, editor, chosen])
    template.click(_template, [chosen, model], read)
    undo.click(_undo, None, version)
    name.input(lambda chosen: library().choose(chosen).version(), name, version)
    duplicate.click(
        sentences(lambda wanted: library().duplicate(library().current(), wanted).version()), new_name, version
    )
    create.click(sentences(lambda wanted: library().create(wanted).version()), new_name, version)
    load.click(
        sentences(lambda folder, wanted: library().load(Path(folder.strip()), wanted).version()),
        [folder, new_name],
        version,
    )
    demo.click(lambda: (library().restore_demo(), library().choose("demo").version())[1], None, version)
    export.click(_export, None, export)
    page.load(lambda: library().current().version(), None, version, show_progress="hidden")
