"""Report: put both models through attacks and read the page about it. The work is a process of its own."""

from __future__ import annotations

import html

import gradio as gr

from cbgui import runs
from cbgui.config import InputError
from cbgui.evaluation.attacks import DEFAULT_ATTACKS, TITLES
from cbgui.jobs import Job
from cbgui.ui.common import job_words, need_run, one_job_at_a_time, pick, sentences
from cbgui.ui.downloads import link

CHOICES = [(title, name) for name, title in TITLES.items()]


def _job(run: runs.Run) -> Job:
    return Job(run, "evaluate")


def _words(run: runs.Run, job: Job) -> str:
    match job.state():
        case "running" | "failed":
            return job_words(job, "the evaluation")
        case "stopped":
            return f"**{run.name}**: stopped; what was answered is kept. Press Evaluate to go on."
    if (run.path / "report" / "report.html").is_file():
        return f"**{run.name}**: evaluated."
    return f"**{run.name}** is not evaluated yet. Press **Evaluate**; the demo takes some minutes on a CPU."


def _refresh(name: str | None, seen: tuple | None) -> tuple:
    run = pick(name)
    if run is None:
        words = "No run yet. Train one first; then this page says how well it holds."
        return (words, "", gr.Button(interactive=False), gr.Button(interactive=False), "", ())
    job, page = _job(run), run.path / "report" / "report.html"
    written = page.stat().st_mtime if page.is_file() else None
    words = _words(run, job)
    mark = (run.name, words, written)
    if mark == seen:
        return (gr.skip(),) * 6
    running = job.state() == "running"
    shown = gr.skip()
    if seen is None or seen[:1] + seen[2:] != (run.name, written):
        # A frame of its own, without scripts: the report's text comes from models and data.
        text = html.escape(page.read_text("utf-8")) if written else ""
        shown = f'<iframe title="Report" sandbox="" srcdoc="{text}"></iframe>' if text else ""
    links = " ".join(link(run, "report", name, name) for name in ("report.html", "report.json")) if written else ""
    return (words, shown, gr.Button(interactive=not running), gr.Button(interactive=running), links, mark)


@sentences
def _start(name: str | None, attacks: list[str], limit: float | None) -> str:
    run = need_run(name)
    run.need_adapter()
    if not attacks:
        raise InputError("attacks: none is chosen; choose one at least.")
    if (limit or 0) < 0:
        raise InputError(f"prompts of each side at most = {limit:g}: give a number above zero, or 0 for all.")
    if run.state() == "running":
        raise InputError(f"run {run.name!r} is training; wait until it has ended.")
    one_job_at_a_time()
    arguments = ["--attacks", ",".join(attacks)]
    if limit:
        arguments += ["--limit", str(int(limit))]
    _job(run).start(*arguments)
    return f"**{run.name}**: starting ..."


@sentences
def _stop(name: str | None) -> None:
    _job(need_run(name)).stop()


def build(page: gr.Blocks, run_name: gr.Dropdown) -> None:
    gr.Markdown(
        "Both models answer the run's held-out requests, plainly and under attack; the page below says what the "
        "breaker stops, what it breaks that it should not, and what to do next."
    )
    attacks = gr.CheckboxGroup(CHOICES, value=list(DEFAULT_ATTACKS), label="Attacks", elem_id="attacks")
    with gr.Row(elem_classes="beside"):
        limit = gr.Number(0, label="Prompts of each side at most", info="0: all", precision=0, elem_id="limit")
        evaluate = gr.Button("Evaluate", variant="primary", elem_id="evaluate", min_width=120)
        stop = gr.Button("Stop", interactive=False, elem_id="stop-evaluate", min_width=80)
        links = gr.HTML(elem_id="report-files", min_height=30)
    words = gr.Markdown(elem_id="report-words", min_height=30)
    report = gr.HTML(elem_id="report")
    seen = gr.State(None)
    evaluate.click(_start, [run_name, attacks, limit], words)
    stop.click(_stop, run_name, None)
    view = [words, report, evaluate, stop, links, seen]
    for trigger in (gr.Timer(1.0).tick, run_name.change, page.load):
        trigger(_refresh, [run_name, seen], view, show_progress="hidden")
