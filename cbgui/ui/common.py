"""What several pages share: runs and data sets by name, errors as sentences, one model in memory."""

from __future__ import annotations

import functools
import html
import inspect
import re
import threading
from collections.abc import Callable, Hashable
from typing import Any

import gradio as gr

from cbgui import hardware
from cbgui.data.library import Library
from cbgui.errors import InputError
from cbgui.runs import folder
from cbgui.runs.jobs import Job, running_jobs
from cbgui.runs.run import Run
from cbgui.space import on_space

# Seconds between two looks at what other processes do. Each costs the browser up to 0.3 s of its time, through Gradio's
# queue 0.4 (docs/performance.md).
TICK = 2.0
KIND_WORDS = {"break": "break", "retain": "ordinary", "near_miss": "near miss", "refusal": "refusal"}
KINDS = {words: kind for kind, words in KIND_WORDS.items()}


def library() -> Library:
    return Library(folder.runs_folder() / folder.DATASETS)


def run_choices() -> list[str]:
    return [run.name for run in folder.list_runs()]


def pick(name: str | None) -> Run | None:
    """The run of that name, if it exists in the runs folder (names come from the browser, so they are not trusted)."""
    return next((run for run in folder.list_runs() if run.name == name), None)


def chosen(name: str | None) -> str | None:
    """`name`, or the newest run's until the page has chosen that one, a second or two after it opened."""
    return name or next(iter(run_choices()), None)


def need_run(name: str | None) -> Run:
    run = pick(name)
    if run is None:
        raise gr.Error(
            "No run is chosen; start one on the Train page, or choose one at the top.", print_exception=False
        )
    return run


def sentences(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show an InputError as its one sentence; for handlers that return and for those that yield."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def wrapped(*args: Any) -> Any:
            try:
                yield from handler(*args)
            except InputError as error:
                raise gr.Error(str(error), print_exception=False) from None

    else:

        @functools.wraps(handler)
        def wrapped(*args: Any) -> Any:
            try:
                return handler(*args)
            except InputError as error:
                raise gr.Error(str(error), print_exception=False) from None

    return wrapped


def job_words(job: Job, what: str) -> str:
    """How far a job is, or how it failed, in words."""
    lines = job.lines()
    progress = [line for line in lines if re.match(r"\s*\d+% ", line)]
    if job.state() == "running":
        return f"**{job.run.name}**: {progress[-1].strip() if progress else 'starting'} ..."
    said = [line for line in lines if not line.startswith(("exit ", " ", "Traceback")) and line not in progress]
    return f"**{job.run.name}**: {what} failed. {html.escape(said[-1]) if said else ''}"


def one_job_at_a_time() -> None:
    """On a Space, visitors' evaluations and merges take turns. Raises InputError."""
    if not on_space():
        return
    if any(running_jobs(folder.root_folder())):
        raise InputError("evaluate and merge: the machine is busy with another; try again in some minutes.")


class OneInMemory:
    """Keeps the newest of what `load` gave: one set of weights at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[Hashable, Any] | None = None

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        with self._lock:
            if self._kept is None or self._kept[0] != key:
                self._let_go()
                self._kept = (key, load())
            return self._kept[1]

    def drop(self) -> None:
        """Make room, on the GPU for other processes too: training and evaluation are such."""
        with self._lock:
            self._let_go()

    def _let_go(self) -> None:
        if self._kept is not None:
            self._kept = None
            hardware.free_cached_memory()


in_memory = OneInMemory()
