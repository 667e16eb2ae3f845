"""The guided way from a list of forbidden questions to a run, in four steps. It uses what the pages use, so that a
topic that was begun here can be finished there, and the other way round."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui.config import RunConfig, load_config
from cbgui.data import files
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import Example
from cbgui.data.near_duplicates import normalised
from cbgui.data.reading import read_table
from cbgui.errors import InputError, error_sentence
from cbgui.hardware import GIB
from cbgui.ui.common import library, other_name, run_choices, sentences, shown_topic, tell
from cbgui.ui.fragments import plain
from cbgui.ui.panels import answers_for_topic, expected_time, goals, memory_bar, progress, settings, suggestions
from cbgui.ui.panels import effort as effort_panel
from cbgui.ui.panels import start as start_run
from cbgui.ui.panels.write_answers import ONE_AT_A_TIME
from cbgui.ui.words import on_page, say, say_count

FEWEST, BETTER = 30, 50  # must-stop questions
NAMED = 3  # questions that are shown after a file was read, so that a wrong column is seen
TOPIC, QUESTIONS, LOOK_ALIKES, TRAIN = 1, 2, 3, 4  # the steps
Taken = tuple[str, list[str]]  # a topic, and the questions that the wizard has put into it


@dataclass(frozen=True)
class Guide:
    """What the page around the wizard opens it with."""

    column: gr.Column
    steps: gr.Walkthrough
    model: gr.Textbox
    fits: gr.Markdown
    made: gr.State
    begun: list[Any]
    resumed: list[Any]
    let_model_add: Callable[[gr.events.Dependency], None]  # after an event that may show suggestions


def begin(made: str | None) -> tuple:
    """Show the wizard's first step in place of the cards, with what was typed before unless it became a topic."""
    return *_in_place_of_the_cards(TOPIC), *(_empty() if made else (gr.skip(),) * 7)


def _in_place_of_the_cards(step: int) -> tuple:
    return gr.Column(visible=False), gr.Column(visible=True), gr.Walkthrough(selected=step)


@sentences
def resume(topic: tuple | None) -> tuple:
    """Open the step that comes next: the look-alikes, or the answers if some are missing; otherwise leave everything
    as it is."""
    data = shown_topic(topic)
    where, state = progress.next_step(data)
    if where != "wizard":
        return (gr.skip(),) * 18
    if not data.counts()["retain"]:
        stop = data.counts()["break"] + data.counts()["held_out_break"]
        there = say_count("wizard.read_stop", stop, name=plain(data.name))
        read = [], there, gr.Button(interactive=True)  # so that Back and Next keep these questions
        shown = *_in_place_of_the_cards(LOOK_ALIKES), *(gr.skip(),) * 5, data.model()
        return *shown, *_look_alikes(data, None), *read
    words = say("status.is", name=plain(data.name), state=state)
    shown = *_in_place_of_the_cards(TRAIN), words, "", *_buttons(data, False), data.model()
    return *shown, data.name, *(gr.skip(),) * 8


def whether_it_fits(model: str) -> str:
    """Whether training this model fits into memory, as Markdown."""
    try:
        estimate, memory, _ = memory_bar.estimate_for(start_run.config_for(model))
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        return f"**{plain(error_sentence(error))}**"
    words = say("wizard.fits", needed=f"{estimate.total / GIB:.1f}", memory=f"{memory / GIB:.1f}")
    return words if (model or "").strip() not in ("", "demo") else f"{words} {say('wizard.practice')}"


@sentences
def _name(name: str, model: str, made: str | None) -> tuple:
    """The second step, if the topic can be called so and the model can be trained."""
    memory_bar.estimate_for(start_run.config_for(model))
    if made is None:
        if not (name or "").strip():
            raise InputError(say("wizard.name_empty"))
        given = library().need_free(name)
        if changed := other_name(name, given):
            tell(changed.strip())
    return gr.Walkthrough(selected=QUESTIONS), model.strip() or "demo"


def _read_file(path: str | None, text: str) -> tuple:
    """What is in the file; in the text, if the file was taken away."""
    return _read(lambda: files.open_table(Path(path))) if path else _read_text(text, None)


def _read_text(text: str, path: str | None) -> tuple:
    """What is in the text; in the file, if the text was taken away."""
    if (text or "").strip():
        return _read(lambda: files.open_text(text))
    return _read_file(path, "") if path else _nothing("")


def _nothing(words: str) -> tuple:
    return [], words, gr.Button(interactive=False)


def _read(open_table: Any) -> tuple:
    """The examples of a file or a pasted text without copies, words about them, and the button that goes on."""
    try:
        table = open_table()
        reading = read_table(table, "break", try_out=True)
    except Exception as error:  # what was read before must not be taken for it
        if not isinstance(error, InputError):
            traceback.print_exc()
        return _nothing(f"**{plain(error_sentence(error))}**")
    first: dict[str, Example] = {}
    for example, text in zip(reading.examples, normalised(e.prompt for e in reading.examples), strict=True):
        first.setdefault(text, example)
    found = list(first.values())
    stop = [example for example in found if example.kind == "break"]
    words = say_count("wizard.read_stop", len(stop), name=plain(table.name))
    if kept := len(found) - len(stop):
        words += say("wizard.read_keep", count=kept)
    words += ": " + ", ".join(f"*{plain(example.prompt[:80])}*" for example in stop[:NAMED])
    words += " ...  \n" if len(stop) > NAMED else ".  \n"
    if copies := len(reading.examples) - len(found):
        words += say("wizard.copies", count=copies)
    if len(stop) < FEWEST:
        words += say("wizard.too_few", count=FEWEST)
    elif len(stop) < BETTER:
        words += say("wizard.enough", count=BETTER)
    if len(stop) >= FEWEST:
        words += say("wizard.some_test", count=answers_for_topic.kept_for_tests(len(stop)))
    return found, words, gr.Button(interactive=len(stop) >= FEWEST)


@sentences
def _take(name: str, model: str, goal: str, found: list[Example], made: str | None, taken: Taken) -> tuple:
    """Make the topic with these questions, once, and suggest what to keep.

    After Back and Next, the questions that were taken before are replaced; what came from elsewhere stays. Those that
    will test the model are held out now, so that no suggestion is made from them.
    """
    data = library().open(made) if made else library().create(name)
    data.remember_model(model)
    wanted, there = {example.prompt for example in found}, {row.example.prompt for row in data.rows()}
    stale = set(taken[1]) - wanted if taken[0] == data.name and found else set()
    if old := [row.id for row in data.rows() if row.example.prompt in stale]:
        data.remove(old, "replace the questions")
    if new := [example for example in found if example.prompt not in there]:
        data.add(new, "import the questions")
    answers_for_topic.hold_out_stop_tests(data)
    taken = (data.name, sorted(wanted)) if found else taken
    return gr.Walkthrough(selected=LOOK_ALIKES), *_look_alikes(data, goal), taken


def _look_alikes(data: DatasetStore, goal: str | None) -> tuple:
    """What the third step shows of the topic."""
    suggested, _, table, _, _ = suggestions.make_suggestions(
        data.version(), suggestions.COUNT, suggestions.NOTHING, None, goal
    )
    words = say("wizard.about_look_alikes", count=len(table))
    return data.name, gr.Textbox(data.name, interactive=False), data.version(), suggested, table, words


@sentences
def _add(topic: tuple, made: str, suggested: suggestions.Made, table: pd.DataFrame, own: str) -> tuple:
    """Add what is ticked, and the user's own questions, one a line. After Back and Next there may be nothing to add."""
    lines = [line.strip() for line in (own or "").splitlines() if line.strip()]
    if not suggested[1] and not lines:
        return gr.Walkthrough(selected=TRAIN), *(gr.skip(),) * 5
    rows = pd.DataFrame([(True, line, say("kind.near_miss"), "") for line in lines], columns=table.columns)
    table = pd.concat([table, rows], ignore_index=True) if suggested[1] and lines else table if suggested[1] else rows
    version, left, *_ = suggestions.add_ticked(topic, (made, suggested[1] or lines), suggestions.NOTHING, table)
    return gr.Walkthrough(selected=TRAIN), version, left, "", table[:0], say("wizard.are_added")


def _buttons(data: DatasetStore, writing: bool) -> tuple:
    """Stop, write on, train: those that make sense now."""
    ready = not writing and not data.without_answer()
    return (
        gr.Button(visible=writing),
        gr.Button(visible=not writing and not ready),
        gr.Button(visible=ready),
    )


def _begin_writing(made: str) -> tuple:
    """What is shown while the model is loaded, or other writing is waited for."""
    return say("common.loading"), "", *_buttons(library().open(made), True)


@sentences
def _prepare(made: str, model: str) -> Iterator[tuple]:
    """Let the model write the answers, then hold out test questions. Yields words, the summary, buttons, and the
    topic's version where it has changed."""
    data = library().open(made)
    try:
        for words, changed in answers_for_topic.complete(data, model):
            version = data.version() if changed else gr.skip()
            yield f"{say('wizard.unlearns')}  \n{words}", *(gr.skip(),) * 4, version
        yield "", answers_for_topic.summary(data), *_buttons(data, False), data.version()
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        yield f"**{plain(error_sentence(error))}**", "", *_buttons_after(made), gr.skip()


def _show_version(written: tuple | None, topic: tuple) -> Any:
    """The topic as it was written, if the pages show it; they may show another one by now, which stays as it is."""
    return written if written and topic and topic[0] == written[0] else gr.skip()


def _buttons_after(made: str | None) -> tuple:
    """The buttons once nothing is written any more; none without a topic, or if it was deleted meanwhile."""
    with suppress(InputError):
        if made:
            return _buttons(library().open(made), False)
    return tuple(gr.Button(visible=False) for _ in range(3))


def _stopped(made: str | None) -> tuple:
    return say("wizard.stopped"), *_buttons_after(made)


def _left(made: str | None) -> tuple:
    return "", *_buttons_after(made)


def _config_for(model: str, effort: str) -> RunConfig:
    config = start_run.config_for(model)
    config.training.steps, _ = effort_panel.values(config, effort, 0)
    return config


def _time(model: str, effort: str) -> str:
    """How long training will take, where an earlier run tells."""
    try:
        return expected_time.in_words(_config_for(model, effort))
    except InputError:  # a model that cannot be read; Train says so
        return ""


@sentences
def _train(made: str, model: str, effort: str, *answer: Any) -> tuple:
    """Start the run and open the Train page; the wizard then begins anew."""
    data, config = library().open(made), settings.with_answer(_config_for(model, effort), list(answer))
    start_run.check(config)
    config.data = (
        library()
        .for_training(data)
        .model_copy(update={"max_tokens": config.data.max_tokens, "general_keep": config.data.general_keep})
    )
    run = start_run.start(config, data.name, data.name)
    shown = gr.Column(visible=True), gr.Column(visible=False)
    return gr.Dropdown(choices=run_choices(), value=run.name), gr.Tabs(selected="train"), *shown, *_empty()


def _empty() -> tuple:
    """The first two steps as they are at the beginning; of no topic."""
    return None, gr.Textbox("", interactive=True), None, "", *_nothing("")


def build(tabs: gr.Tabs, cards: gr.Column, run_name: gr.Dropdown, model: gr.Textbox, topic: gr.State) -> Guide:
    made, found, suggested = gr.State(None), gr.State([]), gr.State(suggestions.NOTHING)
    taken = gr.State(("", []))
    with gr.Column(visible=False, elem_id="wizard") as column:
        with gr.Row(elem_classes="aligned"):
            gr.Markdown(on_page("wizard.heading"))
            leave = gr.Button(on_page("wizard.leave"), size="sm", scale=0, min_width=100, elem_id="wizard-leave")
        with gr.Walkthrough(selected=TOPIC, elem_id="steps") as steps:
            with gr.Step(on_page("common.topic"), id=TOPIC):
                goal = goals.build()
                name = gr.Textbox(
                    label=on_page("wizard.name"),
                    placeholder=on_page("wizard.my_topic"),
                    max_length=100,
                    elem_id="wizard-name",
                )
                own_model = gr.Textbox(
                    "demo",
                    label=on_page("wizard.model"),
                    info=on_page("wizard.model_info"),
                    elem_id="wizard-model",
                )
                fits = gr.Markdown(elem_id="wizard-fits", min_height=28)
                to_questions = gr.Button(on_page("common.next"), variant="primary", elem_id="to-questions")
            with gr.Step(on_page("wizard.questions"), id=QUESTIONS):
                gr.Markdown(on_page("wizard.give_questions"))
                file = gr.File(
                    label=on_page("wizard.file"),
                    file_types=list(files.SUFFIXES),
                    height=150,
                    elem_id="wizard-file",
                )
                text = gr.Textbox(label=on_page("wizard.paste"), lines=4, max_lines=8, elem_id="wizard-paste")
                read = gr.Markdown(elem_id="wizard-read", min_height=52)
                with gr.Row():
                    back_1 = gr.Button(on_page("common.back"))
                    to_look_alikes = gr.Button(
                        on_page("common.next"), variant="primary", interactive=False, elem_id="to-look-alikes"
                    )
            with gr.Step(on_page("common.look_alikes"), id=LOOK_ALIKES):
                about = gr.Markdown(elem_id="wizard-about")
                of_model = gr.Markdown(elem_id="wizard-of-model", min_height=28)
                table = suggestions.suggestion_table("wizard-suggestions")
                own_keep = gr.Textbox(label=on_page("wizard.own_keep"), lines=2, max_lines=8, elem_id="wizard-own-keep")
                with gr.Row():
                    back_2 = gr.Button(on_page("common.back"))
                    to_train = gr.Button(on_page("wizard.next_write"), variant="primary", elem_id="to-train")
            with gr.Step(on_page("wizard.train"), id=TRAIN):
                words = gr.Markdown(elem_id="wizard-words", min_height=28)
                summary = gr.Markdown(elem_id="wizard-summary")
                answer = settings.build_answer(load_config("demo"), "wizard-")
                effort = effort_panel.build_effort("wizard-effort", info=False)
                time = gr.Markdown(elem_id="wizard-time")
                with gr.Row():
                    stop = gr.Button(on_page("common.stop"), visible=False, elem_id="wizard-stop")
                    write = gr.Button(
                        on_page("common.write_answers"), variant="primary", visible=False, elem_id="wizard-write"
                    )
                    train = gr.Button(on_page("wizard.train"), variant="primary", visible=False, elem_id="wizard-train")
    buttons = [stop, write, train]
    leave.click(lambda: (gr.Column(visible=True), gr.Column(visible=False)), None, [cards, column])
    goal.input(goals.chosen, [goal, answer[1]], [name, text, answer[1]], show_progress="hidden")
    own_model.change(whether_it_fits, own_model, fits, show_progress="hidden", trigger_mode="always_last")
    to_questions.click(_name, [name, own_model, made], [steps, model])
    name.submit(_name, [name, own_model, made], [steps, model])
    for event in (file.upload, file.clear):
        event(_read_file, [file, text], [found, read, to_look_alikes])
    text.change(
        _read_text, [text, file], [found, read, to_look_alikes], show_progress="hidden", trigger_mode="always_last"
    )
    back_1.click(lambda: gr.Walkthrough(selected=TOPIC), None, steps)
    back_2.click(lambda: gr.Walkthrough(selected=QUESTIONS), None, steps)
    took = to_look_alikes.click(
        _take, [name, model, goal, found, made, taken], [steps, made, name, topic, suggested, table, about, taken]
    )
    asked = [gr.State(True), suggested, table, model, gr.State(suggestions.NOTHING)]
    by_model = gr.State(suggestions.NOTHING)

    def let_model_add(after: gr.events.Dependency) -> None:
        adding = suggestions.let_model_add(after, asked, [of_model, by_model])
        for left in (added.success, back_2.click, leave.click):
            left(lambda: "", None, of_model, cancels=[adding], show_progress="hidden", queue=False)

    added = to_train.click(
        _add, [topic, made, suggested, table, own_keep], [steps, topic, suggested, own_keep, table, about]
    )
    let_model_add(took)
    for trigger in (added.success, effort.change, write.click):
        trigger(_time, [model, effort], time, show_progress="hidden")
    written = gr.State(None)  # the version of the topic that was written last
    progressed = [words, summary, *buttons, written]
    writing = []
    for trigger in (added.success, write.click):
        may_write = trigger(_begin_writing, made, [words, summary, *buttons], show_progress="hidden")
        writing.append(may_write.success(_prepare, [made, model], progressed, show_progress="hidden", **ONE_AT_A_TIME))
    written.change(_show_version, [written, topic], topic, show_progress="hidden")
    for button, shown in ((stop, _stopped), (leave, _left)):  # what is written is kept, and Continue goes on
        stopped = button.click(shown, made, [words, *buttons], cancels=writing, show_progress="hidden")
        stopped.then(shown, made, [words, *buttons], show_progress="hidden")  # after the last words of the writing
    emptied = [made, name, file, text, found, read, to_look_alikes]
    train.click(_train, [made, model, effort, *answer], [run_name, tabs, cards, column, *emptied], concurrency_limit=1)
    begun = [cards, column, steps, *emptied]
    resumed = [cards, column, steps, words, summary, *buttons, model]
    resumed += [made, name, topic, suggested, table, about, found, read, to_look_alikes]
    return Guide(column, steps, own_model, fits, made, begun, resumed, let_model_add)
