"""Text from users, models and data sets is shown as it is, wherever it comes onto the page, and cannot run or load."""

from __future__ import annotations

import pytest
from helpers import LONG, box, open_tab, open_topic
from playwright.sync_api import Page, expect

from cbgui.runs.run import Run

pytestmark = pytest.mark.slow
ELSEWHERE = "http://127.0.0.2:9/x.png"
# The link ran on a click in Gradio's chat, although it filters HTML.
HOSTILE = (
    '<svg><a href="javascript:window.hit=1"><text y="20">press</text></a></svg>'
    f'<img src="{ELSEWHERE}" onerror="window.hit=2"> ![x]({ELSEWHERE}) [y](javascript:window.hit=3) '
    "**bold** &amp; `code`\nsecond line"
)


def test_hostile_text_is_shown_as_it_is(app_with_run, page: Page):
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    Run(app_with_run.runs / "trained").append_event("warning", text=HOSTILE)
    page.goto(app_with_run.url)
    open_tab(page, "2 Train")
    expect(page.locator("#run-line")).to_contain_text(" ".join(HOSTILE.split()))  # Markdown
    box(page, "model").fill(HOSTILE.partition("\n")[0])
    page.locator("#start").click()
    said = page.locator("#starting")
    expect(said).to_contain_text(HOSTILE[:60])
    assert said.locator("svg, img, a").count() == 0

    open_tab(page, "3 Try")
    box(page, "prefill").fill(HOSTILE)  # both answers begin with it
    box(page, "prompt").fill(HOSTILE)
    page.locator("#send").click()
    expect(page.locator("#chat-words")).to_contain_text("tokens in", timeout=LONG)
    expect(page.locator("#shaded")).to_contain_text("mean cosine")
    for chat in map(page.locator, ("#chat-original", "#chat-short-circuited")):
        for role in ("user", "bot"):
            message = chat.get_by_test_id(role).first
            assert message.inner_text().strip().startswith(HOSTILE)
    for place in ("#run-line", "#chat-original", "#chat-short-circuited", "#shaded"):
        found = page.locator(place)
        assert found.locator("img, svg a, a, strong:has-text('bold'), code").count() == 0, place
    assert not [url for url in requests if not url.startswith((app_with_run.url, "data:", "blob:"))]
    assert page.evaluate("window.hit") is None


def test_the_pages_policy_stops_what_markup_would_run_or_load(app, page: Page):
    """Even where markup got onto the page."""
    open_topic(page, app.url)
    expect(page.locator("#counts")).to_contain_text("Must stop")
    page.evaluate(
        """html => {
            const box = document.createElement("div");
            box.id = "foreign";
            document.body.prepend(box);
            window.blocked = [];
            document.addEventListener("securitypolicyviolation", e => window.blocked.push(e.effectiveDirective));
            box.innerHTML = html + '<a id="link" href="javascript:window.hit=4">y</a>';
            box.innerHTML += '<img src="x" onerror="window.hit=5">';
            const script = document.createElement("script");
            script.textContent = "window.hit = 6";
            box.append(script);
        }""",
        HOSTILE,
    )
    page.locator("#link").dispatch_event("click")
    page.wait_for_function("window.blocked.includes('img-src') && window.blocked.some(d => d.startsWith('script-src'))")
    page.locator("#foreign svg a").dispatch_event("click")
    page.wait_for_function("window.blocked.filter(directive => directive === 'script-src-elem').length >= 3")
    assert page.evaluate("window.hit") is None
