"""Take away: the verdict, then the finished model in three forms, the adapter alone, and the hub.

Merging and converting are one job in a process of its own; all buttons start it with other arguments.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import gradio as gr

from cbgui.errors import InputError
from cbgui.export.gguf import GGUF_FOLDER
from cbgui.export.standing import Standing, standing
from cbgui.export.upload import check_repo
from cbgui.runs.jobs import EXPORT, UPLOAD, Job
from cbgui.runs.run import PART, Run
from cbgui.space import on_space
from cbgui.ui.common import changes, job_words, need_run, one_job_at_a_time, pick, sentences
from cbgui.ui.fragments import plain, render
from cbgui.ui.server.downloads import Listing, address, files_in, listing
from cbgui.ui.server.storage import refuse_full
from cbgui.ui.server.visitors import hub_token
from cbgui.ui.words import on_page, say

VIEW = 14  # outputs of `_refresh`
KINDS = {"q8_0": "take.q8", "f16": "take.f16", "bf16": "take.bf16"}  # of GGUF
MERGE = "merge"  # what is wanted, besides a kind of GGUF


def _gguf_folder(run: Run) -> Path:
    return run.merged_folder / GGUF_FOLDER


def _gguf_file(run: Run, kind: str) -> Path:
    return _gguf_folder(run) / f"{run.name}-{kind}.gguf"


def _words(run: Run) -> str:
    """How far the job is, or what there is."""
    job, merged = Job(run, EXPORT), run.merged_folder
    if job.state() in ("running", "failed"):
        return job_words(job, say("take.the_export"))
    if run.is_merged():
        size = sum(path.stat().st_size for path in files_in(merged)) / 1e6
        compared = next((line.split(": ", 1)[1] for line in job.lines() if "differ by at most" in line), "")
        ggufs = sorted(_gguf_folder(run).glob("*.gguf"), key=lambda path: path.stat().st_mtime)
        made = [say("take.gguf_made", file=plain(ggufs[-1].name), folder=plain(ggufs[-1].parent))] if ggufs else []
        words = say(
            "take.merged",
            name=plain(run.name),
            size=f"{size:,.0f}",
            folder=plain(merged),
            compared=plain(compared.capitalize()),
        )
        return " ".join([*made, words])
    if merged.is_dir():
        return say("take.trained_further", name=plain(run.name))
    if job.state() == "stopped":
        return say("take.stopped", name=plain(run.name))
    if not run.adapter_file.is_file():
        return say("take.no_adapter", name=plain(run.name))
    return say("take.nothing_yet")


def _upload_words(run: Run) -> str:
    job = Job(run, UPLOAD)
    match job.state():
        case "running" | "failed":
            return job_words(job, say("take.the_upload"))
        case "stopped":
            return say("take.upload_stopped")
        case "done":
            address = next((line.split(": ", 1)[1] for line in job.lines() if line.startswith("Uploaded: ")), "")
            is_link = re.fullmatch(r"https?://[\w.:/-]+", address, re.ASCII)
            return (
                say("take.uploaded_link", shown=plain(address), address=address)
                if is_link
                else say("take.uploaded", address=plain(address))
            )
    return ""


def _verdict(known: Standing) -> str:
    return render("standing", kind=known.kind, label=say(f"take.{known.kind}"), words=known.words)


def _files(*folders: Listing) -> str:
    return render("downloads", folders=folders)


def _gguf_files(run: Run) -> str:
    shown = [path for path in files_in(_gguf_folder(run)) if path.suffix == ".gguf"]
    return render(
        "links", files=[(f"{path.name} ({_size(path)})", address(run, path.parent, path.name)) for path in shown]
    )


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def _refresh(name: str | None, choice: str, seen: tuple | None) -> tuple:
    """Update what has changed; `seen` says what the page shows."""
    unchanged = (gr.skip(),) * VIEW
    run = pick(name)
    if run is None:
        off, hidden = gr.Button(interactive=False), gr.Button(visible=False)
        words = say("take.no_run")
        return ("", words, "", "", "", "", "", off, off, off, hidden, off, hidden, ()) if seen != () else unchanged
    kind = choice if choice in KINDS else "q8_0"
    known, words, upload_words, is_merged = standing(run), _words(run), _upload_words(run), run.is_merged()
    making, uploading = Job(run, EXPORT).state() == "running", Job(run, UPLOAD).state() == "running"
    can_make = not making and run.adapter_file.is_file()
    is_ready = run.merged_folder.is_dir() and (is_merged or not making)
    has_kind = is_merged and _gguf_file(run, kind).is_file()
    ggufs = _gguf_files(run) if is_ready else ""
    ollama = _files(listing(run, _gguf_folder(run), say("take.for_ollama"))) if ggufs else ""
    merged = _files(listing(run, run.merged_folder, say("take.merged_model"))) if is_ready else ""
    adapter = _files(listing(run, run.adapter_folder, say("take.adapter_peft")))
    mark = (run.name, known.words, words, upload_words, ggufs, ollama, merged, adapter, can_make, has_kind, uploading)
    if seen and mark == tuple(seen):
        return unchanged
    return (
        _verdict(known),
        words,
        ggufs,
        ollama,
        merged,
        adapter,
        upload_words,
        gr.Button(interactive=can_make and not has_kind),
        gr.Button(interactive=can_make and not has_kind),
        gr.Button(interactive=can_make and not is_merged),
        gr.Button(visible=making),
        gr.Button(interactive=is_ready and not uploading),
        gr.Button(visible=uploading),
        mark,
    )


def _start(run: Run, what: str) -> str:
    run.need_adapter()
    is_merged = run.is_merged()
    if what == MERGE and is_merged:
        raise InputError(say("take.merged_already", name=f"{run.name!r}"))
    one_job_at_a_time()
    refuse_full()
    # What was merged before training went on stays until the new model is whole.
    replace = ["--replace"] * (run.merged_folder.is_dir() and not is_merged)
    gguf = [] if what == MERGE else ["--gguf", what]
    Job(run, EXPORT).start("--output", str(run.merged_folder), *gguf, *replace)
    return say("common.starting", name=plain(run.name))


def _asked(name: str | None, what: str) -> tuple:
    """Start, or first ask whether a model is wanted that is not known to work."""
    run = need_run(name)
    run.need_adapter()
    known = standing(run)
    if known.kind == "good":
        return gr.Group(visible=False), "", None, _start(run, what)
    question = say("take.make_anyway_question", name=plain(run.name), words=plain(known.words))
    return gr.Group(visible=True), question, (run.name, what), gr.skip()


@sentences
def _merge(name: str | None) -> tuple:
    return _asked(name, MERGE)


@sentences
def _make_gguf(name: str | None, choice: str) -> tuple:
    if choice not in KINDS:
        raise InputError(say("take.unknown_size", choice=f"{choice!r}"))
    return _asked(name, choice)


@sentences
def _make_anyway(name: str | None, wanted: tuple | None) -> tuple:
    run = need_run(name)
    if not wanted or wanted[0] != run.name:  # another run was chosen meanwhile
        return gr.Group(visible=False), "", None, gr.skip()
    return gr.Group(visible=False), "", None, _start(run, wanted[1])


def _do_not_make() -> tuple:
    return gr.Group(visible=False), "", None


@sentences
def _stop(name: str | None) -> None:
    run = need_run(name)
    Job(run, EXPORT).stop()
    shutil.rmtree(run.merged_folder.with_name(run.merged_folder.name + PART), ignore_errors=True)
    for half in _gguf_folder(run).glob(f"*{PART}"):
        half.unlink(missing_ok=True)


@sentences
def _upload(name: str | None, repo: str, public: bool, token: str) -> str:
    run = need_run(name)
    repo = check_repo((repo or "").strip())
    token = hub_token() if on_space() else (token or "").strip()
    if on_space() and not token:
        raise InputError(say("take.log_in"))
    one_job_at_a_time()
    arguments = ["--repo", repo, *["--public"] * public]
    Job(run, UPLOAD).start(*arguments, secrets={"HF_TOKEN": token} if token else None)
    return say("take.starting")


@sentences
def _stop_upload(name: str | None) -> None:
    Job(need_run(name), UPLOAD).stop()


def build(page: gr.Blocks, tick: gr.Timer, run_name: gr.Dropdown) -> None:
    verdict = gr.HTML(elem_id="standing")
    with gr.Row(elem_classes="aligned"):
        words = gr.Markdown(min_height=44, elem_id="export-words")
        stop = gr.Button(on_page("common.stop"), visible=False, elem_id="stop-merge", scale=0, min_width=100)
    with gr.Group(visible=False, elem_id="confirm-export") as confirm:
        question = gr.Markdown(elem_id="confirm-words", padding=True)
        with gr.Row():
            anyway = gr.Button(on_page("take.make_anyway"), elem_id="make-anyway")
            cancel = gr.Button(on_page("take.not_now"), elem_id="do-not-make")
    with gr.Row(elem_id="forms"):
        with gr.Column(variant="panel", min_width=300, elem_id="form-gguf"):
            gr.Markdown(on_page("take.gguf_card"))
            kind = gr.Radio(
                [(on_page(key), kind) for kind, key in KINDS.items()],
                value="q8_0",
                label=on_page("take.size"),
                elem_id="gguf-kind",
            )
            make = gr.Button(on_page("take.make_gguf"), variant="primary", elem_id="make-gguf")
            ggufs = gr.HTML(elem_id="gguf-files")
        with gr.Column(variant="panel", min_width=300, elem_id="form-ollama"):
            gr.Markdown(on_page("take.ollama_card"))
            make_ollama = gr.Button(on_page("take.make_ollama"), elem_id="make-ollama")
            ollama = gr.HTML(elem_id="ollama-files", elem_classes="downloads")
        with gr.Column(variant="panel", min_width=300, elem_id="form-merged"):
            gr.Markdown(on_page("take.developers_card"))
            merge = gr.Button(on_page("take.merge"), elem_id="merge")
            merged = gr.HTML(elem_id="downloads", elem_classes="downloads")
    with gr.Accordion(on_page("take.adapter"), open=False, elem_id="adapter"):
        gr.Markdown(on_page("take.adapter_words"))
        adapter = gr.HTML(elem_id="adapter-files", elem_classes="downloads")
    with gr.Accordion(on_page("take.hub"), open=False, elem_id="hub"):
        gr.Markdown(on_page("take.hub_words"))
        with gr.Row(elem_classes="aligned"):
            repo = gr.Textbox(
                label=on_page("take.repository"), placeholder="your-name/model-name", elem_id="repo", min_width=200
            )
            public = gr.Checkbox(
                label=on_page("take.public"), info=on_page("take.public_info"), min_width=120, elem_id="public"
            )
            token = gr.Textbox(
                label=on_page("take.token"),
                info=on_page("take.token_info"),
                type="password",
                elem_id="hub-token",
                visible=not on_space(),
                min_width=200,
            )
            if on_space() and os.environ.get("OAUTH_CLIENT_ID"):
                gr.LoginButton(min_width=160)
        with gr.Row():
            push = gr.Button(on_page("take.upload"), interactive=False, elem_id="upload")
            stop_push = gr.Button(on_page("common.stop"), visible=False, elem_id="stop-upload")
        upload_words = gr.Markdown(min_height=30, elem_id="upload-words")
    with gr.Accordion(on_page("take.details"), open=False, elem_id="export-details"):
        gr.Markdown(on_page("take.details_words"))
    seen, wanted = gr.State(None), gr.State(None)
    asked = [confirm, question, wanted]
    merge.click(_merge, run_name, [*asked, words])
    for button in (make, make_ollama):
        button.click(_make_gguf, [run_name, kind], [*asked, words])
    anyway.click(_make_anyway, [run_name, wanted], [*asked, words])
    for trigger in (cancel.click, changes(run_name)):
        trigger(_do_not_make, None, asked, show_progress="hidden")
    stop.click(_stop, run_name, None)
    push.click(_upload, [run_name, repo, public, token], upload_words)
    stop_push.click(_stop_upload, run_name, None)
    view = [verdict, words, ggufs, ollama, merged, adapter, upload_words]
    view += [make, make_ollama, merge, stop, push, stop_push, seen]
    for trigger in (tick.tick, changes(run_name), kind.change, page.load):
        trigger(_refresh, [run_name, kind, seen], view, show_progress="hidden", queue=False)
