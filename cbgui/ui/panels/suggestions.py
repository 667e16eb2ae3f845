"""Questions to keep, suggested from those that must stop: look, edit, untick, add. Nothing is added unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import gradio as gr
import pandas as pd

from cbgui import space
from cbgui.data.examples import Example
from cbgui.data.near_duplicates import normalised
from cbgui.data.suggest import Suggestion, suggest
from cbgui.errors import InputError
from cbgui.ui.common import sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.panels import write_answers
from cbgui.ui.words import kind_of, on_page, say, say_count

COUNT, MOST = 300, 2000
COLUMNS = ("suggest.column_add", "topic.question", "topic.kind", "suggest.column_why")
SUGGESTED_KINDS = ("near_miss", "retain")
SOURCE = "suggested"
NOTHING = ("", [])
Made = tuple[str, list[str]]  # the topic that the suggestions are for, and their questions


def _rows(count: int) -> str:
    return say_count("suggest.questions", count)


def _kinds(questions: Iterable[Suggestion | Example]) -> str:
    counts = Counter(one.kind for one in questions)
    return ", ".join(f"{say(f'kind.many_{kind}')}: {count:,}" for kind, count in counts.items())


def _headings() -> list[str]:
    return [say(key) for key in COLUMNS]


@sentences
def make_suggestions(version: tuple, count: float | None, rejected: Made) -> tuple:
    """Make the suggestions. Held-out questions are not read for their subjects, but none of them is repeated."""
    most = int(count or 0)
    if not 0 < most <= MOST:
        raise InputError(say("suggest.how_many_wrong", count=most, most=MOST))
    data = shown_topic(version)
    rows = data.rows()
    breaks = [row.example for row in rows if row.example.kind == "break" and not row.held_out]
    if not breaks:
        raise InputError(say("suggest.nothing_must_stop", name=f"{data.name!r}"))
    known = [row.example for row in rows]
    if rejected[0] == data.name:
        known += [Example((("user", text),), "", "retain") for text in rejected[1]]
    found = suggest(breaks, known, most)
    if not found:
        raise InputError(say("suggest.all_there", name=f"{data.name!r}"))
    table = pd.DataFrame(
        [(True, one.prompt, say(f"kind.{one.kind}"), one.reason) for one in found], columns=_headings()
    )
    words = say("suggest.read_them", questions=_rows(len(found)), name=plain(data.name), kinds=_kinds(found))
    return (data.name, [one.prompt for one in found]), gr.Column(visible=True), table, words, gr.Column(visible=False)


@sentences
def add_ticked(version: tuple, made: Made, rejected: Made, table: pd.DataFrame) -> tuple:
    """Add the ticked questions to the topic that they were made for."""
    name, suggested = made
    if not suggested:
        raise InputError(say("suggest.none_yet"))
    data = shown_topic(made)
    known = set(normalised([row.example.prompt for row in data.rows()]))
    examples, unticked = [], []
    for ticked, prompt, kind, _ in table.fillna("").itertuples(index=False):
        prompt = " ".join(str(prompt).split())
        if not _is_ticked(ticked):
            unticked.append(prompt)
        elif prompt and normalised([prompt])[0] not in known and kind_of(str(kind)) in SUGGESTED_KINDS:
            known.add(normalised([prompt])[0])
            examples.append(Example((("user", prompt),), "", kind_of(str(kind)), SOURCE))
    if not examples:
        raise InputError(say("suggest.none_ticked"))
    space.refuse_over("rows", sum(data.counts().values()) + len(examples), space.MAX_ROWS)
    data.add(examples, "add suggestions")
    words = say("suggest.added", questions=_rows(len(examples)), name=plain(name), kinds=_kinds(examples))
    before = rejected[1] if rejected[0] == name else []
    return (
        data.version() if version and version[0] == name else gr.skip(),
        NOTHING,
        (name, before + unticked),
        gr.Column(visible=False),
        words,
        gr.Column(visible=True),
    )


def _is_ticked(cell: object) -> bool:
    return cell is True or str(cell).lower() == "true"


def _forget_other_topic(version: tuple, made: Made) -> tuple:
    """Suggestions are hidden when the page shows another topic than theirs."""
    if not made[0] or (version and version[0] == made[0]):
        return (gr.skip(),) * 4
    return NOTHING, gr.Column(visible=False), "", gr.Column(visible=False)


def suggestion_table(elem_id: str) -> gr.Dataframe:
    """The table in which suggestions are ticked and edited."""
    return gr.Dataframe(
        headers=_headings(),
        datatype=["bool", "str", "str", "str"],
        column_count=len(COLUMNS),
        interactive=True,
        static_columns=[2, 3],
        wrap=True,
        line_breaks=False,
        max_height=420,
        show_label=False,
        label=on_page("suggest.table"),
        column_widths=["90px", "50%", "110px", "34%"],
        elem_id=elem_id,
        elem_classes="sans",
    )


def build(version: gr.State, model: gr.Textbox) -> gr.Accordion:
    made, rejected = gr.State(NOTHING), gr.State(NOTHING)
    with gr.Accordion(on_page("suggest.suggest"), open=False, elem_id="suggest") as panel:
        gr.Markdown(on_page("suggest.about"))
        with gr.Row(elem_classes="aligned"):
            count = gr.Number(COUNT, label=on_page("suggest.how_many"), precision=0, minimum=1, min_width=130, scale=0)
            make = gr.Button(on_page("suggest.suggest"), variant="primary", elem_id="make-suggestions", min_width=220)
        words = gr.Markdown(elem_id="suggest-words")
        with gr.Column(visible=False, elem_id="suggested") as group:
            table = suggestion_table("suggestions")
            add = gr.Button(on_page("suggest.add"), variant="primary", elem_id="add-suggestions")
        offer = write_answers.offer(version, model, "suggest")
    make.click(make_suggestions, [version, count, rejected], [made, group, table, words, offer])
    add.click(add_ticked, [version, made, rejected, table], [version, made, rejected, group, words, offer])
    version.change(_forget_other_topic, [version, made], [made, group, words, offer], show_progress="hidden")
    return panel
