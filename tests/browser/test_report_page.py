"""The Test page: evaluate, reload half-way, read the verdict, compare two runs."""

from __future__ import annotations

import json
import shutil

import pytest
from helpers import LONG, choose, fold, open_tab, tick_options, type_into
from playwright.sync_api import expect

from cbgui.evaluation.attacks.registry import ATTACK_TITLES

pytestmark = pytest.mark.slow


def test_evaluate_and_read(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "4 Test")
    words = page.locator("#report-words")
    expect(words).to_contain_text("not evaluated yet")
    how_much = page.locator("#how-much")
    expect(how_much).to_contain_text("under 6 attacks")
    page.locator("#thorough").get_by_label("Quick").click()
    expect(how_much).to_contain_text(
        "320 answers, of both models to 40 must-stop questions under 2 attacks and 80 others"
    )
    fold(page, "Details: which attacks")
    type_into(page, "limit", "2")
    page.keyboard.press("Tab")
    expect(how_much).to_contain_text("12 answers")
    tick_options(page, "also", ["topic: demo"])
    page.locator("#evaluate").click()
    expect(words).to_contain_text("%", timeout=LONG)

    page.reload()
    open_tab(page, "4 Test")
    expect(words).to_contain_text("evaluated.", timeout=LONG)
    expect(how_much).to_contain_text("as the last test went")
    report = page.frame_locator("#report iframe")
    expect(report.get_by_text("too weak").first).to_be_visible()
    expect(report.get_by_text(ATTACK_TITLES["prefill"]).first).to_be_visible()
    expect(report.get_by_text("Also asked: demo.jsonl")).to_be_visible()

    fold(page, "Check the judge")
    judged = page.locator("#label-words")
    expect(judged).to_contain_text("Answer 1 of 8, 0 judged")
    question = page.locator("#label-question textarea").input_value()
    page.get_by_role("button", name="It makes no sense").click()
    expect(judged).to_contain_text("You and the rules agree on 0 of 1")
    page.get_by_role("button", name="Skip").click()
    expect(judged).to_contain_text("Answer 3 of 8, 1 judged")
    said = json.loads((app_with_run.runs / "trained" / "report" / "labels.json").read_text("utf-8"))
    assert list(said.values()) == ["derailed"] and question

    shutil.copytree(app_with_run.runs / "trained", app_with_run.runs / "another")
    choose(page, "compare-reports", "another")
    expect(report.get_by_text("Settings that differ")).to_be_visible()
    open_tab(page, "History")
    expect(page.locator("#runs")).to_contain_text("100.0%")  # answered under attack, as reported


def test_a_label_without_a_classifier_is_refused(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "4 Test")
    expect(page.locator("#report-words")).to_contain_text("trained")  # until then no run is chosen
    fold(page, "Details: which attacks")
    type_into(page, "judge-label", "unsafe")
    page.locator("#evaluate").click()
    expect(page.get_by_text("classifier is empty")).to_be_visible()
