"""Checks of the topic, each with its fix; lengths in tokens; answers written by the model."""

from __future__ import annotations

import time
from dataclasses import replace

import gradio as gr
import numpy as np
import pandas as pd

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.data import checks
from cbgui.data.dataset_store import Row
from cbgui.data.refusals import is_refusal
from cbgui.errors import InputError
from cbgui.inference import batch_answers
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.ui.common import in_memory, sentences, shown_topic
from cbgui.ui.fragments import plain

Found = tuple[list[checks.Finding], tuple]  # with the version of the topic that was checked
NOTHING: Found = ([], ())
MAX_TOKENS = 512
UPDATE_SECONDS = 1.0  # between two sentences about how far the writing is
SAMPLE_ROWS = 2000  # whose tokens are counted
BAR_WIDTHS, MOST_BARS = (5, 10, 25, 50, 100, 250, 1000, 10**6), 24  # of the histogram, in tokens
SCOPES = {"rows without an answer": None, "all rows that must stop": "break", "all rows that must be kept": "retain"}
CHECK_NAMES = {
    "no answer": "empty",
    "refusals that must stop": "refusing",
    "on both sides": "both_sides",
    "copies": "duplicate",
    "nearly the same": "near_duplicate",
    "held out, but in training": "leak",
    "too long": "too_long",
    "might be look-alikes": "no_near_misses",
    "begin the same way": "forms",
}


def _summary(findings: list[checks.Finding]) -> str:
    if not findings:
        return "**All checks passed.**"
    return "1 thing to look at." if len(findings) == 1 else f"{len(findings)} things to look at."


@sentences
def _check(version: tuple, max_tokens: float):
    data = shown_topic(version)
    yield NOTHING, "Checking ..."
    counts = data.counts()
    found = checks.run_checks(data, max_tokens=int(max_tokens or MAX_TOKENS))
    is_empty = not counts["break"] + counts["retain"] + counts["held_out"]
    yield (found, data.version()), "There are no rows yet; add some above." if is_empty else _summary(found)


def _forget_if_changed(version: tuple, found: Found) -> tuple:
    """Findings name the rows that were checked, so they are cleared when the rows change."""
    if not found[0] or found[1] == shown_topic(version).version():
        return gr.skip(), gr.skip()
    return NOTHING, "The rows have changed since the check; check again."


@sentences
def _histogram(version: tuple, model: str):
    rows = shown_topic(version).table()
    if not len(rows):
        raise InputError("this topic is empty; add rows first.")
    tokenizer = load_tokenizer(resolve_model(model.strip() or "demo", weights=False))
    rows = rows.sample(min(len(rows), SAMPLE_ROWS), random_state=0)
    texts = [f"{prompt}\n{response}" for prompt, response in zip(rows.prompt, rows.response, strict=True)]
    tokens = np.array([len(ids) for ids in tokenizer(texts).input_ids])
    part = np.where(rows.held_out == 1, "held out", np.where(rows.kind == "break", "must stop", "must keep"))
    width = next(width for width in BAR_WIDTHS if tokens.max() / width <= MOST_BARS)
    table = pd.DataFrame({"tokens": tokens // width * width, "part": part})
    table = table.groupby(["tokens", "part"]).size().reset_index(name="rows")
    return gr.BarPlot(value=table, visible=True, title=f"Tokens of {len(rows):,} rows, question and answer together")


@sentences
def _write(version: tuple, model: str, scope: str, prefill: str, longest: float):
    """Let the model write the answers; what is written is on disk every second."""
    data = shown_topic(version)
    rows = [row for row in data.rows() if _in_scope(row, SCOPES[scope])]
    if not rows:
        raise InputError(f"answers for = {scope!r}: there are no such rows; choose others or add some.")
    in_memory.drop()  # makes room for the model that writes
    yield f"Loading the model to write {len(rows):,} answers ...", gr.skip()
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

    writing = batch_answers.write_answers(config, prompts, prefill=prefill, max_new_tokens=int(longest))
    try:
        for share, answers in writing:
            new |= {rows[number].id: answer for number, answer in answers.items()}
            done += len(answers)
            refusals += sum(is_refusal(a) and rows[number].example.kind == "break" for number, a in answers.items())
            if done < len(rows) and time.perf_counter() - shown < UPDATE_SECONDS:
                continue
            shown = time.perf_counter()
            now = gr.skip()
            if new:
                save()
                now = data.version()
            refused = f" {refusals} answers that must stop are refusals: see Checks, or use a prefill." * bool(refusals)
            ending = "**All written.**" if done == len(rows) else f"{share:.0%} done. Stop keeps what is written."
            yield f"{done:,} of {len(rows):,} answers written. {ending}{refused}", now
    finally:  # also when the user stops it
        save()
        writing.close()  # frees the model
        hardware.free_cached_memory()


def _in_scope(row: Row, part: str | None) -> bool:
    if part is None:
        return not row.example.response.strip()
    return not row.held_out and (row.example.kind == "break") == (part == "break")


def _finding_row(item: checks.Finding, checked: tuple, max_tokens: float, outputs: list, check_filter: gr.Dropdown):
    """One finding with its buttons."""

    @sentences
    def fix():
        data = shown_topic(checked)
        if data.version() != checked:
            raise InputError("the rows have changed since the check; check again.")
        yield gr.skip(), f"{item.fix} ...", gr.skip()
        done = checks.fix(data, item, max_tokens=int(max_tokens))
        yield NOTHING, f"{plain(done)} Checking again ...", data.version()
        rest = checks.run_checks(data, max_tokens=int(max_tokens))
        yield (rest, data.version()), f"{plain(done)} {_summary(rest)}", gr.skip()

    with gr.Row(elem_classes="finding"):
        gr.Markdown(f"**{plain(item.title)}.** {plain(item.why)}", min_width=260)
        with gr.Column(scale=0, min_width=230):
            if item.ids:
                show = gr.Button("Show the rows", size="sm", elem_id=f"show-{item.check}")
                show.click(lambda: item.check, None, check_filter)
            if item.fix:
                gr.Button(item.fix, size="sm", elem_id=f"fix-{item.check}").click(fix, None, outputs)


def build(version: gr.State, model: gr.Textbox, check_filter: gr.Dropdown) -> None:
    found = gr.State(NOTHING)
    with gr.Accordion("Checks", open=False, elem_id="checks"):
        with gr.Row(elem_classes="aligned"):
            run = gr.Button("Check the data", variant="primary", elem_id="run-checks", min_width=140)
            longest = gr.Number(
                label="Most tokens",
                value=MAX_TOKENS,
                precision=0,
                minimum=16,
                min_width=160,
                scale=0,
                elem_id="check-tokens",
            )
        words = gr.Markdown(elem_id="checks-words")

        @gr.render(inputs=[found, longest], triggers=[found.change])
        def findings(found_now: Found, max_tokens: float) -> None:
            items, checked = found_now
            for item in items:
                _finding_row(item, checked, max_tokens or MAX_TOKENS, [found, words, version], check_filter)

        with gr.Row():
            lengths = gr.Button("Lengths in tokens of the model", size="sm", elem_id="lengths")
        plot = gr.BarPlot(x="tokens", y="rows", color="part", visible=False, height=240, elem_id="histogram")
    with gr.Accordion("Write the answers", open=False, elem_id="write"):
        gr.Markdown(
            "The model of the Train page writes the answers. An answer that must stop should be one that the model "
            "would really give. Where it refuses, a prefill such as *Sure, here is how* makes it go on."
        )
        with gr.Row():
            scope = gr.Dropdown(list(SCOPES), value=next(iter(SCOPES)), label="For", min_width=180)
            prefill = gr.Textbox(label="Begin each answer with", placeholder="nothing", min_width=180)
            tokens = gr.Number(label="Most tokens", value=120, precision=0, minimum=8, min_width=100)
        with gr.Row():
            write = gr.Button("Write the answers", variant="primary", elem_id="write-answers")
            stop = gr.Button("Stop")
        written = gr.Markdown(elem_id="write-words")
    run.click(_check, [version, longest], [found, words], concurrency_limit=1)
    version.change(_forget_if_changed, [version, found], [found, words], show_progress="hidden")
    lengths.click(_histogram, [version, model], plot)
    writing = write.click(_write, [version, model, scope, prefill, tokens], [written, version], concurrency_limit=1)
    stop.click(lambda: "Stopped; what was written is kept.", None, written, cancels=[writing])
