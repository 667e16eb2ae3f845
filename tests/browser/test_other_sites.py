"""A local app is reached by its own pages alone, whatever name leads to this machine."""

from __future__ import annotations

import httpx
import pytest

from cbgui.runs.run import Run
from cbgui.ui.server.downloads import address

pytestmark = pytest.mark.slow
OTHERS = [{"host": "rebound.evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}]


@pytest.mark.parametrize("headers", OTHERS)
def test_other_sites_do_not_reach_a_local_app(app_with_run, headers):
    run = Run(app_with_run.runs / "trained")
    body = {"data": ["trained"], "fn_index": 0, "session_hash": "x"}
    with httpx.Client(base_url=app_with_run.url, headers=headers, timeout=60) as client:
        answers = [
            client.get("/"),
            client.get("/" + address(run, run.adapter_folder, run.adapter_file.name)),
            client.post("/gradio_api/queue/join", json=body),
            client.options("/gradio_api/queue/join", headers={"access-control-request-method": "POST"}),
        ]
    assert [answer.status_code for answer in answers] == [403] * 4
    assert not any("access-control-allow-origin" in answer.headers for answer in answers)


def test_no_page_shows_it_in_a_frame(app, page):
    """Not even one of its own, which could read the frame if it showed anything."""
    page.goto(f"{app.url}/config")
    shown = page.evaluate(
        """async url => {
            const frame = document.createElement("iframe");
            frame.src = url;
            const loaded = new Promise(done => frame.onload = done);
            document.body.append(frame);
            await loaded;
            return frame.contentDocument !== null;
        }""",
        app.url,
    )
    assert not shown
