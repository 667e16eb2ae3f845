"""What the server refuses (requests of other sites), and what it forbids the browser (frames, scripts, images)."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cbgui.space import on_space

# Gradio's pages for --share load its scripts from here.
SHARE_SCRIPTS = "https://gradio.s3-us-west-2.amazonaws.com"
NOBODY = "'none'"
SPACE_FRAMES = "https://huggingface.co https://*.huggingface.co https://hf.co"
_INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)


def _host_name(netloc: str) -> str:
    """The name of "name:port", in lower case; "" for what is none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_local_name(host: str, bound_to: str = "127.0.0.1") -> bool:
    """Whether a Host header is an IP address or a name of this machine; `bound_to` is what --host gave.

    A site whose name leads to 127.0.0.1 (DNS rebinding) would otherwise be served as if it were this app.
    """
    name = _host_name(host)
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        here = socket.gethostname().lower()
        return name in ("localhost", bound_to.lower(), here, f"{here}.local") or name.endswith(".localhost")


class Guard:
    """The outermost ASGI application. Refuses requests that other sites' pages send, and frames in foreign pages.

    `bound_to` is the address that the app listens on; None lets any name in the Host header pass, where it proves
    nothing or a password protects the app. `share_url` returns the address of --share, once it is known.
    """

    def __init__(self, app: ASGIApp, bound_to: str | None, share_url: Callable[[], str | None]) -> None:
        self.app, self._bound_to, self._share_url = app, bound_to, share_url

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        shared = urlsplit(self._share_url() or "").netloc
        if self._bound_to is not None and host != shared and not is_local_name(host, self._bound_to):
            words = f"This app is not served under the name {_host_name(host)!r}; open it by its IP address, such as "
            words += "http://127.0.0.1, or start it with --auth name:password."
            await PlainTextResponse(words, 403)(scope, receive, send)
            return
        if origin is not None:
            spaces = [name.strip() for name in os.environ.get("SPACE_HOST", "").split(",")]
            own = {host, headers.get("x-forwarded-host", host), shared, *spaces} - {""}
            if urlsplit(origin).netloc not in own:
                words = "Requests from pages of other sites are refused; open the app itself."
                await PlainTextResponse(words, 403)(scope, receive, send)
                return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                answer.setdefault("Content-Security-Policy", _frames())
                answer.setdefault("X-Content-Type-Options", "nosniff")
                answer.setdefault("Referrer-Policy", "same-origin")
                if not on_space():
                    answer.setdefault("X-Frame-Options", "DENY")
            await send(message)

        await self.app(scope, receive, with_headers)


def _frames() -> str:
    """Which pages may show this app in a frame: on a Space that of Hugging Face, elsewhere none."""
    return f"frame-ancestors {SPACE_FRAMES if on_space() else NOBODY}"


def guarded(bound_to: str | None, share_url: Callable[[], str | None]) -> Callable[[Any], Any]:
    """A lifespan of the app that puts `Guard` around all of it: Gradio adds its own CORS answers outside of middleware
    that it is given, and they let any site in."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = Guard(app.middleware_stack, bound_to, share_url)
        yield

    return lifespan


class ContentPolicy:
    """ASGI middleware: on the app's own page only Gradio's scripts run, and nothing is loaded from other sites."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None  # of a page, held back until all of it is known
        parts: list[bytes] = []

        async def with_policy(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "content-security-policy" not in headers and headers.get("content-type", "").startswith("text/html"):
                    start = message
                    return
            if start is None:
                await send(message)
                return
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                page = b"".join(parts)
                MutableHeaders(scope=start)["Content-Security-Policy"] = policy_of(page)
                await send(start)
                await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, with_policy)


def policy_of(page: bytes) -> str:
    """The policy of a page: only its own inline scripts run, known by hashes, whatever markup gets into it later."""
    digests = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in _INLINE_SCRIPT.findall(page))
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    share = f" {SHARE_SCRIPTS}" if SHARE_SCRIPTS.encode() in page else ""
    return "; ".join(
        [
            f"default-src 'self'{share}",
            # Charts and Gradio's event handlers are compiled from text by scripts, which markup cannot do.
            f"script-src 'self' 'unsafe-eval'{share} {hashes}",
            f"style-src 'self' 'unsafe-inline'{share}",
            "img-src 'self' data: blob:",
            f"font-src 'self' data:{share}",
            "media-src 'self' blob:",
            "worker-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'self'",
            "form-action 'self'",
            _frames(),
        ]
    )
