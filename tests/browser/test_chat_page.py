"""The Chat page: several turns, prefill, retry, edit, shading, checkpoints, export. And axe on every page."""

from __future__ import annotations

import json
import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import open_tab
from playwright.sync_api import expect

pytestmark = pytest.mark.slow
# Gradio's lock beside a static column's heading; its template is not ours.
GRADIOS_OWN = {("aria-prohibited-attr", ".wrapper")}


@pytest.fixture
def with_run(app, trained):
    shutil.copytree(trained.path, app.runs / "trained")
    return app


def test_turns_prefill_retry_shading_export(with_run, page):
    page.goto(with_run.url)
    open_tab(page, "Chat")
    prompt, send, words = page.locator("#prompt textarea"), page.locator("#send"), page.locator("#chat-words")
    base, broken, shaded = page.locator("#chat-base"), page.locator("#chat-broken"), page.locator("#shaded")
    prompt.fill("What is the capital of France? Answer in one word.")
    send.click()
    expect(base).to_contain_text("Paris", timeout=300_000)
    expect(words).to_contain_text("tokens in", timeout=300_000)
    expect(shaded).to_contain_text("mean cosine", timeout=60_000)
    assert shaded.locator("span[title^='cosine']").count() > 2
    expect(page.locator("#cosine-line")).to_contain_text("Cosine at each token")
    page.locator("#prefill textarea, #prefill input").first.fill("Madrid, of course")
    prompt.fill("And of Spain?")
    send.click()
    for side in (base, broken):
        expect(side).to_contain_text("Madrid, of course", timeout=120_000)
        expect(side).to_contain_text("capital of France")  # both histories go on
    expect(words).to_contain_text("tokens in", timeout=120_000)
    page.locator("#retry").click()
    expect(words).to_contain_text("tokens in", timeout=120_000)
    assert base.get_by_text("And of Spain?").count() == 1
    page.wait_for_timeout(1500)
    with page.expect_download() as download:
        page.locator("#export-chat").click()
        page.wait_for_timeout(1500)
        page.locator("#export-chat").click()
    conversation = json.loads(download.value.path().read_text())
    assert [turn["role"] for turn in conversation["base"]] == ["user", "assistant"] * 2
    assert conversation["short_circuited"][2]["content"] == "And of Spain?"
    page.locator("#clear").click()
    expect(base).not_to_contain_text("Madrid")
    expect(page.locator("#tries")).to_contain_text("potion")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(with_run, page, theme):
    page.goto(f"{with_run.url}/?__theme={theme}")
    expect(page.locator("#counts")).to_contain_text("207")
    found = []
    for name in ("Data", "Train", "Runs", "Chat", "Report", "Export"):
        open_tab(page, name)
        page.wait_for_timeout(1500)
        for folded in page.locator("button.label-wrap:visible").all():
            folded.click()
        page.wait_for_timeout(700)
        for violation in Axe().run(page).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                found += [
                    (name, violation["id"], node["target"], node["html"][:200])
                    for node in violation["nodes"]
                    if (violation["id"], node["target"][0]) not in GRADIOS_OWN
                ]
    assert found == []
