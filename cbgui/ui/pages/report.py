"""Report: put both models through attacks and read the report. The evaluation is a process of its own."""

from __future__ import annotations

import importlib.util

import gradio as gr

from cbgui.data.catalogue import CATALOGUE
from cbgui.data.examples import write_examples
from cbgui.errors import InputError
from cbgui.evaluation.attacks.registry import ATTACK_TITLES, DEFAULT_ATTACKS, WHITE_BOX, tries
from cbgui.evaluation.compare import compare_reports, is_of_present_adapter, read_report
from cbgui.evaluation.undoing.registry import METHODS
from cbgui.runs import folder
from cbgui.runs.jobs import EVALUATE, Job
from cbgui.runs.run import Run
from cbgui.space import on_space, refuse_folder
from cbgui.ui.common import changes, in_memory, job_words, library, need_run, one_job_at_a_time, pick, sentences
from cbgui.ui.fragments import plain, render
from cbgui.ui.panels import label_answers
from cbgui.ui.server.downloads import address
from cbgui.ui.words import on_page, say

THIS_ONE = ""  # instead of another run's name
TOPIC, PUBLIC = "topic ", "public "  # what a choice of further questions begins with
VIEW = 7  # outputs of `_refresh`
# How thorough a test is -> the attacks that it tries.
THOROUGH = {"quick": ["direct", "prefill"], "usual": list(DEFAULT_ATTACKS)}
THOROUGH["full"] = [name for name in ATTACK_TITLES if name not in WHITE_BOX]  # those can take an hour on a CPU


def _words(run: Run, job: Job) -> str:
    match job.state():
        case "running" | "failed":
            return job_words(job, say("test.the_evaluation"))
        case "stopped":
            return say("test.stopped", name=plain(run.name))
    if run.report_page.is_file():
        return say("test.evaluated", name=plain(run.name), of_another=_of_another_adapter(run))
    return say("test.not_evaluated", name=plain(run.name))


def _of_another_adapter(run: Run) -> str:
    """A warning while the report does not belong to the adapter as it is now, as Markdown."""
    try:
        if is_of_present_adapter(read_report(run), run):
            return ""
    except InputError as error:
        return f" {plain(error)}"
    return say("test.earlier_state")


def _written(run: Run) -> float | None:
    """When the report was written; None when there is none."""
    return run.report_page.stat().st_mtime if run.report_page.is_file() else None


def _frame(run: Run, other: str | None) -> str:
    """HTML: the report, or its comparison with another run's. It holds text of models and data, so its frame runs no
    scripts."""
    if _written(run) is None:
        return ""
    second = pick(other)
    if second is None:
        return render("report", page=run.report_page.read_text("utf-8", errors="replace"))
    try:
        return render("report", page=compare_reports(read_report(run), read_report(second)))
    except InputError as error:
        return render("problem", text=str(error))


def _links(run: Run) -> str:
    files = [run.report_page, run.report_file]
    return render("links", files=[(path.name, address(run, path.parent, path.name)) for path in files])


def _refresh(name: str | None, other: str | None, seen: tuple | None) -> tuple:
    """Update what has changed. `seen` says what the page shows: (run, words, written, other, evaluated)."""
    unchanged = (gr.skip(),) * VIEW
    run = pick(name)
    if run is None:
        off = gr.Button(interactive=False)
        words = say("test.no_run")
        return (words, "", off, off, "", gr.skip(), ()) if seen != () else unchanged
    job, written = Job(run, EVALUATE), _written(run)
    waits = run.state() in ("running", "waiting") or not run.adapter_file.is_file()
    words = say("test.wait", name=plain(run.name)) if waits else _words(run, job)
    evaluated = [r.name for r in folder.list_runs() if r.name != run.name and _written(r) is not None]
    mark = (run.name, words, written, other, evaluated)
    if seen and mark == tuple(seen):
        return unchanged
    running = job.state() == "running"
    seen_name, _, seen_written, seen_other, seen_evaluated = seen or (None,) * 5
    same_report = (seen_name, seen_written, seen_other) == (run.name, written, other)
    others = gr.skip()
    if seen_evaluated != evaluated:
        chosen = other if other in evaluated else THIS_ONE
        others = gr.Dropdown(
            choices=[(say("test.this_one"), THIS_ONE), *evaluated], value=chosen, visible=bool(evaluated)
        )
    return (
        words,
        gr.skip() if same_report else _frame(run, other),
        gr.Button(interactive=not running and not waits),
        gr.Button(interactive=running),
        _links(run) if written else "",
        others,
        mark,
    )


def _how_much(name: str | None, attacks: list[str], limit: float | None, undoing: list[str]) -> str:
    """How many answers the chosen test takes, and how long that will be if an earlier report tells."""
    run = pick(name)
    if run is None or not attacks or (limit or 0) < 0:
        return ""
    most = int(limit or 0) or None
    held_out = run.examples("held_out")
    stop = len([e for e in held_out if e.kind == "break"][:most])
    keep = len([e for e in held_out if e.kind != "break"][:most])
    answers = 2 * (stop * sum(map(tries, attacks)) + keep)
    asked = say("test.asked", stop=stop, attacks=len(attacks), keep=keep)
    words = say("test.how_much", answers=answers, asked=asked) + (say("test.and_undoing") if undoing else "")
    try:
        past = read_report(run)
    except InputError:
        past = {}
    if "seconds" not in past:
        return words + "."
    taken = 2 * (
        past["held_out"]["break"] * sum(tries(a["name"]) for a in past["attacks"]) + past["held_out"]["retain"]
    )
    past_undoing = past.get("undoing_seconds") or 0
    if undoing and not past_undoing:  # nothing tells how long that takes
        return words + "."
    minutes = ((past["seconds"] - past_undoing) * answers / max(taken, 1) + (past_undoing if undoing else 0)) / 60
    return say("test.how_long", words=words, minutes=max(1, round(minutes)))


def _other_prompts() -> gr.Dropdown:
    """What else can be asked: the topics of the Topic page, and the public sets."""
    topics = [(say("test.of_topic", name=name), TOPIC + name) for name in library().names()]
    public = [(say("test.of_public", name=entry.title), PUBLIC + entry.title) for entry in CATALOGUE]
    return gr.Dropdown(choices=topics + public)


def _prompts_of(choice: str, run: Run) -> str:
    """What `--also` takes for a choice. A topic's rows are copied next to the report, as they are now.

    Raises InputError.
    """
    if choice.startswith(PUBLIC):
        return choice.removeprefix(PUBLIC)
    data = library().open(choice.removeprefix(TOPIC))
    examples = [row.example for row in data.rows()]
    if not examples:
        raise InputError(say("test.topic_empty", name=f"{data.name!r}"))
    path = run.report_prompts_file(data.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_examples(path, examples)
    return str(path)


@sentences
def _start(
    name: str | None,
    attacks: list[str],
    limit: float | None,
    also: list[str],
    judge: str,
    judge_label: str,
    judge_template: str,
    tasks: str,
    undoing: list[str],
) -> str:
    run = need_run(name)
    run.need_adapter()
    if not attacks:
        raise InputError(say("test.no_attack"))
    if (limit or 0) < 0:
        raise InputError(say("test.most_questions_wrong", limit=f"{limit:g}"))
    if run.state() == "running":
        raise InputError(say("test.still_training", name=f"{run.name!r}"))
    texts = {"judge": judge, "judge-label": judge_label, "judge-template": judge_template, "tasks": tasks}
    options = {option: text.strip() for option, text in texts.items() if (text or "").strip()}
    if "judge-template" in options:
        refuse_folder(say("test.template_file"), options["judge-template"])
    if "judge" not in options and options.keys() & {"judge-label", "judge-template"}:
        raise InputError(say("test.classifier_empty"))
    one_job_at_a_time()
    arguments = ["--attacks", ",".join(attacks)]
    if limit:
        arguments += ["--limit", str(int(limit))]
    for choice in also or []:
        arguments += ["--also", _prompts_of(choice, run)]
    if undoing:
        arguments += ["--undo", ",".join(undoing)]
    for option, text in options.items():
        arguments += [f"--{option}", text]
    in_memory.drop()  # makes room for the evaluation
    Job(run, EVALUATE).start(*arguments)
    return say("common.starting", name=plain(run.name))


@sentences
def _stop(name: str | None) -> None:
    Job(need_run(name), EVALUATE).stop()


def build(page: gr.Blocks, tick: gr.Timer, run_name: gr.Dropdown) -> None:
    gr.Markdown(on_page("test.about"))
    with gr.Row(elem_classes="aligned"):
        thorough = gr.Radio(
            [(on_page(f"test.{name}"), name) for name in THOROUGH],
            value="usual",
            label=on_page("test.how_thorough"),
            elem_id="thorough",
            min_width=340,
        )
        evaluate = gr.Button(on_page("test.evaluate"), variant="primary", elem_id="evaluate", min_width=120)
        stop = gr.Button(on_page("common.stop"), interactive=False, elem_id="stop-evaluate", min_width=80)
        links = gr.HTML(elem_id="report-files", min_height=30)
    how_much = gr.Markdown(elem_id="how-much", min_height=26)
    with gr.Accordion(on_page("test.details"), open=False, elem_id="more-prompts"):
        titles = [(title, name) for name, title in ATTACK_TITLES.items()]
        attacks = gr.CheckboxGroup(
            titles, value=list(DEFAULT_ATTACKS), label=on_page("test.attacks"), elem_id="attacks"
        )
        limit = gr.Number(
            0, label=on_page("test.most_questions"), info=on_page("common.zero_all"), precision=0, elem_id="limit"
        )
        also = gr.Dropdown(
            [],
            multiselect=True,
            label=on_page("test.also"),
            info=on_page("test.also_info"),
            elem_id="also",
            min_width=300,
        )
        with gr.Row(elem_classes="aligned"):
            judge = gr.Textbox(
                label=on_page("test.classifier"),
                info=on_page("test.classifier_info"),
                placeholder=on_page("test.classifier_none"),
                elem_id="judge",
                min_width=300,
            )
            judge_label = gr.Textbox(
                label=on_page("test.label"),
                info=on_page("test.label_info"),
                placeholder=on_page("test.label_detected"),
                elem_id="judge-label",
                min_width=240,
            )
            judge_template = gr.Textbox(
                label=on_page("test.template"),
                info=on_page("test.template_info"),
                placeholder=on_page("test.template_own"),
                visible=not on_space(),
                elem_id="judge-template",
                min_width=240,
            )
            tasks = gr.Textbox(
                label=on_page("test.tasks"),
                info=on_page("test.tasks_info"),
                placeholder=on_page("test.no_tasks"),
                visible=importlib.util.find_spec("lm_eval") is not None,
                elem_id="tasks",
                min_width=200,
            )
        undoing = gr.CheckboxGroup(
            [(title, name) for name, title in METHODS.items()],
            label=on_page("test.undo"),
            info=on_page("test.undo_info"),
            elem_id="undoing",
        )
    words = gr.Markdown(elem_id="report-words", min_height=30)
    other = gr.Dropdown(
        [(on_page("test.this_one"), THIS_ONE)],
        value=THIS_ONE,
        label=on_page("test.compare"),
        visible=False,
        elem_id="compare-reports",
        min_width=200,
    )
    report = gr.HTML(elem_id="report")
    label_answers.build(run_name)
    seen = gr.State(None)
    evaluate.click(_start, [run_name, attacks, limit, also, judge, judge_label, judge_template, tasks, undoing], words)
    stop.click(_stop, run_name, None)
    thorough.input(THOROUGH.get, thorough, attacks, show_progress="hidden")
    for trigger in (attacks.change, limit.change, undoing.change, changes(run_name), words.change, page.load):
        trigger(_how_much, [run_name, attacks, limit, undoing], how_much, show_progress="hidden", queue=False)
    view = [words, report, evaluate, stop, links, other, seen]
    for trigger in (tick.tick, changes(run_name), other.input, page.load):
        trigger(_refresh, [run_name, other, seen], view, show_progress="hidden", queue=False)
    for trigger in (page.load, also.focus):
        trigger(_other_prompts, None, also, show_progress="hidden")
