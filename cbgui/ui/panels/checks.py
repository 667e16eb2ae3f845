"""Checks of the topic, each with its fix; lengths in tokens."""

from __future__ import annotations

import gradio as gr
import numpy as np
import pandas as pd

from cbgui.data import checks
from cbgui.errors import InputError
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.hub import resolve_model
from cbgui.ui.common import sentences, shown_topic
from cbgui.ui.fragments import plain
from cbgui.ui.words import on_page, say, say_count

Found = tuple[list[checks.Finding], tuple]  # with the version of the topic that was checked
NOTHING: Found = ([], ())
MAX_TOKENS = 512
# The table lies above the checks, out of sight on most screens.
TO_THE_ROWS = "() => document.getElementById('rows').scrollIntoView({block: 'center'})"
SAMPLE_ROWS = 2000  # whose tokens are counted
BAR_WIDTHS, MOST_BARS = (5, 10, 25, 50, 100, 250, 1000, 10**6), 24  # of the histogram, in tokens
CHECK_NAMES = ("empty", "refusing", "both_sides", "duplicate", "near_duplicate", "leak", "too_long", "forms")


def _summary(findings: list[checks.Finding]) -> str:
    if not findings:
        return say("checks.passed")
    return say_count("checks.things", len(findings))


@sentences
def _check(version: tuple, max_tokens: float):
    data = shown_topic(version)
    yield NOTHING, say("checks.checking")
    counts = data.counts()
    found = checks.run_checks(data, max_tokens=int(max_tokens or MAX_TOKENS))
    is_empty = not counts["break"] + counts["retain"] + counts["held_out"]
    yield (found, data.version()), say("checks.no_rows") if is_empty else _summary(found)


def _forget_if_changed(version: tuple, found: Found) -> tuple:
    """Findings name the rows that were checked, so they are cleared when the rows change."""
    if not found[0] or found[1] == shown_topic(version).version():
        return gr.skip(), gr.skip()
    return NOTHING, say("checks.changed")


@sentences
def _histogram(version: tuple, model: str):
    rows = shown_topic(version).table()
    if not len(rows):
        raise InputError(say("checks.topic_empty"))
    tokenizer = load_tokenizer(resolve_model(model.strip() or "demo", weights=False))
    rows = rows.sample(min(len(rows), SAMPLE_ROWS), random_state=0)
    texts = [f"{prompt}\n{response}" for prompt, response in zip(rows.prompt, rows.response, strict=True)]
    tokens = np.array([len(ids) for ids in tokenizer(texts).input_ids])
    part = np.where(
        rows.held_out == 1,
        say("checks.held_out"),
        np.where(rows.kind == "break", say("common.must_stop_small"), say("common.must_keep_small")),
    )
    width = next(width for width in BAR_WIDTHS if tokens.max() / width <= MOST_BARS)
    table = pd.DataFrame({"tokens": tokens // width * width, "part": part})
    table = table.groupby(["tokens", "part"]).size().reset_index(name="rows")
    titles = {"x_title": say("checks.tokens"), "y_title": say("checks.rows")}
    return gr.BarPlot(value=table, visible=True, title=say("checks.tokens_of", count=len(rows)), **titles)


def _finding_row(item: checks.Finding, checked: tuple, max_tokens: float, outputs: list, check_filter: gr.Dropdown):
    """One finding with its buttons."""

    @sentences
    def fix():
        data = shown_topic(checked)
        if data.version() != checked:
            raise InputError(say("checks.changed_error"))
        yield gr.skip(), f"{item.fix} ...", gr.skip()
        done = checks.fix(data, item, max_tokens=int(max_tokens))
        yield NOTHING, say("checks.again", done=plain(done)), data.version()
        rest = checks.run_checks(data, max_tokens=int(max_tokens))
        yield (rest, data.version()), f"{plain(done)} {_summary(rest)}", gr.skip()

    with gr.Row(elem_classes="finding"):
        gr.Markdown(f"**{plain(item.title)}.** {plain(item.why)}", min_width=260)
        with gr.Column(scale=0, min_width=230):
            if item.ids:
                show = gr.Button(say("checks.show_rows"), size="sm", elem_id=f"show-{item.check}")
                show.click(lambda: item.check, None, check_filter).then(None, None, None, js=TO_THE_ROWS)
            if item.fix:
                gr.Button(item.fix, size="sm", elem_id=f"fix-{item.check}").click(fix, None, outputs)


def build(version: gr.State, model: gr.Textbox, check_filter: gr.Dropdown) -> None:
    found = gr.State(NOTHING)
    with gr.Accordion(on_page("checks.checks"), open=False, elem_id="checks"):
        with gr.Row(elem_classes="aligned"):
            run = gr.Button(on_page("checks.check"), variant="primary", elem_id="run-checks", min_width=140)
            longest = gr.Number(
                label=on_page("common.most_tokens"),
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
            lengths = gr.Button(on_page("checks.lengths"), size="sm", elem_id="lengths")
        plot = gr.BarPlot(
            x="tokens",
            y="rows",
            color="part",
            visible=False,
            height=240,
            elem_id="histogram",
        )
    run.click(_check, [version, longest], [found, words], concurrency_limit=1)
    version.change(_forget_if_changed, [version, found], [found, words], show_progress="hidden")
    lengths.click(_histogram, [version, model], plot)
