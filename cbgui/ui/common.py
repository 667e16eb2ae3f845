"""What several pages share: the list of runs, and errors as sentences."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from cbgui import runs
from cbgui.config import InputError

STATE_WORDS = {
    "new": "not started",
    "running": "running",
    "paused": "paused",
    "stopped": "stopped, adapter kept",
    "failed": "failed",
    "interrupted": "interrupted",
    "done": "done",
}


def run_choices() -> list[str]:
    return [run.name for run in runs.list_runs()]


def pick(name: str | None) -> runs.Run | None:
    """The run of that name, if it exists in the runs folder (names come from the browser, so they are not trusted)."""
    return next((run for run in runs.list_runs() if run.name == name), None)


def need_run(name: str | None) -> runs.Run:
    run = pick(name)
    if run is None:
        raise gr.Error(
            "No run is chosen; start one on the Train page, or choose one at the top.", print_exception=False
        )
    return run


def sentences(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Show an InputError as its one sentence."""

    @functools.wraps(handler)
    def wrapped(*args: Any) -> Any:
        try:
            return handler(*args)
        except InputError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return wrapped
