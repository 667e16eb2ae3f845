"""Axe on every page."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import PAGES, open_app, open_tab, tab, wait_until_still
from playwright.sync_api import Page, expect

pytestmark = pytest.mark.slow
SIZES = ((1440, 900), (1024, 768), (390, 844))
# The lock that Gradio draws next to the heading of a static column; its template is not ours.
IN_GRADIO = {("aria-prohibited-attr", ".wrapper")}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(app_with_run, page, theme):
    open_app(page, f"{app_with_run.url}/?__theme={theme}")
    expect(page.locator("#run input")).to_have_value("trained")
    found = []
    for name in PAGES:
        open_tab(page, name)
        expect(tab(page, name)).to_have_attribute("aria-selected", "true")
        for folded in page.locator("button.label-wrap:visible").all():
            folded.click()
        for width, height in SIZES:
            page.set_viewport_size({"width": width, "height": height})
            wait_until_still(page)
            found += [(name, width, *violation) for violation in violations(page)]
        page.set_viewport_size({"width": SIZES[0][0], "height": SIZES[0][1]})
    assert found == []


def violations(page: Page) -> list[tuple]:
    """What Axe finds that is serious and ours."""
    return [
        (violation["id"], node["target"], node["html"][:200])
        for violation in Axe().run(page).response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if (violation["id"], node["target"][0]) not in IN_GRADIO
    ]
