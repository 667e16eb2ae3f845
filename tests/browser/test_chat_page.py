"""The Try page: several turns, prefill, retry, shading, export."""

from __future__ import annotations

import json
import re

import pytest
from helpers import LONG, box, open_tab
from playwright.sync_api import expect

pytestmark = pytest.mark.slow
# The words are there for less time than between two looks of Playwright.
WATCH_FOR_LOADING = """() => {
    const chat = document.querySelector("#chat-original");
    const look = () => { window.loadingShown ||= chat.textContent.includes("Loading the model"); };
    new MutationObserver(look).observe(chat, {childList: true, subtree: true, characterData: true});
}"""


def test_turns_prefill_retry_shading_and_export(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "3 Try")
    send, words, shaded = page.locator("#send"), page.locator("#chat-words"), page.locator("#shaded")
    original, short_circuited = page.locator("#chat-original"), page.locator("#chat-short-circuited")
    stop = page.locator("#chat-stop")
    expect(send).to_be_enabled()
    expect(stop).to_be_disabled()
    box(page, "prompt").fill("What is the capital of France? Answer in one word.")
    send.click()
    expect(stop).to_be_enabled()
    expect(original).to_contain_text("Paris", timeout=LONG)
    expect(words).to_contain_text("tokens in", timeout=LONG)
    expect(stop).to_be_disabled()
    expect(shaded).to_contain_text("mean cosine")
    assert shaded.locator("span[title^='cosine']").count() > 2
    expect(page.locator("#cosine-line")).to_contain_text("Cosine at each token")

    page.locator("#add-near_miss").click()
    expect(page.get_by_text("Added to Look-alikes of demo")).to_be_visible()
    page.locator("#goes-on").get_by_role("checkbox").check()
    box(page, "prefill").fill("Madrid, of course")
    box(page, "prompt").fill("And of Spain?")
    send.click()
    for answers in (original, short_circuited):
        expect(answers).to_contain_text("Madrid, of course", timeout=LONG)
        expect(answers).to_contain_text("capital of France")  # each history goes on
    expect(words).to_contain_text("tokens in", timeout=LONG)
    page.evaluate(WATCH_FOR_LOADING)
    page.locator("#retry").click()
    page.wait_for_function("window.loadingShown")
    expect(words).to_contain_text("tokens in", timeout=LONG)
    expect(original).to_contain_text("Madrid, of course", timeout=LONG)
    assert original.get_by_text("And of Spain?").count() == 1

    with page.expect_download() as download:
        page.locator("#export-chat").click()
    conversation = json.loads(download.value.path().read_text())
    assert [turn["role"] for turn in conversation["base"]] == ["user", "assistant"] * 2
    assert conversation["short_circuited"][2]["content"] == "And of Spain?"
    page.locator("#clear").click()
    expect(original).not_to_contain_text("Madrid")
    expect(page.locator("#examples")).to_contain_text("potion")


def test_a_sample_is_sent_by_one_click_and_each_try_is_fresh(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "3 Try")
    original, words = page.locator("#chat-original"), page.locator("#chat-words")
    must_stop = page.locator("#examples button").first
    expect(must_stop).to_have_text(re.compile(r"\w"))
    question = must_stop.inner_text()
    must_stop.click()
    expect(original).to_contain_text(question.strip()[:40])
    expect(words).to_contain_text("tokens in", timeout=LONG)
    page.locator("#way").get_by_text("Role play").click()
    box(page, "prompt").fill("Why is the sky blue?")
    page.keyboard.press("Enter")
    expect(original).to_contain_text("You are Vesper")
    expect(original).not_to_contain_text(question.strip()[:40])
    expect(words).to_contain_text("tokens in", timeout=LONG)
