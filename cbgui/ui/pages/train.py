"""Train: choose settings, see that training fits, start, watch, pause, stop. All that is shown is read from the run."""

from __future__ import annotations

import os
import shlex
import traceback
from pathlib import Path
from typing import Any

import gradio as gr

from cbgui.config import RunConfig, load_config, preset_names
from cbgui.data.dataset_store import DatasetStore
from cbgui.errors import InputError, error_sentence
from cbgui.naming import cleaned_name
from cbgui.runs import folder, queue
from cbgui.runs.disk import write_whole
from cbgui.runs.history import History, history
from cbgui.runs.run import Request, Run
from cbgui.training.session import keep_checkpoint
from cbgui.ui.common import (
    ask_first,
    changes,
    in_memory,
    library,
    need_run,
    other_name,
    pick,
    run_choices,
    sentences,
    shown_topic,
    tell,
)
from cbgui.ui.fragments import plain, render
from cbgui.ui.panels import charts, expected_time, memory_bar, run_status, settings
from cbgui.ui.panels import effort as effort_panel
from cbgui.ui.panels import start as start_run
from cbgui.ui.panels.meters import meters
from cbgui.ui.server.storage import trim_trash
from cbgui.ui.words import on_page, say

FIRST = "demo"  # the preset that the page opens with
LOG_LINES, LOG_BYTES = 200, 100_000  # the most of the log that is shown


def _own_presets() -> Path:
    return folder.runs_folder() / folder.PRESETS


def _presets() -> list[str]:
    return [*preset_names(), *sorted(path.stem for path in _own_presets().glob("*.yaml"))]


def _choices(preset: str) -> gr.Dropdown:
    """The presets as they are now: the page was built when the app started."""
    return gr.Dropdown(choices=_presets(), value=preset)


def _load(preset: str) -> RunConfig:
    own = _own_presets() / f"{preset}.yaml"
    return load_config(str(own) if preset not in preset_names() and own.is_file() else preset)


@sentences
def _preset_values(preset: str) -> tuple:
    config = _load(preset)
    words = plain(config.description) or say("train.own_preset")
    return words, config.model.name, effort_panel.NORMAL, 0, *settings.shown_values(config)


def _answer_of(name: str | None) -> list[Any]:
    """What the chosen run says, for the form, if it refuses: the next run says the same unless that is changed."""
    run, places = pick(name), len(settings.ANSWER)
    refuses = run is not None and run_status.refuses(run)
    return settings.shown_values(run.config())[:places] if refuses else [gr.skip()] * places


@sentences
def _effort_values(preset: str, effort: str, favour: float) -> list[Any]:
    return effort_panel.values(_load(preset), effort, favour)


def _config(preset: str, model: str, values: tuple) -> RunConfig:
    """The form as a RunConfig, with the preset's data files. Raises InputError."""
    config = settings.apply(_load(preset), list(values))
    if not (model or "").strip():
        raise InputError(say("train.model_empty"))
    config.model.name = model.strip()
    return config


def _write_data(topic: tuple, config: RunConfig) -> DatasetStore:
    """Write the files of the topic that this browser tab shows, and put them into `config`. Raises InputError."""
    data = shown_topic(topic)
    config.data = library().for_training(data).model_copy(update={"max_tokens": config.data.max_tokens})
    return data


def _memory(preset: str, model: str, *values: Any) -> tuple[str, str]:
    """What the run will take, of memory and of time."""
    try:
        config = _config(preset, model, values)
        return memory_bar.bar(config), expected_time.in_words(config)
    except InputError as error:
        return render("problem", text=str(error)), ""


def _start(topic: tuple, preset: str, model: str, name: str, *values: Any) -> tuple:
    """Start a run, or say below the button why it was not started, until it is pressed again.

    Not a generator, which Gradio would leave where it is when the page is reloaded.
    """
    try:
        run = _new_run(topic, preset, model, name, *values)
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        return gr.skip(), say("train.not_started", error=plain(error_sentence(error)))
    return gr.Dropdown(choices=run_choices(), value=run.name), ""


def _new_run(topic: tuple, preset: str, model: str, name: str, *values: Any) -> Run:
    """Make the run and start it. Raises InputError."""
    config = _config(preset, model, values)
    start_run.check(config)
    data = _write_data(topic, config)
    return start_run.start(config, name or f"{data.name}-{preset}", data.name)


@sentences
def _save_preset(preset: str, model: str, name: str, *values: Any):
    config = _config(preset, model, values)
    stem = cleaned_name(name or "")
    if not stem or stem in preset_names():
        raise InputError(say("train.preset_name", name=f"{name!r}"))
    config.description = f"Saved from the form ({model})."
    _own_presets().mkdir(parents=True, exist_ok=True)
    write_whole(_own_presets() / f"{stem}.yaml", config.to_yaml())
    tell(say("train.preset_saved", name=stem, renamed=other_name(name, stem)))
    return gr.Dropdown(choices=_presets(), value=stem)


@sentences
def _yaml(topic: tuple, preset: str, model: str, *values: Any) -> tuple:
    """The form as YAML, and the command line that does the same."""
    config = _config(preset, model, values)
    path = _write_data(topic, config).folder / "settings.yaml"
    write_whole(path, config.to_yaml())
    output = os.path.relpath(folder.runs_folder() / "my-run")
    command = shlex.join(["python", "-m", "cbgui", "train", os.path.relpath(path), "--output", output])
    return gr.Code(value=config.to_yaml(), visible=True), gr.Code(value=command, visible=True)


@sentences
def _pause(name: str | None) -> None:
    _ask(need_run(name), "pause", say("train.pausing"))


def _ask(run: Run, request: Request, words: str) -> None:
    if run.state() != "running":
        raise InputError(say("train.not_running", name=f"{run.name!r}"))
    run.ask(request)
    tell(words)


@sentences
def _stop(name: str | None) -> None:
    """Stop and keep the adapter, also of a run that is paused or was interrupted."""
    run = need_run(name)
    if run.state() == "waiting":
        queue.leave(run)
        tell(say("train.no_longer_waits", name=run.name))
    elif run.state() in ("paused", "interrupted"):
        keep_checkpoint(run)
        tell(say("train.stopped_checkpoint", name=run.name))
    else:
        _ask(run, "stop", say("train.stopping"))


@sentences
def _resume(name: str | None) -> None:
    run = need_run(name)
    if run.state() == "done":
        raise InputError(say("train.already_done", name=f"{run.name!r}"))
    in_memory.drop()
    queue.join(run, folder.root_folder())


@sentences
def _discard(name: str | None):
    """Stop at once and move the run to the trash."""
    run = need_run(name)
    run.training.kill()
    folder.delete(run)
    trim_trash()
    tell(say("train.discarded", name=run.name))
    names = run_choices()
    return gr.Dropdown(choices=names, value=next(iter(names), None))


def _what(topic: tuple | None) -> str:
    """What Start will train, as Markdown: the chosen topic and its counts."""
    data = shown_topic(topic)
    counts = data.counts()
    words = say(
        "train.what_counts",
        name=plain(data.name),
        stop=counts["break"],
        keep=counts["retain"],
        held_out=counts["held_out"],
    )
    if empty := data.without_answer():
        words += say("train.without_answer", empty=empty)
    return words


def _samples(past: History) -> str:
    """The newest sample answers as HTML."""
    if "samples" not in past.newest:
        return ""
    samples = past.newest["samples"]
    return render("samples", step=samples["step"], answers=samples["answers"])


def _log(run: Run) -> str:
    """The last lines of the log, of which a long run writes many."""
    try:
        with run.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:])
    except OSError:
        return ""


def _start_label() -> str:
    return say("train.queue") if queue.is_busy(folder.root_folder()) else say("train.start")


@sentences
def _again(name: str | None) -> tuple:
    """Twice the run's steps, filled in."""
    steps = 2 * pick(name).config().training.steps
    return steps, say("train.again_filled", steps=str(steps))


VIEW = 19  # outputs of `_refresh`


def _refresh(name: str | None, seen: tuple | None, drawn: charts.Drawn | None = None):
    """Update what has changed. `seen` and `drawn` say what the page shows: (run, state, end of events, request)."""
    unchanged = (gr.skip(),) * VIEW
    run = pick(name)
    if run is None:
        idle = say("train.idle")
        off = gr.Button(interactive=False)
        start, resume = gr.Button(_start_label(), variant="primary"), gr.Button(interactive=False)
        buttons = [start, off, off, off, resume, gr.Button(visible=False)]
        if seen == ():
            return unchanged
        hidden = gr.Column(visible=False)
        return idle, "", *(None,) * 4, "", hidden, "", None, *buttons, run_status.APP, (), None
    state, past = run.state(), history(run)
    silent = run_status.silence(state, past, run)
    before = run_status.runs_before(run) if state == "waiting" else ""
    label = _start_label()
    asked = run.request() + before + (charts.duration(silent) if silent is not None else "")
    mark = (run.name, state, past.end, asked + label)
    running, waiting = state == "running", state == "waiting"
    up_to_date = drawn and (drawn.run, drawn.measured, drawn.settled) == (run.name, past.measured, True)
    if up_to_date and seen and mark == tuple(seen):
        return unchanged
    plots, drawn = charts.update(run.name, past, drawn, running=running)
    goes_on = state in ("paused", "failed", "interrupted", "new")  # so Resume is what comes next
    weak = state == "done" and run_status.is_weak(past)
    can_be_kept = state in ("paused", "interrupted") and bool(run.complete_checkpoints())
    title = run_status.tab_title(run, state, past, seen[1] if seen and seen[0] == run.name else None)
    return (
        run_status.in_words(run, state, past, silent),
        meters(past, refuses=run_status.refuses(run)),
        *plots,
        charts.trade_off(past.trials),
        gr.Column(visible=bool(past.trials)),
        _samples(past),
        _log(run),
        gr.Button(label, variant="secondary" if goes_on or running or waiting else "primary"),
        gr.Button(interactive=running),
        gr.Button(interactive=running or waiting or can_be_kept),
        gr.Button(say("train.discard") if running or waiting else say("train.discard_run"), interactive=True),
        gr.Button(
            interactive=not running and state not in ("done", "waiting"), variant="primary" if goes_on else "secondary"
        ),
        gr.Button(visible=weak),
        gr.skip() if title is None else title,
        mark,
        drawn,
    )


def build(
    page: gr.Blocks, tab: gr.Tab, tick: gr.Timer, run_name: gr.Dropdown, model: gr.Textbox, topic: gr.State
) -> None:
    first = load_config(FIRST)
    with gr.Row(elem_id="train-columns"):
        with gr.Column(scale=1, min_width=300):
            preset = gr.Dropdown(_presets(), value=FIRST, label=on_page("train.preset"), elem_id="preset")
            description = gr.Markdown(plain(first.description), elem_id="preset-words", min_height=44)
            model.render()
            gr.Markdown(on_page("train.what"), elem_classes="heading")
            what = gr.Markdown(elem_id="what")
            answer = settings.build_answer(first)
            effort, favour = effort_panel.build()
            time = gr.Markdown(elem_id="expected-time")
            memory = gr.HTML(elem_id="memory", min_height=120)
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown(elem_id="run-line")
            with gr.Row():
                start = gr.Button(on_page("train.start"), variant="primary", size="sm", min_width=140, elem_id="start")
                pause = gr.Button(on_page("train.pause"), interactive=False, size="sm", min_width=100, elem_id="pause")
                resume = gr.Button(
                    on_page("train.resume"), interactive=False, size="sm", min_width=100, elem_id="resume"
                )
                stop = gr.Button(on_page("train.stop"), interactive=False, size="sm", min_width=100, elem_id="stop")
                discard = gr.Button(
                    on_page("train.discard"), interactive=False, size="sm", min_width=100, elem_id="discard"
                )
            again = gr.Button(on_page("train.again"), visible=False, size="sm", elem_id="train-again")
            starting = gr.Markdown(elem_id="starting")
            discard_sure = ask_first(discard, on_page("train.discard_question"), on_page("train.discard_yes"))
            bars = gr.HTML(elem_id="meters", min_height=10)
            plots, strengths, trials = charts.build()
            samples = gr.HTML(elem_id="samples")
    with gr.Accordion(on_page("train.more_settings"), open=False, elem_id="more"):
        fields = answer + settings.build(first)
        gr.Markdown(on_page("train.name_preset_yaml"))
        with gr.Row(elem_classes="aligned"):
            name = gr.Textbox(label=on_page("common.name"), info=on_page("train.name_info"), elem_id="run-name")
            save = gr.Button(on_page("train.save_preset"), size="sm", elem_id="save-preset")
            show = gr.Button(on_page("train.show_yaml"), size="sm", elem_id="show-yaml")
        text = gr.Code(language="yaml", visible=False, label="settings.yaml", elem_id="yaml")
        command = gr.Code(language="shell", visible=False, label=on_page("train.command"), elem_id="command")
    with gr.Accordion(on_page("train.log"), open=False):
        log = gr.Textbox(
            lines=12, max_lines=12, interactive=False, label=on_page("train.log"), show_label=False, elem_id="log"
        )
    title = gr.Textbox(visible="hidden", elem_id="tab-title")
    seen, drawn = gr.State(None), gr.State(None)
    view = [status, bars, *plots, strengths, trials, samples, log]
    view += [start, pause, stop, discard, resume, again, title, seen, drawn]
    form, needs = [preset, model, *fields], [memory, time]
    page.load(_choices, preset, preset, show_progress="hidden")
    filled = preset.input(_preset_values, preset, [description, model, effort, favour, *fields], show_progress="hidden")
    # page.load does not send the preset's values again, which is slow: the page is built with those of FIRST.
    for trigger in (filled.then, page.load):
        trigger(_memory, form, needs, show_progress="hidden")
    changes(run_name)(_answer_of, run_name, answer, show_progress="hidden", queue=False)
    steered = [fields[place] for place in effort_panel.PLACES]
    for control in (effort, favour):
        changed = control.input(
            _effort_values, [preset, effort, favour], steered, show_progress="hidden", trigger_mode="always_last"
        )
        changed.then(_memory, form, needs, show_progress="hidden")
    for field in (model, *fields):
        event = field.submit if isinstance(field, gr.Textbox) else field.input
        event(_memory, form, needs, show_progress="hidden", trigger_mode="always_last")
    named_form = [preset, model, name, *fields]
    start.click(lambda: on_page("train.checking"), None, starting, show_progress="hidden", queue=False)
    start.click(_start, [topic, *named_form], [run_name, starting], concurrency_limit=1)
    save.click(_save_preset, named_form, preset)
    show.click(_yaml, [topic, *form], [text, command])
    pause.click(_pause, run_name, None)
    stop.click(_stop, run_name, None)
    title.change(None, title, None, js="title => { document.title = title; }")
    for trigger in (topic.change, tab.select):
        trigger(_what, topic, what, show_progress="hidden")
    discard_sure.click(_discard, run_name, run_name)
    resume.click(_resume, run_name, None)
    again.click(_again, run_name, [fields[effort_panel.PLACES[0]], starting], show_progress="hidden").then(
        _memory, form, needs, show_progress="hidden"
    )
    quiet = {"show_progress": "hidden", "queue": False}
    shows = [run_name, seen, drawn]
    tick.tick(_refresh, shows, view, **quiet)
    # Twice, because a chart of another run is emptied before it is drawn.
    for trigger in (changes(run_name), page.load):
        trigger(_refresh, shows, view, **quiet).then(_refresh, shows, view, **quiet)
    tab.select(charts.draw_again, drawn, drawn, **quiet).then(_refresh, shows, view, **quiet)
