"""Train: choose, start, watch, pause, stop. Everything shown is read from the run directory."""

from __future__ import annotations

from collections import deque

import gradio as gr

from cbgui import runs
from cbgui.config import load_config, preset_names
from cbgui.ui import plots
from cbgui.ui.common import STATE_WORDS, need_run, pick, run_choices, sentences
from cbgui.ui.data_tab import chosen_data

LOG_LINES = 200


def _preset_values(preset: str) -> tuple:
    config = load_config(preset)
    training = config.training
    return (
        config.model.name,
        config.model.quantization,
        training.steps,
        training.learning_rate,
        training.break_batch_size,
        training.retain_batch_size,
    )


@sentences
def _start(preset, model, quantization, steps, learning_rate, break_batch, retain_batch, name):
    config = load_config(preset)
    config.model.name, config.model.quantization = model.strip(), quantization
    settings = {
        "steps": steps,
        "learning_rate": learning_rate,
        "break_batch_size": break_batch,
        "retain_batch_size": retain_batch,
    }
    for field, value in settings.items():
        if not value or value <= 0:
            raise gr.Error(f"{field.replace('_', ' ')} = {value}: give a number above zero.", print_exception=False)
        setattr(config.training, field, value if field == "learning_rate" else int(value))
    config.data = chosen_data().model_copy(update={"max_tokens": config.data.max_tokens})
    busy = next((run for run in runs.list_runs() if run.state() == "running"), None)
    if busy is not None:
        raise gr.Error(f"Run {busy.name!r} is training; stop or pause it first.", print_exception=False)
    run = runs.create_run(runs.runs_folder() / runs.free_name(name or preset), config)
    run.start()
    return gr.Dropdown(choices=run_choices(), value=run.name)


def _ask(request: runs.Request, words: str):
    def handler(name: str | None) -> None:
        run = need_run(name)
        if run.state() != "running":
            raise gr.Error(f"Run {run.name!r} is not running.", print_exception=False)
        run.ask(request)
        gr.Info(words)

    return handler


@sentences
def _resume(name: str | None) -> None:
    run = need_run(name)
    if run.state() == "done":
        raise gr.Error(f"Run {run.name!r} is done; there is nothing to resume.", print_exception=False)
    run.start()


def _status_line(run: runs.Run, state: str, events: list[dict]) -> str:
    steps = [event for event in events if event["kind"] == "step"]
    words = f"**{run.name}**: {STATE_WORDS[state]}"
    if steps:
        last = steps[-1]
        words += f", step {last['step']} of {last['steps']}"
        if state == "running":
            recent = sum(event["seconds"] for event in steps[-10:]) / len(steps[-10:])
            left = plots.duration(recent * (last["steps"] - last["step"]))
            request = run.request()
            asked = {"pause": " Pausing after this step.", "stop": " Stopping after this step."}
            words += f", about {left} left, {last['tokens_per_second']:.0f} tokens/s, "
            words += f"{last['memory_bytes'] / 2**30:.1f} GiB in use." + asked.get(request, "")
        words += f"  \n{plots.meaning(events, state)}"
        warnings = [event["text"] for event in events if event["kind"] == "warning"]
        if warnings:
            words += f"  \n**Warning:** {warnings[-1]}"
    elif state == "running":
        texts = [event["text"] for event in events if event["kind"] == "status"]
        words += f". {texts[-1] if texts else 'Starting the training process'} ..."
    if state in ("failed", "interrupted"):
        errors = [event["text"] for event in events if event["kind"] == "error"]
        reason = errors[-1] if errors and state == "failed" else "The training process ended without a word."
        words += f"  \n{reason} Press Resume to go on from the last checkpoint."
    return words


def _refresh(name: str | None, seen: tuple | None):
    """Update what changed; the charts keep still while nothing is new."""
    run = pick(name)
    if run is None:
        idle = "No run yet. Choose a preset and press **Start training**; the demo takes a few minutes on a CPU."
        buttons = [gr.Button(interactive=False)] * 3
        return ((idle,) + (None,) * 3 + (*buttons, None)) if seen != () else (gr.skip(),) * 8
    state, (events, end) = run.state(), run.events()
    mark = (run.name, state, end, run.request())
    if mark == seen:
        return (gr.skip(),) * 8
    running = state == "running"
    log = ""
    if run.log.is_file():
        with run.log.open(encoding="utf-8", errors="replace") as file:
            log = "".join(deque(file, LOG_LINES))
    return (
        _status_line(run, state, events),
        plots.loss_table(events),
        plots.cosine_table(events),
        log,
        gr.Button(interactive=running),
        gr.Button(interactive=running),
        gr.Button(interactive=not running and state != "done"),
        mark,
    )


def build(page: gr.Blocks, run_name: gr.Dropdown) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            preset = gr.Dropdown(preset_names(), value="demo", label="Preset", elem_id="preset")
            model = gr.Textbox(label="Model", info="demo, a hub id such as owner/name, or a folder", elem_id="model")
            with gr.Accordion("More", open=False):
                quantization = gr.Dropdown(
                    [("automatic", "auto"), ("none (full precision)", "none"), ("NF4 (4 bits)", "nf4")],
                    label="Quantization",
                )
                steps = gr.Number(label="Steps", precision=0, minimum=1, elem_id="steps", info="published: 150")
                learning_rate = gr.Number(label="Learning rate", info="published: 1e-4")
                break_batch = gr.Number(label="Break examples per step", precision=0, minimum=1)
                retain_batch = gr.Number(label="Keep examples per step", precision=0, minimum=1)
                name = gr.Textbox(label="Name of the run", placeholder="the preset's name")
            start = gr.Button("Start training", variant="primary", elem_id="start")
            with gr.Row():
                pause = gr.Button("Pause", interactive=False, size="sm", min_width=80)
                stop = gr.Button("Stop and keep", interactive=False, size="sm", min_width=80, elem_id="stop")
                resume = gr.Button("Resume", interactive=False, size="sm", min_width=80)
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown(elem_id="run-line")
            with gr.Row():
                loss = gr.LinePlot(x="step", y="loss", color="series", title="Losses", height=280, min_width=300)
                cosine = gr.LinePlot(
                    x="step",
                    y="cosine",
                    color="series",
                    title="Break cosine per layer",
                    height=280,
                    min_width=300,
                )
            with gr.Accordion("Log", open=False):
                log = gr.Textbox(lines=12, max_lines=12, interactive=False, show_label=False, elem_id="log")
    fields = [model, quantization, steps, learning_rate, break_batch, retain_batch]
    seen = gr.State(None)
    view = [status, loss, cosine, log, pause, stop, resume, seen]
    preset.input(_preset_values, preset, fields)
    page.load(_preset_values, preset, fields)
    start.click(_start, [preset, *fields, name], run_name)
    pause.click(_ask("pause", "Pausing at the end of this step."), run_name, None)
    stop.click(_ask("stop", "Stopping at the end of this step; the adapter is kept."), run_name, None)
    resume.click(_resume, run_name, None)
    timer = gr.Timer(1.0)
    for trigger in (timer.tick, run_name.change, page.load):
        trigger(_refresh, [run_name, seen], view, show_progress="hidden")
