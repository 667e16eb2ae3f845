"""The Test page: evaluate, reload half-way, read the verdict, compare two runs."""

from __future__ import annotations

import shutil

import pytest
from helpers import LONG, choose, fold, open_tab, tick_options, type_into
from playwright.sync_api import expect

from cbgui.evaluation.attacks.registry import ATTACK_TITLES, DEFAULT_ATTACKS

pytestmark = pytest.mark.slow
CHOSEN = ("direct", "prefill")


def test_evaluate_and_read(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "4 Test")
    words = page.locator("#report-words")
    expect(words).to_contain_text("not evaluated yet")
    for name in set(DEFAULT_ATTACKS) - set(CHOSEN):
        page.locator("#attacks").get_by_text(ATTACK_TITLES[name], exact=True).click()
    type_into(page, "limit", "2")
    page.keyboard.press("Tab")
    fold(page, "More questions, a classifier")
    tick_options(page, "also", ["topic: demo"])
    page.locator("#evaluate").click()
    expect(words).to_contain_text("%")

    page.reload()
    open_tab(page, "4 Test")
    expect(words).to_contain_text("evaluated.", timeout=LONG)
    report = page.frame_locator("#report iframe")
    expect(report.get_by_text("too weak").first).to_be_visible()
    expect(report.get_by_text(ATTACK_TITLES["prefill"]).first).to_be_visible()
    expect(report.get_by_text("Also asked: demo.jsonl")).to_be_visible()

    shutil.copytree(app_with_run.runs / "trained", app_with_run.runs / "another")
    choose(page, "compare-reports", "another")
    expect(report.get_by_text("Settings that differ")).to_be_visible()
    open_tab(page, "History")
    expect(page.locator("#runs")).to_contain_text("100.0%")  # answered under attack, as reported


def test_a_label_without_a_classifier_is_refused(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "4 Test")
    fold(page, "More questions, a classifier")
    type_into(page, "judge-label", "unsafe")
    page.locator("#evaluate").click()
    expect(page.get_by_text("classifier is empty")).to_be_visible()
