"""On a Space, each visitor has a runs folder of their own, found by their login or else by a cookie of their browser.

Every page reads and writes below `folder.runs_folder()`, which asks this module; no other module knows of visitors.
"""

from __future__ import annotations

import hashlib
import ipaddress
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
from cbgui.space import UPLOADS_PER_HOUR, VISITORS_PER_ADDRESS, on_space

COOKIE = "cbgui_visitor"
OWNER = "_login"  # in a visitor's folder: the login that it belongs to
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _folder(root: Path, visitor: str) -> Path:
    return root / folder.VISITORS / _digest(visitor)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""


def visitor_folder(scope: Scope, root: Path) -> Path | None:
    """The runs folder of whoever sent a request; None without login and cookie.

    The first login takes over what the browser has made before it. From then on that folder belongs to the login, and
    the browser alone no longer opens it: someone else may use it next.
    """
    cookie, user = _cookie(scope), _login(scope).get("userinfo", {}).get("sub")
    mine = _folder(root, f"cookie {cookie}") if cookie else None
    owner = _read(mine / OWNER) if mine else ""
    if not user:
        return _folder(root, f"cookie {cookie} after a login") if owner else mine
    login = _digest(f"login {user}")
    own = root / folder.VISITORS / login
    if taken_over := _read(own / OWNER):  # the name of the folder that the first login took over
        return own.parent / taken_over
    if mine is None or owner not in ("", login) or own.exists() or not mine.is_dir():
        return own
    (mine / OWNER).write_text(login, "utf-8")
    own.mkdir(parents=True, exist_ok=True)
    (own / OWNER).write_text(mine.name, "utf-8")
    return mine


def folder_of(request: Request, root: Path) -> Path:
    """The runs folder of the sender of a plain HTTP request."""
    if not on_space():
        return root
    return visitor_folder(request.scope, root) or _folder(root, f"nobody {secrets.token_hex(16)}")


def _of_event(root: Path) -> Path:
    """The runs folder of the visitor whose event this thread handles; `root` when not on a Space."""
    if not on_space():
        return root
    request = LocalContext.request.get(None)
    if request is None:  # the app itself
        return root
    return folder_of(request.request, root)


def hub_token() -> str | None:
    """The visitor's hub token from their login to a Space. None elsewhere: huggingface_hub finds the user's own."""
    request = LocalContext.request.get(None)
    return None if request is None or request.request is None else _login(request.request.scope).get("access_token")


def install() -> None:
    """Give each visitor their own folder from now on."""
    folder.set_folder_chooser(_of_event)


def client_address(scope: Scope) -> str:
    """The visitor's address as a Space's proxy reports it: the last public one, as visitors can make up others."""
    forwarded = dict(scope.get("headers") or []).get(b"x-forwarded-for", b"").decode("latin-1")
    for address in reversed([part.strip() for part in forwarded.split(",")]):
        try:
            if ipaddress.ip_address(address).is_global:
                return address
        except ValueError:
            continue
    return (scope.get("client") or ("",))[0]


class Limiter:
    """How often something happened within the last hour, by whom."""

    def __init__(self) -> None:
        self._moments: dict[str, dict[object, float]] = {}

    def count(self, who: str, what: object, most: int) -> bool:
        """Note that `who` did `what`; the same again counts once. False, and not noted, when that is over `most`."""
        now = time.monotonic()
        for name in [name for name, kept in self._moments.items() if now - max(kept.values()) > HOUR]:
            del self._moments[name]
        recent = {one: moment for one, moment in self._moments.get(who, {}).items() if now - moment < HOUR}
        if what not in recent and len(recent) >= most:
            return False
        self._moments[who] = recent | {what: now}
        return True


class Visitors:
    """ASGI middleware for a Space: gives each browser its cookie; limits uploads, and visitors from one address."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._limits = Limiter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not on_space():
            await self.app(scope, receive, send)
            return
        known = _cookie(scope)
        if scope["method"] == "POST" and (refusal := self._refusal(scope, known)):
            status, words = refusal
            await PlainTextResponse(words, status)(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and known is None and scope["method"] == "GET":
                MutableHeaders(scope=message).append("set-cookie", _new_cookie(scope))
            await send(message)

        await self.app(scope, receive, with_cookie)

    def _refusal(self, scope: Scope, cookie: str | None) -> tuple[int, str] | None:
        """The status and the sentence with which a request is refused; None when it is not."""
        address, visitor = client_address(scope), cookie or _login(scope).get("userinfo", {}).get("sub")
        if visitor is None:
            return (
                403,
                "This Space tells visitors apart by a cookie; allow it, or open the Space in a tab of its own.",
            )
        if not self._limits.count(f"visitors {address}", visitor, VISITORS_PER_ADDRESS):
            return 429, "Too many visitors from one address in an hour; wait, or run cbgui on your own machine."
        if scope["path"].rstrip("/").endswith("/upload"):
            for who, most in ((visitor, UPLOADS_PER_HOUR), (address, UPLOADS_PER_HOUR * 4)):
                if not self._limits.count(f"uploads {who}", object(), most):
                    return 429, f"More than {most} uploads in an hour; wait, or run cbgui on your own machine."
        return None


def _new_cookie(scope: Scope) -> str:
    # huggingface.co shows a Space in a frame. There a browser keeps a cookie only with SameSite=None, and one that
    # blocks the cookies of other sites only if it is Partitioned.
    encrypted = dict(scope["headers"]).get(b"x-forwarded-proto") == b"https"
    rest = "SameSite=None; Secure; Partitioned" if encrypted else "SameSite=Lax"
    return f"{COOKIE}={secrets.token_hex(16)}; Path=/; Max-Age={YEAR}; HttpOnly; {rest}"
