"""Export: merge in a process of its own, download, push to the hub."""

from __future__ import annotations

import os
import re
import shutil

import gradio as gr

from cbgui.errors import InputError
from cbgui.export.model_card import USE
from cbgui.export.upload import check_repo
from cbgui.runs.jobs import EXPORT, UPLOAD, Job
from cbgui.runs.run import PART, Run
from cbgui.space import on_space
from cbgui.ui.common import TICK, job_words, need_run, one_job_at_a_time, pick, sentences
from cbgui.ui.fragments import plain, render
from cbgui.ui.server.downloads import listing
from cbgui.ui.server.storage import refuse_full
from cbgui.ui.server.visitors import hub_token

VIEW = 8  # outputs of `_refresh`


def _words(run: Run) -> str:
    job, merged = Job(run, EXPORT), run.merged_folder
    if job.state() in ("running", "failed"):
        return job_words(job, "the merge")
    if run.is_merged():
        size = sum(path.stat().st_size for path in merged.iterdir()) / 1e6
        compared = next((line.split(": ", 1)[1] for line in job.lines() if "differ by at most" in line), "")
        return f"**{plain(run.name)}** is merged: {size:,.0f} MB in {plain(merged)}. {plain(compared.capitalize())}"
    if merged.is_dir():
        return f"**{plain(run.name)}** was trained further since it was merged. Press **Merge** to merge it again."
    if job.state() == "stopped":
        return f"**{plain(run.name)}**: stopped. No half-written model is left; press **Merge** to start again."
    return "Nothing is merged yet. Press **Merge** once a run is done."


def _upload_words(run: Run) -> str:
    job = Job(run, UPLOAD)
    match job.state():
        case "running" | "failed":
            return job_words(job, "the upload")
        case "stopped":
            return "Stopped. Files that are on the hub already will not be sent again."
        case "done":
            address = next((line.split(": ", 1)[1] for line in job.lines() if line.startswith("Uploaded: ")), "")
            is_link = re.fullmatch(r"https?://[\w.:/-]+", address, re.ASCII)
            return f"Uploaded: [{plain(address)}]({address})" if is_link else f"Uploaded: {plain(address)}"
    return ""


def _files(run: Run, is_ready: bool) -> str:
    folders = [listing(run, run.adapter_folder, "Adapter alone (PEFT)")]
    if is_ready:
        folders.insert(0, listing(run, run.merged_folder, "Merged model"))
    return render("downloads", folders=folders)


def _refresh(name: str | None, seen: tuple | None) -> tuple:
    """Update what has changed; `seen` says what the page shows."""
    unchanged = (gr.skip(),) * VIEW
    run = pick(name)
    if run is None:
        off = gr.Button(interactive=False)
        words = "No run yet; train one first."
        return (words, "", "", off, off, off, off, ()) if seen != () else unchanged
    words, upload_words, is_merged = _words(run), _upload_words(run), run.is_merged()
    merging, uploading = Job(run, EXPORT).state() == "running", Job(run, UPLOAD).state() == "running"
    is_ready = run.merged_folder.is_dir() and not merging
    files = _files(run, is_ready)
    mark = (run.name, words, upload_words, files, is_merged)
    if seen and mark == tuple(seen):
        return unchanged
    return (
        words,
        files,
        upload_words,
        gr.Button(interactive=not merging and not is_merged),
        gr.Button(interactive=merging),
        gr.Button(interactive=is_ready and not uploading),
        gr.Button(interactive=uploading),
        mark,
    )


@sentences
def _merge(name: str | None) -> str:
    run = need_run(name)
    run.need_adapter()
    if run.is_merged():
        raise InputError(f"run {run.name!r} is merged already; its files are below.")
    one_job_at_a_time()
    refuse_full()
    # What was merged before training went on stays until the new model is whole.
    Job(run, EXPORT).start("--output", str(run.merged_folder), *["--replace"] * run.merged_folder.is_dir())
    return f"**{plain(run.name)}**: starting ..."


@sentences
def _stop(name: str | None) -> None:
    run = need_run(name)
    Job(run, EXPORT).stop()
    shutil.rmtree(run.merged_folder.with_name(run.merged_folder.name + PART), ignore_errors=True)


@sentences
def _upload(name: str | None, repo: str, public: bool, token: str) -> str:
    run = need_run(name)
    repo = check_repo((repo or "").strip())
    token = hub_token() if on_space() else (token or "").strip()
    if on_space() and not token:
        raise InputError("upload: log in with Hugging Face first; this Space does not lend its own login.")
    one_job_at_a_time()
    arguments = ["--repo", repo, *["--public"] * public]
    Job(run, UPLOAD).start(*arguments, secrets={"HF_TOKEN": token} if token else None)
    return "Starting ..."


@sentences
def _stop_upload(name: str | None) -> None:
    Job(need_run(name), UPLOAD).stop()


def build(page: gr.Blocks, run_name: gr.Dropdown) -> None:
    gr.Markdown(
        "Merge the adapter into the original model's weights. The result is ordinary safetensors that need nothing "
        "special to run. The merged model is compared with the original plus adapter before you can download it."
    )
    with gr.Row():
        merge = gr.Button("Merge", variant="primary", elem_id="merge")
        stop = gr.Button("Stop", interactive=False, elem_id="stop-merge")
    words = gr.Markdown(min_height=60, elem_id="export-words")
    files = gr.HTML(elem_id="downloads")
    with gr.Accordion("Use it in Ollama, LM Studio, llama.cpp, transformers", open=False):
        gr.Markdown(USE)
    with gr.Accordion("Push to the Hugging Face hub", open=False, elem_id="hub"):
        gr.Markdown(
            "Uploads the merged model with its card: the original model and its licence, the data, the report's "
            "figures, the limits. Evaluate before you merge, so that the card has figures."
        )
        with gr.Row(elem_classes="aligned"):
            repo = gr.Textbox(label="Repository", placeholder="your-name/model-name", elem_id="repo", min_width=200)
            public = gr.Checkbox(label="Public", info="private otherwise", min_width=120, elem_id="public")
            token = gr.Textbox(
                label="Token with write access",
                info="leave empty to use your login (hf auth login); never stored",
                type="password",
                elem_id="hub-token",
                visible=not on_space(),
                min_width=200,
            )
            if on_space() and os.environ.get("OAUTH_CLIENT_ID"):
                gr.LoginButton(min_width=160)
        with gr.Row():
            push = gr.Button("Upload", interactive=False, elem_id="upload")
            stop_push = gr.Button("Stop", interactive=False, elem_id="stop-upload")
        upload_words = gr.Markdown(min_height=30, elem_id="upload-words")
    seen = gr.State(None)
    merge.click(_merge, run_name, words)
    stop.click(_stop, run_name, None)
    push.click(_upload, [run_name, repo, public, token], upload_words)
    stop_push.click(_stop_upload, run_name, None)
    view = [words, files, upload_words, merge, stop, push, stop_push, seen]
    for trigger in (gr.Timer(TICK).tick, run_name.change, page.load):
        trigger(_refresh, [run_name, seen], view, show_progress="hidden", queue=False)
