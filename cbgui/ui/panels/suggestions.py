"""Questions to keep, suggested from those that must stop: look, edit, untick, add. Nothing is added unseen."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing

import gradio as gr
import pandas as pd

from cbgui import hardware, space
from cbgui.config import ModelConfig
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import Example, Kind
from cbgui.data.near_duplicates import normalised
from cbgui.data.suggest import Suggestion, language_of, pool, suggest, usual_at
from cbgui.errors import InputError
from cbgui.inference.batch_answers import load_for_answers
from cbgui.inference.drafts import Drafts, as_suggestions, draft_questions
from cbgui.inference.translations import translate_questions
from cbgui.ui.common import in_memory, sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.panels import checklist, write_answers
from cbgui.ui.panels.write_answers import ONE_AT_A_TIME
from cbgui.ui.words import kind_of, on_page, say, say_count

COUNT, MOST = 300, 2000
COLUMNS = ("suggest.column_add", "topic.question", "topic.kind", "suggest.column_why")
SUGGESTED_KINDS = ("near_miss", "retain", "break")
OF_ONE_KIND = 50  # suggestions that the button of one part makes
DRAFTS, FEWEST = 40, 8  # questions of each kind that the model writes; must-stop questions that it needs to go by
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
def make_suggestions(
    version: tuple, count: float | None, rejected: Made, kind: Kind | None = None, goal: str | None = None
) -> tuple:
    """Make the suggestions, all of `kind` if it is given; what is usual at the place `goal` comes first.

    Held-out questions are not read for their subjects, but none of them is repeated.
    """
    most = int(count or 0)
    if not 0 < most <= MOST:
        raise InputError(say("suggest.how_many_wrong", count=most, most=MOST))
    data = shown_topic(version)
    rows = data.rows()
    breaks = [row.example for row in rows if row.example.kind == "break" and not row.held_out]
    if not breaks:
        raise InputError(say("suggest.nothing_must_stop", name=f"{data.name!r}"))
    known = [row.example for row in rows]
    known += [Example((("user", text),), "", "retain") for text in _rejected(data, rejected)]
    found = suggest(breaks, known, MOST if kind else most)
    if goal:
        texts = set(normalised([example.prompt for example in known]))
        usual = [one for one in usual_at(goal, [e.prompt for e in breaks]) if normalised([one.prompt])[0] not in texts]
        found = [*usual, *(one for one in found if one.prompt not in {first.prompt for first in usual})]
    found = [one for one in found if kind in (None, one.kind)][:most]
    if not found:
        raise InputError(say("suggest.all_there", name=f"{data.name!r}"))
    return _to_read(data, found, "suggest.read_them")


def _rejected(data: DatasetStore, rejected: Made) -> list[str]:
    """The questions that the user has unticked before in this topic."""
    return rejected[1] if rejected[0] == data.name else []


def _to_read(data: DatasetStore, found: list[Suggestion], key: str) -> tuple:
    """Show the suggestions in the table."""
    table = pd.DataFrame(
        [(True, one.prompt, say(f"kind.{one.kind}"), one.reason) for one in found], columns=_headings()
    )
    words = say(key, questions=_rows(len(found)), name=plain(data.name), kinds=_kinds(found))
    return (data.name, [one.prompt for one in found]), gr.Column(visible=True), table, words, gr.Column(visible=False)


def _suggest_everyday(version: tuple, rejected: Made) -> tuple:
    return make_suggestions(version, OF_ONE_KIND, rejected, "retain")


def _suggest_look_alikes(version: tuple, rejected: Made) -> tuple:
    return make_suggestions(version, OF_ONE_KIND, rejected, "near_miss")


@sentences
def _draft(version: tuple, model: str, rejected: Made) -> Iterator[tuple]:
    """Let the model write questions in the manner of the must-stop ones; those beside the topic are look-alikes."""
    data = shown_topic(version)
    examples = [row.example for row in data.rows() if not row.held_out]
    breaks = [example.prompt for example in examples if example.kind == "break"]
    if len(breaks) < FEWEST:
        raise InputError(say("suggest.few_to_draft", count=FEWEST))
    keeps = [example.prompt for example in examples if example.kind != "break"]
    if len(keeps) < FEWEST:
        keeps += pool(language_of(breaks))
    known = [row.example.prompt for row in data.rows()] + _rejected(data, rejected)
    in_memory.drop()  # makes room for the model that writes
    yield *(gr.skip(),) * 3, say("common.loading"), gr.skip()
    config = ModelConfig(name=model.strip() or "demo")
    loaded = load_for_answers(config)
    near = [example.prompt for example in examples if example.kind == "near_miss"]
    to_translate = [Suggestion(prompt, "break", "") for prompt in breaks[:DRAFTS]]
    to_translate += [Suggestion(prompt, "near_miss", "") for prompt in near[:DRAFTS]]
    drafts, translated, shown = Drafts(), [], time.perf_counter()
    try:
        with (
            closing(draft_questions(*loaded, breaks, keeps, known=known, count=DRAFTS)) as drafting,
            closing(translate_questions(loaded, config, to_translate)) as translating,
        ):
            for share, drafts in drafting:  # noqa: B007, the last are shown
                if time.perf_counter() - shown > write_answers.UPDATE_SECONDS:
                    shown = time.perf_counter()
                    yield *(gr.skip(),) * 3, say("suggest.drafting", share=f"{share:.0%}"), gr.skip()
            for share, translated in translating:  # noqa: B007
                if time.perf_counter() - shown > write_answers.UPDATE_SECONDS:
                    shown = time.perf_counter()
                    yield *(gr.skip(),) * 3, say("suggest.translating", share=f"{share:.0%}"), gr.skip()
    finally:  # also when the user stops it
        del loaded
        hardware.free_cached_memory()
    known_texts = set(normalised(known))
    found = as_suggestions(drafts)
    found += [one for one in translated if normalised([one.prompt])[0] not in known_texts]
    if not found:
        raise InputError(say("suggest.no_drafts"))
    yield _to_read(data, found, "suggest.read_drafts")


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
    key = "suggest.added_both" if any(example.kind == "break" for example in examples) else "suggest.added"
    words = say(key, questions=_rows(len(examples)), name=plain(name), kinds=_kinds(examples))
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


def build(version: gr.State, model: gr.Textbox, more: Mapping[str, gr.Button]) -> gr.Accordion:
    """`more` holds the button of each part that asks for more of its questions."""
    made, rejected = gr.State(NOTHING), gr.State(NOTHING)
    with gr.Accordion(on_page("suggest.suggest"), open=False, elem_id="suggest") as panel:
        gr.Markdown(on_page("suggest.about"))
        with gr.Row(elem_classes="aligned"):
            count = gr.Number(COUNT, label=on_page("suggest.how_many"), precision=0, minimum=1, min_width=130, scale=0)
            make = gr.Button(on_page("suggest.suggest"), variant="primary", elem_id="make-suggestions", min_width=220)
            stop = gr.Button(on_page("common.stop"), min_width=90, scale=0, elem_id="stop-drafting")
        words = gr.Markdown(elem_id="suggest-words")
        with gr.Column(visible=False, elem_id="suggested") as group:
            table = suggestion_table("suggestions")
            add = gr.Button(on_page("suggest.add"), variant="primary", elem_id="add-suggestions")
        offer = write_answers.offer(version, model, "suggest")
    shows = [made, group, table, words, offer]
    make.click(make_suggestions, [version, count, rejected], shows)
    for name, suggestions in (("retain", _suggest_everyday), ("near_miss", _suggest_look_alikes)):
        _show_panel(more[name], panel).then(suggestions, [version, rejected], shows)
    drafting = _show_panel(more["break"], panel).then(_draft, [version, model, rejected], shows, **ONE_AT_A_TIME)
    stop.click(lambda: say("try.stopped"), None, words, cancels=[drafting])
    add.click(add_ticked, [version, made, rejected, table], [version, made, rejected, group, words, offer])
    version.change(_forget_other_topic, [version, made], [made, group, words, offer], show_progress="hidden")
    return panel


def _show_panel(button: gr.Button, panel: gr.Accordion) -> gr.events.Dependency:
    opened = button.click(lambda: gr.Accordion(open=True), None, panel, show_progress="hidden", queue=False)
    return opened.then(None, None, None, js=checklist.SCROLL.format(panel="suggest"))
