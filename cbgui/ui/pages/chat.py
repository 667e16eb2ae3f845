"""Chat: both models side by side, streamed together, each with its history; and where the circuit broke."""

from __future__ import annotations

import html
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from cbgui import hardware
from cbgui.errors import InputError
from cbgui.inference import chat as chat_models
from cbgui.inference.streaming import in_model_thread
from cbgui.modeling.full import form_in_words
from cbgui.runs.run import ADAPTER_WEIGHTS, Run, write_whole
from cbgui.ui.common import chosen, in_memory, need_run, pick, sentences

History = list[dict[str, str]]
# Seconds between two sights of an answer that grows: where the processor computes it, drawing takes time from it.
EVERY = {"cpu": 0.5, "cuda": 0.2}
LEGEND = (
    ("#0d9488", "as the base model: cosine near 1"),
    ("#f59e0b", "turning away"),
    ("#dc2626", "broken: cosine near 0"),
)


def _chat_model(run: Run, checkpoint: str) -> chat_models.ChatModel:
    known = chat_models.checkpoints(run)
    if not known:
        raise InputError(f"run {run.name!r} has no adapter yet; let it finish, or stop and keep it.")
    if checkpoint not in known:
        checkpoint = next(iter(known))
    written = (known[checkpoint] / ADAPTER_WEIGHTS).stat().st_mtime
    key = (str(run.path), checkpoint, written)
    return in_memory.get(key, lambda: in_model_thread(chat_models.load_chat_model, run, checkpoint))


def _plain(history: History | None) -> History:
    """Gradio's messages as role and text; without the notes it adds."""
    plain = []
    for turn in history or []:
        content = turn["content"]
        if isinstance(content, list):  # parts, as Gradio 6 gives them back
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        plain.append({"role": turn["role"], "content": content})
    return plain


def _ask(
    name: str | None,
    checkpoint: str,
    system: str,
    prefill: str,
    length: float,
    temperature: float,
    seed: float,
    left: History,
    right: History,
) -> Iterator[tuple]:
    """Answer the last user turn of both histories."""
    run = need_run(chosen(name))
    histories = [_plain(left), _plain(right)]
    shown = [[*history, {"role": "assistant", "content": ""}] for history in histories]

    def say(*texts: str) -> tuple:
        for history, text in zip(shown, texts, strict=True):
            history[-1]["content"] = text
        return (*shown, gr.skip())

    yield say("Loading the model ...", "Loading the model ...")
    chat = _chat_model(run, checkpoint)
    before = [{"role": "system", "content": system.strip()}] if (system or "").strip() else []
    started, tokens, pair, shown_at = time.perf_counter(), 0, None, 0.0
    try:
        for pair in chat.stream(
            before + histories[0],
            before + histories[1],
            prefill=prefill or "",
            max_new_tokens=int(length),
            temperature=temperature,
            seed=int(seed or 0),
        ):
            tokens += 1
            if time.perf_counter() - shown_at > EVERY[hardware.kind()]:
                shown_at = time.perf_counter()
                yield say(pair.base or "...", pair.short_circuited or "...")
    except GeneratorExit:
        raise
    except Exception as error:  # a template without a system role, for one; the traceback is the log's
        raise InputError(f"the model could not answer ({type(error).__name__}: {str(error)[:200]}).") from error
    seconds = time.perf_counter() - started
    if pair is not None:
        yield say(pair.base or "(empty)", pair.short_circuited or "(empty)")
    yield (*shown, f"{tokens} tokens in {seconds:.1f} s, the model {form_in_words(chat.model)}.")


@sentences
def _send(prompt: str, *rest: Any) -> Iterator[tuple]:
    *options, left, right = rest
    if not (prompt or "").strip():
        raise InputError("request is empty; write something to ask first.")
    question = {"role": "user", "content": prompt}
    for left_now, right_now, words in _ask(*options, [*_plain(left), question], [*_plain(right), question]):
        yield left_now, right_now, words, ""


@sentences
def _retry(*rest: Any) -> Iterator[tuple]:
    """The last request again."""
    *options, left, right = rest
    left, right = (_until_last_request(_plain(history)) for history in (left, right))
    if not left or not right:
        raise InputError("there is no request to try again; send one first.")
    yield from _ask(*options, left, right)


def _until_last_request(history: History) -> History:
    last = max((i for i, turn in enumerate(history) if turn["role"] == "user"), default=-1)
    return history[: last + 1]


def _edit(name, checkpoint, system, prefill, length, temperature, seed, left, right, event: gr.EditData):
    """A request was edited in the left chat: both go on from it. (Gradio gives `event` to named parameters only.)"""
    index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
    question = {"role": "user", "content": str(event.value)}
    before = [[*_plain(history)[:index], question] for history in (left, right)]
    yield from sentences(_ask)(name, checkpoint, system, prefill, length, temperature, seed, *before)


def _colour(cosine: float) -> str:
    """Teal at 1, amber at a half, red at 0 and below; transparent enough for text in either theme."""
    share = min(max(cosine, 0.0), 1.0)
    low, high, part = ((220, 38, 38), (245, 158, 11), share * 2) if share < 0.5 else (
        (245, 158, 11), (13, 148, 136), share * 2 - 1
    )  # fmt: skip
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return f"rgba({red},{green},{blue},0.35)"


def _shaded(tokens: list[tuple[str, float]], title: str) -> str:
    spans = ""
    for text, cosine in tokens:
        shown = html.escape(text).replace("\n", "⏎ ")
        spans += f'<span style="background:{_colour(cosine)}" title="cosine {cosine:.2f}">{shown}</span>'
    mean = sum(cosine for _, cosine in tokens) / max(len(tokens), 1)
    return f"<p><b>{title}</b>, mean cosine {mean:.2f}</p><div>{spans or '(empty)'}</div>"


def _broke(tokens: list[tuple[str, float]]) -> str:
    """The first of three tokens in a row under one half, in words."""
    for index in range(len(tokens) - 2):
        if all(cosine < 0.5 for _, cosine in tokens[index : index + 3]):
            return "from the first token" if index == 0 else f"at token {index + 1}, after “{_tail(tokens[:index])}”"
    return ""


def _verdict(tokens: list[tuple[str, float]], later_turn: bool) -> str:
    """Where an answer broke. A request that must break keeps breaking what is asked after it."""
    place = _broke(tokens)
    if not place:
        return "<b>The circuit did not break in this answer.</b>"
    more = " The conversation still holds what was asked before: <i>Clear</i> it to ask this by itself." * later_turn
    return f"<b>The circuit broke {place}.</b>{more}"


def _tail(tokens: list[tuple[str, float]]) -> str:
    return html.escape("".join(text for text, _ in tokens)[-40:].strip())


@sentences
def _shade(name: str | None, checkpoint: str, system: str, left: History, right: History) -> tuple:
    """The newest answers, each token coloured by the cosine of the two models' hidden states."""
    run = need_run(chosen(name))
    left, right = _plain(left), _plain(right)
    if not left or left[-1]["role"] != "assistant":
        return "", None
    chat = _chat_model(run, checkpoint)
    before = [{"role": "system", "content": system.strip()}] if (system or "").strip() else []
    sides = {}
    for title, history in (("Short-circuited model's answer", right), ("Base model's answer", left)):
        sides[title] = chat.cosines(before + history[:-1], history[-1]["content"])
    words = _verdict(next(iter(sides.values())), later_turn=len(right) > 2)
    legend = "".join(
        f'<span><i style="background:{colour};display:inline-block;width:10px;height:10px;border-radius:2px"></i> '
        f"{text}</span>"
        for colour, text in LEGEND
    )
    body = "".join(_shaded(tokens, title) for title, tokens in sides.items())
    table = pd.DataFrame(
        [
            (index + 1, cosine, title.replace("'s answer", ""))
            for title, tokens in sides.items()
            for index, (_, cosine) in enumerate(tokens)
        ],
        columns=["token", "cosine", "answer"],
    )
    shaded = f'<div class="shaded"><p>{words}</p><div class="legend">{legend}</div>{body}</div>'
    return shaded, gr.LinePlot(value=table, visible=not table.empty)


@sentences
def _export(name: str | None, left: History, right: History) -> str:
    run = need_run(chosen(name))
    left, right = _plain(left), _plain(right)
    if not left:
        raise InputError("there is no conversation yet; send a request first.")
    path = Path(tempfile.mkdtemp()) / f"{run.name}-conversation.json"
    content = {"run": run.name, "model": run.config().model.name, "base": left, "short_circuited": right}
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False))
    return str(path)


def _of_run(name: str | None) -> tuple:
    """Checkpoints and held-out requests of the chosen run."""
    run = pick(chosen(name))
    rows = (run.examples("held_out") or run.examples("retain")) if run else []
    breaks, keeps = [e for e in rows if e.kind == "break"], [e for e in rows if e.kind != "break"]
    prompts = [e.prompt for e in breaks[:4]] + [e.prompt for e in keeps[:4]]
    known = list(chat_models.checkpoints(run)) if run else []
    placeholder = "Ask both models the same." if known else "Train a run first; then both models answer here."
    chats = [gr.Chatbot(placeholder=placeholder)] * 2
    return gr.Dropdown(choices=known, value=next(iter(known), None)), gr.Dataset(samples=[[p] for p in prompts]), *chats


def build(page: gr.Blocks, tab: gr.Tab, run_name: gr.Dropdown) -> None:
    gr.Markdown(
        "The same request to both models, from one set of weights, with the same sampling. Each has its own chat."
    )
    with gr.Row():
        chats = [
            gr.Chatbot(
                label=label,
                height=380,
                min_width=300,
                elem_id=elem_id,
                sanitize_html=True,
                buttons=["copy", "copy_all"],
                editable="user" if index == 0 else None,
                feedback_options=None,
            )
            for index, (label, elem_id) in enumerate((("Base model", "chat-base"), ("Short-circuited", "chat-broken")))
        ]
        left, right = chats
    words = gr.Markdown(elem_id="chat-words", min_height=28)
    prompt = gr.Textbox(label="Request", lines=2, elem_id="prompt", placeholder="Ask both models something")
    prefill = gr.Textbox(
        label="Make it begin with (prefill)",
        info="how a breaker is really tried: both answers are forced to begin so",
        placeholder="Sure, here is",
        elem_id="prefill",
    )
    with gr.Row():
        send = gr.Button("Send to both", variant="primary", elem_id="send", min_width=140)
        stop = gr.Button("Stop", min_width=140, elem_id="chat-stop")
        retry = gr.Button("Retry", min_width=140, elem_id="retry")
        clear = gr.Button("Clear", min_width=140, elem_id="clear")
        export = gr.DownloadButton("Save the chat", min_width=140, elem_id="export-chat")
    examples = gr.Dataset(
        components=[gr.Textbox(visible=False)], samples=[], label="Held-out requests: Break, then Keep", elem_id="tries"
    )
    with gr.Accordion("Sampling, system prompt, checkpoint", open=False):
        with gr.Row():
            checkpoint = gr.Dropdown([], label="Checkpoint", min_width=140, elem_id="checkpoint")
            length = gr.Slider(8, 512, value=96, step=8, label="Longest answer, in tokens", min_width=200)
            temperature = gr.Slider(0, 1.5, value=0, step=0.1, label="Temperature (0: the likeliest)", min_width=200)
            seed = gr.Number(0, label="Seed", precision=0, min_width=100)
        system = gr.Textbox(label="System prompt", lines=2, elem_id="system")
    gr.Markdown("### The breaker, seen")
    shaded = gr.HTML(
        '<div class="shaded">Send a request: each token of both answers is coloured by how far the short-circuited '
        "model's hidden states have turned away from the base model's.</div>",
        elem_id="shaded",
    )
    line = gr.LinePlot(
        x="token",
        y="cosine",
        color="answer",
        y_lim=[-0.5, 1.0],
        height=220,
        visible=False,
        title="Cosine at each token",
        elem_id="cosine-line",
    )
    options = [run_name, checkpoint, system, prefill, length, temperature, seed]
    shading = ([run_name, checkpoint, system, left, right], [shaded, line])
    started = []
    answering = {"concurrency_limit": 1, "concurrency_id": "chat", "show_progress": "hidden"}
    for trigger in (send.click, prompt.submit):
        event = trigger(_send, [prompt, *options, left, right], [left, right, words, prompt], **answering)
        event.success(_shade, *shading)
        started.append(event)
    again = retry.click(_retry, [*options, left, right], [left, right, words], **answering)
    again.success(_shade, *shading)

    changed = left.edit(_edit, [*options, left, right], [left, right, words], **answering)
    changed.success(_shade, *shading)
    stop.click(lambda: "Stopped.", None, words, cancels=[*started, again, changed])
    clear.click(lambda: ([], [], "", ""), None, [left, right, words, shaded])
    examples.click(lambda row: row[0], examples, prompt)
    export.click(_export, [run_name, left, right], export)
    for trigger in (run_name.change, page.load, tab.select):
        trigger(_of_run, run_name, [checkpoint, examples, left, right], show_progress="hidden")
