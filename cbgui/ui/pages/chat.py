"""Chat: both models side by side, streamed together, each with its own history; and where the answer derailed."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from cbgui import hardware
from cbgui.errors import InputError
from cbgui.inference import chat as chat_models
from cbgui.inference.streaming import in_model_thread
from cbgui.modeling.full import form_in_words
from cbgui.runs.run import ADAPTER_WEIGHTS, Run, write_whole
from cbgui.ui.common import changes, chosen, download_on_click, in_memory, need_run, pick, row_of, sentences
from cbgui.ui.fragments import as_html, as_text, render
from cbgui.ui.panels import shading
from cbgui.ui.panels.ways_to_ask import KEPT, PLAINLY, WAYS, keep_question, worded
from cbgui.ui.server.storage import download_folder
from cbgui.ui.words import on_page, say

History = list[dict[str, str]]
# Seconds between two updates of a growing answer. On a CPU, drawing takes time from the model.
UPDATE_SECONDS = {"cpu": 0.5, "cuda": 0.2}
NOTHING_YET = "..."  # shown in place of an answer
HELD_OUT_EXAMPLES = 4  # of each side, offered as questions to try


def _chat_model(run: Run, checkpoint: str) -> chat_models.ChatModel:
    """The run's model; the newest checkpoint when there is none of that name. Raises InputError."""
    known = chat_models.adapters(run)
    if not known:
        run.need_adapter()
    if checkpoint not in known:
        checkpoint = next(iter(known))
    written = (known[checkpoint] / ADAPTER_WEIGHTS).stat().st_mtime
    key = (str(run.path), checkpoint, written)
    return in_memory.get(key, lambda: in_model_thread(chat_models.load_chat_model, run, checkpoint))


# A copy button would copy the escaped text.
COPY = """() => {
    const clipboard = navigator.clipboard;
    if (!clipboard) return;
    const write = clipboard.writeText.bind(clipboard);
    clipboard.writeText = text => write(
        text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&"));
}"""


def _plain(history: History | None) -> History:
    """The messages that a chat shows as role and text."""
    plain = []
    for turn in history or []:
        content = turn["content"]
        if isinstance(content, list):  # Gradio 6 returns the parts of a message
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        plain.append({"role": turn["role"], "content": as_text(content)})
    return plain


def _shown(history: History) -> History:
    """Role and text as messages that a chat shows. It takes HTML, even where it does not render Markdown."""
    return [{"role": turn["role"], "content": as_html(turn["content"])} for turn in history]


def _system_turn(system: str) -> History:
    return [{"role": "system", "content": system.strip()}] if (system or "").strip() else []


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
    """Answer the last question of both histories, which are as `_plain` gives them.

    Yields both chats, the words below them, and the Stop button, which is of use only meanwhile.
    """
    run = need_run(chosen(name))
    histories = [left, right]
    shown = [[*_shown(history), {"role": "assistant", "content": ""}] for history in histories]

    def show(*texts: str) -> tuple:
        for history, text in zip(shown, texts, strict=True):
            history[-1]["content"] = as_html(text)
        return (*shown, gr.skip(), gr.skip())

    show(say("common.loading"), say("common.loading"))
    yield *shown, "", gr.Button(interactive=True)  # what was said of the question before is over
    chat = _chat_model(run, checkpoint)
    before = _system_turn(system)
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
            if time.perf_counter() - shown_at > UPDATE_SECONDS[hardware.memory_kind()]:
                shown_at = time.perf_counter()
                yield show(pair.base or NOTHING_YET, pair.short_circuited or NOTHING_YET)
    except GeneratorExit:
        raise
    except Exception as error:  # for example, a chat template that has no system role
        raise InputError(say("try.could_not_answer", name=type(error).__name__, error=str(error)[:200])) from error
    seconds = time.perf_counter() - started
    if pair is not None:
        yield show(pair.base or say("try.empty"), pair.short_circuited or say("try.empty"))
    done = say("try.tokens", tokens=tokens, seconds=f"{seconds:.1f}", form=form_in_words(chat.model))
    yield *shown, done, gr.Button(interactive=False)


@sentences
def _send(prompt: str, way: str, goes_on: bool, *rest) -> Iterator[tuple]:
    """Answer a new question, and empty the field that it was typed into. The chats begin anew unless it `goes_on`."""
    name, checkpoint, system, prefill, *options, left, right = rest
    if not (prompt or "").strip():
        raise InputError(say("try.question_empty"))
    asked, prefill = worded(prompt, way, prefill or "")
    question = {"role": "user", "content": asked}
    before = [_plain(history) for history in (left, right)]
    histories = [[*history, question] if goes_on else [question] for history in before]
    field = ""
    try:
        for shown in _ask(name, checkpoint, system, prefill, *options, *histories):
            yield *shown, field, prompt
            field = gr.skip()  # the next question may be typed while this one is answered
    except Exception:  # not GeneratorExit, which Stop raises
        yield *_as_before(before), prompt, gr.skip()
        raise


def _send_sample(sample: list[str], *rest) -> Iterator[tuple]:
    """Answer one of the offered questions; the field stays as it is."""
    for *shown, _, asked in _send(sample[0], *rest):
        yield *shown, asked


def _as_before(histories: list[History]) -> tuple:
    """The chats without a question that could not be answered."""
    return (*map(_shown, histories), say("try.not_answered"), gr.Button(interactive=False))


@sentences
def _retry(*rest) -> Iterator[tuple]:
    """Answer the last question again."""
    *options, left, right = rest
    before = [_plain(history) for history in (left, right)]
    questions = [_until_last_question(history) for history in before]
    if not all(questions):
        raise InputError(say("try.nothing_to_retry"))
    yield from _ask_again(before, *options, *questions)


def _ask_again(before: list[History], *arguments) -> Iterator[tuple]:
    """`_ask`; when it fails, the chats are as before."""
    try:
        yield from _ask(*arguments)
    except Exception:  # not GeneratorExit, which Stop raises
        yield _as_before(before)
        raise


def _stopped(prompt: str, left: History, right: History) -> tuple:
    """After Stop: a question whose answer had not begun goes back into the field."""
    histories = [_plain(history) for history in (left, right)]
    waiting = histories[0] and histories[0][-1]["content"] in (say("common.loading"), NOTHING_YET)
    ended = say("try.stopped"), gr.Button(interactive=False)
    if not waiting or len(histories[0]) < 2:
        return gr.skip(), gr.skip(), *ended, gr.skip()
    question = histories[0][-2]["content"]
    return *(_shown(history[:-2]) for history in histories), *ended, prompt or question


def _until_last_question(history: History) -> History:
    last = max((i for i, turn in enumerate(history) if turn["role"] == "user"), default=-1)
    return history[: last + 1]


# Gradio passes `event` to named parameters only, so they cannot be gathered as in `_retry`.
def _edit(name, checkpoint, system, prefill, length, temperature, seed, left, right, event: gr.EditData):
    """A question was edited in the left chat: answer it in both, without the turns that came after it."""
    question = {"role": "user", "content": as_text(str(event.value))}
    edited = [[*_plain(history)[: row_of(event)], question] for history in (left, right)]
    options = (name, checkpoint, system, prefill, length, temperature, seed)
    yield from sentences(_ask_again)([_plain(left), _plain(right)], *options, *edited)


@sentences
def _shade(name: str | None, checkpoint: str, system: str, left: History, right: History) -> tuple:
    """The newest answers, each token coloured by the cosine of the two models' hidden states."""
    run = need_run(chosen(name))
    left, right = _plain(left), _plain(right)
    if not left or left[-1]["role"] != "assistant":
        return "", None
    chat, before = _chat_model(run, checkpoint), _system_turn(system)
    short_circuited, original = (
        chat.cosines(before + history[:-1], history[-1]["content"]) for history in (right, left)
    )
    table = shading.table(short_circuited, original)
    fragment = shading.shaded(short_circuited, original, later_turn=len(right) > 2, refusals=run.config().refusals)
    titles = {"title": say("try.cosine_line"), "x_title": say("shading.token"), "y_title": say("charts.cosine")}
    return fragment, gr.LinePlot(value=table, visible=not table.empty, **titles)


@sentences
def _export(name: str | None, left: History, right: History) -> str:
    run = need_run(chosen(name))
    left, right = _plain(left), _plain(right)
    if not left:
        raise InputError(say("try.no_conversation"))
    path = download_folder() / f"{run.name}-conversation.json"
    content = {"run": run.name, "model": run.config().model.name, "base": left, "short_circuited": right}
    write_whole(path, json.dumps(content, indent=2, ensure_ascii=False))
    return str(path)


def question_to_send(name: str | None, typed: str | None) -> Any:
    """A question that must stop, for an empty field."""
    run = pick(chosen(name))
    examples = (run.examples("held_out") or run.examples("break")) if run else []
    prompt = next((example.prompt for example in examples if example.kind == "break"), None)
    return gr.skip() if prompt is None or (typed or "").strip() else prompt


def _other_run(name: str | None, before: str | None, typed: str | None) -> tuple:
    """Empty the chats when another run is chosen, and the field if it holds that run's question."""
    if before is None or name == before:  # the page has just chosen its first run
        return name, *(gr.skip(),) * 7
    prompt = "" if (typed or "") == question_to_send(before, "") else gr.skip()
    return name, [], [], "", render("shaded_empty"), gr.LinePlot(visible=False), None, prompt


def _of_run(name: str | None) -> tuple:
    """The chosen run's checkpoints, some of its held-out questions, empty chats, and whether anything can be sent."""
    run = pick(chosen(name))
    examples = (run.examples("held_out") or run.examples("retain")) if run else []
    offered = []
    known = list(chat_models.adapters(run)) if run else []
    for breaks in (True, False):
        prompts = dict.fromkeys(e.prompt for e in examples if known and (e.kind == "break") is breaks)
        offered.append(gr.Dataset(samples=[[prompt] for prompt in [*prompts][:HELD_OUT_EXAMPLES]]))
    waits = run is not None and run.state() in ("running", "waiting")
    placeholder = say("try.ask_both") if known else say("try.still_training" if waits else "try.train_first")
    chats = [gr.Chatbot(placeholder=placeholder)] * 2
    send = gr.Button(interactive=bool(known))
    return gr.Dropdown(choices=known, value=next(iter(known), None)), *offered, *chats, send


def _chatbot(label: str, elem_id: str, editable: str | None) -> gr.Chatbot:
    return gr.Chatbot(
        label=label,
        height=380,
        min_width=300,
        elem_id=elem_id,
        sanitize_html=True,
        render_markdown=False,  # what a model wrote is shown as it is: no markup, no links, no images from elsewhere
        buttons=["copy", "copy_all"],
        editable=editable,
        feedback_options=None,
    )


def _offered(label: str, elem_id: str) -> gr.Dataset:
    return gr.Dataset(components=[gr.Textbox(visible=False)], samples=[], label=label, elem_id=elem_id, min_width=300)


def build(page: gr.Blocks, tab: gr.Tab, run_name: gr.Dropdown, topic: gr.State) -> gr.Textbox:
    """Returns the field of the question."""
    prompt = gr.Textbox(
        label=on_page("try.prompt"),
        max_lines=8,
        elem_id="prompt",
        placeholder=on_page("try.prompt_keys"),
    )
    with gr.Row(elem_id="chat-buttons"):
        send = gr.Button(on_page("try.send"), variant="primary", elem_id="send", min_width=140)
        stop = gr.Button(on_page("common.stop"), interactive=False, min_width=90, elem_id="chat-stop")
        retry = gr.Button(on_page("try.retry"), interactive=False, min_width=90, elem_id="retry")
        clear = gr.Button(on_page("try.clear"), interactive=False, min_width=90, elem_id="clear")
        export = gr.Button(on_page("try.save"), interactive=False, min_width=90, elem_id="export-chat")
    with gr.Row(elem_classes="aligned"):
        way = gr.Radio(
            [(on_page(f"try.{way}"), way) for way in WAYS],
            value=PLAINLY,
            label=on_page("try.how"),
            elem_id="way",
            min_width=340,
        )
        goes_on = gr.Checkbox(False, label=on_page("try.goes_on"), elem_id="goes-on", min_width=240)
    with gr.Row():
        must_stop = _offered(on_page("try.send_stop"), "examples")
        must_keep = _offered(on_page("try.send_keep"), "keep-examples")
    words = gr.Markdown(elem_id="chat-words", min_height=28)
    with gr.Row():
        left = _chatbot(on_page("common.original"), "chat-original", "user")
        right = _chatbot(on_page("common.short_circuited"), "chat-short-circuited", None)
    asked = gr.State(None)
    needs_question = [retry, clear, export]
    with gr.Row():
        for kind, part in KEPT.items():
            add = gr.Button(
                on_page(f"try.add_to_{part}"), interactive=False, size="sm", elem_id=f"add-{kind}", min_width=200
            )
            add.click(functools.partial(keep_question, kind), [topic, asked], None)
            needs_question.append(add)
    prefill = gr.Textbox(
        label=on_page("try.prefill"),
        info=on_page("try.prefill_info"),
        placeholder=on_page("try.prefill_example"),
        elem_id="prefill",
    )
    with gr.Accordion(on_page("try.sampling"), open=False):
        with gr.Row():
            checkpoint = gr.Dropdown([], label=on_page("try.checkpoint"), min_width=140, elem_id="checkpoint")
            length = gr.Slider(8, 512, value=96, step=8, label=on_page("try.longest"), min_width=200)
            temperature = gr.Slider(0, 1.5, value=0, step=0.1, label=on_page("try.temperature"), min_width=200)
            seed = gr.Number(0, label=on_page("try.seed"), precision=0, min_width=100)
        system = gr.Textbox(label=on_page("try.system"), lines=2, elem_id="system")
    gr.Markdown(on_page("try.by_token"))
    shaded = gr.HTML(f'<div class="shaded">{on_page("shading.nothing_yet")}</div>', elem_id="shaded")
    line = gr.LinePlot(
        x="token",
        y="cosine",
        color="answer",
        y_lim=[-0.5, 1.0],
        height=220,
        visible=False,
        elem_id="cosine-line",
    )
    options = [run_name, checkpoint, system, prefill, length, temperature, seed]
    chats = [left, right]
    answering = {"concurrency_limit": 1, "concurrency_id": "chat", "show_progress": "hidden"}
    ask, answered = [way, goes_on, *options, *chats], [*chats, words, stop]
    started = [
        trigger(_send, [prompt, *ask], [*answered, prompt, asked], **answering)
        for trigger in (send.click, prompt.submit)
    ]
    started += [
        offered.click(_send_sample, [offered, *ask], [*answered, asked], **answering)
        for offered in (must_stop, must_keep)
    ]
    started.append(retry.click(_retry, [*options, *chats], answered, **answering))
    started.append(left.edit(_edit, [*options, *chats], answered, **answering))
    for event in started:
        event.success(_shade, [run_name, checkpoint, system, *chats], [shaded, line])
    stop.click(_stopped, [prompt, *chats], [*answered, prompt], cancels=started)
    cleared = [*chats, words, shaded, line, asked]
    clear.click(lambda: ([], [], "", render("shaded_empty"), gr.LinePlot(visible=False), None), None, cleared)
    asked.change(
        lambda asked: [gr.Button(interactive=bool(asked))] * len(needs_question),
        asked,
        needs_question,
        show_progress="hidden",
    )
    shown_run = gr.State(None)
    forgotten = [shown_run, *cleared, prompt]
    # An answer that another run still writes would otherwise come back into the emptied chats.
    run_name.input(lambda: gr.Button(interactive=False), None, stop, cancels=started, show_progress="hidden")
    changes(run_name)(_other_run, [run_name, shown_run, prompt], forgotten, show_progress="hidden")
    download_on_click(export, _export, [run_name, *chats])
    page.load(None, None, None, js=COPY)
    for trigger in (changes(run_name), page.load, tab.select):
        trigger(_of_run, run_name, [checkpoint, must_stop, must_keep, *chats, send], show_progress="hidden")
    return prompt
