"""Train: choose settings, see that training fits, start, watch, pause, stop. All that is shown is read from the run."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import gradio as gr

from cbgui import space
from cbgui.config import RunConfig, load_config, preset_names
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import KIND_LABELS
from cbgui.errors import InputError
from cbgui.hardware import GIB
from cbgui.runs import folder, queue
from cbgui.runs.disk import disk_is_full, write_whole
from cbgui.runs.history import History, history
from cbgui.runs.run import STATE_LABELS, Request, Run
from cbgui.ui.common import TICK, in_memory, library, need_run, pick, run_choices, sentences, shown_topic, tell
from cbgui.ui.fragments import plain, render
from cbgui.ui.panels import charts, memory_bar, settings
from cbgui.ui.server.storage import refuse_full, trim_trash

LOG_LINES, LOG_BYTES = 200, 100_000  # the most of the log that is shown
# A process that has written nothing for so many seconds, and for so many of its steps, may be stuck.
SILENT_SECONDS, SILENT_STEPS = 120.0, 20


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
    return plain(config.description) or "Your own preset.", config.model.name, *settings.values_of(config)


def _config(preset: str, model: str, values: tuple) -> RunConfig:
    """The form as a RunConfig, with the preset's data files. Raises InputError."""
    config = settings.apply(_load(preset), list(values))
    if not (model or "").strip():
        raise InputError("model is empty; give demo, a hub id such as owner/name, or a folder.")
    config.model.name = model.strip()
    return config


def _write_data(topic: tuple, config: RunConfig) -> DatasetStore:
    """Write the files of the topic that this browser tab shows, and put them into `config`. Raises InputError."""
    data = shown_topic(topic)
    config.data = library().for_training(data).model_copy(update={"max_tokens": config.data.max_tokens})
    return data


def _memory(preset: str, model: str, *values: Any) -> str:
    try:
        return memory_bar.bar(_config(preset, model, values))
    except InputError as error:
        return render("problem", text=str(error))


@sentences
def _start(topic: tuple, preset: str, model: str, name: str, *values: Any):
    """Make the run and start it. Not a generator, which Gradio would leave where it is when the page is reloaded."""
    config = _config(preset, model, values)
    in_memory.drop()  # makes room for training
    space.refuse_over("runs", len(folder.list_runs()) + 1, space.MAX_RUNS)
    refuse_full()
    space.refuse_over("training.steps", config.training.steps, space.MAX_STEPS)
    space.refuse_over("examples in a step", config.training.batch_size, space.MAX_BATCH)
    space.refuse_over("data.max_tokens", config.data.max_tokens, space.MAX_TOKENS)
    memory_bar.estimate_for(config)  # raises before anything is written
    data = _write_data(topic, config)
    run = folder.create_run(folder.runs_folder() / folder.free_name(name or f"{data.name}-{preset}"), config)
    run.dataset_name_file.write_text(data.name, "utf-8")
    queue.join(run, folder.root_folder())
    return gr.Dropdown(choices=run_choices(), value=run.name), ""


@sentences
def _save_preset(preset: str, model: str, name: str, *values: Any):
    config = _config(preset, model, values)
    stem = folder.cleaned_name(name or "")
    if not stem or stem in preset_names():
        raise InputError(f"name of the preset = {name!r}: it is empty or the name of a built-in one; choose another.")
    config.description = f"Saved from the form ({model})."
    _own_presets().mkdir(parents=True, exist_ok=True)
    write_whole(_own_presets() / f"{stem}.yaml", config.to_yaml())
    tell(f"Preset {stem} is saved.")
    return gr.Dropdown(choices=_presets(), value=stem)


@sentences
def _yaml(topic: tuple, preset: str, model: str, *values: Any) -> tuple:
    """The form as YAML, and the command line that does the same."""
    config = _config(preset, model, values)
    path = _write_data(topic, config).folder / "settings.yaml"
    write_whole(path, config.to_yaml())
    output = os.path.relpath(folder.runs_folder() / "my-run")
    command = f"python -m cbgui train {os.path.relpath(path)} --output {output}"
    return gr.Code(value=config.to_yaml(), visible=True), gr.Code(value=command, visible=True)


def _ask(request: Request, words: str):
    @sentences
    def handler(name: str | None) -> None:
        run = need_run(name)
        if run.state() == "waiting" and request == "stop":
            queue.leave(run)
            tell(f"Run {run.name} no longer waits.")
            return
        if run.state() != "running":
            raise InputError(f"run {run.name!r} is not running.")
        run.ask(request)
        tell(words)

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
    trim_trash()
    tell(f"Run {run.name} is discarded. The Runs page can bring it back until the app closes.")
    names = run_choices()
    return gr.Dropdown(choices=names, value=next(iter(names), None))


def _status(run: Run, state: str, past: History, silent: float | None = None) -> str:
    """How the run is doing, as Markdown. `silent`: for how many seconds a process that should be busy has written
    nothing; None while that is not long."""
    words = f"**{plain(run.name)}**: {STATE_LABELS[state]}"
    if silent is not None:
        words += f", but it has written nothing for {charts.duration(silent)}: {_why_silent(run)}"
    if "step" in past.newest:
        words += _progress(run, state, past, silent)
    elif state == "running":
        words += f". {plain(past.text('status', 'Starting the training process'))} ..."
    elif state == "waiting":
        words += f". It starts by itself after {_runs_before(run)}, as long as the app is open."
    elif state == "new":
        words += ". Press **Resume** to start it."
    if state in ("failed", "interrupted"):
        words += f"  \n{_reason(run, state, past)}"
    return words


def _reason(run: Run, state: str, past: History) -> str:
    """Why a run ended before its time, and whether to press Resume."""
    resume = "Press **Resume** to continue from the last checkpoint."
    if not run.complete_checkpoints():
        resume = "Press **Resume** to start it again."
    if state == "failed":
        reason = past.text("error", "The training process ended without an error message.")
        return f"{plain(reason)} {resume}" if past.newest["status"].get("resume") else plain(reason)
    if disk_is_full(run.path):
        return f"The disk is full; free some space. {resume}"
    return f"The training process ended without an error message. {resume}"


def _why_silent(run: Run) -> str:
    pid = run.training.pid()
    if run.training.is_suspended():
        return f"its process ({pid}) is suspended; let it go on (kill -CONT {pid}), or press **Stop and discard**"
    return f"its process ({pid}) may be stuck or suspended; the log says what it did last"


def _silence(state: str, past: History, run: Run) -> float | None:
    """Seconds since a running process wrote its newest event, if that is long for it or if it is suspended."""
    if state != "running":
        return None
    started = past.newest_time()
    silent = max(0.0, time.time() - started) if started else 0.0
    usual = statistics.median(past.seconds) if past.seconds else 0.0
    return silent if silent > max(SILENT_SECONDS, SILENT_STEPS * usual) or run.training.is_suspended() else None


def _progress(run: Run, state: str, past: History, silent: float | None) -> str:
    last = past.newest["step"]
    words = f", step {last['step']} of {last['steps']}"
    if state == "running":
        if past.seconds and silent is None:
            left = statistics.median(past.seconds) * (last["steps"] - last["step"])
            words += f", about {charts.duration(left)} left"
        asked = {"pause": " Pausing after this step.", "stop": " Stopping after this step."}
        words += f", {last['tokens_per_second']:.0f} tokens/s, {last['memory_bytes'] / GIB:.1f} GiB in use."
        words += asked.get(run.request(), "")
    words += f"  \n{charts.meaning(past.points(), state)}"
    if state == "running":
        weights = last["coefficients"]
        words += f" Loss weights now: must stop {weights['reroute']:.3g}, must keep {weights['retain']:.3g}; "
        words += f"learning rate {last['learning_rate']:.2g}."
    if warning := past.text("warning", ""):
        words += f"  \n**Warning:** {plain(warning)}"
    return words


def _runs_before(run: Run) -> str:
    """How many runs must end first. Their names may be other visitors', so they are not shown."""
    waiting = queue.waiting_runs(folder.root_folder())
    count = waiting.index(run) + 1 if run in waiting else 1  # with the one that trains now
    return "the run that trains now" if count == 1 else f"the {count} runs before it"


def _samples(past: History) -> str:
    """The newest sample answers as HTML."""
    if "samples" not in past.newest:
        return ""
    samples = past.newest["samples"]
    return render("samples", step=samples["step"], answers=samples["answers"], labels=KIND_LABELS)


def _curves(past: History) -> tuple:
    """Both charts over the whole length of the run."""
    steps = past.newest["step"]["steps"] if "step" in past.newest else 1
    points = past.points()
    tables = charts.loss_table(points), charts.cosine_table(points)
    # With an empty table, a chart would treat its number columns as categories.
    return tuple(
        gr.LinePlot(value=table, x_lim=[0, steps], **charts.colours(table))
        if len(table)
        else gr.LinePlot(value=None, x_lim=[0, steps])
        for table in tables
    )


def _log(run: Run) -> str:
    """The last lines of the log, of which a long run writes many."""
    try:
        with run.log_file.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:])
    except OSError:
        return ""


VIEW = 10  # outputs of `_refresh`


def _refresh(name: str | None, seen: tuple | None):
    """Update what has changed. `seen` says what the page shows: (run, state, end of events, request, measurements)."""
    unchanged = (gr.skip(),) * VIEW
    run = pick(name)
    if run is None:
        idle = "No run yet. Choose a preset and press **Start training**; the demo takes a few minutes on a CPU."
        buttons = [gr.Button(interactive=False)] * 4
        return (idle, None, None, "", None, *buttons, ()) if seen != () else unchanged
    state, past = run.state(), history(run)
    silent = _silence(state, past, run)
    before = _runs_before(run) if state == "waiting" else ""
    mark = (run.name, state, past.end, run.request() + before + (charts.duration(silent) if silent is not None else ""))
    if seen and mark == tuple(seen[:4]):
        return unchanged
    # Drawing is slow, so the charts change only when there is a new point.
    drawn = bool(seen) and seen[0] == run.name and seen[4] == past.measured
    running, waiting = state == "running", state == "waiting"
    return (
        _status(run, state, past, silent),
        *((gr.skip(),) * 2 if drawn else _curves(past)),
        _samples(past),
        _log(run),
        gr.Button(interactive=running),
        gr.Button(interactive=running or waiting),
        gr.Button(interactive=running or waiting),
        gr.Button(interactive=not running and state not in ("done", "waiting")),
        (*mark, past.measured),
    )


def build(page: gr.Blocks, run_name: gr.Dropdown, model: gr.Textbox, topic: gr.State) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            preset = gr.Dropdown(_presets(), value="demo", label="Preset", elem_id="preset")
            description = gr.Markdown(elem_id="preset-words", min_height=44)
            model.render()
            start = gr.Button("Start training", variant="primary", elem_id="start")
            starting = gr.Markdown(elem_id="starting")
            memory = gr.HTML(elem_id="memory", min_height=120)
            with gr.Row():
                pause = gr.Button("Pause", interactive=False, size="sm", min_width=80, elem_id="pause")
                resume = gr.Button("Resume", interactive=False, size="sm", min_width=80, elem_id="resume")
            with gr.Row():
                stop = gr.Button("Stop and keep", interactive=False, size="sm", min_width=80, elem_id="stop")
                discard = gr.Button("Stop and discard", interactive=False, size="sm", min_width=80, elem_id="discard")
        with gr.Column(scale=3, min_width=300):
            status = gr.Markdown(elem_id="run-line")
            # Headings above the charts, because a phone cuts off a chart's own title.
            with gr.Row():
                with gr.Column(min_width=300):
                    gr.Markdown("**Losses**: pale during training, strong in validation")
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
        with gr.Row(elem_classes="aligned"):
            name = gr.Textbox(label="Name", info="of the run, or of the preset to save", elem_id="run-name")
            save = gr.Button("Save the form as a preset", size="sm", elem_id="save-preset")
            show = gr.Button("Show as YAML and command line", size="sm", elem_id="show-yaml")
        text = gr.Code(language="yaml", visible=False, label="settings.yaml", elem_id="yaml")
        command = gr.Code(language="shell", visible=False, label="The same as a command", elem_id="command")
    with gr.Accordion("Log", open=False):
        log = gr.Textbox(lines=12, max_lines=12, interactive=False, label="Log", show_label=False, elem_id="log")
    seen = gr.State(None)
    view = [status, loss, cosine, samples, log, pause, stop, discard, resume, seen]
    form = [preset, model, *fields]
    page.load(_choices, preset, preset, show_progress="hidden")
    for trigger in (preset.input, page.load):
        filled = trigger(_preset_values, preset, [description, model, *fields], show_progress="hidden")
        filled.then(_memory, form, memory, show_progress="hidden")
    for field in (model, *fields):
        event = field.submit if isinstance(field, gr.Textbox) else field.input
        event(_memory, form, memory, show_progress="hidden", trigger_mode="always_last")
    named_form = [preset, model, name, *fields]
    start.click(lambda: "Checking that it fits, then starting ...", None, starting, show_progress="hidden", queue=False)
    started = start.click(_start, [topic, *named_form], [run_name, starting], concurrency_limit=1)
    started.failure(lambda: "", None, starting, show_progress="hidden", queue=False)
    save.click(_save_preset, named_form, preset)
    show.click(_yaml, [topic, *form], [text, command])
    pause.click(_ask("pause", "Pausing at the end of this step."), run_name, None)
    stop.click(_ask("stop", "Stopping at the end of this step; the adapter is kept."), run_name, None)
    discard.click(_discard, run_name, run_name)
    resume.click(_resume, run_name, None)
    for trigger in (gr.Timer(TICK).tick, run_name.change, page.load):
        trigger(_refresh, [run_name, seen], view, show_progress="hidden", queue=False)
