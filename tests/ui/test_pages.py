"""What the pages' handlers do, where a browser would be too slow to see it."""

from __future__ import annotations

import inspect
import io
import json
import shutil
import weakref
import zipfile
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
import pandas as pd
import pytest
from gradio.i18n import I18nData
from made_runs import finished_run
from sample_rows import example
from starlette.applications import Starlette
from starlette.testclient import TestClient

from cbgui.config import load_config
from cbgui.data.library import Library
from cbgui.errors import InputError
from cbgui.runs import folder, queue
from cbgui.runs.history import History
from cbgui.runs.run import MERGED_FROM, Run
from cbgui.ui import build
from cbgui.ui.common import OneInMemory, catch_errors, chosen
from cbgui.ui.fragments import plain
from cbgui.ui.pages import chat as chat_page
from cbgui.ui.pages import data as data_page
from cbgui.ui.pages import export as export_page
from cbgui.ui.pages import report as report_page
from cbgui.ui.pages import train as train_page
from cbgui.ui.panels import charts, import_rows, run_status, settings, topics
from cbgui.ui.panels.ways_to_ask import PLAINLY
from cbgui.ui.server import downloads


def test_until_the_page_has_chosen_a_run_it_is_the_newest(trained, tmp_path, monkeypatch):
    """A question sent right after the page opened is answered."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    asked = [{"role": "user", "content": "Hello"}]
    ask = (None, None, "", "", 8, 0, 0, asked, asked)
    assert chosen(None) is None and chosen("gone") == "gone"
    *_, chat, send = chat_page._of_run(None)
    assert "Train a run first" in chat.placeholder and not send.interactive
    with pytest.raises(gr.Error, match="No run is chosen"):
        next(chat_page._ask(*ask))
    shutil.copytree(trained.path, tmp_path / "newest")
    assert chosen(None) == "newest"
    checkpoint, _, _, *chats, send = chat_page._of_run(None)
    assert checkpoint.value and all(chat.placeholder == "Ask both models the same question." for chat in chats)
    assert send.interactive
    left, *_, stop = next(chat_page._ask(*ask))
    assert left[-1]["content"] == "Loading the model ..." and stop.interactive


def test_a_question_that_fails_leaves_no_turn_and_stays_in_the_field(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    shutil.copytree(trained.path, tmp_path / "run")
    monkeypatch.setattr(chat_page, "_chat_model", lambda *arguments: (_ for _ in ()).throw(InputError("no memory.")))
    turns = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "1 &lt; 2"}]
    options = ("run", None, "", "", 8, 0, 0)
    with pytest.raises(gr.Error, match="no memory"):
        list(chat_page._send("Two?", PLAINLY, True, *options, turns, turns))
    asking = chat_page._send("Two?", PLAINLY, True, *options, turns, turns)
    left, _, _, stop, field, asked = next(asking)
    assert stop.interactive
    assert (left[-2]["content"], field, asked) == ("Two?", "", "Two?")
    left, right, words, stop, field, _ = next(asking)
    assert left == right == turns and field == "Two?" and words == "Not answered." and not stop.interactive
    again = chat_page._retry(*options, turns, turns)
    assert len(next(again)[0]) == 2 and next(again)[:2] == (turns, turns)
    waiting = [*turns, {"role": "user", "content": "Two?"}, {"role": "assistant", "content": "Loading the model ..."}]
    left, right, words, stop, field = chat_page._stopped("", waiting, waiting)
    assert (left, right, words, field) == (turns, turns, "Stopped.", "Two?") and not stop.interactive


def test_a_gguf_is_named_with_its_folder(trained, tmp_path):
    shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("merged", "export.*"))
    run = Run(tmp_path / "run")
    assert "gguf" not in export_page._words(run).lower()
    path = export_page._gguf_file(run, "q8_0")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF")
    assert path.name not in export_page._words(run)  # no merged model is there
    made_from = {"adapter_sha256": run.adapter_hash()}
    (run.merged_folder / MERGED_FROM).write_text(json.dumps(made_from))
    words = export_page._words(run)
    assert plain(path.name) in words and plain(path.parent) in words


def test_the_time_left_ignores_the_first_step(trained):
    """The first step computes the reference states and takes several times as long as the others."""
    events = [event for event in trained.events()[0] if event["kind"] == "step"]
    for event, seconds in zip(events, (100.0, 10.0, 10.0, 10.0), strict=True):
        event |= {"seconds": seconds, "steps": 62}
    past = History()
    past.add(events[:1])
    assert " left" not in run_status.in_words(trained, "running", past)
    past.add(events[1:2])
    assert "about 10 min" in run_status.in_words(trained, "running", past)


def test_the_charts_of_a_running_run_are_drawn_every_few_seconds(trained, monkeypatch):
    events, past, drawn, now = trained.events()[0], History(), None, [100.0]
    monkeypatch.setattr(charts.time, "monotonic", lambda: now[0])

    def draw(running: bool) -> bool:
        nonlocal drawn
        plots, drawn = charts.update("run", past, drawn, running=running)
        return isinstance(plots[0], gr.LinePlot)

    last = max(index for index, event in enumerate(events) if event["kind"] == "step")
    past.add(events[:last])
    while drawn is None or not drawn.settled:
        draw(running=True)
    past.add(events[last : last + 1])
    assert not draw(running=True) and draw(running=False)
    past.add(events[last : last + 1])
    now[0] += charts.REDRAW_SECONDS
    assert draw(running=True) and not draw(running=True)


def test_validation_is_a_stronger_line_in_the_colour_of_its_steps(trained):
    events = trained.events()[0]
    steps = [event for event in events if event["kind"] == "step"]
    look = charts.colours(charts.loss_table(events))
    assert look["colors_in_legend"] == ["must stop" + charts.validation(), "must keep" + charts.validation()]
    for side in ("must stop", "must keep"):
        pale, strong = (look["color_map"][side + ending] for ending in ("", charts.validation()))
        assert pale == strong.replace("rgb(", "rgba(").replace(")", ",0.4)")
    assert look["color_map"]["must stop"] != look["color_map"]["must keep"]
    assert charts.colours(charts.cosine_table(steps))["colors_in_legend"] == list(steps[0]["cosine"])


def test_only_what_is_trained_can_be_tested(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    shutil.copytree(trained.path, tmp_path / "run", ignore=shutil.ignore_patterns("report", "evaluate.*"))
    words, _, evaluate, *_ = report_page._refresh("run", None, None)
    assert evaluate.interactive and "Press **Evaluate**" in words
    shutil.rmtree(Run(tmp_path / "run").adapter_folder)
    words, _, evaluate, *_ = report_page._refresh("run", None, None)
    assert not evaluate.interactive and "not trained yet" in words


def test_no_chart_is_left_to_look_up_its_titles():
    """The browser translates a page's texts, but not those inside a chart, where it may draw a key instead."""
    charts_of_the_page = [b for b in build.build().blocks.values() if isinstance(b, (gr.LinePlot, gr.BarPlot))]
    titles = ("title", "x_title", "y_title", "color_title")
    assert len(charts_of_the_page) > 6
    assert not [c.elem_id for c in charts_of_the_page for t in titles if isinstance(getattr(c, t), I18nData)]


def test_no_event_costs_the_browser_more_than_it_shows():
    """Gradio updates what shows an event's progress at each change of any event, and calls all listeners of a
    component's event again when one of them was put off; states are the exception."""
    page = build.build()
    events = list(page.fns.values())
    hidden = [event for event in events if event.show_progress == "hidden"]
    chats = {component for component in page.blocks.values() if isinstance(component, gr.Chatbot)}
    assert any(event.show_progress_on for event in hidden)  # a chat is not edited while it is written
    assert len(hidden) > 100 and not any(set(event.show_progress_on) - chats for event in hidden)
    listeners = [target for event in events for target in event.targets]
    put_off = [t for e in events if e.fn and e.trigger_mode == "always_last" for t in e.targets if t[0] is not None]
    put_off = [target for target in put_off if not isinstance(page.blocks[target[0]], gr.State)]
    assert put_off and all(listeners.count(target) == 1 for target in put_off)


def test_a_refusing_run_is_told_by_its_held_out_questions():
    events = [
        {"kind": "validation", "step": 40, "cosine": {"9": 0.5}},
        {"kind": "step", "step": 45, "cosine": {"9": 0.01}},
    ]
    assert "break cosine 0.50" in charts.meaning(events, "running") and "now blocked" not in charts.meaning(
        events, "running"
    )
    refusing = [{"kind": "validation", "step": 40, "cosine": {"9": 0.01}}]
    assert "now blocked" in charts.meaning(refusing, "running")
    assert "now blocked" not in charts.meaning(refusing, "running", refuses=True)
    assert "**Test** shows" in charts.meaning(refusing, "stopped", refuses=True)


def test_another_run_empties_the_chats_and_its_own_question(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    for name in ("first", "second"):
        shutil.copytree(trained.path, tmp_path / name)
    question = chat_page.question_to_send("first", "")
    assert chat_page._other_run("first", None, question) == ("first", *(gr.skip(),) * 7)
    name, left, right, *_, prompt = chat_page._other_run("second", "first", question)
    assert (name, left, right, prompt) == ("second", [], [], "")
    assert chat_page._other_run("second", "first", "My own question?")[-1] == gr.skip()


def test_a_run_that_is_opened_brings_its_topic(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    shutil.copytree(trained.path, tmp_path / "run")
    clinic = Library(tmp_path / folder.DATASETS).create("clinic")
    assert topics.of_run("run", None) == gr.skip()  # of files, not of a topic
    Run(tmp_path / "run").dataset_name_file.write_text("clinic", "utf-8")
    assert topics.of_run("run", ("demo", 1)) == clinic.version()
    assert topics.of_run("run", clinic.version()) == gr.skip()


@pytest.mark.parametrize(
    ("cosine", "step", "state", "words"),
    [
        (0.1, 50, "running", "now blocked"),
        (0.1, 50, "done", "Open **Try** and ask it something"),
        (0.5, 50, "running", "are turning away"),
        (0.5, 50, "done", "only in part"),
        (0.95, 50, "done", "not blocked"),
        (0.95, 5, "running", "Nothing has moved yet"),
        (0.95, 50, "running", "Layer 9 has not moved after 50 steps"),
    ],
)
def test_the_slowest_layer_decides_what_a_measurement_means(cosine, step, state, words):
    event = {"kind": "step", "step": step, "cosine": {"4": 0.0, "9": cosine}}
    assert words in charts.meaning([event], state)
    assert charts.meaning([], state) == ""


def test_every_choice_of_the_form_is_a_value_that_the_settings_accept():
    config = load_config("demo")
    values = settings.values_of(config)
    for path, choices in settings.CHOICES.items():
        for _, value in choices:
            changed = list(values)
            changed[settings.SHOWN.index(path)] = value
            part, name = path.split(".")
            assert getattr(getattr(settings.apply(config, changed), part), name) == value


@pytest.mark.parametrize("layers", ["10, [20", "&a [1, 1], *a, *a", "[" * 9000])
def test_target_layers_that_are_no_list_are_refused_in_words(layers):
    config = load_config("demo")
    values = settings.values_of(config)
    values[settings.SHOWN.index("objective.target_layers")] = layers
    with pytest.raises(InputError, match="target_layers = .* is not a list of numbers"):
        settings.apply(config, values)


class Weights:
    """Stands for a model."""


def test_one_set_of_weights_is_in_memory_at_a_time():
    kept = OneInMemory()
    first = weakref.ref(kept.get("first", Weights))
    assert kept.get("first", Weights) is first()
    first_was_gone = []

    def load() -> Weights:
        first_was_gone.append(first() is None)
        return Weights()

    second = weakref.ref(kept.get("second", load))
    assert first_was_gone == [True] and second() is not None
    kept.drop()
    assert second() is None


def test_the_chat_model_makes_room_before_the_next_run_starts(trained, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(Run, "start", lambda run: done.append(run.name))
    queue.start_next(tmp_path, lambda: done.append("room"))
    assert done == []  # no run waits, so the chat keeps its model
    shutil.copytree(trained.path, tmp_path / "next")
    Run(tmp_path / "next").waiting_file.touch()
    queue.start_next(tmp_path, lambda: done.append("room"))
    assert done == ["room", "next"]


def test_a_handler_without_a_decorator_shows_any_error_as_a_sentence():
    """Gradio shows an error that is not its own as "Error"."""
    with gr.Blocks() as page:
        button, words = gr.Button(), gr.Markdown()

        def returns():
            raise PermissionError(13, "Permission denied", "x")

        def yields():
            yield "a"
            raise PermissionError(13, "Permission denied", "x")

        button.click(returns, None, words)
        button.click(yields, None, words)
    catch_errors(page)
    for event in page.fns.values():
        with pytest.raises(gr.Error, match="could not be read or written"):
            list(event.fn())


def test_saved_presets_are_there_after_a_reload(tmp_path, monkeypatch):
    """The page is built once, when the app starts."""
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    config = load_config("demo")
    train_page._save_preset("demo", "demo", "my own", *settings.values_of(config))
    assert "my own" in [value for _, value in train_page._choices("demo").choices]
    page = build.build()
    loads = [event for event in page.fns.values() if event.fn and (page._id, "load") in event.targets]
    assert train_page._choices in [inspect.unwrap(event.fn) for event in loads]


def test_a_start_is_finished_whether_or_not_the_page_is_still_open():
    """Gradio would leave a generator where it is when the page is reloaded."""
    assert not inspect.isgeneratorfunction(train_page._start)


def test_a_run_with_a_name_in_any_letters_can_be_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    run = finished_run(tmp_path / "évil 名前")
    app = Starlette(routes=downloads.ROUTES)
    app.auth = app.auth_dependency = None
    address = downloads.address(run, run.adapter_folder, downloads.zip_name(run, run.adapter_folder))
    answer = TestClient(app).get(f"/{address}")
    assert answer.status_code == 200
    with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
        assert sorted(files.namelist()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert unquote(answer.headers["content-disposition"]).endswith("évil 名前-adapter.zip")


def test_of_two_answers_the_page_asks_for_one():
    path = Path(__file__).resolve().parent.parent / "cases" / "hh_rlhf.jsonl"
    source, _, words, *dropdowns, side, kept_kind, preview = import_rows._look_at_file(str(path))
    chosen = [dropdown.value for dropdown in dropdowns]
    assert chosen == ["(none)"] * 4 and preview is None and "two answers" in words
    with pytest.raises(gr.Error, match="choose under 'Answer is in'"):
        next(import_rows._import(None, source, *chosen, side.value, kept_kind.value, False, 0))
    chosen[1] = "chosen"
    preview, words, *_ = import_rows._look_again(source, *chosen, side.value, kept_kind.value)
    assert "is this right?" in words
    assert list(preview.iloc[0])[:2] == [
        "How do I brew a sleeping potion?",
        "Take two leaves of nightshade, and boil them; stir well.",
    ]


def test_an_edit_in_a_cell_loses_nothing_of_a_longer_text(tmp_path, monkeypatch):
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    data = Library(tmp_path / folder.DATASETS).create("mine")
    long = "word " * 2000 + "end."
    data.add([example("How?", long)], "made")
    table, shown, *_ = data_page._show(data.version(), "break", "", "any", "any", 1)
    changed = pd.DataFrame(table, copy=True)
    changed.loc[0, "question"] = "How is it?"
    data_page._edited(changed, shown, "break")
    assert [(row.example.prompt, row.example.response) for row in data.rows()] == [("How is it?", long)]
    table, shown, *_ = data_page._show(data.version(), "break", "", "any", "any", 1)
    changed = pd.DataFrame(table, copy=True)
    changed.loc[0, "answer"] += " More."
    with pytest.raises(gr.Error, match="longer than its cell shows"):
        data_page._edited(changed, shown, "break")
    assert data.rows()[0].example.response == long


def test_uploads_and_downloads_are_deleted_from_gradios_cache(monkeypatch):
    assert build.build().delete_cache == (3600, 86400)
    monkeypatch.setattr(build.space, "on_space", lambda: True)
    assert build.build().delete_cache == (600, 1800)
