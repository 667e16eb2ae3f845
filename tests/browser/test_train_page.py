"""The Train and Runs pages: a run goes on whatever happens to browser, app or trainer, and all pages say the same."""

from __future__ import annotations

import os
import re
import signal

import pytest
from helpers import LONG, box, choose, fold, new_page, open_tab, start_training, tick_options
from playwright.sync_api import expect
from waiting import wait_until

from cbgui.runs.run import Run

pytestmark = pytest.mark.slow


def _last_step(run: Run) -> int:
    return [event["step"] for event in run.events()[0] if event["kind"] == "step"][-1]


def test_a_run_outlives_browser_app_and_trainer(app, page, browser):
    start_training(page, app.url, {"training-steps": 32, "training-checkpoint_every": 2, "training-sample_every": 32})
    line = page.locator("#run-line")
    expect(line).to_contain_text(re.compile(r"step [2-9] of 32"), timeout=LONG)
    page.reload()
    open_tab(page, "2 Train")
    expect(line).to_contain_text(re.compile(r"running, step \d+ of 32"))
    second = new_page(browser)
    second.goto(app.url)
    open_tab(second, "2 Train")
    expect(second.locator("#run-line")).to_contain_text(re.compile(r"running, step \d+ of 32"))

    second.locator("#pause").click()
    for shown in (line, second.locator("#run-line")):
        expect(shown).to_contain_text("paused")
    second.close()
    run = Run(app.runs / "demo-demo")
    paused_at = _last_step(run)
    page.locator("#resume").click()
    expect(line).to_contain_text("running")

    os.kill(run.training.pid(), signal.SIGSTOP)  # so that training does not end while the app restarts
    app.kill()
    app.open()
    page.goto(app.url)
    open_tab(page, "2 Train")
    expect(line).to_contain_text("running, but it has written nothing for")
    expect(line).to_contain_text("is suspended")
    os.kill(run.training.pid(), signal.SIGCONT)
    wait_until(lambda: _last_step(run) > paused_at)
    os.kill(run.training.pid(), signal.SIGKILL)
    expect(line).to_contain_text("interrupted")
    expect(line).to_contain_text("Press Resume")
    page.locator("#resume").click()
    expect(line).to_contain_text("done, step 32 of 32", timeout=LONG)
    expect(page.locator("#meters")).to_contain_text("Must-keep answers moved")
    expect(page.locator("#samples")).to_contain_text("Held-out answers at step 32")
    assert _last_step(run) == 32

    open_tab(page, "History")
    table = page.locator("#runs")
    expect(table).to_contain_text("32 of 32")
    page.locator("#duplicate-run").click()
    expect(table).to_contain_text("not started")
    box(page, "rename-to").fill("second")
    page.locator("#rename").click()
    expect(table).to_contain_text("second")
    tick_options(page, "compare-runs", ["demo-demo", "second"])
    page.locator("#compare").click()
    expect(page.locator("#differences")).to_contain_text("all settings are the same")
    page.locator("#delete-run").click()
    expect(table).to_contain_text("second")  # until the question is answered
    page.locator("#delete-run-yes").click()
    expect(table).not_to_contain_text("second")
    page.locator("#bring-back").click()
    expect(table).to_contain_text("second")


def test_impossible_settings_are_refused_in_words(url, page):
    page.goto(url)
    open_tab(page, "2 Train")
    memory = page.locator("#memory")
    expect(memory).to_contain_text("It fits.")
    model = box(page, "model")
    model.fill("/no/such/folder")
    model.press("Enter")
    expect(memory).to_contain_text("no such folder")
    page.locator("#start").click()
    expect(page.get_by_text("no such folder").last).to_be_visible()
    fold(page, "More settings")
    steps = page.locator("#training-steps input")
    steps.fill("0")
    steps.press("Tab")
    expect(memory).to_contain_text("training.steps = 0")

    model.fill("demo")
    choose(page, "preset", "cpu")
    expect(memory).to_contain_text("It fits.")
    weight = page.locator("#objective-retain_coefficient input")
    page.locator("#effort").get_by_label("Quick").click()
    expect(steps).to_have_value("115")
    page.locator("#favour input[type=range]").press("ArrowRight")
    expect(weight).to_have_value("1400")
    choose(page, "preset", "published")
    expect(steps).to_have_value("150")  # a preset begins anew, whatever was chosen before
    expect(page.locator("#effort").get_by_label("Normal")).to_be_checked()
    expect(page.get_by_label("published formula")).to_be_checked()
    choose(page, "preset", "cpu")
    expect(page.get_by_label("published formula")).to_have_count(0)
    page.locator("#effort").get_by_label("Thorough").click()
    expect(steps).to_have_value("460")
    expect(memory).to_contain_text("It fits.")
    box(page, "run-name").fill("my own")
    page.locator("#save-preset").click()
    expect(page.locator("#preset input")).to_have_value("my own")
    page.locator("#show-yaml").click()
    expect(page.locator("#yaml")).to_contain_text("break_file")
    expect(page.locator("#command")).to_contain_text("python -m cbgui train")
    assert "Traceback" not in page.content()
    page.reload()
    open_tab(page, "2 Train")
    choose(page, "preset", "my own")
