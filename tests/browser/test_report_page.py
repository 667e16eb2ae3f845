"""The Report page: evaluate, reload in the middle, read the verdict."""

from __future__ import annotations

import shutil

import pytest
from helpers import choose, fold, open_tab
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_evaluate_and_read(app, page, trained):
    shutil.copytree(trained.path, app.runs / "trained", ignore=shutil.ignore_patterns("report", "evaluate.*"))
    page.goto(app.url)
    open_tab(page, "Report")
    words = page.locator("#report-words")
    expect(words).to_contain_text("not evaluated yet")
    for title in ("Role play", "As fiction", "After 3 answered requests", "Step by step over several turns"):
        page.locator("#attacks").get_by_text(title, exact=True).click()
    limit = page.locator("#limit input")
    limit.click()
    page.keyboard.press("Control+A")
    page.keyboard.type("2")
    page.keyboard.press("Tab")
    fold(page, "More prompts, a classifier")
    page.locator("#also input").click()
    page.get_by_role("option", name="data set: demo", exact=True).click()
    page.keyboard.press("Escape")
    page.locator("#evaluate").click()
    expect(words).to_contain_text("%", timeout=120_000)
    page.reload()
    open_tab(page, "Report")
    expect(words).to_contain_text("evaluated.", timeout=300_000)
    report = page.frame_locator("#report iframe")
    expect(report.get_by_text("too weak").first).to_be_visible()
    expect(report.get_by_text("Answer begun for the model").first).to_be_visible()
    expect(report.get_by_text("Also asked: demo.jsonl")).to_be_visible()
    shutil.copytree(app.runs / "trained", app.runs / "another")
    choose(page, "compare-reports", "another")
    expect(report.get_by_text("Settings that differ")).to_be_visible()
    open_tab(page, "Runs")
    expect(page.locator("#runs")).to_contain_text("100.0%")  # answered under attack, as reported
