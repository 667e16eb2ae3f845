"""Questions to keep, suggested from those that must stop: look, edit, untick, add. Nothing is added unseen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import gradio as gr
import pandas as pd

from cbgui import space
from cbgui.data.examples import KIND_LABELS, KIND_PLURALS, Example
from cbgui.data.near_duplicates import normalised
from cbgui.data.suggest import Suggestion, suggest
from cbgui.errors import InputError
from cbgui.ui.common import KINDS, sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.panels import write_answers

COUNT, MOST = 300, 2000
COLUMNS = ["add", "question", "kind", "why"]
SUGGESTED_KINDS = ("near_miss", "retain")
SOURCE = "suggested"
NOTHING = ("", [])
Made = tuple[str, list[str]]  # the topic that the suggestions are for, and their questions


def _rows(count: int) -> str:
    return f"{count:,} {'question' if count == 1 else 'questions'}"


def _kinds(questions: Iterable[Suggestion | Example]) -> str:
    counts = Counter(one.kind for one in questions)
    return ", ".join(f"{KIND_PLURALS[kind]}: {count:,}" for kind, count in counts.items())


@sentences
def make_suggestions(version: tuple, count: float | None, rejected: Made) -> tuple:
    """Make the suggestions. Held-out questions are not read for their subjects, but none of them is repeated."""
    most = int(count or 0)
    if not 0 < most <= MOST:
        raise InputError(f"how many = {most:,}: give a number from 1 to {MOST:,}.")
    data = shown_topic(version)
    rows = data.rows()
    breaks = [row.example for row in rows if row.example.kind == "break" and not row.held_out]
    if not breaks:
        raise InputError(f"topic {data.name!r} has no must-stop rows yet; add some first.")
    known = [row.example for row in rows]
    if rejected[0] == data.name:
        known += [Example((("user", text),), "", "retain") for text in rejected[1]]
    found = suggest(breaks, known, most)
    if not found:
        raise InputError(f"topic {data.name!r} has all suggestions already; write further questions yourself.")
    table = pd.DataFrame([(True, one.prompt, KIND_LABELS[one.kind], one.reason) for one in found], columns=COLUMNS)
    words = (
        f"{_rows(len(found))} for *{plain(data.name)}* ({_kinds(found)}). "
        "**Read them**: untick what must *not* be answered, and double-click a question to change it."
    )
    return (data.name, [one.prompt for one in found]), gr.Column(visible=True), table, words, gr.Column(visible=False)


@sentences
def add_ticked(version: tuple, made: Made, rejected: Made, table: pd.DataFrame) -> tuple:
    """Add the ticked questions to the topic that they were made for."""
    name, suggested = made
    if not suggested:
        raise InputError("there are no suggestions; press Suggest questions to keep first.")
    data = shown_topic(made)
    known = set(normalised([row.example.prompt for row in data.rows()]))
    examples, unticked = [], []
    for ticked, prompt, kind, _ in table.fillna("").itertuples(index=False):
        prompt = " ".join(str(prompt).split())
        if not _is_ticked(ticked):
            unticked.append(prompt)
        elif prompt and normalised([prompt])[0] not in known and KINDS.get(kind) in SUGGESTED_KINDS:
            known.add(normalised([prompt])[0])
            examples.append(Example((("user", prompt),), "", KINDS[kind], SOURCE))
    if not examples:
        raise InputError("no question is ticked that this topic does not have yet; tick some first.")
    space.refuse_over("rows", sum(data.counts().values()) + len(examples), space.MAX_ROWS)
    data.add(examples, "add suggestions")
    words = (
        f"**{_rows(len(examples))} added** to *must keep* of *{plain(name)}* ({_kinds(examples)}). They have no "
        "answers yet; the model writes its own."
    )
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
        headers=COLUMNS,
        datatype=["bool", "str", "str", "str"],
        column_count=len(COLUMNS),
        interactive=True,
        static_columns=[2, 3],
        wrap=True,
        line_breaks=False,
        max_height=420,
        show_label=False,
        label="Suggested questions",
        column_widths=["90px", "50%", "110px", "34%"],
        elem_id=elem_id,
        elem_classes="sans",
    )


def build(version: gr.State, model: gr.Textbox) -> gr.Accordion:
    made, rejected = gr.State(NOTHING), gr.State(NOTHING)
    with gr.Accordion("Suggest questions to keep", open=False, elem_id="suggest") as panel:
        gr.Markdown(
            "Training also stops harmless questions that look like the ones that must stop. This makes such questions "
            "from your must-stop rows, for the model to keep answering: on the same subjects, in the same wording, "
            "and everyday ones."
        )
        with gr.Row(elem_classes="aligned"):
            count = gr.Number(COUNT, label="How many", precision=0, minimum=1, min_width=130, scale=0)
            make = gr.Button("Suggest questions to keep", variant="primary", elem_id="make-suggestions", min_width=220)
        words = gr.Markdown(elem_id="suggest-words")
        with gr.Column(visible=False, elem_id="suggested") as group:
            table = suggestion_table("suggestions")
            add = gr.Button("Add the ticked questions", variant="primary", elem_id="add-suggestions")
        offer = write_answers.offer(version, model, "suggest")
    make.click(make_suggestions, [version, count, rejected], [made, group, table, words, offer])
    add.click(add_ticked, [version, made, rejected, table], [version, made, rejected, group, words, offer])
    version.change(_forget_other_topic, [version, made], [made, group, words, offer], show_progress="hidden")
    return panel
