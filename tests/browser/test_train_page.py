"""The Train and Runs pages: whatever ends browser, app or trainer, the run goes on and all pages say the same."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest
from helpers import SMALL, fill_settings, open_tab
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow


def start(page: Page, url: str, steps: int) -> None:
    page.goto(url)
    open_tab(page, "Train")
    expect(page.locator("#fit")).to_contain_text("It fits.")
    fill_settings(page, SMALL | {"training-steps": steps, "training-checkpoint_every": 2})
    page.locator("#start").click()


def test_a_run_outlives_browser_app_and_trainer(app, page, browser):
    start(page, app.url, 14)
    line = page.locator("#run-line")
    expect(line).to_contain_text(re.compile(r"step [2-9] of 14"), timeout=300_000)
    page.reload()
    open_tab(page, "Train")
    expect(line).to_contain_text(re.compile(r"running, step \d+ of 14"))
    second = browser.new_page()
    second.goto(app.url)
    open_tab(second, "Train")
    expect(second.locator("#run-line")).to_contain_text(re.compile(r"running, step \d+ of 14"), timeout=30_000)

    second.locator("#pause").click()
    for shown in (line, second.locator("#run-line")):
        expect(shown).to_contain_text("paused", timeout=60_000)
    second.close()
    page.locator("#resume").click()
    expect(line).to_contain_text("running", timeout=60_000)

    app.kill()
    app.open()
    page.goto(app.url)
    open_tab(page, "Train")
    expect(line).to_contain_text("running", timeout=60_000)
    run = app.runs / "demo-demo"
    expect(line).to_contain_text(re.compile(r"step ([4-9]|1\d) of 14"), timeout=300_000)
    os.kill(json.loads((run / "process.json").read_text())["pid"], signal.SIGKILL)
    expect(line).to_contain_text("interrupted", timeout=60_000)
    expect(line).to_contain_text("Press Resume")
    page.locator("#resume").click()
    expect(line).to_contain_text("done, step 14 of 14", timeout=600_000)
    expect(page.locator("#samples")).to_contain_text("Held-out answers at step 14")
    steps = [json.loads(row) for row in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in steps if event["kind"] == "step"][-1] == 14

    open_tab(page, "Runs")
    expect(page.locator("#runs")).to_contain_text("14 of 14")
    page.locator("#duplicate-run").click()
    expect(page.locator("#runs")).to_contain_text("not started")
    page.locator("#rename-to textarea, #rename-to input").first.fill("second")
    page.locator("#rename").click()
    expect(page.locator("#runs")).to_contain_text("second")
    page.locator("#compare-runs input").click()
    for name in ("demo-demo", "second"):
        page.get_by_role("option", name=name).click()
    page.keyboard.press("Escape")
    page.locator("#compare").click()
    expect(page.locator("#differences")).to_contain_text("all settings are the same")
    page.locator("#delete-run").click()
    expect(page.locator("#runs")).not_to_contain_text("second")
    page.locator("#bring-back").click()
    expect(page.locator("#runs")).to_contain_text("second")


def test_what_cannot_be_is_refused_in_words(url, page):
    page.goto(url)
    open_tab(page, "Train")
    expect(page.locator("#fit")).to_contain_text("It fits.")
    model = page.locator("#model textarea, #model input").first
    model.fill("/no/such/folder")
    model.press("Enter")
    expect(page.locator("#fit")).to_contain_text("no such folder")
    page.locator("#start").click()
    expect(page.get_by_text("no such folder").last).to_be_visible()
    page.locator("#more button.label-wrap").click()
    steps = page.locator("#training-steps input")
    steps.fill("0")
    steps.press("Tab")
    expect(page.locator("#fit")).to_contain_text("training.steps = 0")
    model.fill("demo")
    page.locator("#preset input").click()
    page.get_by_role("option", name="cpu").click()
    expect(page.locator("#fit")).to_contain_text("It fits.")
    page.locator("#run-name textarea, #run-name input").first.fill("my own")
    page.locator("#save-preset").click()
    expect(page.locator("#preset input")).to_have_value("my-own")
    page.locator("#show-yaml").click()
    expect(page.locator("#yaml")).to_contain_text("target_layers")
    expect(page.locator("#command")).to_contain_text("python -m cbgui train")
    assert "Traceback" not in page.content()
