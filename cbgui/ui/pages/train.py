"""Train: choose, see that it fits, start, watch, pause, stop. Everything shown is read from the run directory."""

from __future__ import annotations

import html
import os
import statistics
from collections import deque
from pathlib import Path
from typing import Any

import gradio as gr

from cbgui import space
from cbgui.config import RunConfig, load_config, preset_names
from cbgui.errors import InputError
from cbgui.runs import folder, queue
from cbgui.runs.run import STATE_LABELS, Request, Run, write_whole
from cbgui.ui.common import TICK, in_memory, library, need_run, pick, run_choices, sentences
from cbgui.ui.panels import charts as plots
from cbgui.ui.panels import memory_bar as fit
from cbgui.ui.panels import settings

LOG_LINES = 200


def _own_presets() -> Path:
    return folder.runs_folder() / folder.PRESETS


def _presets() -> list[str]:
    return [*preset_names(), *sorted(path.stem for path in _own_presets().glob("*.yaml"))]


def _load(preset: str) -> RunConfig:
    own = _own_presets() / f"{preset}.yaml"
    return load_config(str(own) if preset not in preset_names() and own.is_file() else preset)


def _preset_values(preset: str) -> tuple:
    config = _load(preset)
    return config.description or "Your own preset.", config.model.name, *settings.values_of(config)


def _config(preset: str, model: str, values: tuple) -> RunConfig:
    """The form as a RunConfig, with the data set's files named but not yet written. Raises InputError."""
    config = settings.apply(_load(preset), list(values))
    if not (model or "").strip():
        raise InputError("model is empty; give demo, a hub id such as owner/name, or a folder.")
    config.model.name = model.strip()
    return config


def _fit(preset: str, model: str, *values: Any) -> str:
    try:
        return fit.bar(_config(preset, model, values))
    except InputError as error:
        return f'<div class="fit"><span class="no">{html.escape(str(error))}</span></div>'


@sentences
def _start(preset: str, model: str, name: str, *values: Any):
    config = _config(preset, model, values)
    yield gr.skip(), "Looking whether it fits ..."
    in_memory.drop()  # the chat's weights make room for training
    space.limit("runs", len(folder.list_runs()) + 1, space.MAX_RUNS)
    space.limit("training.steps", config.training.steps, space.MAX_STEPS)
    fit.estimate_for(config)  # refuses what cannot be, before anything is written
    yield gr.skip(), "Writing the run's folder ..."
    data = library().current()
    config.data = library().for_training(data).model_copy(update={"max_tokens": config.data.max_tokens})
    run = folder.create_run(folder.runs_folder() / folder.free_name(name or f"{data.name}-{preset}"), config)
    run.dataset_name_file.write_text(data.name, "utf-8")
    queue.join(run, folder.root_folder())
    yield gr.Dropdown(choices=run_choices(), value=run.name), ""


@sentences
def _save_preset(preset: str, model: str, name: str, *values: Any):
    config = _config(preset, model, values)
    stem = folder.free_name(name or "").removesuffix("-2")
    if not (name or "").strip() or stem in preset_names():
        raise InputError(f"name of the preset = {name!r}: it is empty or one of the built-in ones; choose another.")
    config.description = f"Saved from the form ({model})."
    _own_presets().mkdir(parents=True, exist_ok=True)
    write_whole(_own_presets() / f"{stem}.yaml", config.to_yaml())
    gr.Info(f"Preset {stem} is saved.")
    return gr.Dropdown(choices=_presets(), value=stem)


@sentences
def _yaml(preset: str, model: str, *values: Any) -> tuple:
    """The form as YAML, and the command line that repeats it."""
    config = _config(preset, model, values)
    data = library().current()
    config.data = library().for_training(data).model_copy(update={"max_tokens": config.data.max_tokens})
    path = data.folder / "settings.yaml"
    write_whole(path, config.to_yaml())
    relative = os.path.relpath(path)
    command = f"python -m cbgui train {relative} --output {os.path.relpath(folder.runs_folder() / 'my-run')}"
    return gr.Code(value=config.to_yaml(), visible=True), gr.Code(value=command, visible=True)


def _ask(request: Request, words: str):
    def handler(name: str | None) -> None:
        run = need_run(name)
        if run.state() == "waiting" and request == "stop":
            queue.leave(run)
            gr.Info(f"Run {run.name} no longer waits.")
            return
        if run.state() != "running":
            raise gr.Error(f"Run {run.name!r} is not running.", print_exception=False)
        run.ask(request)
        gr.Info(words)

    return handler


@sentences
def _resume(name: str | None) -> None:
    run = need_run(name)
    if run.state() == "done":
        raise InputError(f"run {run.name!r} is done; there is nothing to resume.")
    in_memory.drop()
    queue.join(run, folder.root_folder())


@sentences
def _discard(name: str | None):
    """Stop at once and move the run to the trash."""
    run = need_run(name)
    run.training.kill()
    folder.delete(run)
    gr.Info(f"Run {run.name} is discarded. The Runs page can bring it back until the app closes.")
    names = run_choices()
    return gr.Dropdown(choices=names, value=next(iter(names), None))


def _status_line(run: Run, state: str, events: list[dict]) -> str:
    steps = [event for event in events if event["kind"] == "step"]
    words = f"**{run.name}**: {STATE_LABELS[state]}"
    if steps:
        last = steps[-1]
        words += f", step {last['step']} of {last['steps']}"
        if state == "running":
            recent = [event["seconds"] for event in steps[1:][-10:]]  # the first is slow: it makes what the others use
            left = ""
            if recent:
                left = f"about {plots.duration(statistics.median(recent) * (last['steps'] - last['step']))} left, "
            request = run.request()
            asked = {"pause": " Pausing after this step.", "stop": " Stopping after this step."}
            words += f", {left}{last['tokens_per_second']:.0f} tokens/s, "
            words += f"{last['memory_bytes'] / 2**30:.1f} GiB in use." + asked.get(request, "")
        weights = last["coefficients"]
        words += f"  \n{plots.meaning(events, state)}"
        if state == "running":
            words += f" Weights now: break {weights['reroute']:.3g}, keep {weights['retain']:.3g}; "
            words += f"learning rate {last['learning_rate']:.2g}."
        warnings = [event["text"] for event in events if event["kind"] == "warning"]
        if warnings:
            words += f"  \n**Warning:** {warnings[-1]}"
    elif state == "running":
        texts = [event["text"] for event in events if event["kind"] == "status"]
        words += f". {texts[-1] if texts else 'Starting the training process'} ..."
    elif state == "waiting":
        before = _before(run)
        words += f". It starts by itself when {before} ended, as long as the app is open."
    elif state == "new":
        words += ". Press **Resume** to start it."
    if state in ("failed", "interrupted"):
        errors = [event["text"] for event in events if event["kind"] == "error"]
        reason = errors[-1] if errors and state == "failed" else "The training process ended without a word."
        words += f"  \n{reason} Press **Resume** to go on from the last checkpoint."
    return words


def _before(run: Run) -> str:
    """How many runs are to end first; others' names are not told."""
    line = queue.waiting_runs(folder.root_folder())
    count = line.index(run) + 1 if run in line else 1  # the one that trains is no longer in line
    return "the run that trains now has" if count == 1 else f"{count} runs before it have"


def _samples(events: list[dict]) -> str:
    newest = next((event for event in reversed(events) if event["kind"] == "samples"), None)
    if newest is None:
        return ""
    out = f"<p><b>Held-out answers at step {newest['step']}</b></p>"
    for answer in newest["answers"]:
        prompt, base, short = (html.escape(answer[key]) for key in ("prompt", "base", "short_circuited"))
        side = "Break" if answer["kind"] == "break" else "Keep"
        out += (
            f'<div class="sample"><p><b>{side}:</b> {prompt}</p><div class="two"><div><b>base</b><p>{base}</p></div>'
            f"<div><b>short-circuited</b><p>{short}</p></div></div></div>"
        )
    return out


def _curves(events: list[dict], steps: int) -> tuple:
    """Both charts over the whole run's width. An empty table would make the charts take numbers for names."""
    tables = plots.loss_table(events), plots.cosine_table(events)
    return tuple(
        gr.LinePlot(value=table, x_lim=[0, steps], **plots.colours(table))
        if len(table)
        else gr.LinePlot(value=None, x_lim=[0, steps])
        for table in tables
    )


VIEW = 9


def _refresh(name: str | None, seen: tuple | None):
    """Update what changed; the charts keep still while nothing is new."""
    run = pick(name)
    if run is None:
        idle = "No run yet. Choose a preset and press **Start training**; the demo takes a few minutes on a CPU."
        buttons = [gr.Button(interactive=False)] * 4
        return (idle, None, None, "", None, *buttons, ()) if seen != () else (gr.skip(),) * (VIEW + 1)
    state, (events, end) = run.state(), run.events()
    place = _before(run) if state == "waiting" else ""
    mark = (run.name, state, end, run.request() + place)
    if mark == seen:
        return (gr.skip(),) * (VIEW + 1)
    running = state == "running"
    log = ""
    if run.log_file.is_file():
        with run.log_file.open(encoding="utf-8", errors="replace") as file:
            log = "".join(deque(file, LOG_LINES))
    # The curves are drawn anew only when they have a new point.
    measured = sum(event["kind"] in ("step", "validation") for event in events)
    old = seen[4] if seen and len(seen) > 4 and seen[0] == run.name else None
    steps = next((event["steps"] for event in reversed(events) if event["kind"] == "step"), 1)
    same = old == measured
    return (
        _status_line(run, state, events),
        *((gr.skip(),) * 2 if same else _curves(events, steps)),
        _samples(events),
        log,
        gr.Button(interactive=running),
        gr.Button(interactive=running or state == "waiting"),
        gr.Button(interactive=running or state == "waiting"),
        gr.Button(interactive=not running and state not in ("done", "waiting")),
        (*mark, measured),
    )


def build(page: gr.Blocks, run_name: gr.Dropdown, model: gr.Textbox) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            preset = gr.Dropdown(_presets(), value="demo", label="Preset", elem_id="preset")
            words = gr.Markdown(elem_id="preset-words", min_height=44)
            model.render()
            start = gr.Button("Start training", variant="primary", elem_id="start")
            starting = gr.Markdown(elem_id="starting")
            memory = gr.HTML(elem_id="fit", min_height=120)
            with gr.Row():
                pause = gr.Button("Pause", interactive=False, size="sm", min_width=80, elem_id="pause")
                resume = gr.Button("Resume", interactive=False, size="sm", min_width=80, elem_id="resume")
            with gr.Row():
                stop = gr.Button("Stop and keep", interactive=False, size="sm", min_width=80, elem_id="stop")
                discard = gr.Button("Stop and discard", interactive=False, size="sm", min_width=80, elem_id="discard")
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown(elem_id="run-line")
            with gr.Row():
                with gr.Column(min_width=300):  # a chart's own title is cut on a phone
                    gr.Markdown("**Losses**: pale, steps; strong, held-out probes")
                    loss = gr.LinePlot(
                        x="step",
                        y="value",
                        color="loss",
                        y_title=" ",
                        show_label=False,
                        height=280,
                        elem_classes="chart",
                    )
                with gr.Column(min_width=300):
                    gr.Markdown("**Break cosine** of each layer: 1 untouched, 0 derailed")
                    cosine = gr.LinePlot(
                        x="step", y="cosine", color="layer", show_label=False, height=280, y_lim=[-0.5, 1.0]
                    )
            samples = gr.HTML(elem_id="samples")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        fields = settings.build()
        gr.Markdown("**Name, preset, YAML**")
        with gr.Row(elem_classes="beside"):
            name = gr.Textbox(label="Name", info="of the run, or of the preset to save", elem_id="run-name")
            save = gr.Button("Save the form as a preset", size="sm", elem_id="save-preset")
            show = gr.Button("Show as YAML and command line", size="sm", elem_id="show-yaml")
        text = gr.Code(language="yaml", visible=False, label="settings.yaml", elem_id="yaml")
        command = gr.Code(language="shell", visible=False, label="The command that repeats it", elem_id="command")
    with gr.Accordion("Log", open=False):
        log = gr.Textbox(lines=12, max_lines=12, interactive=False, label="Log", show_label=False, elem_id="log")
    seen = gr.State(None)
    view = [status, loss, cosine, samples, log, pause, stop, discard, resume, seen]
    form = [preset, model, *fields]
    filled = [words, model, *fields]
    for trigger in (preset.input, page.load):
        trigger(_preset_values, preset, filled, show_progress="hidden").then(_fit, form, memory, show_progress="hidden")
    for field in (model, *fields):
        event = field.submit if isinstance(field, gr.Textbox) else field.input
        event(_fit, form, memory, show_progress="hidden", trigger_mode="always_last")
    start.click(_start, [preset, model, name, *fields], [run_name, starting], concurrency_limit=1)
    save.click(_save_preset, [preset, model, name, *fields], preset)
    show.click(_yaml, form, [text, command])
    pause.click(_ask("pause", "Pausing at the end of this step."), run_name, None)
    stop.click(_ask("stop", "Stopping at the end of this step; the adapter is kept."), run_name, None)
    discard.click(_discard, run_name, run_name)
    resume.click(_resume, run_name, None)
    timer = gr.Timer(TICK)
    for trigger in (timer.tick, run_name.change, page.load):
        trigger(_refresh, [run_name, seen], view, show_progress="hidden", queue=False)
