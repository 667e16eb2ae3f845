"""What the pages' handlers do, where a browser would be too slow to see it."""

from __future__ import annotations

import shutil
import weakref

import gradio as gr
import pytest

from cbgui.runs import queue
from cbgui.runs.run import Run
from cbgui.ui.common import OneInMemory, chosen
from cbgui.ui.pages import chat as chat_page
from cbgui.ui.pages import train as train_page
from cbgui.ui.panels import charts


def test_the_newest_run_is_meant_until_the_page_has_chosen_it(trained, tmp_path, monkeypatch):
    """A request sent a second after the page opened is answered, not told that there is no run."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    asked = [{"role": "user", "content": "Hello"}]
    ask = (None, None, "", "", 8, 0, 0, asked, asked)
    assert chosen(None) is None and chosen("gone") == "gone"
    *_, chat = chat_page._of_run(None)
    assert "Train a run first" in chat.placeholder
    with pytest.raises(gr.Error, match="No run is chosen"):
        next(chat_page._ask(*ask))
    shutil.copytree(trained.path, tmp_path / "newest")
    assert chosen(None) == "newest"
    checkpoint, _, *chats = chat_page._of_run(None)
    assert checkpoint.value and all(chat.placeholder == "Ask both models the same." for chat in chats)
    left, *_ = next(chat_page._ask(*ask))
    assert left[-1]["content"] == "Loading the model ..."


def test_time_left_does_not_go_by_the_first_step(trained):
    """It makes what the others use, and took three times as long as they."""
    events = [event for event in trained.events()[0] if event["kind"] == "step"]
    for event, seconds in zip(events, (100.0, 10.0, 10.0, 10.0), strict=True):
        event |= {"seconds": seconds, "steps": 62}
    assert " left" not in train_page._status_line(trained, "running", events[:1])
    assert "about 10 min" in train_page._status_line(trained, "running", events[:2])


def test_a_probe_is_a_stronger_line_of_its_steps_colour(trained):
    events = trained.events()[0]
    steps = [event for event in events if event["kind"] == "step"]
    look = charts.colours(charts.loss_table(events))
    assert look["colors_in_legend"] == ["break probe", "keep probe"]
    for side in ("break", "keep"):
        pale, strong = (look["color_map"][side + ending] for ending in ("", " probe"))
        assert pale == strong.replace("rgb(", "rgba(").replace(")", ",0.4)")
    assert look["color_map"]["break"] != look["color_map"]["keep"]
    assert charts.colours(charts.cosine_table(steps))["colors_in_legend"] == list(steps[0]["cosine"])


class Weights:
    """Stands for a model."""


def test_one_set_of_weights_is_in_memory_at_a_time():
    kept = OneInMemory()
    first = weakref.ref(kept.get("first", Weights))
    assert kept.get("first", Weights) is first()
    gone = []

    def load() -> Weights:
        gone.append(first() is None)
        return Weights()

    second = weakref.ref(kept.get("second", load))
    assert gone == [True] and second() is not None
    kept.drop()
    assert second() is None


def test_room_is_made_before_the_next_in_line_starts(trained, tmp_path, monkeypatch):
    """On a GPU the chat's weights would lie where training's belong."""
    done = []
    monkeypatch.setattr(Run, "start", lambda run: done.append(run.name))
    queue.start_next(tmp_path, lambda: done.append("room"))
    assert done == []  # nobody waits: the chat keeps its model
    shutil.copytree(trained.path, tmp_path / "next")
    Run(tmp_path / "next").waiting_file.touch()
    queue.start_next(tmp_path, lambda: done.append("room"))
    assert done == ["room", "next"]


def test_a_break_in_a_later_turn_is_put_down_to_the_turns_before():
    away, near = [("a", 0.1)] * 4, [("a", 0.9)] * 4
    assert "from the first token" in chat_page._verdict(away, False) and "Clear" not in chat_page._verdict(away, False)
    assert "holds what was asked before" in chat_page._verdict(away, True)
    assert "did not break" in chat_page._verdict(near, True) and "Clear" not in chat_page._verdict(near, True)
