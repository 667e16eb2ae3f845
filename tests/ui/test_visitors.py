"""Visitors of a Space: whose folder a request opens, how many there may be, and what is cleaned up behind them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest
from gradio.context import LocalContext
from made_runs import finished_run
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from waiting import run_async

from cbgui import space
from cbgui.config import load_config, override
from cbgui.errors import InputError
from cbgui.runs import folder
from cbgui.runs.jobs import Job
from cbgui.ui.pages import export as export_page
from cbgui.ui.panels import start
from cbgui.ui.server import storage, visitors
from cbgui.ui.server.visitors import COOKIE, Visitors, client_address, visitor_folder


@pytest.fixture
def on_space(monkeypatch, tmp_path) -> Path:
    """The folder of everybody's runs."""
    monkeypatch.setenv("SPACE_ID", "owner/cbgui")
    monkeypatch.setenv("CBGUI_RUNS", str(tmp_path))
    return tmp_path


def scope_of(cookie: str | None = None, login: str | None = None, **headers: str) -> dict:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    if cookie:
        pairs.append((b"cookie", f"{COOKIE}={cookie * 32}".encode()))
    session = {"oauth_info": {"userinfo": {"sub": login}, "access_token": "hf_x"}} if login else {}
    return {"type": "http", "headers": pairs, "session": session, "client": ("10.0.0.1", 1)}


def test_logging_in_keeps_what_the_browser_made(on_space):
    mine = visitor_folder(scope_of("a"), on_space)
    (mine / "run").mkdir(parents=True)
    assert visitor_folder(scope_of("a", "ann"), on_space) == mine
    assert visitor_folder(scope_of("b", "ann"), on_space) == mine, "from another browser too"
    assert visitor_folder(scope_of(None, "ann"), on_space) == mine


def test_whoever_uses_the_browser_next_does_not_see_it(on_space):
    mine = visitor_folder(scope_of("a"), on_space)
    (mine / "run").mkdir(parents=True)
    visitor_folder(scope_of("a", "ann"), on_space)
    logged_out, other = visitor_folder(scope_of("a"), on_space), visitor_folder(scope_of("a", "bob"), on_space)
    assert mine not in (logged_out, other) and logged_out != other
    assert not list(folder.runs_in(logged_out)) and not logged_out.exists()


def test_a_login_with_runs_of_its_own_takes_over_nothing(on_space):
    own = visitor_folder(scope_of(None, "ann"), on_space)
    mine = visitor_folder(scope_of("a"), on_space)
    for path in (own, mine):
        path.mkdir(parents=True)
    assert visitor_folder(scope_of("a", "ann"), on_space) == own
    assert visitor_folder(scope_of("a"), on_space) == mine
    assert visitor_folder(scope_of(), on_space) is None


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ("8.8.8.8", "8.8.8.8"),
        ("1.1.1.1, 8.8.8.8", "8.8.8.8"),  # the first may be made up
        ("1.1.1.1, 8.8.8.8, 10.0.0.9", "8.8.8.8"),
        ("nonsense", "10.0.0.1"),
        ("", "10.0.0.1"),
    ],
)
def test_the_address_is_what_the_proxy_saw(forwarded, address):
    assert client_address(scope_of(x_forwarded_for=forwarded)) == address


def test_new_cookies_do_not_get_around_the_limits(on_space, monkeypatch):
    monkeypatch.setattr(visitors, "VISITORS_PER_ADDRESS", 5)
    monkeypatch.setattr(visitors, "UPLOADS_PER_HOUR", 2)

    async def nothing(request):
        return PlainTextResponse("done")

    async def call() -> None:
        app = Visitors(Starlette(routes=[Route("/{path:path}", nothing, methods=["GET", "POST"])]))
        transport = httpx.ASGITransport(app)

        async def post(path: str, cookie: int | None, address: str = "8.8.8.8") -> int:
            headers = {"x-forwarded-for": address}
            if cookie is not None:
                headers["cookie"] = f"{COOKIE}={cookie:032x}"
            async with httpx.AsyncClient(transport=transport, base_url="https://x.hf.space") as client:
                return (await client.post(path, headers=headers)).status_code

        assert await post("/gradio_api/queue/join", None) == 403
        assert [await post("/gradio_api/upload", 0) for _ in range(3)] == [200, 200, 429]
        assert [await post("/gradio_api/queue/join", number) for number in range(7)] == [200] * 5 + [429] * 2
        assert await post("/gradio_api/queue/join", 9, "9.9.9.9") == 200
        uploads = [await post("/gradio_api/upload", number) for number in (1, 1, 2, 2, 3, 3, 4)]
        assert uploads == [200] * 6 + [429], "eight from one address"
        async with httpx.AsyncClient(transport=transport, base_url="https://x.hf.space") as client:
            cookie = (await client.get("/", headers={"x-forwarded-proto": "https"})).headers["set-cookie"]
        assert all(word in cookie for word in ("SameSite=None", "Secure", "Partitioned", "HttpOnly"))

    run_async(call())


def test_what_a_visitor_keeps_on_disk_is_counted(on_space, monkeypatch):
    run = on_space / "run"
    run.mkdir()
    (run / "adapter").write_bytes(b"x" * 2_000_000)
    (on_space / "_trash" / "1-old").mkdir(parents=True)
    (on_space / "_trash" / "1-old" / "adapter").write_bytes(b"x" * 2_000_000)
    storage.refuse_full()
    monkeypatch.setattr(storage, "MAX_DISK", 3)
    with pytest.raises(InputError, match="delete runs"):
        storage.refuse_full()


def test_the_trash_of_a_space_keeps_the_newest_few(on_space):
    for number in range(space.KEPT_TRASH + 2):
        (on_space / "_trash" / f"{number}-run").mkdir(parents=True)
    storage.trim_trash()
    assert len(folder.trashed()) == space.KEPT_TRASH and folder.trashed()[-1].name == f"{space.KEPT_TRASH + 1}-run"


def test_visitors_who_stay_away_are_forgotten(on_space):
    paths = [on_space / folder.VISITORS / name / "run" / "run.yaml" for name in ("old", "new")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    long_ago = time.time() - (space.KEPT_DAYS + 1) * storage.DAY
    os.utime(paths[0], (long_ago, long_ago))
    storage.forget_old_visitors(on_space)
    assert [path.exists() for path in paths] == [False, True]


def test_files_made_for_a_download_do_not_pile_up(monkeypatch, tmp_path):
    monkeypatch.setattr(storage.tempfile, "tempdir", str(tmp_path))
    old = storage.download_folder()
    long_ago = time.time() - storage.DOWNLOAD_AGE - 60
    os.utime(old, (long_ago, long_ago))
    new = storage.download_folder()
    assert new.is_dir() and not old.exists()


def test_background_processes_get_only_what_they_need(monkeypatch):
    for name in ("CBGUI_AUTH", "OAUTH_CLIENT_SECRET", "DATABASE_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_HUB_CACHE", "/models")
    at_home = space.child_environment()
    assert "CBGUI_AUTH" not in at_home and at_home["HF_TOKEN"] == "secret" and at_home["HF_HUB_CACHE"] == "/models"
    monkeypatch.setenv("SPACE_ID", "owner/cbgui")
    there = space.child_environment()
    assert "secret" not in there.values() and there["HF_HUB_CACHE"] == "/models" and "PATH" in there


def test_an_upload_from_a_space_uses_the_visitors_token(on_space, monkeypatch):
    """Not one that the page sends, and not the owner's."""
    finished_run(on_space / "run")
    started = []
    monkeypatch.setattr(Job, "start", lambda job, *arguments, secrets=None: started.append((*arguments, secrets)))

    def upload(scope: dict) -> None:
        before = LocalContext.request.set(SimpleNamespace(request=SimpleNamespace(scope=scope)))
        try:
            export_page._upload("run", "ann/model", False, "hf_of_somebody_else")
        finally:
            LocalContext.request.reset(before)

    with pytest.raises(gr.Error, match="log in with Hugging Face first"):
        upload(scope_of("a"))
    assert started == []
    upload(scope_of("a", "ann"))
    assert started == [("--repo", "ann/model", {"HF_TOKEN": "hf_x"})]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("training.steps=1001", "training.steps = 1,001: this Space allows at most 1,000"),
        ("training.retain_batch_size=80", "examples in a step"),
        ("data.max_tokens=4096", "data.max_tokens = 4,096"),
    ],
)
def test_a_run_may_not_keep_a_space_busy_without_end(on_space, setting, words):
    with pytest.raises(InputError, match=words):
        start.check(override(load_config("demo"), [setting]))
