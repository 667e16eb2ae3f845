"""Judge some answers of a report yourself, to see how far its rules can be trusted."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cbgui.errors import InputError
from cbgui.evaluation.compare import read_report
from cbgui.evaluation.hand_labels import label, labels_of
from cbgui.ui.common import changes, need_run, pick, sentences
from cbgui.ui.fragments import plain
from cbgui.ui.words import on_page, say

SAID = ("answered", "refused", "derailed")
Shown = tuple[str, str, int] | None  # run, when its report was made, number of the answer on the page


def _report(name: str | None) -> dict[str, Any] | None:
    run = pick(name)
    try:
        report = read_report(run) if run else None
    except InputError:
        return None
    return report if report and report.get("to_label") else None


def _agreement(report: dict[str, Any]) -> str:
    known = report.get("by_hand")
    if not known or not known["of"]:
        return ""
    kappa = "" if known["kappa"] is None else say("judge.kappa", kappa=format(known["kappa"], ".2f"))
    return say("judge.agreement", same=known["same"], of=known["of"], kappa=kappa)


def _page(report: dict[str, Any], said: list[str | None], number: int) -> tuple:
    """The answer `number`; past the last one, only how far the two judges agree."""
    total, judged = len(said), sum(one is not None for one in said)
    if number >= total:
        words = say("judge.finished", judged=judged, total=total, agreement=_agreement(report))
        return (None, words, gr.Textbox(visible=False), gr.Textbox(visible=False), *_buttons(False))
    one = report["to_label"][number]
    words = say("judge.number", number=number + 1, total=total, judged=judged, agreement=_agreement(report))
    shown = (report["run"], report["created"], number)
    return (
        shown,
        words,
        gr.Textbox(one["prompt"], visible=True),
        gr.Textbox(one["answer"] or say("judge.nothing"), visible=True),
        *_buttons(True),
    )


def _buttons(active: bool) -> list[gr.Button]:
    return [gr.Button(interactive=active) for _ in (*SAID, "skip")]


def _next(said: list[str | None], after: int = -1) -> int:
    """The next answer that was not judged yet, from the one after `after` on."""
    return next((number for number in range(after + 1, len(said)) if said[number] is None), len(said))


@sentences
def open_first(name: str | None) -> tuple:
    """The first answer that was not judged yet."""
    report = _report(name)
    if report is None:
        words = say("judge.no_report")
        return (None, words, gr.Textbox(visible=False), gr.Textbox(visible=False), *_buttons(False))
    said = labels_of(need_run(name), report)
    return _page(report, said, _next(said))


@sentences
def judge(name: str | None, shown: Shown, said: str | None) -> tuple:
    """Keep what the person says (None skips), and go on to the next answer."""
    run, report = need_run(name), _report(name)
    if shown is None or report is None or (report["run"], report["created"]) != tuple(shown[:2]):
        raise InputError(say("judge.other_report", name=f"{plain(run.name)!r}"))
    if said is not None:
        report = label(run, shown[2], said)
    known = labels_of(run, report)
    return _page(report, known, _next(known, shown[2]))


def build(run_name: gr.Dropdown) -> None:
    with gr.Accordion(on_page("judge.heading"), open=False, elem_id="label-answers") as fold:
        gr.Markdown(on_page("judge.about"))
        words = gr.Markdown(elem_id="label-words", min_height=26)
        question = gr.Textbox(
            label=on_page("common.question"), interactive=False, visible=False, elem_id="label-question"
        )
        answer = gr.Textbox(
            label=on_page("common.answer"), interactive=False, visible=False, lines=3, elem_id="label-answer"
        )
        with gr.Row(elem_classes="aligned"):
            buttons = [
                gr.Button(on_page(f"judge.{said}"), interactive=False, size="sm", min_width=150) for said in SAID
            ]
            skip = gr.Button(on_page("judge.skip"), interactive=False, size="sm", min_width=90, elem_id="label-skip")
    shown = gr.State(None)
    view = [shown, words, question, answer, *buttons, skip]
    fold.expand(open_first, run_name, view, show_progress="hidden")
    changes(run_name)(open_first, run_name, view, show_progress="hidden", queue=False)
    for button, said in zip([*buttons, skip], [*SAID, None], strict=True):
        button.click(judge, [run_name, shown, gr.State(said)], view, show_progress="hidden")
