"""A newcomer's whole path in a real browser: open, train, see the curve move, chat, export, download, load."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import LONG, SMALL, box, open_app, open_tab
from playwright.sync_api import expect
from transformers import AutoModelForCausalLM, AutoTokenizer

from cbgui.config import load_config


@pytest.mark.slow
def test_the_whole_path(url, page, tmp_path):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    open_app(page, url)

    open_tab(page, "2 Train")
    expect(box(page, "model")).to_have_value("demo")
    page.locator("#more button.label-wrap").click()
    expect(page.locator("#training-steps input")).to_have_value(str(load_config("demo").training.steps))
    cut_off = "fields => fields.filter(f => f.scrollWidth > f.clientWidth).map(f => f.value)"
    assert page.locator("#more .settings input").evaluate_all(cut_off) == []
    for name, value in (SMALL | {"training-steps": 6}).items():
        page.locator(f"#{name} input").fill(str(value))
        page.locator(f"#{name} input").press("Tab")
    page.locator("#start").click()
    status = page.locator("#run-line")
    expect(status).to_contain_text(re.compile(r"step [1-5] of 6"), timeout=LONG)
    page.reload()
    open_tab(page, "2 Train")
    expect(status).to_contain_text(re.compile(r"step \d of 6"))
    expect(page.locator("#start")).to_be_visible()
    expect(status).to_contain_text("done, step 6 of 6", timeout=LONG)
    expect(page.locator(".chart canvas, .chart svg.marks").first).to_be_visible()

    open_tab(page, "3 Try")
    box(page, "prompt").fill("What is the capital of France?")
    page.locator("#send").click()
    expect(page.locator("#chat-original")).to_contain_text("Paris", timeout=LONG)
    expect(page.locator("#chat-short-circuited")).not_to_contain_text("Loading", timeout=LONG)

    open_tab(page, "5 Take away")
    page.locator("#merge").click()
    expect(page.locator("#confirm-words")).to_contain_text("never tested")
    page.locator("#make-anyway").click()
    expect(page.get_by_text("is merged:")).to_be_visible(timeout=LONG)
    folder = tmp_path / "downloaded"
    folder.mkdir()
    merged = page.locator("#downloads .files").filter(has_text="Merged model").locator("td a[download]")
    expect(merged.first).to_be_visible()
    for index in range(merged.count()):
        with page.expect_download() as download:
            merged.nth(index).click()
        download.value.save_as(folder / download.value.suggested_filename)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    chat = [{"role": "user", "content": "Hello"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert model.generate(**inputs, max_new_tokens=5).shape[1] > inputs["input_ids"].shape[1]
    assert not errors
