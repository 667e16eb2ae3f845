"""A stand-in for the hub's HTTP API, as far as the real huggingface_hub client uses it in these tests.

The name of a repository says how it behaves: good, public (exists already), gated, missing, denied (may only be
read), full, broken (downloads break off), torn (uploads break off), slow (answers too late), late (answers just in
time) or busy. Model repositories hold `files`, dataset repositories hold `data` and say `configs` in their card.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_visitor"
LATE, SLOW = 0.3, 1.2  # seconds; the tests let the clients wait for one second


class Hub(ThreadingHTTPServer):
    """Uploads are stored in `received`, by repository and path."""

    daemon_threads = True

    def __init__(self, files: Path | None = None, data: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.data = files, data
        self.configs: list[dict[str, Any]] | None = None
        self.received: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        pass

    def _send(self, status: int, content: Any = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _behave(self) -> bool:
        """Answer as the repository's name asks; return whether an answer was sent."""
        path = self.path
        if "/gated" in path:
            self._send(403, {"error": "Access to model is restricted"}, X_Error_Code="GatedRepo")
        elif "/missing" in path:
            self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        elif "/busy" in path:
            self._send(429, {"error": "Too many requests"})
        elif "/slow" in path:
            time.sleep(SLOW)
            self._send(504)
        else:
            time.sleep(LATE if "/late" in path else 0)
            return False
        return True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path == "/":
            return self._send(200, b"a hub")
        if self._behave():
            return None
        folder = self.server.data if "/datasets/" in self.path else self.server.files
        names = [path.name for path in folder.iterdir()] if folder else []
        if "/revision/" in self.path or "/tree/" not in self.path and self.path.startswith("/api/"):
            card = {"cardData": {"configs": self.server.configs}} if self.server.configs else {}
            siblings = [{"rfilename": name, "size": (folder / name).stat().st_size} for name in names]
            about = {"siblings": siblings, "private": "/public" not in self.path}
            return self._send(200, {"id": "owner/good", "sha": COMMIT, **about, **card})
        if "/tree/" in self.path:
            sizes = {name: (folder / name).stat().st_size for name in names}
            rows = [{"type": "file", "path": name, "oid": "0" * 40, "size": size} for name, size in sizes.items()]
            return self._send(200, rows)
        name = self.path.partition("?")[0].rsplit("/", 1)[-1]
        if name not in names:
            return self._send(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        content = (folder / name).read_bytes()
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        if "/broken/" in self.path and name.endswith((".safetensors", ".jsonl")) and self.command == "GET":
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", etag)
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return self.connection.close()
        if wanted := self.headers.get("Range"):
            start, end = map(int, wanted.removeprefix("bytes=").split("-"))
            return self._send(206, content[start : end + 1], ETag=etag)
        return self._send(200, content, ETag=etag)

    def do_PUT(self) -> None:
        if "/torn/" in self.path:  # the connection breaks while the client sends
            self.rfile.read(1000)
            self.close_connection = True
            return self.connection.close()
        self.server.objects[self.path.rsplit("/", 1)[-1]] = self._body()
        return self._send(200)

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._send(401, {"error": "Invalid username or password."})
        if self._behave():
            return None
        content = json.loads(body) if body.startswith(b"{") and b"\n" not in body.strip() else {}
        if self.path == "/api/repos/create":
            return self._create(content)
        if self.path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if self.path.endswith("/lfs/objects/batch"):
            return self._batch(content)
        repo = "/".join(self.path.split("/")[3:5])
        if "/denied/" in self.path:  # the repository exists, but the token may only read
            return self._send(403, {"error": "You don't have the rights to write to this repository"})
        if "/preupload/" in self.path:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in content["files"]
            ]
            return self._send(200, {"files": files})
        return self._commit(repo, body)

    def _create(self, content: dict[str, Any]) -> None:
        name = content["name"]
        repo = f"{content.get('organization', 'owner')}/{name}"
        self.server.private[repo] = content.get("private", content.get("visibility") == "private")
        return self._send(200, {"url": f"{self.server.url}/{repo}", "name": repo, "id": COMMIT[:24]})

    def _batch(self, content: dict[str, Any]) -> None:
        if "/full" in self.path:
            return self._send(403, {"error": "Private repository storage limit reached, please upgrade your plan"})
        how = "torn" if "/torn" in self.path else "put"
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.server.url}/{how}/{one['oid']}"}}}
            for one in content["objects"]
        ]
        return self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repo: str, body: bytes) -> None:
        received = self.server.received.setdefault(repo, {})
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                received[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                received[value["path"]] = self.server.objects[value["oid"]]
        answer = {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{repo}/commit/{COMMIT}"}
        self._send(200, answer)
