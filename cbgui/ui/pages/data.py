"""Data: the topics and their counts, one page of rows that can be edited in place, and panels that add and check rows.

Every change is on disk by the time it is shown. `version` (name, steps) says which state the page shows.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import pandas as pd

from cbgui.data.dataset_store import DatasetStore, Row
from cbgui.data.examples import Example
from cbgui.errors import InputError
from cbgui.modeling.chat_format import encode, load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.ui.common import KINDS, library, row_of, sentences, shown_topic, tell
from cbgui.ui.fragments import plain
from cbgui.ui.panels import checklist, suggestions, topic_counts, topics, write_answers
from cbgui.ui.panels import checks as checks_panel
from cbgui.ui.panels import import_rows as import_panel
from cbgui.ui.panels import parts as parts_panel
from cbgui.ui.panels.checks import CHECK_NAMES
from cbgui.ui.words import kind_of, on_page, say, say_count

PAGE_ROWS = 25
COLUMNS = ("topic.row", "topic.question", "topic.answer", "topic.kind")
ANY = "any"
CELL_LENGTH = 4000  # characters of a cell; longer texts are edited in the row editor only
Shown = tuple[str, list[int], list[list[Any]]]  # the topic, the rows' ids, and the table
Chosen = tuple[str, int]  # the topic, and the row in the editor
# Gradio's tables take files that are dropped on them and show their cells, without adding them to the topic.
NO_DROP = """() => {
    for (const name of ["dragenter", "dragover", "drop"])
        document.addEventListener(name, event => {
            if (!event.target.closest?.(".sans")) return;
            event.preventDefault();
            event.stopPropagation();
            event.dataTransfer.dropEffect = "none";
        }, true);
}"""
TEMPLATE_TOKENS = 4096  # of a row that "As the model reads it" shows


def _page(
    data: DatasetStore, part: str, search: str, kind: str, check: str, page: float
) -> tuple[list[Row], int, int, int]:
    """(rows, page, pages, rows that pass the filters)."""
    filters = {
        "search": search or "",
        "kind": kind if kind in KINDS else None,
        "check": check if check != ANY else None,
    }
    page = max(1, int(page or 1))
    view = None if filters["check"] else parts_panel.VIEWS.get(part, part)
    rows, total = data.page(view, **filters, offset=(page - 1) * PAGE_ROWS, limit=PAGE_ROWS)
    pages = max(1, -(-total // PAGE_ROWS))
    if page > pages:
        return _page(data, part, search, kind, check, pages)
    return rows, page, pages, total


def _headings() -> list[str]:
    return [say(key) for key in COLUMNS]


def _cells(row: Row) -> list[Any]:
    """The row of the table. Its number stays when it is edited; its id does not."""
    example = row.example
    return [row.number, example.prompt[:CELL_LENGTH], example.response[:CELL_LENGTH], say(f"kind.{example.kind}")]


def _show(version: tuple, part: str, search: str, kind: str, check: str, page: float) -> tuple:
    data = shown_topic(version)
    rows, page, pages, total = _page(data, part, search, kind, check, page)
    shown = [_cells(row) for row in rows]
    words = say_count("topic.shown", total, page=page, pages=pages)
    if not total:
        filtered = (search or "").strip() or kind != ANY or check != ANY
        words = say("topic.none_pass") if filtered else say("topic.no_rows")
    ids = [row.id for row in rows]
    return pd.DataFrame(shown, columns=_headings()), (data.name, ids, shown), words, gr.Number(value=page)


def _show_first_page(version: tuple, part: str, search: str, kind: str, check: str, page: float) -> tuple:
    return _show(version, part, search, kind, check, 1)


def _show_previous_page(version: tuple, part: str, search: str, kind: str, check: str, page: float) -> tuple:
    return _show(version, part, search, kind, check, (page or 1) - 1)


def _show_next_page(version: tuple, part: str, search: str, kind: str, check: str, page: float) -> tuple:
    return _show(version, part, search, kind, check, (page or 1) + 1)


def _refresh(version: tuple, part: str, search: str, kind: str, check: str, page: float) -> tuple:
    names, data = library().names(), shown_topic(version)
    last = data.last_step()
    undo = gr.Button(say("topic.undo_step", step=last) if last else say("topic.undo"), interactive=last is not None)
    return (
        gr.Dropdown(choices=names, value=data.name),
        topic_counts.counts(data),
        undo,
        *_show(version, part, search, kind, check, page),
    )


def _number(cell: Any) -> int | None:
    """None for the empty cell of a row that the user added; it makes pandas read the other numbers as floats."""
    try:
        return int(float(cell))
    except (TypeError, ValueError):
        return None


@sentences
def _edited(table: pd.DataFrame, shown: Shown, part: str) -> tuple | Any:
    """Write the cells that were changed in the table to their rows, and add a row that was added there."""
    data = shown_topic(shown)
    old = {cells[0]: (identifier, cells) for identifier, cells in zip(*shown[1:], strict=True)}
    for number, prompt, response, kind in table.fillna("").itertuples(index=False):
        identifier, row = old.get(_number(number), (None, None))
        if row is None and _number(number) is None and str(prompt).strip():
            usual = part if part in KINDS else "retain"
            new = Example((("user", str(prompt)),), str(response), kind_of(str(kind), usual), "typed")
            data.add([new], "type a row", held_out=part == "held_out")
        if row is None or [prompt, response, kind] == row[1:]:
            continue
        (whole,) = data.get([identifier]) or [None]
        if whole is None:
            continue
        prompt = _edited_cell(str(prompt), row[1], whole.example.prompt)
        response = _edited_cell(str(response), row[2], whole.example.response)
        data.edit(identifier, prompt=prompt, response=response, kind=kind_of(str(kind)) or str(kind))
    return data.version()


def _edited_cell(cell: str, before: str, whole: str) -> str:
    """The whole text after an edit. Raises InputError when the cell held only the beginning of it."""
    if cell == before:
        return whole
    if before != whole:
        raise InputError(say("topic.too_long_for_cell"))
    return cell


@sentences
def _select(shown: Shown, event: gr.SelectData) -> tuple:
    """Open the row that was clicked in the editor."""
    index, (name, ids, _) = row_of(event), shown
    found = shown_topic(shown).get([ids[index]]) if index < len(ids) else []
    if not found:
        return (gr.skip(),) * 6
    row, example = found[0], found[0].example
    key = "topic.row_held_out" if row.held_out else "topic.row_words"
    words = say(key, number=str(row.number), source=plain(example.source) or say("topic.this_topic"))
    return (name, row.id), gr.Group(visible=True), words, example.prompt, example.response, example.kind


def _need_row(chosen: Chosen | None) -> tuple[DatasetStore, Row]:
    """The chosen row and its topic. Raises InputError."""
    data = shown_topic(chosen)
    found = data.get([chosen[1]] if chosen else [])
    if not found:
        raise InputError(say("topic.no_row_chosen"))
    return data, found[0]


@sentences
def _template(chosen: Chosen | None, model: str) -> Any:
    _, row = _need_row(chosen)
    tokenizer = load_tokenizer(resolve_model(model.strip() or "demo", weights=False))
    encoded = encode(tokenizer, row.example, TEMPLATE_TOKENS)
    before = tokenizer.decode(encoded.ids[: encoded.loss_start])
    counted = tokenizer.decode(encoded.ids[encoded.loss_start :])
    parts = [(before, None)] if before else []
    label = say("topic.counts_in_training")
    return gr.HighlightedText(value=[*parts, (counted, label)], color_map={label: "teal"}, visible=True)


@sentences
def _save(chosen: Chosen | None, prompt: str, response: str, kind: str) -> tuple:
    data, row = _need_row(chosen)
    data.edit(row.id, prompt=prompt, response=response, kind=kind)
    return topics.opened(data)


@sentences
def _delete(chosen: Chosen | None) -> tuple:
    data, row = _need_row(chosen)
    data.remove([row.id], "delete a row")
    return topics.opened(data)


@sentences
def _undo(version: tuple) -> tuple:
    data = shown_topic(version)
    words = data.undo()
    tell(say("topic.undone", step=words) if words else say("topic.nothing_to_undo"))
    return data.version()


@sentences
def _choose(name: str) -> tuple:
    return topics.opened(library().choose(name))


def build(page: gr.Blocks, model: gr.Textbox, version: gr.State) -> None:
    """`version` holds the name and version of the topic that this browser tab shows."""
    shown = gr.State(("", [], []))
    chosen = gr.State(None)
    kinds = [(on_page(f"kind.{kind}"), kind) for kind in KINDS]
    gr.Markdown(on_page("topic.about"))
    counts = gr.HTML(min_height=84, elem_id="counts")
    to_do = checklist.build()
    with gr.Row(elem_classes="aligned"):
        name = gr.Dropdown([], label=on_page("common.topic"), elem_id="topic", min_width=160)
        undo = gr.Button(on_page("topic.undo"), interactive=False, elem_id="undo", min_width=220, scale=0, size="sm")
    connect_topics = topics.build(page, version)
    tabs, part, parts = parts_panel.build()
    more = {one.name: one.more for one in parts}
    import_panel.build(version, model, tabs, part, parts)
    panels = {checklist.ADD: (tabs, "part"), checklist.SUGGEST: (suggestions.build(version, model, more), "suggest")}
    more["held_out"].click(checklist.hold_out_rows, version, version)
    with gr.Row(elem_classes="aligned"):
        search = gr.Textbox(
            label=on_page("topic.search"), placeholder=on_page("topic.search_where"), min_width=140, elem_id="search"
        )
        kind = gr.Dropdown(
            [(on_page("kind.any"), ANY), *kinds], value=ANY, label=on_page("common.kind"), min_width=100, elem_id="kind"
        )
        check = gr.Dropdown(
            [(on_page("kind.any"), ANY), *((on_page(f"checks.{check}"), check) for check in CHECK_NAMES)],
            value=ANY,
            label=on_page("topic.found_by"),
            min_width=140,
            elem_id="check-filter",
        )
    table = gr.Dataframe(
        headers=_headings(),
        datatype=["number", "str", "str", "str"],
        interactive=True,
        static_columns=[0],
        wrap=True,
        line_breaks=False,
        max_chars=160,
        max_height=460,
        show_label=False,
        label=on_page("topic.rows"),
        column_widths=["70px", "38%", "47%", "110px"],
        elem_id="rows",
        elem_classes="sans",
    )
    with gr.Row(elem_classes="aligned"):
        words = gr.Markdown(elem_id="page-words")
        back = gr.Button(on_page("topic.previous_page"), size="sm", min_width=104, scale=0)
        number = gr.Number(
            1,
            label=on_page("topic.page"),
            show_label=False,
            precision=0,
            minimum=1,
            min_width=70,
            scale=0,
            elem_id="page",
        )
        forward = gr.Button(on_page("topic.next_page"), size="sm", min_width=104, scale=0, elem_id="next-page")
    with gr.Group(visible=False, elem_id="row-editor") as editor:
        row_words = gr.Markdown(elem_id="row-words")
        prompt = gr.Textbox(label=on_page("common.question"), lines=3, max_lines=12, elem_id="row-prompt")
        response = gr.Textbox(label=on_page("common.answer"), lines=5, max_lines=20, elem_id="row-response")
        row_kind = gr.Radio(kinds, label=on_page("common.kind"))
        with gr.Row():
            save = gr.Button(on_page("topic.save_row"), variant="primary", elem_id="row-save")
            delete = gr.Button(on_page("topic.delete_row"), elem_id="row-delete")
            template = gr.Button(on_page("topic.as_model_reads"), elem_id="row-template")
        read = gr.HighlightedText(
            label=on_page("topic.in_template"),
            visible=False,
            show_whitespaces=True,
            elem_id="template",
        )
    checks_panel.build(version, model, check)
    panels[checklist.WRITE] = write_answers.build(version, model), "write"
    checklist.connect(version, *to_do, panels)
    opened = [version, editor, chosen]
    connect_topics(opened)

    filters = [version, part, search, kind, check, number]
    view = [table, shown, words, number]
    # One at a time and in order, so that the page that was asked for last is the one that stays.
    in_order = {"show_progress": "hidden", "concurrency_id": "rows", "concurrency_limit": 1}
    version.change(_refresh, filters, [name, counts, undo, *view], **in_order)
    # always_last: a key pressed during a search must not be lost.
    # search.change: Gradio sends no input event when characters are deleted from a text box.
    for event in (part.change, search.change, kind.input):  # an import changes `part` too
        event(_show_first_page, filters, view, trigger_mode="always_last", **in_order)
    check.change(_show_first_page, filters, view, **in_order)
    number.submit(_show, filters, view, **in_order)
    back.click(_show_previous_page, filters, view, **in_order)
    forward.click(_show_next_page, filters, view, **in_order)
    table.input(_edited, [table, shown, part], version, show_progress="hidden").failure(
        _show, filters, view, **in_order
    )
    selected = [chosen, editor, row_words, prompt, response, row_kind]
    table.select(_select, shown, selected, show_progress="hidden")
    save.click(_save, [chosen, prompt, response, row_kind], opened)
    delete.click(_delete, chosen, opened)
    template.click(_template, [chosen, model], read)
    undo.click(_undo, version, version)
    name.input(_choose, name, opened)
    page.load(None, None, None, js=NO_DROP)
    page.load(lambda: library().current().version(), None, version, show_progress="hidden")
