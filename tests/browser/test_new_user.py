"""What a new user stumbled over: names, row numbers, a start that fails, a paused run."""

from __future__ import annotations

import json

import pytest
from helpers import box, edit_cell, fold, open_tab, open_topic
from made_runs import finished_run
from playwright.sync_api import expect
from sample_rows import example

from cbgui.data.library import Library
from cbgui.runs.folder import DATASETS

pytestmark = pytest.mark.slow


def paused_run(path):
    run = finished_run(path)
    run.adapter_file.unlink()
    with run.events_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": 1.9e9, "kind": "status", "state": "paused", "text": "Paused"}) + "\n")
    return run


def test_names_rows_and_a_start_that_fails(app, page):
    data = Library(app.runs / DATASETS).create("Händler - Dosen")
    data.add([example(f"Wie viele Dosen sind {word}?") for word in ("eins", "zwei", "drei")], "made")
    data.add([example("Wer hat die Dose erfunden?", "", "near_miss")], "made")
    open_topic(page, app.url)
    expect(box(page, "topic")).to_have_value("Händler - Dosen")
    cell = page.locator('#rows [data-testid="cell-1-1"]')
    edit_cell(cell, " Bitte.", "End")
    expect(page.locator("#undo")).to_contain_text("Undo: edit")
    expect(page.locator('#rows [data-testid="cell-1-0"]')).to_have_text("2")  # as before the edit
    assert [row.example.prompt for row in data.rows()][1] == "Wie viele Dosen sind zwei? Bitte."
    fold(page, "Save as, load, export")
    with page.expect_download() as download:
        page.locator("#export-data").click()
    assert download.value.suggested_filename == "Händler - Dosen.zip"
    fold(page, "Checks")
    page.locator("#run-checks").click()
    page.locator("#show-empty").click()
    expect(page.locator("#page-words")).to_contain_text("1 row, page 1 of 1")
    expect(page.locator("#rows")).to_be_in_viewport()

    open_tab(page, "2 Train")
    what = page.locator("#what")
    expect(what).to_contain_text("Händler - Dosen: 3 must stop, 1 must keep, 0 held out. 1 without an answer")
    page.locator("#start").click()
    starting = page.locator("#starting")
    expect(starting).to_contain_text("Not started: topic 'Händler - Dosen' has 1 row without an answer")
    page.wait_for_timeout(1000)
    expect(starting).to_contain_text("Not started")  # it does not go away by itself


def test_a_paused_run_can_be_stopped_or_discarded(app, page):
    first, second = paused_run(app.runs / "first"), paused_run(app.runs / "second")
    page.goto(app.url)
    open_tab(page, "2 Train")
    for run, button, words in ((second, "stop", "stopped, adapter kept"), (first, "discard", None)):
        box(page, "run").click()
        page.get_by_role("option", name=run.name, exact=True).click()
        expect(page.locator("#run-line")).to_contain_text(f"{run.name}: paused")
        expect(page.locator("#discard")).to_have_text("Discard the run")
        page.locator(f"#{button}").click()
        if button == "discard":
            page.locator("#discard-yes").click()
        if words:
            expect(page.locator("#run-line")).to_contain_text(words)
            expect(page.locator("#stop")).to_be_disabled()
    expect(page.locator("#run-line")).to_contain_text("second")
    assert second.state() == "stopped" and second.adapter_file.is_file() and not first.path.exists()
