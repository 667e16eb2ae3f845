"""On a Space, each visitor has a runs folder of their own, found by their login or else by a cookie of their browser.

Every page reads and writes below `folder.runs_folder()`, which asks this module; no other module knows of visitors.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from gradio.context import LocalContext
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cbgui.runs import folder
from cbgui.space import UPLOADS_PER_HOUR, on_space

COOKIE = "cbgui_visitor"
HOUR = 3600
YEAR = 365 * 24 * HOUR


def _login(scope: Scope) -> dict[str, Any]:
    """What Hugging Face said about a visitor who logged in (Gradio keeps it in the signed session); else empty."""
    return (scope.get("session") or {}).get("oauth_info") or {}


def _cookie(scope: Scope) -> str | None:
    header = dict(scope.get("headers") or []).get(b"cookie", b"").decode("latin-1")
    try:
        value = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return value.value if value and re.fullmatch(r"[0-9a-f]{32}", value.value) else None


def _visitor(scope: Scope) -> str | None:
    if user := _login(scope).get("userinfo", {}).get("sub"):
        return f"login {user}"
    cookie = _cookie(scope)
    return cookie and f"cookie {cookie}"


def _folder(root: Path, visitor: str) -> Path:
    return root / folder.VISITORS / hashlib.sha256(visitor.encode()).hexdigest()[:32]


def folder_of(request: Request, root: Path) -> Path:
    """The runs folder of the sender of a plain HTTP request."""
    if not on_space():
        return root
    return _folder(root, _visitor(request.scope) or f"nobody {secrets.token_hex(16)}")


def _of_event(root: Path) -> Path:
    """The runs folder of the visitor whose event this thread handles; `root` when not on a Space."""
    if not on_space():
        return root
    request = LocalContext.request.get(None)
    if request is None:  # the app itself
        return root
    # A browser that refuses cookies gets a folder for as long as the page is open.
    return _folder(root, _visitor(request.request.scope) or f"page {request.session_hash}")


def hub_token() -> str | None:
    """The visitor's hub token from their login to a Space. None elsewhere: huggingface_hub finds the user's own."""
    request = LocalContext.request.get(None)
    return None if request is None or request.request is None else _login(request.request.scope).get("access_token")


def install() -> None:
    """Give each visitor their own folder from now on."""
    folder.set_folder_chooser(_of_event)


class Visitors:
    """ASGI middleware for a Space: gives each browser its cookie and limits the number of uploads."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._uploads: dict[str, list[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not on_space():
            await self.app(scope, receive, send)
            return
        known = _cookie(scope)
        if scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            if not self._may_upload(known or (scope.get("client") or ("",))[0]):
                words = f"More than {UPLOADS_PER_HOUR} uploads in an hour; wait, or run cbgui on your own machine."
                await PlainTextResponse(words, 429)(scope, receive, send)
                return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and known is None and scope["method"] == "GET":
                MutableHeaders(scope=message).append("set-cookie", _new_cookie(scope))
            await send(message)

        await self.app(scope, receive, with_cookie)

    def _may_upload(self, visitor: str) -> bool:
        now = time.time()
        recent = [moment for moment in self._uploads.get(visitor, []) if now - moment < HOUR]
        self._uploads[visitor] = [*recent, now]
        return len(recent) < UPLOADS_PER_HOUR


def _new_cookie(scope: Scope) -> str:
    # huggingface.co shows a Space in a frame, where browsers keep a cookie only with SameSite=None.
    encrypted = dict(scope["headers"]).get(b"x-forwarded-proto") == b"https"
    same_site = "SameSite=None; Secure" if encrypted else "SameSite=Lax"
    return f"{COOKIE}={secrets.token_hex(16)}; Path=/; Max-Age={YEAR}; HttpOnly; {same_site}"
