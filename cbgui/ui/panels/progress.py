"""Where the topic and the run stand: the line in the header, the marks on the tabs, and what the user does next."""

from __future__ import annotations

import functools

from cbgui.data.dataset_store import DatasetStore
from cbgui.data.library import DEMO
from cbgui.errors import InputError
from cbgui.evaluation.compare import is_of_present_adapter, read_report
from cbgui.runs import folder
from cbgui.runs.disk import version
from cbgui.runs.history import history
from cbgui.runs.run import Run
from cbgui.ui.common import library
from cbgui.ui.fragments import plain
from cbgui.ui.words import say

TABS = ("home", "topic", "train", "try", "test", "take", "history")  # in the order of the work
LONGEST_NAME = 32  # characters of a name in the header
DONE, LOOK = "✓", "!"  # what follows the label of a step that is done, or that needs the user


def labels(data: DatasetStore, run: Run | None) -> list[str]:
    """The label of each tab, with its mark."""
    marks = {"topic": _topic_mark(data.path, data.version())}
    if run is not None:
        state = run.state()
        marks["train"] = (
            DONE if state in ("done", "stopped") else LOOK if state in ("failed", "interrupted", "paused") else ""
        )
        marks["test"] = _test_mark(run, version(run.report_file), version(run.adapter_file))
        if run.merged_folder.is_dir():
            marks["take"] = DONE if run.is_merged() else LOOK
    return [f"{say(f'tab.{name}')} {marks.get(name, '')}".strip() for name in TABS]


@functools.lru_cache(64)
def _topic_mark(path: object, topic: tuple) -> str:
    """`topic` is the name and version of the data set at `path`, whose rows are counted once for each version."""
    data = library().open(topic[0])
    counts = data.counts()
    if not counts["break"] and not counts["retain"]:
        return ""
    return DONE if counts["break"] and counts["retain"] and not data.without_answer() else LOOK


@functools.lru_cache(256)
def _test_mark(run: Run, *versions: object) -> str:
    if not run.report_file.is_file():
        return ""
    try:
        report = read_report(run)
        return DONE if is_of_present_adapter(report, run) and report["verdict"]["name"] == "good" else LOOK
    except InputError:
        return LOOK


def line(data: DatasetStore, run: Run | None) -> str:
    """The header's line as Markdown: topic, model, and how far the run is."""
    words = say("progress.topic", name=plain(_short(data.name)))
    if run is None:
        return say("progress.no_run", words=words)
    try:
        words += say("progress.model", name=plain(run.config().model.name))
    except InputError:
        words += say("progress.unreadable")
    state, past = run.state(), history(run)
    of = run.dataset_name()
    words += say("progress.run", name=plain(_short(run.name))) + (
        say("progress.of_topic", topic=plain(_short(of))) if of and of != data.name else ""
    )
    words += say("progress.state", state=say(f"state.{state}"))
    if state == "running":
        if "step" not in past.newest:
            return say("progress.getting_ready", words=words)
        step, steps = past.newest["step"]["step"], past.newest["step"]["steps"]
        return f"{words}, {step / steps:.0%}" if step < steps else say("progress.trying_out", words=words)
    return words


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def run_of(topic: str) -> Run | None:
    """The newest run of that topic."""
    return next((run for run in folder.list_runs() if run.dataset_name() == topic), None)


def own_topics() -> list[DatasetStore]:
    """The user's own topics: the chosen one first, then the one that was changed last."""
    current = library().current().name
    topics = [library().open(name) for name in library().readable() if name != DEMO]
    return sorted(topics, key=lambda data: (data.name == current, data.path.stat().st_mtime), reverse=True)


def next_step(data: DatasetStore) -> tuple[str, str]:
    """The tab on which the topic goes on, or "wizard", and in words what happens there."""
    counts, run = data.counts(), run_of(data.name)
    if run is not None:
        match run.state():
            case "running" | "waiting":
                return "train", say("progress.training")
            case "done" | "stopped" if run.adapter_file.is_file():
                if not run.report_file.is_file():
                    return "try", say("progress.trained")
                return "test", say("progress.tested")
            case state:
                return "train", say("progress.run_is", state=say(f"state.{state}"))
    if not counts["break"] or not counts["retain"]:
        return "wizard" if counts["break"] else "topic", say(
            "progress.so_far", stop=counts["break"] + counts["held_out_break"], keep=counts["retain"]
        )
    if empty := data.without_answer():
        return "wizard", say("progress.to_write", count=empty)
    return "train", say("progress.ready")
