"""The header's line, the marks on the tabs, and what comes next."""

from __future__ import annotations

import json

import gradio as gr
import pytest
from made_runs import finished_run
from sample_rows import example

from cbgui.data.library import Library
from cbgui.runs import folder
from cbgui.runs.process import hold
from cbgui.runs.run import TRAIN
from cbgui.ui.pages import home, wizard
from cbgui.ui.panels import answers_for_topic, checklist, goals, progress, start, topic_counts
from cbgui.ui.words import say


@pytest.fixture
def library(tmp_path, monkeypatch) -> Library:
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    return Library(tmp_path / folder.DATASETS)


LABELS = [say(f"tab.{name}") for name in progress.TABS]


def marks(data, run) -> dict[str, str]:
    return {
        label[: len(plain)]: label[len(plain) :].strip()
        for plain, label in zip(LABELS, progress.labels(data, run), strict=True)
    }


def test_the_tabs_say_what_is_done_and_what_needs_the_user(library, tmp_path):
    data = library.create("clinic")
    assert set(marks(data, None).values()) == {""}
    assert progress.next_step(data)[0] == "topic"
    data.add([example("How many?", "")], "made")
    data.add([example("Who?", kind="retain")], "made")
    assert marks(data, None)["1 Topic"] == progress.LOOK and progress.next_step(data)[0] == "wizard"
    data.edit(data.rows()[0].id, prompt="How many?", response="Five.", kind="break")
    assert marks(data, None)["1 Topic"] == progress.DONE and progress.next_step(data)[0] == "train"

    run = finished_run(tmp_path / "first", 8)
    run.dataset_name_file.write_text("clinic", "utf-8")
    done = dict.fromkeys(("1 Topic", "2 Train", "4 Test", "5 Take away"), progress.DONE)
    assert marks(data, run) == dict.fromkeys(LABELS, "") | done
    assert progress.line(data, run).endswith("run **first**: done") and progress.next_step(data)[0] == "test"
    assert "run **first** of topic clinic" in progress.line(library.restore_demo(), run)
    with run.events_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": 1.9e9, "kind": "status", "state": "failed", "text": "No."}) + "\n")
    assert marks(data, run)["2 Train"] == progress.LOOK and progress.next_step(data)[0] == "train"
    run.report_file.write_text("not a report", "utf-8")
    assert marks(data, run)["4 Test"] == progress.LOOK
    run.adapter_file.write_bytes(b"trained further")
    assert marks(data, run)["5 Take away"] == progress.LOOK
    with hold(run.lock_file(TRAIN)):
        assert "running" in progress.line(data, run) and marks(data, run)["2 Train"] == ""


def test_the_topic_that_goes_on_is_the_users_own(library):
    assert progress.own_topics() == []
    clinic = library.create("clinic")
    library.restore_demo()
    library.choose("demo")
    assert [data.name for data in progress.own_topics()] == [clinic.name]
    school = library.create("school")
    library.choose("clinic")
    assert [data.name for data in progress.own_topics()] == ["clinic", "school"]
    words, button = home._card("school")
    assert "Continue school" in words and button.value == "Continue school"
    school.add([example("A question?")], "typed")
    assert progress.next_step(school)[0] == "wizard"  # where look-alikes are suggested
    library.delete(school)
    for gone in (home._card, lambda name: home._continue(name, None)):
        with pytest.raises(gr.Error, match="school.* is not there any more"):
            gone("school")


def test_the_wizard_works_on_its_own_topic_and_removes_only_what_it_brought(library):
    taken = ("", [])
    first, second = [example(f"Which tablet is number {n}?") for n in range(30)], [example("Which one is blue?")]
    made, taken = _took(wizard._take("clinic", "demo", "clinic", first, None, taken))
    data = library.open("clinic")
    data.add([example("What was typed on the Topic page?")], "typed")
    made, taken = _took(wizard._take("clinic", "demo", "clinic", [*first[:29], *second], made, taken))
    prompts = {row.example.prompt for row in data.rows()}
    assert len(prompts) == 31 and "Which one is blue?" in prompts and "What was typed on the Topic page?" in prompts
    assert "Which tablet is number 29?" not in prompts
    other = library.create("other")
    library.choose("other")
    words, *_ = wizard._stopped("clinic")
    assert "kept" in words and not other.rows()


def _took(shown: tuple) -> tuple:
    return shown[1], shown[-1]


def test_the_topic_page_says_what_is_missing(library):
    data = library.create("clinic")
    assert list(checklist.missing(data)) == [checklist.ADD] and "Ready" not in topic_counts.counts(data)
    data.add([example(f"How many {number}?", "") for number in range(60)], "made")
    assert list(checklist.missing(data)) == [checklist.SUGGEST, checklist.WRITE, checklist.HOLD_OUT]
    assert "60 rows have no answer" in checklist.missing(data)[checklist.WRITE]
    library.restore_demo()
    assert "Ready to train" in topic_counts.counts(library.open("demo")) and not checklist.missing(library.open("demo"))


def test_a_goal_gives_a_sentence_and_never_takes_the_users_own():
    name, questions, sentence = goals.chosen("clinic", goals.DEFAULT)
    assert name.placeholder == "doses" and "tablets" in questions.placeholder and "doctor" in sentence.value
    assert goals.chosen("school", "Dazu sage ich nichts.")[2] == {"__type__": "update"}


def test_what_the_model_refuses_even_when_its_answer_is_begun_is_kept(library, monkeypatch):
    data = library.create("clinic")
    data.add([example(f"How many {number}?", "") for number in range(3)], "made")
    data.add([example("Who wrote it?", "", "near_miss")], "made")
    asked = []

    def write_rows(data, rows, model, *, prefill="", **options):
        asked.append((len(rows), prefill))
        for row in rows:
            stays = row.example.prompt == "How many 2?" or (not prefill and row.example.prompt == "How many 1?")
            data.edit(
                row.id, prompt=row.example.prompt, response="I cannot." if stays else "Five.", kind=row.example.kind
            )
            yield "one", True

    monkeypatch.setattr(answers_for_topic, "write_rows", write_rows)
    list(answers_for_topic.complete(data, "demo"))
    assert asked == [(4, ""), (2, answers_for_topic.PREFILL)]
    kinds = {row.example.prompt: row.example.kind for row in sorted(data.rows(), key=lambda row: row.number)}
    assert list(kinds.values()) == ["break", "break", "refusal", "near_miss"]
    assert "test questions" in answers_for_topic.summary(data)


def test_the_preset_is_the_largest_that_the_card_holds(monkeypatch):
    monkeypatch.setattr(start.hardware, "memory_kind", lambda: "cuda")
    for memory, preset in ((5, "gpu-6gb"), (8.0, "gpu-8gb"), (23.5, "gpu-24gb"), (80, "gpu-32gb")):
        monkeypatch.setattr(start.hardware, "memory_for_training", lambda memory=memory: memory * start.hardware.GIB)
        assert start._preset_for("owner/name") == preset
    assert start._preset_for("demo") == "cpu"
    monkeypatch.setattr(start.hardware, "memory_kind", lambda: "cpu")
    assert start.config_for("owner/name").model.name == "owner/name" and start._preset_for("owner/name") == "cpu"
