"""Export: merge in a process of its own, then download from the run's folder."""

from __future__ import annotations

import gradio as gr

from cbgui import runs
from cbgui.config import InputError
from cbgui.jobs import Job
from cbgui.ui.common import job_words, need_run, pick, sentences


def _job(run: runs.Run) -> Job:
    return Job(run, "export")


def _words(run: runs.Run) -> str:
    job, merged = _job(run), run.path / "merged"
    if job.state() in ("running", "failed"):
        return job_words(job, "the merge")
    if merged.is_dir():
        size = sum(path.stat().st_size for path in merged.iterdir()) / 1e6
        compared = next((line.split(": ", 1)[1] for line in job.lines() if "differ by at most" in line), "")
        return f"**{run.name}** is merged: {size:,.0f} MB in `{merged}`. {compared.capitalize()}"
    if job.state() == "stopped":
        return f"**{run.name}**: stopped; nothing half-written is offered. Press **Merge** to start again."
    return "Nothing is merged yet. Press **Merge** once a run is done."


def _refresh(name: str | None, seen: tuple | None) -> tuple:
    run = pick(name)
    if run is None:
        words = "No run yet; train one first."
        off = gr.Button(interactive=False)
        return (words, gr.File(value=None, visible=False), off, off, ()) if seen != () else (gr.skip(),) * 5
    words, running = _words(run), _job(run).state() == "running"
    mark = (run.name, words)
    if mark == seen:
        return (gr.skip(),) * 5
    merged = run.path / "merged"
    paths = sorted(str(path) for path in merged.iterdir()) if merged.is_dir() and not running else None
    files = gr.File(value=paths, visible=paths is not None)
    return words, files, gr.Button(interactive=not running), gr.Button(interactive=running), mark


@sentences
def _merge(name: str | None) -> str:
    run = need_run(name)
    run.need_adapter()
    if (run.path / "merged").is_dir():
        raise InputError(f"run {run.name!r} is merged already; its files are below.")
    _job(run).start("--output", str(run.path / "merged"))
    return f"**{run.name}**: starting ..."


@sentences
def _stop(name: str | None) -> None:
    _job(need_run(name)).stop()


def build(page: gr.Blocks, run_name: gr.Dropdown) -> None:
    gr.Markdown(
        "Merge the adapter into the base model's original weights: ordinary safetensors, nothing added at inference. "
        "The merged model is compared with base + adapter before it is offered."
    )
    with gr.Row():
        merge = gr.Button("Merge", variant="primary", elem_id="merge")
        stop = gr.Button("Stop", interactive=False, elem_id="stop-merge")
    words = gr.Markdown(min_height=60, elem_id="export-words")
    files = gr.File(label="Download", file_count="multiple", interactive=False, visible=False, elem_id="downloads")
    seen = gr.State(None)
    merge.click(_merge, run_name, words)
    stop.click(_stop, run_name, None)
    for trigger in (gr.Timer(1.0).tick, run_name.change, page.load):
        trigger(_refresh, [run_name, seen], [words, files, merge, stop, seen], show_progress="hidden")
