"""What several pages share: runs by name, errors as sentences, downloads, one model in memory."""

from __future__ import annotations

import functools
import inspect
import re
import threading
import traceback
import unicodedata
from collections.abc import Callable, Hashable
from typing import Any

import gradio as gr

from cbgui import hardware
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.examples import KIND_LABELS
from cbgui.data.library import Library
from cbgui.errors import InputError, error_sentence
from cbgui.runs import folder
from cbgui.runs.disk import disk_is_full
from cbgui.runs.jobs import ENDED, Job, running_jobs
from cbgui.runs.run import Run
from cbgui.space import on_space
from cbgui.ui.fragments import as_html, plain
from cbgui.ui.words import on_page, say

TICK = 2.0  # seconds between two looks at other processes; each look costs the browser up to 0.3 s
KINDS = list(KIND_LABELS)
# Uses the file's address, because Gradio may not have drawn the link yet.
DOWNLOAD = """file => {
    const link = document.createElement("a");
    link.href = file.url;
    link.download = file.orig_name || "";
    link.click();
}"""


def library() -> Library:
    return Library(folder.runs_folder() / folder.DATASETS)


def shown_topic(version: tuple | None) -> DatasetStore:
    """The topic that a browser tab shows; another tab may show another one. `version` begins with its name.

    Raises InputError when it is gone.
    """
    return library().open(version[0]) if version and version[0] else library().current()


def run_choices() -> list[str]:
    return [run.name for run in folder.list_runs()]


def pick(name: str | None) -> Run | None:
    """The run of that name, if the runs folder has it. Names come from the browser, so they are not trusted."""
    return next((run for run in folder.list_runs() if run.name == name), None)


def chosen(name: str | None) -> str | None:
    """`name`, or the newest run while the page that just opened has not chosen one yet."""
    return name or next(iter(run_choices()), None)


def need_run(name: str | None) -> Run:
    """Raises gr.Error when there is no run of that name."""
    run = pick(name)
    if run is None:
        raise gr.Error(say("common.no_run_chosen"), print_exception=False)
    return run


def row_of(event: gr.SelectData | gr.EditData) -> int:
    """The row or message that was clicked or edited; Gradio gives a number or a (row, column) pair."""
    return event.index[0] if isinstance(event.index, (list, tuple)) else event.index


def _shown(error: Exception) -> gr.Error:
    if isinstance(error, gr.Error):
        return error
    if not isinstance(error, InputError):
        traceback.print_exc()
    return gr.Error(as_html(error_sentence(error)), print_exception=False)


def tell(words: str) -> None:
    """Show a message that goes away by itself."""
    gr.Info(as_html(words))


def other_name(wanted: str | None, given: str) -> str:
    """Says that a name was changed because files cannot be called so; empty when it was not."""
    is_other = unicodedata.normalize("NFC", wanted or given).strip() != given
    return say("common.other_name", wanted=f"{wanted.strip()!r}", given=f"{given!r}") if is_other else ""


def sentences(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show any error as one sentence; for handlers that return and for those that yield.

    Tracebacks of unexpected errors go to the app's log.
    """
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def wrapped(*args: Any) -> Any:
            try:
                yield from handler(*args)
            except GeneratorExit:
                raise
            except Exception as error:
                raise _shown(error) from None

    else:

        @functools.wraps(handler)
        def wrapped(*args: Any) -> Any:
            try:
                return handler(*args)
            except Exception as error:
                raise _shown(error) from None

    return wrapped


def catch_errors(page: gr.Blocks) -> None:
    """Show any error of any handler as one sentence, also of those without `sentences`."""
    for event in page.fns.values():
        if event.fn is not None and not inspect.iscoroutinefunction(event.fn):
            event.fn = sentences(event.fn)


def show_progress_only_where_it_is_seen(page: gr.Blocks) -> None:
    """Events with hidden progress tell no component about it, except a chat, which is not edited while it is written.

    Otherwise the browser updates every output of every event so far whenever the status of any event changes, and
    searches a tree of some 500 components for each. That takes seconds when the page opens, and a third of a core while
    nothing happens.
    """
    for event in page.fns.values():
        if event.show_progress == "hidden":
            event.show_progress_on = [output for output in event.outputs if isinstance(output, gr.Chatbot)]


def changes(component: gr.components.Component) -> Callable[..., gr.events.Dependency]:
    """`component.change` for a component with several listeners: they run side by side, and each sees the last change.

    Gradio runs the listeners of one event one after another. When one was put off because it was busy, all of them run
    again, so two quick changes kept them running forever. A `then` runs again alone.
    """
    changed = component.change(None, None, None, js="() => []")
    return functools.partial(changed.then, trigger_mode="always_last")


def download_on_click(button: gr.Button, make_file: Callable[..., str], inputs: list[Any] | None = None) -> None:
    """One click makes a file and downloads it. A DownloadButton would need a second click for that."""
    file = gr.DownloadButton(visible="hidden")
    button.click(make_file, inputs, file).success(None, file, None, js=DOWNLOAD)


def ask_first(button: gr.Button, question: str, yes: str) -> gr.Button:
    """Let `button` ask a question first, below it; the button that is returned does what `button` says."""
    with gr.Row(visible=False, elem_classes="aligned sure") as asked:
        gr.Markdown(f"**{question}**", min_width=160)
        sure = gr.Button(yes, variant="stop", size="sm", min_width=110, elem_id=f"{button.elem_id}-yes")
        keep = gr.Button(on_page("common.keep_it"), size="sm", min_width=110)
    button.click(lambda: gr.Row(visible=True), None, asked, show_progress="hidden", queue=False)
    for answer in (sure, keep):
        answer.click(lambda: gr.Row(visible=False), None, asked, show_progress="hidden", queue=False)
    return sure


def job_words(job: Job, what: str) -> str:
    """How far a job is, or how it failed, as Markdown."""
    lines = job.lines()
    progress = [line for line in lines if re.match(r"\s*\d+% ", line)]
    if job.state() == "running":
        return f"**{plain(job.run.name)}**: {plain(progress[-1]) if progress else say('common.starting_word')} ..."
    said = [line for line in lines if not line.startswith((f"{ENDED} ", " ", "Traceback")) and line not in progress]
    unsaid = say("common.disk_full") if disk_is_full(job.run.path) else ""
    return say("common.job_failed", name=plain(job.run.name), what=what, why=plain(said[-1]) if said else unsaid)


def one_job_at_a_time() -> None:
    """On a Space, evaluations, merges and uploads take turns. Raises InputError while one is running."""
    if on_space() and any(running_jobs(folder.root_folder())):
        raise InputError(say("common.space_busy"))


class OneInMemory:
    """Keeps the newest thing that was loaded, so that one set of weights is in memory at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Hashable, Any] | None = None

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """What `load` returned for `key`; calls it unless that is in memory already."""
        with self._lock:
            if self._kept is None or self._kept[0] != key:
                self._let_go()
                self._kept = (key, load())
            return self._kept[1]

    def drop(self) -> None:
        """Make room for other processes too: training and evaluation may need the same GPU."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._kept is not None:
            self._kept = None
            hardware.free_cached_memory()


in_memory = OneInMemory()
