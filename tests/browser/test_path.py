"""A newcomer's whole path in a real browser: open, train, see the curve move, chat, export, download, load."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect, sync_playwright
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--no-first-run", "--disable-component-update"]


@pytest.fixture
def url(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "app.log").open("wb") as log:
        app = subprocess.Popen(
            [sys.executable, "app.py", "--port", str(port), "--runs", str(tmp_path / "runs")],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"GRADIO_TEMP_DIR": str(tmp_path / "gradio")},
        )
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(address, timeout=2)
            break
        except (urllib.error.URLError, TimeoutError):
            assert app.poll() is None, (tmp_path / "app.log").read_text()
            time.sleep(0.3)
    yield address
    app.terminate()
    app.wait(20)


@pytest.fixture
def page():
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


@pytest.mark.slow
def test_the_whole_path(url, page, tmp_path):
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    expect(page.get_by_text(re.compile(r"207 examples.*demo"))).to_be_visible()

    open_tab(page, "Train")
    expect(page.locator("#model textarea, #model input").first).to_have_value("demo")
    page.get_by_role("button", name="More").click()
    steps = page.locator("#steps input")
    expect(steps).to_have_value("60")  # the preset's; it has been filled in
    steps.fill("6")
    steps.press("Tab")
    page.locator("#start").click()
    status = page.locator("#run-line")
    expect(status).to_contain_text(re.compile(r"step [1-5] of 6"), timeout=300_000)
    page.reload()
    open_tab(page, "Train")
    expect(status).to_contain_text(re.compile(r"step \d of 6"), timeout=10_000)
    expect(page.locator("#start")).to_be_visible()
    expect(status).to_contain_text("done, step 6 of 6", timeout=600_000)
    assert page.locator("canvas, svg.marks").count() >= 2

    open_tab(page, "Chat")
    page.locator("#prompt textarea").fill("What is the capital of France?")
    page.locator("#send").click()
    expect(page.locator("#chat-base")).to_contain_text("Paris", timeout=300_000)
    expect(page.locator("#chat-broken")).not_to_contain_text("Loading", timeout=300_000)

    open_tab(page, "Export")
    page.locator("#merge").click()
    expect(page.get_by_text("is merged:")).to_be_visible(timeout=600_000)
    folder = tmp_path / "downloaded"
    folder.mkdir()
    links = page.locator("#downloads a[download]")
    expect(links.first).to_be_visible()
    for index in range(links.count()):
        with page.expect_download() as download:
            links.nth(index).click()
        download.value.save_as(folder / download.value.suggested_filename)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    chat = [{"role": "user", "content": "Hello"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert model.generate(**inputs, max_new_tokens=5).shape[1] > inputs["input_ids"].shape[1]
    assert not errors
