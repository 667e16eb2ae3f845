"""Questions to keep, suggested from those that must stop: look, edit, untick, add. Nothing is added unseen."""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import gradio as gr
import pandas as pd

from cbgui import hardware, space
from cbgui.config import ModelConfig
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import Example, Kind
from cbgui.data.near_duplicates import normalised
from cbgui.data.suggest import Suggestion, suggest, usual_at
from cbgui.errors import InputError, error_sentence
from cbgui.inference.batch_answers import load_for_answers
from cbgui.inference.drafts import COUNT as COUNT_OF_MODEL
from cbgui.inference.model_suggestions import FEWEST, suggest_with_model
from cbgui.inference.model_suggestions import MOST as MOST_OF_MODEL
from cbgui.ui.common import in_memory, library, sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.panels import checklist, write_answers
from cbgui.ui.panels.write_answers import ONE_AT_A_TIME
from cbgui.ui.words import kind_of, on_page, say, say_count

COUNT, MOST = 300, 2000
COLUMNS = ("suggest.column_add", "topic.question", "topic.kind", "suggest.column_why")
SUGGESTED_KINDS = ("near_miss", "retain", "break")
OF_ONE_KIND = 50  # suggestions that the button of one part makes
DRAFTS = 40  # questions of each kind that the button of the must-stop part lets the model write
KEPT = ("retain", "refusal")  # kinds of the other questions to keep
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


def _row(one: Suggestion) -> tuple[bool, str, str, str]:
    return True, one.prompt, say(f"kind.{one.kind}"), one.reason


def _cells(table: pd.DataFrame) -> Iterator[tuple[bool, str, str | None, str]]:
    """Each row of the table: whether it is ticked, the question, its kind, and why it was suggested."""
    for ticked, prompt, kind, why in table.fillna("").itertuples(index=False):
        yield _is_ticked(ticked), " ".join(str(prompt).split()), kind_of(str(kind)), str(why)


def _to_read(data: DatasetStore, found: list[Suggestion], key: str) -> tuple:
    """Show the suggestions in the table."""
    table = pd.DataFrame([_row(one) for one in found], columns=_headings())
    words = say(key, questions=_rows(len(found)), name=plain(data.name), kinds=_kinds(found))
    return (data.name, [one.prompt for one in found]), gr.Column(visible=True), table, words, gr.Column(visible=False)


def _suggest_everyday(version: tuple, rejected: Made) -> tuple:
    return make_suggestions(version, OF_ONE_KIND, rejected, "retain")


def _suggest_look_alikes(version: tuple, rejected: Made) -> tuple:
    return make_suggestions(version, OF_ONE_KIND, rejected, "near_miss")


@sentences
def _may_draft(version: tuple) -> str:
    """What is said while the model is loaded, or other work is waited for. Raises InputError."""
    rows = shown_topic(version).rows()
    if sum(row.example.kind == "break" and not row.held_out for row in rows) < FEWEST:
        raise InputError(say("suggest.few_to_draft", count=FEWEST))
    return say("common.loading")


@sentences
def _draft(version: tuple, model: str, rejected: Made) -> Iterator[tuple]:
    """Let the model write questions in the manner of the must-stop ones; those beside the topic are look-alikes."""
    data = shown_topic(version)
    found: list[Suggestion] = []
    try:
        with closing(_added_by_model(data, model, (), rejected, drafts=DRAFTS, translations=DRAFTS)) as adding:
            for words, found in adding:  # noqa: B007, the last are shown
                yield words, gr.skip()
    except Exception as error:
        yield _in_words(error), NOTHING
        return
    yield "" if found else say("suggest.no_drafts"), (data.name, found)


def _show_drafts(version: tuple, drafted: tuple[str, list[Suggestion]]) -> tuple:
    """The drafts, unless the page shows another topic by now."""
    data, (name, found) = shown_topic(version), drafted
    return _to_read(data, found, "suggest.read_drafts") if found and name == data.name else (gr.skip(),) * 5


def _in_words(error: Exception) -> str:
    """The error as Markdown, where progress was shown; a traceback goes to the log."""
    if not isinstance(error, InputError):
        traceback.print_exc()
    return f"**{plain(error_sentence(error))}**"


def _added_by_model(
    data: DatasetStore,
    model: str,
    shown: Iterable[Suggestion],
    rejected: Made,
    *,
    drafts: int = COUNT_OF_MODEL,
    translations: int = MOST_OF_MODEL,
) -> Iterator[tuple[str, list[Suggestion]]]:
    """Yield how far the model is, in words, and what it has added to the suggestions that are `shown`."""
    rows, shown = data.rows(), list(shown)
    training = [row.example for row in rows if not row.held_out]
    stop, near, keep = ([e.prompt for e in training if e.kind in kinds] for kinds in (["break"], ["near_miss"], KEPT))
    found = [*shown, *(Suggestion(prompt, "near_miss", "") for prompt in near)]
    known = [row.example.prompt for row in rows] + _rejected(data, rejected)
    held_out = [row.example.prompt for row in rows if row.held_out]
    config = ModelConfig(name=(model or "").strip() or "demo")
    in_memory.drop()  # makes room for the model that writes
    yield say("common.loading"), []
    loaded = load_for_answers(config)
    told, sizes = time.perf_counter(), {"drafts": drafts, "translations": translations}
    adding = suggest_with_model(loaded, config, stop, keep, found, known=known, held_out=held_out, **sizes)
    made: list[Suggestion] = []
    try:
        for work, share, made in adding:  # noqa: B007, the last are yielded below
            if time.perf_counter() - told > write_answers.UPDATE_SECONDS:
                told = time.perf_counter()
                yield say(f"suggest.{work}", share=f"{share:.0%}"), made
    finally:  # also when the user stops it
        adding.close()
        del loaded
        hardware.free_cached_memory()
    yield "", made


@sentences
def add_of_model(with_model: bool, made: Made, table: pd.DataFrame, model: str, rejected: Made) -> Iterator[tuple]:
    """Let the model add to the suggestions that are shown. Yields how far it is, and what it has added for `append`."""
    if not made[1] or not with_model:
        yield "", NOTHING
        return
    shown = [Suggestion(prompt, kind, why) for _, prompt, kind, why in _cells(table) if kind in SUGGESTED_KINDS]
    found: list[Suggestion] = []
    try:
        with closing(_added_by_model(library().open(made[0]), model, shown, rejected)) as adding:
            for words, found in adding:  # noqa: B007, the last are yielded below
                yield words, gr.skip()
    except Exception as error:  # the suggestions that are shown can be used without it
        yield _in_words(error), NOTHING
        return
    yield "" if found else say("suggest.model_has_none"), (made[0], found)


def append(made: Made, table: pd.DataFrame, added: tuple[str, list[Suggestion]]) -> tuple:
    """The table with the model's suggestions at its end; what the user has changed in it stays."""
    name, found = added
    found = [one for one in found if one.prompt not in made[1]]  # the button may have been pressed twice
    if not found or name != made[0] or not made[1]:  # another topic is shown now, or these were added already
        return gr.skip(), gr.skip(), gr.skip()
    new = pd.DataFrame([_row(one) for one in found], columns=table.columns)
    words = say("suggest.model_added", questions=_rows(len(found)), kinds=_kinds(found))
    return (name, [*made[1], *(one.prompt for one in found)]), pd.concat([table, new], ignore_index=True), words


@sentences
def add_ticked(version: tuple, made: Made, rejected: Made, table: pd.DataFrame) -> tuple:
    """Add the ticked questions to the topic that they were made for."""
    name, suggested = made
    if not suggested:
        raise InputError(say("suggest.none_yet"))
    data = shown_topic(made)
    known = set(normalised([row.example.prompt for row in data.rows()]))
    examples, unticked = [], []
    for ticked, prompt, kind, _ in _cells(table):
        if not ticked:
            unticked.append(prompt)
        elif prompt and normalised([prompt])[0] not in known and kind in SUGGESTED_KINDS:
            known.add(normalised([prompt])[0])
            examples.append(Example((("user", prompt),), "", kind, SOURCE))
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
    made, rejected, added = gr.State(NOTHING), gr.State(NOTHING), gr.State(NOTHING)
    with gr.Accordion(on_page("suggest.suggest"), open=False, elem_id="suggest") as panel:
        gr.Markdown(on_page("suggest.about"))
        with gr.Row(elem_classes="aligned"):
            count = gr.Number(COUNT, label=on_page("suggest.how_many"), precision=0, minimum=1, min_width=130, scale=0)
            make = gr.Button(on_page("suggest.suggest"), variant="primary", elem_id="make-suggestions", min_width=220)
            stop = gr.Button(on_page("common.stop"), min_width=90, scale=0, elem_id="stop-drafting")
        with_model = gr.Checkbox(True, label=on_page("suggest.with_model"), elem_id="suggest-with-model")
        words = gr.Markdown(elem_id="suggest-words")
        of_model = gr.Markdown(elem_id="suggest-of-model")
        with gr.Column(visible=False, elem_id="suggested") as group:
            table = suggestion_table("suggestions")
            add = gr.Button(on_page("suggest.add"), variant="primary", elem_id="add-suggestions")
        offer = write_answers.offer(version, model, "suggest")
    shows = [made, group, table, words, offer]
    made_first = make.click(make_suggestions, [version, count, rejected], shows)
    adding = let_model_add(made_first, [with_model, made, table, model, rejected], [of_model, added])
    for name, suggestions in (("retain", _suggest_everyday), ("near_miss", _suggest_look_alikes)):
        _show_panel(more[name], panel).then(suggestions, [version, rejected], shows)
    may_draft = _show_panel(more["break"], panel).then(_may_draft, version, of_model, show_progress="hidden")
    drafting = may_draft.success(
        _draft, [version, model, rejected], [of_model, added], show_progress="hidden", **ONE_AT_A_TIME
    )
    drafting.success(_show_drafts, [version, added], shows, show_progress="hidden")
    stop.click(lambda: say("try.stopped"), None, of_model, cancels=[drafting, adding])
    add.click(lambda: "", None, of_model, cancels=[adding], show_progress="hidden", queue=False)
    add.click(add_ticked, [version, made, rejected, table], [version, made, rejected, group, words, offer])
    version.change(_forget_other_topic, [version, made], [made, group, words, offer], show_progress="hidden")
    return panel


def let_model_add(after: gr.events.Dependency, inputs: list[Any], outputs: list[Any]) -> gr.events.Dependency:
    """Once the suggestions are shown, the model adds its own at the end of the table.

    `inputs` are those of `add_of_model`, `outputs` the words and the state that it yields. Cancel the event that is
    returned, and nothing is added.
    """
    _, made, table, *_ = inputs
    words, added = outputs
    adding = after.success(add_of_model, inputs, outputs, show_progress="hidden", **ONE_AT_A_TIME)
    adding.success(append, [made, table, added], [made, table, words], show_progress="hidden")
    return adding


def _show_panel(button: gr.Button, panel: gr.Accordion) -> gr.events.Dependency:
    opened = button.click(lambda: gr.Accordion(open=True), None, panel, show_progress="hidden", queue=False)
    return opened.then(None, None, None, js=checklist.SCROLL.format(panel="suggest"))
