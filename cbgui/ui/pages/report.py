"""Report: put both models through attacks and read the page about it. The work is a process of its own."""

from __future__ import annotations

import html
import importlib.util
from pathlib import Path

import gradio as gr

from cbgui.data.catalogue import CATALOGUE
from cbgui.data.examples import write_examples
from cbgui.errors import InputError
from cbgui.evaluation.attacks.registry import ATTACK_TITLES, DEFAULT_ATTACKS
from cbgui.evaluation.compare import compare_reports, read_report
from cbgui.runs import folder
from cbgui.runs.jobs import Job
from cbgui.runs.run import Run
from cbgui.ui.common import TICK, in_memory, job_words, library, need_run, one_job_at_a_time, pick, sentences
from cbgui.ui.server.downloads import link

CHOICES = [(title, name) for name, title in ATTACK_TITLES.items()]
THIS_ONE = "(this report alone)"
PUBLIC = {f"public: {entry.title}": entry.title for entry in CATALOGUE}


def _job(run: Run) -> Job:
    return Job(run, "evaluate")


def _words(run: Run, job: Job) -> str:
    match job.state():
        case "running" | "failed":
            return job_words(job, "the evaluation")
        case "stopped":
            return f"**{run.name}**: stopped; what was answered is kept. Press Evaluate to go on."
    if run.report_page.is_file():
        return f"**{run.name}**: evaluated."
    return f"**{run.name}** is not evaluated yet. Press **Evaluate**; the demo takes some minutes on a CPU."


def _written(run: Run) -> float | None:
    page = run.report_page
    return page.stat().st_mtime if page.is_file() else None


def _frame(run: Run, other: str | None) -> str:
    """The report, or its comparison with another run's, in a frame of its own, without scripts: its text comes from
    models and data."""
    if _written(run) is None:
        return ""
    second = pick(other)
    if second is None:
        page = run.report_page.read_text("utf-8")
    else:
        try:
            page = compare_reports(read_report(run), read_report(second))
        except InputError as error:
            return f"<p>{html.escape(str(error))}</p>"
    return f'<iframe title="Report" sandbox="" srcdoc="{html.escape(page)}"></iframe>'


def _refresh(name: str | None, other: str | None, seen: tuple | None) -> tuple:
    run = pick(name)
    if run is None:
        words = "No run yet. Train one first; then this page says how well it holds."
        return (words, "", gr.Button(interactive=False), gr.Button(interactive=False), "", gr.skip(), ())
    job, written = _job(run), _written(run)
    words = _words(run, job)
    evaluated = [r.name for r in folder.list_runs() if r.name != run.name and _written(r) is not None]
    mark = (run.name, words, written, other, evaluated)
    if mark == seen:
        return (gr.skip(),) * 7
    running = job.state() == "running"
    before = seen or (None,) * 5
    shown = gr.skip() if before[:1] + before[2:4] == (run.name, written, other) else _frame(run, other)
    others = gr.skip()
    if before[4] != evaluated:
        others = gr.Dropdown(choices=[THIS_ONE, *evaluated], value=other if other in evaluated else THIS_ONE)
    links = " ".join(link(run, "report", name, name) for name in ("report.html", "report.json")) if written else ""
    return (words, shown, gr.Button(interactive=not running), gr.Button(interactive=running), links, others, mark)


def _other_prompts() -> list[str]:
    """What else can be asked: the data sets of the Data page, and the public sets."""
    return [f"data set: {name}" for name in library().names()] + list(PUBLIC)


def _prompts_of(choice: str, run: Run) -> str:
    """The argument for one of them; a data set's rows are copied beside the report, as they are now."""
    if choice in PUBLIC:
        return PUBLIC[choice]
    name = choice.removeprefix("data set: ")
    examples = [row.example for row in library().open(name).rows()]
    if not examples:
        raise InputError(f"other prompts: data set {name!r} has no rows; choose another, or add some on the Data page.")
    path = run.report_folder / "prompts" / f"{Path(name).name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_examples(path, examples)
    return str(path)


@sentences
def _start(name: str | None, attacks: list[str], limit: float | None, also: list[str], judge: str, tasks: str) -> str:
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
    for choice in also or []:
        arguments += ["--also", _prompts_of(choice, run)]
    if (judge or "").strip():
        arguments += ["--judge", judge.strip()]
    if (tasks or "").strip():
        arguments += ["--tasks", tasks.strip()]
    in_memory.drop()  # the chat's weights make room
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
    with gr.Accordion("More prompts, a classifier", open=False, elem_id="more-prompts"):
        with gr.Row(elem_classes="beside"):
            also = gr.Dropdown(
                [],
                multiselect=True,
                label="Other prompts too",
                info="data sets of the Data page, and public sets; 200 prompts of each side at most",
                elem_id="also",
                min_width=300,
            )
            judge = gr.Textbox(
                label="Classifier",
                info="a hub id or folder: HarmBench's, Llama Guard, StrongREJECT's, or one with a label for unsafe",
                placeholder="none: our own rules alone",
                elem_id="judge",
                min_width=300,
            )
            tasks = gr.Textbox(
                label="Tasks of lm-eval",
                info="with commas between, such as hellaswag,arc_easy",
                placeholder="none",
                visible=importlib.util.find_spec("lm_eval") is not None,
                elem_id="tasks",
                min_width=200,
            )
    words = gr.Markdown(elem_id="report-words", min_height=30)
    other = gr.Dropdown([THIS_ONE], value=THIS_ONE, label="Compare with", elem_id="compare-reports", min_width=200)
    report = gr.HTML(elem_id="report")
    seen = gr.State(None)
    evaluate.click(_start, [run_name, attacks, limit, also, judge, tasks], words)
    stop.click(_stop, run_name, None)
    view = [words, report, evaluate, stop, links, other, seen]
    for trigger in (gr.Timer(TICK).tick, run_name.change, other.input, page.load):
        trigger(_refresh, [run_name, other, seen], view, show_progress="hidden", queue=False)
    for trigger in (page.load, also.focus):
        trigger(lambda: gr.Dropdown(choices=_other_prompts()), None, also, show_progress="hidden")
