"""Answers written by the model: the panel with all choices, and the offer that follows rows without an answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import gradio as gr

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.data.dataset_store import DatasetStore, Row
from cbgui.data.refusals import is_refusal
from cbgui.errors import InputError
from cbgui.inference import batch_answers
from cbgui.ui.common import in_memory, sentences, shown_topic
from cbgui.ui.words import on_page, say

UPDATE_SECONDS = 1.0  # between two sentences about how far the writing is
LONGEST = 120  # tokens of an answer
WITHOUT_ANSWER = "without_answer"
SCOPES = {WITHOUT_ANSWER: None, "all_stop": "break", "all_keep": "retain"}
ONE_AT_A_TIME = {"concurrency_id": "write answers", "concurrency_limit": 1}  # whichever button it was


@sentences
def _write(version: tuple, model: str, scope: str, prefill: str, longest: float) -> Iterator[tuple]:
    """Let the model write the answers; what is written is on disk every second."""
    data = shown_topic(version)
    rows = [row for row in data.rows() if _in_scope(row, SCOPES[scope])]
    if not rows:
        raise InputError(say("write.no_such_rows", scope=repr(say(f"write.{scope}"))))
    with closing(write_rows(data, rows, model, prefill=prefill, longest=int(longest))) as writing:
        for words, changed in writing:
            yield words, data.version() if changed else gr.skip()


def write_rows(
    data: DatasetStore,
    rows: list[Row],
    model: str,
    *,
    prefill: str = "",
    longest: int = LONGEST,
    count_refusals: bool = True,
) -> Iterator[tuple[str, bool]]:
    """Let the model write the answers of `rows`; yield how far it is in words, and whether rows have changed.

    `count_refusals`: the words say how many answers that must stop are refusals, and what to do about these. Closing
    the iterator stops. Raises InputError.
    """
    in_memory.drop()  # makes room for the model that writes
    yield say("write.loading", count=len(rows)), False
    refusals, done, new, shown = 0, 0, {}, time.perf_counter()
    prompts = [row.example.chat() for row in rows]
    config = ModelConfig(name=model.strip() or "demo")

    def save() -> None:
        answers = dict(new)
        new.clear()
        if answers:
            data.update(
                answers,
                lambda row: replace(row, example=replace(row.example, response=answers[row.id])),
                "write answers",
                join=True,
            )

    writing = batch_answers.write_answers(config, prompts, prefill=prefill, max_new_tokens=longest)
    try:
        for share, answers in writing:
            new |= {rows[number].id: answer for number, answer in answers.items()}
            done += len(answers)
            refusals += sum(is_refusal(a) and rows[number].example.kind == "break" for number, a in answers.items())
            if done < len(rows) and time.perf_counter() - shown < UPDATE_SECONDS:
                continue
            shown = time.perf_counter()
            changed = bool(new)
            save()
            refused = say("write.refusals", count=refusals) * bool(refusals and count_refusals)
            ending = say("write.all_written") if done == len(rows) else say("write.share", share=f"{share:.0%}")
            yield say("write.so_far", done=done, count=len(rows), ending=ending, refused=refused), changed
    finally:  # also when the user stops it
        save()
        writing.close()  # frees the model
        hardware.free_cached_memory()


def _in_scope(row: Row, part: str | None) -> bool:
    if part is None:
        return not row.example.response.strip()
    return not row.held_out and (row.example.kind == "break") == (part == "break")


def _write_missing(version: tuple, model: str) -> Iterator[tuple]:
    yield from _write(version, model, WITHOUT_ANSWER, "", LONGEST)


def offer(version: gr.State, model: gr.Textbox, name: str) -> gr.Column:
    """A hidden button that writes the missing answers; show it where rows without an answer were added."""
    with gr.Column(visible=False, elem_id=f"{name}-offer") as offered:
        with gr.Row():
            write = gr.Button(
                on_page("common.write_answers"), variant="primary", elem_id=f"{name}-write", min_width=160
            )
            stop = gr.Button(on_page("common.stop"), elem_id=f"{name}-stop-writing", min_width=100)
        words = gr.Markdown(elem_id=f"{name}-written")
    writing = write.click(_write_missing, [version, model], [words, version], **ONE_AT_A_TIME)
    stop.click(lambda: say("write.stopped"), None, words, cancels=[writing])
    return offered


def build(version: gr.State, model: gr.Textbox) -> gr.Accordion:
    """The panel with all choices."""
    with gr.Accordion(on_page("common.write_answers"), open=False, elem_id="write") as panel:
        gr.Markdown(on_page("write.about"))
        with gr.Row():
            scope = gr.Dropdown(
                [(on_page(f"write.{scope}"), scope) for scope in SCOPES],
                value=WITHOUT_ANSWER,
                label=on_page("write.for"),
                min_width=180,
            )
            prefill = gr.Textbox(label=on_page("write.begin"), placeholder=on_page("write.nothing"), min_width=180)
            tokens = gr.Number(
                label=on_page("common.most_tokens"), value=LONGEST, precision=0, minimum=8, min_width=100
            )
        with gr.Row():
            write = gr.Button(on_page("common.write_answers"), variant="primary", elem_id="write-answers")
            stop = gr.Button(on_page("common.stop"))
        written = gr.Markdown(elem_id="write-words")
    writing = write.click(_write, [version, model, scope, prefill, tokens], [written, version], **ONE_AT_A_TIME)
    stop.click(lambda: say("write.stopped"), None, written, cancels=[writing])
    return panel
