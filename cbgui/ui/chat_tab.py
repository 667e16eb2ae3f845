"""Chat: one prompt, two answers streamed together, base left and short-circuited right."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import gradio as gr

from cbgui import generation, runs
from cbgui.config import InputError
from cbgui.ui.common import need_run, pick

_lock = threading.Lock()
_loaded: dict[str, tuple[float, generation.ChatModel]] = {}  # one entry at most: one set of weights in memory


def _chat_model(run: runs.Run) -> generation.ChatModel:
    written = (run.adapter / "adapter_model.safetensors").stat().st_mtime
    with _lock:
        known = _loaded.get(run.name)
        if known is None or known[0] != written:
            _loaded.clear()
            _loaded[run.name] = (written, generation.load_chat_model(run))
        return _loaded[run.name][1]


def _answer(name: str | None, prompt: str, prefill: str, length: float, temperature: float, left: list, right: list):
    run = need_run(name)
    if not prompt.strip():
        raise gr.Error("The prompt is empty; write a request first.", print_exception=False)
    if not (run.adapter / "adapter_model.safetensors").is_file():
        raise gr.Error(f"Run {run.name!r} has no adapter yet; let it finish, or stop and keep.", print_exception=False)
    question = {"role": "user", "content": prompt}
    left, right = (history + [question, {"role": "assistant", "content": ""}] for history in (left or [], right or []))
    for history in (left, right):
        history[-1]["content"] = "Loading the model ..."
    yield left, right
    try:
        chat = _chat_model(run)
        pairs: Iterator[generation.Pair] = chat.stream(
            [question], prefill=prefill, max_new_tokens=int(length), temperature=temperature
        )
        for pair in pairs:
            left[-1]["content"], right[-1]["content"] = pair.base or "...", pair.short_circuited or "..."
            yield left, right
    except InputError as error:
        raise gr.Error(str(error), print_exception=False) from None


def _examples(name: str | None):
    run = pick(name)
    rows = (run.examples("held_out") or run.examples("retain")) if run else []
    prompts = [e.prompt for e in rows if e.kind == "break"][:4] + [e.prompt for e in rows if e.kind != "break"][:4]
    return gr.Dropdown(choices=prompts, value=None)


def build(page: gr.Blocks, run_name: gr.Dropdown) -> None:
    gr.Markdown("The same request to both models, from one set of weights. Each request is answered afresh.")
    with gr.Row():
        left = gr.Chatbot(
            label="Base model", height=380, min_width=300, elem_id="chat-base", sanitize_html=True, buttons=["copy"]
        )
        right = gr.Chatbot(
            label="Short-circuited",
            height=380,
            min_width=300,
            elem_id="chat-broken",
            sanitize_html=True,
            buttons=["copy"],
        )
    example = gr.Dropdown([], label="Held-out requests to try", value=None)
    prompt = gr.Textbox(label="Request", lines=2, elem_id="prompt", placeholder="Ask both models something")
    prefill = gr.Textbox(label="Make the answer begin with (prefill)", placeholder="Sure, here is")
    with gr.Row():
        length = gr.Slider(8, 512, value=96, step=8, label="Longest answer, in tokens", min_width=200)
        temperature = gr.Slider(0, 1.5, value=0, step=0.1, label="Temperature (0: always the likeliest)", min_width=200)
    with gr.Row():
        send = gr.Button("Send to both", variant="primary", elem_id="send", min_width=120)
        stop = gr.Button("Stop", min_width=80)
        clear = gr.Button("Clear", min_width=80)
    inputs = [run_name, prompt, prefill, length, temperature, left, right]
    sent = send.click(_answer, inputs, [left, right], concurrency_limit=1)
    entered = prompt.submit(_answer, inputs, [left, right], concurrency_limit=1)
    stop.click(None, cancels=[sent, entered])
    clear.click(lambda: ([], []), None, [left, right])
    example.input(lambda text: text or "", example, prompt)
    for trigger in (run_name.change, page.load):
        trigger(_examples, run_name, example, show_progress="hidden")
