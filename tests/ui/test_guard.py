"""Which requests reach the app, and what its answers forbid the browser."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from waiting import run_async

from cbgui.ui.server.guard import ContentPolicy, Guard, is_local_name, policy_of

PAGE = '<script>window.own = 1</script><script src="a.js"></script>'


async def _page(request):
    return HTMLResponse(PAGE)


async def _delete(request):
    return PlainTextResponse("deleted")


INNER = ContentPolicy(Starlette(routes=[Route("/", _page), Route("/delete", _delete, methods=["POST"])]))


def ask(guard: Guard, method: str, path: str, **headers: str) -> httpx.Response:
    async def call() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url="http://127.0.0.1:7860") as client:
            return await client.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return run_async(call())


def local(bound_to: str | None = "127.0.0.1", share_url: str | None = None) -> Guard:
    return Guard(INNER, bound_to, lambda: share_url)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1:7860", True),
        ("localhost:7860", True),
        ("LOCALHOST", True),
        ("[::1]:7860", True),
        ("192.168.1.7:7860", True),
        ("evil.example:7860", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_only_names_that_no_foreign_server_gives_reach_the_app(host, is_local):
    """DNS rebinding: a site's name that leads to 127.0.0.1."""
    assert is_local_name(host) == is_local
    if host:
        assert ask(local(), "POST", "/delete", host=host).status_code == (200 if is_local else 403)


def test_further_names_are_those_of_host_and_share_and_any_with_a_password():
    assert ask(local("box.lan"), "GET", "/", host="box.lan:7860").status_code == 200
    assert ask(local(share_url="https://x.gradio.live"), "GET", "/", host="x.gradio.live").status_code == 200
    assert ask(local(), "GET", "/", host="x.gradio.live").status_code == 403
    assert ask(local(None), "GET", "/", host="cbgui.example").status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:8000", "https://owner-x.hf.space"])
def test_pages_of_other_sites_are_refused_and_get_no_leave_to_read(origin):
    for method, path in (("POST", "/delete"), ("GET", "/"), ("OPTIONS", "/delete")):
        answer = ask(local(), method, path, origin=origin)
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    assert ask(local(), "POST", "/delete", origin="http://127.0.0.1:7860").status_code == 200
    assert ask(local(), "POST", "/delete", origin="https://proxy.example", x_forwarded_host="proxy.example").is_success


def test_on_a_space_only_its_own_pages_and_hugging_faces_frame(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "owner/cbgui")
    monkeypatch.setenv("SPACE_HOST", "owner-cbgui.hf.space, cbgui.example")
    guard = local(None)
    for origin, status in (
        ("https://owner-cbgui.hf.space", 200),
        ("https://cbgui.example", 200),
        ("https://evil.hf.space", 403),
        ("https://huggingface.co", 403),
    ):
        assert ask(guard, "POST", "/delete", host="10.0.0.1", origin=origin).status_code == status
    answer = ask(guard, "GET", "/")
    assert "frame-ancestors https://huggingface.co" in answer.headers["content-security-policy"]
    assert "x-frame-options" not in answer.headers


def test_at_home_no_page_may_show_the_app_in_a_frame():
    for method, path in (("GET", "/"), ("POST", "/delete")):
        answer = ask(local(), method, path)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY" and answer.headers["x-content-type-options"] == "nosniff"


def test_a_page_runs_its_own_inline_scripts_alone():
    answer = ask(local(), "GET", "/")
    assert answer.text == PAGE
    policy = answer.headers["content-security-policy"]
    assert policy == policy_of(PAGE.encode()) and policy.count("sha256-") == 1
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert "unsafe-inline" not in scripts and "http" not in scripts
    assert policy_of(b"<script>other</script>") != policy
