"""The pages in the language of the browser, up to the first clicks of the demo."""

from __future__ import annotations

import re

import pytest
from helpers import PATIENCE
from playwright.sync_api import Browser, expect

from cbgui.runs.run import Run
from cbgui.ui.words import TEXTS

pytestmark = pytest.mark.slow
MARKER = "__i18n__"  # what Gradio sends in place of a text


@pytest.mark.parametrize(("locale", "theme"), [("de-DE", "Hell oder dunkel"), ("fr-FR", "Clair ou sombre")])
def test_the_pages_speak_the_language_of_the_browser(app, browser: Browser, locale: str, theme: str):
    words = TEXTS[locale[:2]]
    context = browser.new_context(locale=locale, viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(app.url)
    expect(page.locator("#theme")).to_have_text(theme)
    expect(page.locator("#cards")).to_contain_text(words["home.heading"].strip("# "))
    expect(page.locator("#line")).to_contain_text(words["progress.no_run"].format(words="").strip(" ·"))  # by Python

    page.locator("#own").click()
    expect(page.locator("#steps")).to_contain_text(words["wizard.questions"])
    page.locator("#wizard-goal").get_by_text(words["goal.clinic"]).click()
    expect(page.locator("#wizard-name textarea, #wizard-name input")).to_have_attribute(
        "placeholder", words["goal.clinic_name"]
    )
    page.locator("#wizard-leave").click()

    for name in ("topic", "train", "try", "test", "take", "history"):
        page.locator("#tabs").get_by_role("tab", name=re.compile(f"^{words[f'tab.{name}']}")).first.click()
        expect(page.locator("body")).not_to_contain_text(MARKER)
        if name == "topic":
            expect(page.locator("#rows")).to_contain_text(words["topic.question"])  # a heading
            expect(page.locator("#rows")).to_contain_text(words["kind.break"])
        if name == "train":
            expect(page.locator("#start")).to_have_text(words["train.start"])
            expect(page.locator("#preset")).to_contain_text(words["train.preset"])
            expect(page.locator("#effort")).to_contain_text(words["effort.thorough"])
            expect(page.locator("#memory")).to_contain_text(words["memory.fits"])
        if name == "try":
            expect(page.locator("#prompt textarea")).to_have_attribute("placeholder", words["try.prompt_keys"])
            expect(page.locator("#way")).to_contain_text(words["try.role_play"])

    page.locator("#tabs").get_by_role("tab", name=words["tab.home"]).first.click()
    page.locator("#see").click()
    expect(page.locator("#pause")).to_be_enabled()
    expect(page.locator("#run-line")).to_contain_text(words["state.running"])
    assert page.locator("#tab-train-button").get_attribute("aria-selected") == "true"
    run = Run(app.runs / "see-it-work")
    run.training.kill()
    expect(page.locator("#run-line")).to_contain_text(words["state.interrupted"])
    context.close()
