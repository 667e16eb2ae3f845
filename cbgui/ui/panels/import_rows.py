"""Adding rows: choose a source, look at five rows as they would be added, import. Nothing is added unseen."""

from __future__ import annotations

import functools
import itertools
import traceback
from collections import Counter
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
from cbgui.data.examples import Example, Kind
from cbgui.data.files import Table
from cbgui.data.hub_datasets import hub_rows
from cbgui.data.notes import Notes
from cbgui.data.tables import Located
from cbgui.errors import InputError, error_sentence
from cbgui.modeling.hub import hub_answers
from cbgui.ui.common import KINDS, sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.panels import write_answers
from cbgui.ui.panels.parts import PARTS, Part, part_of
from cbgui.ui.words import on_page, say, say_count

NONE = "(none)"
MUST_STOP, MUST_KEEP = SIDES = ("must_stop", "must_keep")
KEPT_KINDS = [kind for kind in KINDS if kind != "break"]
# What the tab in which a file was dropped says of its rows: their side, and their kind among those to keep.
SIDE_OF = {"break": (MUST_STOP, "retain"), "retain": (MUST_KEEP, "retain"), "near_miss": (MUST_KEEP, "near_miss")}
NO_SIDE = "?"  # what the preview shows as the kind of a row that has none yet
BATCH = 5000
PREVIEW_ROWS = 5
PREVIEW_CHARACTERS = 300
REMEMBERED_ROWS = 20  # that the preview is made from; some of them may give no example
ENTRIES = {entry.title: entry for entry in CATALOGUE}
PREVIEW_COLUMNS = ("topic.question", "topic.answer", "topic.kind")


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
        raise InputError(say("add.two_answers", first=f"{mapping.pair[0]!r}", second=f"{mapping.pair[1]!r}"))
    return mapping


def _kind_of(side: str | None, kept_kind: str) -> Kind | None:
    """The kind of rows that name none; None until the user has chosen a side."""
    return None if side not in SIDES else "break" if side == MUST_STOP else kept_kind


def _preview(rows: list[Located], mapping: Mapping, kind: Kind | None) -> pd.DataFrame:
    found = columns.to_examples(rows, mapping, kind, "these rows", Notes(), limit=PREVIEW_ROWS)
    shown = [
        (e.prompt[:PREVIEW_CHARACTERS], e.response[:PREVIEW_CHARACTERS], say(f"kind.{e.kind}") if e.kind else NO_SIDE)
        for e in found
    ]
    return pd.DataFrame(shown, columns=[say(key) for key in PREVIEW_COLUMNS])


def _look_at_file(path: str, part: str | None = None) -> tuple:
    """`part` is the tab in which the file was dropped."""
    return _look({"type": "file", "path": path, "name": Path(path).name, "part": part})


def _look_at_public_set(title: str) -> tuple:
    return _look({"type": "catalogue", "title": title, "name": ENTRIES[title].name})


def _look_at_hub(name: str, config: str, split: str) -> tuple:
    return _look({"type": "hub", "name": name.strip(), "config": config, "split": split})


def _look_at_text(text: str, part: str | None = None) -> tuple:
    return _look({"type": "paste", "text": text, "name": say("add.pasted_text"), "part": part})


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
        raise InputError(say("add.no_hub", name=name))
    table = _open(source)
    first = list(itertools.islice(table.rows, columns.SAMPLE_ROWS))
    rows = [row for _, row in first]
    if not rows:
        raise InputError(say("add.no_rows", name=name))
    if source["type"] == "catalogue":
        entry = ENTRIES[source["title"]]
        guess, side = entry.mapping, MUST_STOP if entry.kind == "break" else MUST_KEEP
        kept_kind = "retain" if entry.kind == "break" else entry.kind
    else:  # which side it is on is never guessed; the user says it, also by the tab
        guess = columns.guess_mapping(rows, table.notes)
        side, kept_kind = SIDE_OF.get(source.get("part"), (None, "retain"))
    source = source | {"first": first[:REMEMBERED_ROWS], "guess": guess, "columns": columns.columns_of(rows)}
    chosen = [value or NONE for value in (guess.prompt, guess.response, guess.messages, guess.kind)]
    preview, words, sides, kept_kinds = _look_again(source, *chosen, side, kept_kind)
    choices = [(say("add.none"), NONE), *source["columns"]]
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
    sides = gr.Radio(value=side, label=say("add.these" if kind in (NONE, None) else "add.without_kind"))
    try:
        mapping = _mapping(source, prompt, response, messages, kind)
        columns.need_prompts(mapping, source["columns"], name)
        preview = _preview(source["first"], mapping, _kind_of(side, kept_kind))
        return preview, say("add.is_this_right", name=plain(name)), sides, kept_kinds
    except InputError as error:
        return None, say("status.is", name=plain(name), state=plain(error)), sides, kept_kinds


def _added(data: DatasetStore, found: list[Example], held_out: bool) -> str:
    """Where the rows went, as Markdown: "**30 added** to *Must stop* of *clinic*"."""
    counts = Counter(part_of(example.kind, held_out) for example in found)
    keys = itertools.chain(["add.added_to"], itertools.repeat("add.and_to"))
    filled = [(part, counts[part]) for part in PARTS if counts[part]]
    words = [say(key, count=count, part=say(PARTS[part])) for key, (part, count) in zip(keys, filled, strict=False)]
    return "".join([*words, say("add.of_topic", name=plain(data.name))])


@sentences
def _import(version, source, prompt, response, messages, kind, side, kept_kind, held_out, limit) -> Iterator[tuple]:
    """Read and add all rows, and report progress."""
    if not source:
        raise InputError(say("add.nothing_to_add"))
    if (limit or 0) < 0:
        raise InputError(say("add.most_rows_wrong", limit=f"{limit:g}"))
    data, mapping = shown_topic(version), _mapping(source, prompt, response, messages, kind)
    name, table, found = source["name"], _open(source), []
    columns.guess_mapping([row for _, row in source["first"]], table.notes)  # names the columns that are left out
    kind = _kind_of(side, kept_kind)
    examples = columns.examples_in(table.rows, mapping, kind, name, table.notes, source["columns"])
    most = int(limit) if limit else None
    unchanged = (gr.skip(),) * 6
    while most is None or len(found) < most:
        batch = [example for _, example in itertools.islice(examples, BATCH)]
        if not batch:
            break
        if any(example.kind is None for example in batch):
            raise InputError(say("add.say_side"))
        found += batch
        space.refuse_over("rows", len(found), space.MAX_ROWS)
        yield say("add.reading", name=plain(name), count=len(found)), *unchanged
    found = found[:most]
    space.refuse_over("rows", sum(data.counts().values()) + len(found), space.MAX_ROWS)
    notes = table.notes.words()
    if not found:
        raise InputError(say("add.none_read", name=name, notes=notes or say("add.none_in_it")))
    yield say("add.adding", count=len(found)), *unchanged
    data.add(found, f"import {name}", held_out=held_out)
    words = say("add.added_from", added=_added(data, found, held_out), name=plain(name), notes=plain(notes))
    if empty := sum(not example.response for example in found):
        words += say_count("add.no_answer_yet", empty)
    part = part_of(found[0].kind, held_out)
    yield (
        words,
        gr.Group(visible=False),
        data.version(),
        None,
        gr.Tabs(selected=part),
        part,
        gr.Column(visible=bool(empty)),
    )


@sentences
def _type(version: tuple, prompt: str, response: str, kind: str | None) -> tuple:
    if not (prompt or "").strip():
        raise InputError(say("add.question_empty"))
    if kind not in KINDS:
        raise InputError(say("add.kind_not_chosen"))
    data = shown_topic(version)
    row = Example((("user", prompt),), (response or "").strip(), kind, "typed")
    data.add([row], "type a row")
    return f"{_added(data, [row], False)}.", "", "", data.version(), gr.Column(visible=not row.response)


def _entry_words(title: str) -> str:
    entry = ENTRIES[title]
    warning = say("add.harmful") * entry.harmful
    return say(
        "add.entry",
        name=entry.name,
        page=entry.page,
        size=entry.size,
        licence=entry.licence,
        kind=say(f"kind.{entry.kind}"),
        description=entry.description,
        warning=warning,
    )


def build(version: gr.State, model: gr.Textbox, tabs: gr.Tabs, opened: gr.State, parts: list[Part]) -> gr.Accordion:
    """What is looked at and added, below the tabs of the parts; then further ways to add rows.

    After an import, the tab is opened to which the first row went.
    """
    source = gr.State(None)
    titles = list(ENTRIES)
    words = gr.Markdown(elem_id="import-words")
    offer = write_answers.offer(version, model, "import")
    with gr.Group(visible=False, elem_id="mapping") as mapping:
        with gr.Row():
            chosen_columns = [
                gr.Dropdown([], label=label, min_width=140, allow_custom_value=True, elem_id=f"map-{key}")
                for label, key in (
                    (on_page("add.question_in"), "prompt"),
                    (on_page("add.answer_in"), "response"),
                    (on_page("add.messages_in"), "messages"),
                    (on_page("add.kind_in"), "kind"),
                )
            ]
        with gr.Row():
            side = gr.Radio(
                [(on_page(f"add.{side}"), side) for side in SIDES],
                value=None,
                label=on_page("add.these"),
                elem_id="map-side",
                elem_classes="sides",
                min_width=320,
                scale=2,
            )
            kept_kind = gr.Radio(
                [(on_page(f"kind.{kind}"), kind) for kind in KEPT_KINDS],
                value="retain",
                label=on_page("add.they_are"),
                visible=False,
                elem_id="map-kept",
                min_width=300,
            )
        with gr.Row():
            limit = gr.Number(
                label=on_page("add.most_rows"), info=on_page("common.zero_all"), value=0, precision=0, min_width=100
            )
            held_out = gr.Checkbox(
                label=on_page("add.hold_all_out"), info=on_page("add.hold_all_out_info"), elem_id="hold-all-out"
            )
        preview = gr.Dataframe(
            headers=[say(key) for key in PREVIEW_COLUMNS],
            interactive=False,
            wrap=True,
            max_height=260,
            label=on_page("add.first_five"),
            column_widths=["36%", "37%", "27%"],
            elem_id="preview",
            elem_classes="sans",
        )
        with gr.Row():
            do_import = gr.Button(on_page("add.add_these"), variant="primary", elem_id="import")
            stop = gr.Button(on_page("add.stop_reading"))
    with gr.Accordion(on_page("add.more_ways"), open=False, elem_id="add-rows") as panel:
        with gr.Tabs():
            with gr.Tab(on_page("add.public_sets")):
                catalogue = gr.Dropdown(titles, value=titles[0], label=on_page("add.set"), elem_id="catalogue")
                entry_words = gr.Markdown()
                look_at_set = gr.Button(on_page("add.look_first"), size="sm")
            with gr.Tab(on_page("add.hub_tab")):
                with gr.Row():
                    name = gr.Textbox(label=on_page("add.dataset"), placeholder="owner/name", min_width=160)
                    config = gr.Textbox(
                        label=on_page("add.configuration"), placeholder=on_page("add.default"), min_width=120
                    )
                    split = gr.Textbox(label=on_page("add.split"), value="train", min_width=120)
                look_at_hub = gr.Button(on_page("add.look_first"), size="sm")
            with gr.Tab(on_page("add.type_tab")):
                typed_prompt = gr.Textbox(label=on_page("common.question"), lines=2, elem_id="type-prompt")
                typed_response = gr.Textbox(label=on_page("add.answer_later"), lines=2)
                typed_kind = gr.Radio(
                    [(on_page(f"kind.{kind}"), kind) for kind in KINDS],
                    value=None,
                    label=on_page("common.kind"),
                    elem_id="type-kind",
                )
                add_typed = gr.Button(on_page("add.add_row"), size="sm", elem_id="type-add")
    looked = [source, mapping, words, *chosen_columns, side, kept_kind, preview]
    for part in parts:
        _look_in(part, looked, held_out)
    for trigger in (catalogue.input, panel.expand):
        trigger(_entry_words, catalogue, entry_words, show_progress="hidden")
    look_at_set.click(_look_at_public_set, catalogue, looked)
    look_at_hub.click(_look_at_hub, [name, config, split], looked)
    choice = [source, *chosen_columns, side, kept_kind]
    for control in (*chosen_columns, side, kept_kind):
        control.input(
            _look_again, choice, [preview, words, side, kept_kind], show_progress="hidden", trigger_mode="always_last"
        )
    reading = do_import.click(
        _import,
        [version, *choice, held_out, limit],
        [words, mapping, version, source, tabs, opened, offer],
        concurrency_limit=1,
    )
    fields = [field for part in parts for field in (part.file, part.text)]
    reading.success(lambda: [None, ""] * len(parts), None, fields, show_progress="hidden", queue=False)
    stop.click(lambda: say("add.stopped"), None, words, cancels=[reading])
    typed = [typed_prompt, typed_response]
    add_typed.click(_type, [version, *typed, typed_kind], [words, *typed, version, offer])
    return panel


def _look_in(part: Part, looked: list[Any], held_out: gr.Checkbox) -> None:
    """Let the place to drop and paste of one part show its rows."""
    is_test = part.name == "held_out"
    for trigger, look, field in (
        (part.file.upload, _look_at_file, part.file),
        (part.look.click, _look_at_text, part.text),
    ):
        trigger(functools.partial(look, part=part.name), field, looked)
        trigger(lambda: gr.Checkbox(value=is_test), None, held_out, show_progress="hidden", queue=False)
    part.file.clear(_forget, None, looked)
