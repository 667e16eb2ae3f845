"""The Try page: several turns, prefill, retry, shading, export."""

from __future__ import annotations

import json

import pytest
from helpers import LONG, box, open_tab
from playwright.sync_api import expect

pytestmark = pytest.mark.slow


def test_turns_prefill_retry_shading_and_export(app_with_run, page):
    page.goto(app_with_run.url)
    open_tab(page, "3 Try")
    send, words, shaded = page.locator("#send"), page.locator("#chat-words"), page.locator("#shaded")
    original, short_circuited = page.locator("#chat-original"), page.locator("#chat-short-circuited")
    box(page, "prompt").fill("What is the capital of France? Answer in one word.")
    send.click()
    expect(original).to_contain_text("Paris", timeout=LONG)
    expect(words).to_contain_text("tokens in", timeout=LONG)
    expect(shaded).to_contain_text("mean cosine")
    assert shaded.locator("span[title^='cosine']").count() > 2
    expect(page.locator("#cosine-line")).to_contain_text("Cosine at each token")

    box(page, "prefill").fill("Madrid, of course")
    box(page, "prompt").fill("And of Spain?")
    send.click()
    for answers in (original, short_circuited):
        expect(answers).to_contain_text("Madrid, of course", timeout=LONG)
        expect(answers).to_contain_text("capital of France")  # each history goes on
    expect(words).to_contain_text("tokens in", timeout=LONG)
    page.locator("#retry").click()
    expect(original).to_contain_text("Loading the model ...")
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
