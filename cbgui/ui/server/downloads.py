"""Files of a run, sent from where they lie: a single one, or a folder as one zip, streamed, with no copy on the way.

Only regular files directly inside `adapter`, `merged` and `report` of the caller's own runs; everything else is 404.
"""

from __future__ import annotations

import html
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from zipstream import ZipStream

from cbgui.runs.run import Run
from cbgui.ui.server.visitors import folder_of

FOLDERS = ("adapter", "merged", "report")
PREFIX = "cbgui/files"


def _allowed(request: Request) -> bool:
    """As Gradio's own routes: a password, where the app has one, must have been given (gradio/routes.py)."""
    app = request.app
    if app.auth is None and app.auth_dependency is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


def files_in(folder: Path) -> list[Path]:
    """Regular files of a folder, no links, by name."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.is_symlink())


def _send(request: Request) -> Response:
    missing = PlainTextResponse("There is no such file; look at the app's Export page.", 404)
    if not _allowed(request):
        return PlainTextResponse("Log in first.", 401)
    name, folder, file = (request.path_params[key] for key in ("run", "folder", "file"))
    root = folder_of(request, folder.root_folder())
    run = next((run for run in folder.runs_in(root) if run.name == name), None)
    if run is None or folder not in FOLDERS:
        return missing
    files = files_in(run.path / folder)
    if file == f"{name}-{folder}.zip" and files:
        return _zip(files, file)
    found = next((path for path in files if path.name == file), None)
    # As an attachment: a report or a card must not run as a page of this app.
    return missing if found is None else FileResponse(found, filename=found.name, headers=_SAFE)


_SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


def _zip(files: list[Path], name: str) -> Response:
    stream = ZipStream(sized=True)
    for path in files:
        stream.add_path(path)
    headers = {"Content-Length": str(len(stream)), "Content-Disposition": f'attachment; filename="{name}"', **_SAFE}
    return StreamingResponse(stream, media_type="application/zip", headers=headers)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count:,} bytes"


def link(run: Run, folder: str, file: str, words: str) -> str:
    address = "/".join(map(quote, (PREFIX, run.name, folder, file)))
    return f'<a href="{address}" download>{html.escape(words)}</a>'


def listing(run: Run, folder: str, title: str) -> str:
    """HTML: all of a folder as one zip, and its files one by one."""
    files = files_in(run.path / folder)
    if not files:
        return ""
    total = sum(path.stat().st_size for path in files)
    whole = link(run, folder, f"{run.name}-{folder}.zip", f"All as one zip, {_size(total)}")
    rows = "".join(
        f"<tr><td>{link(run, folder, path.name, path.name)}</td><td>{_size(path.stat().st_size)}</td></tr>"
        for path in files
    )
    return f'<div class="files"><p><b>{html.escape(title)}</b> {whole}</p><table>{rows}</table></div>'


ROUTES = [Route("/" + PREFIX + "/{run}/{folder}/{file}", _send, methods=["GET", "HEAD"])]
