"""Checks of the data set, each with its mend; lengths in tokens; answers written by the model."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.data import checks
from cbgui.data.refusals import is_refusal
from cbgui.errors import InputError
from cbgui.inference import batch_answers
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.ui.common import in_memory, library, sentences

Found = tuple[list[checks.Finding], tuple]  # and the version of the data set they were made from
NOTHING: Found = ([], ())
EVERY = 1.0  # seconds between two words about how far the writing is
SAMPLE = 2000  # rows whose tokens are counted
SCOPES = {"rows without an answer": None, "all Break rows": "break", "all Keep rows": "retain"}


@sentences
def _check(max_tokens: float):
    data = library().current()
    yield NOTHING, "Checking ...", gr.skip()
    counts = data.counts()
    found = checks.run_checks(data, max_tokens=int(max_tokens or 512))
    words = f"{len(found)} things to look at." if found else "**Nothing to mend.** All checks passed."
    if not counts["break"] + counts["retain"] + counts["held_out"]:
        words = "There are no rows yet; add some above."
    yield (found, data.version()), words, gr.skip()


def _still(found: Found) -> tuple:
    """Findings speak of the rows they were made from; when these have changed, they go."""
    data = library().current()
    if not found[0] or found[1] == data.version():
        return gr.skip(), gr.skip()
    return NOTHING, "The data has changed since the check; check again."


@sentences
def _histogram(model: str):
    data = library().current()
    rows = data.table()
    if not len(rows):
        raise InputError("the data set is empty; add rows first.")
    tokenizer = load_tokenizer(resolve_model(model.strip() or "demo", weights=False))
    rows = rows.sample(min(len(rows), SAMPLE), random_state=0)
    tokens = [
        len(ids) for ids in tokenizer([f"{q}\n{a}" for q, a in zip(rows.prompt, rows.response, strict=True)]).input_ids
    ]
    side = np.where(rows.held_out == 1, "held out", np.where(rows.kind == "break", "Break", "Keep"))
    widest = max(tokens)
    width = next(w for w in (5, 10, 25, 50, 100, 250, 1000, 10**6) if widest / w <= 24)
    table = pd.DataFrame({"tokens": (np.array(tokens) // width) * width, "set": side})
    table = table.groupby(["tokens", "set"]).size().reset_index(name="rows")
    return gr.BarPlot(value=table, visible=True, title=f"Tokens of {len(rows):,} rows, request and answer together")


@sentences
def _write(model: str, scope: str, prefill: str, longest: float):
    data = library().current()
    rows = [row for row in data.rows() if _in_scope(row, SCOPES[scope])]
    if not rows:
        raise InputError(f"answers for = {scope!r}: there is no such row.")
    in_memory.drop()  # the chat's weights make room for these
    yield f"Loading the model to write {len(rows):,} answers ...", gr.skip()
    refusals, done, new, shown = 0, 0, {}, time.perf_counter()
    requests = [row.example.chat() for row in rows]
    config = ModelConfig(name=model.strip() or "demo")

    def keep() -> None:
        answers = dict(new)
        new.clear()
        if answers:
            data.update(
                answers,
                lambda row: replace(row, example=replace(row.example, response=answers[row.id])),
                "write answers",
                join=True,
            )

    writing = batch_answers.write_answers(config, requests, prefill=prefill, max_new_tokens=int(longest))
    try:
        for share, answers in writing:
            new |= {rows[number].id: answer for number, answer in answers.items()}
            done += len(answers)
            refusals += sum(is_refusal(a) and rows[number].example.kind == "break" for number, a in answers.items())
            if done < len(rows) and time.perf_counter() - shown < EVERY:
                continue
            shown = time.perf_counter()
            version = gr.skip()
            if new:
                keep()
                version = data.version()
            flagged = f" {refusals} Break answers are refusals: see Checks, or use a prefill." if refusals else ""
            ending = "**All written.**" if done == len(rows) else f"{share:.0%} done. Stop keeps what is written."
            yield f"{done:,} of {len(rows):,} answers written. {ending}{flagged}", version
    finally:  # a stop may come between
        keep()
        writing.close()  # and with it the model goes
        hardware.free_cached_memory()


def _in_scope(row: Any, part: str | None) -> bool:
    if part is None:
        return not row.example.response.strip()
    return not row.held_out and (row.example.kind == "break") == (part == "break")


def build(version: gr.State, model: gr.Textbox, check_filter: gr.Dropdown) -> None:
    found = gr.State(NOTHING)
    with gr.Accordion("Checks", open=False, elem_id="checks"):
        with gr.Row(elem_classes="beside"):
            run = gr.Button("Check the data", variant="primary", elem_id="run-checks", min_width=140)
            longest = gr.Number(label="Tokens at most", value=512, precision=0, minimum=16, min_width=160, scale=0)
        words = gr.Markdown(elem_id="checks-words")

        @gr.render(inputs=[found, longest], triggers=[found.change])
        def findings(found_now: Found, max_tokens: float) -> None:
            items, checked = found_now
            for item in items:
                with gr.Row(elem_classes="finding"):
                    gr.Markdown(f"**{item.title}.** {item.why}", min_width=260)
                    with gr.Column(scale=0, min_width=230):
                        if item.ids:
                            show = gr.Button("Show the rows", size="sm", elem_id=f"show-{item.check}")
                            show.click(lambda item=item: item.check, None, check_filter)
                        if item.mend:
                            button = gr.Button(item.mend, size="sm", elem_id=f"mend-{item.check}")

                            @sentences
                            def mend(item: checks.Finding = item, max_tokens: float = max_tokens, checked=checked):
                                data = library().current()
                                if data.version() != checked:
                                    raise InputError("the data has changed since the check; check again.")
                                yield gr.skip(), f"{item.mend} ...", gr.skip()
                                done = checks.mend(data, item, max_tokens=int(max_tokens))
                                yield NOTHING, f"{done} Checking again ...", data.version()
                                rest = checks.run_checks(data, max_tokens=int(max_tokens))
                                words = f"{len(rest)} things to look at." if rest else "**Nothing to mend.**"
                                yield (rest, data.version()), f"{done} {words}", gr.skip()

                            button.click(mend, None, [found, words, version])

        with gr.Row():
            lengths = gr.Button("Lengths in tokens of the model", size="sm", elem_id="lengths")
        plot = gr.BarPlot(x="tokens", y="rows", color="set", visible=False, height=240, elem_id="histogram")
    with gr.Accordion("Write the answers", open=False, elem_id="write"):
        gr.Markdown(
            "The model of the Train page writes the answers. A break answer should be one the model would really give: "
            "where it refuses, a prefill such as *Sure, here is how* makes it go on."
        )
        with gr.Row():
            scope = gr.Dropdown(list(SCOPES), value=next(iter(SCOPES)), label="For", min_width=180)
            prefill = gr.Textbox(label="Begin each answer with", placeholder="nothing", min_width=180)
            tokens = gr.Number(label="Tokens at most", value=120, precision=0, minimum=8, min_width=100)
        with gr.Row():
            write = gr.Button("Write the answers", variant="primary", elem_id="write-answers")
            stop = gr.Button("Stop")
        written = gr.Markdown(elem_id="write-words")
    run.click(_check, longest, [found, words, version], concurrency_limit=1)
    version.change(_still, found, [found, words], show_progress="hidden")
    lengths.click(_histogram, model, plot)
    writing = write.click(_write, [model, scope, prefill, tokens], [written, version], concurrency_limit=1)
    stop.click(lambda: "Stopped; what was written is kept.", None, written, cancels=[writing])


CHECK_NAMES = {
    "no answer": "empty",
    "refusing Break answers": "refusing",
    "on both sides": "both_sides",
    "copies": "duplicate",
    "nearly the same": "near_duplicate",
    "held out, but in training": "leak",
    "too long": "too_long",
    "like Break": "no_near_misses",
    "beginning alike": "forms",
}
