"""Downloads of a run's files: one file, or a folder as one zip that is streamed without a copy on disk.

Only regular files directly inside the adapter, merged, GGUF and report folders of the caller's own runs can be
downloaded; anything else is 404.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from zipstream import ZipStream

from cbgui.export.gguf import GGUF_FOLDER
from cbgui.runs import folder
from cbgui.runs.disk import PART
from cbgui.runs.run import Run
from cbgui.ui.server.visitors import folder_of
from cbgui.ui.words import say

PREFIX = "cbgui/files"
# A report or a model card must not run as a page of this app.
SAFE = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}


@dataclass(frozen=True)
class Listing:
    """What the Take away page shows of one folder."""

    title: str
    zip: str  # its address
    size: str
    files: list[tuple[str, str, str]]  # name, address, size


def files_in(directory: Path) -> list[Path]:
    """The regular files of a folder by name, without links and without files that are being written."""
    if directory.is_symlink() or not directory.is_dir():
        return []
    found = (path for path in directory.iterdir() if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if path.suffix != PART)


def address(run: Run, directory: Path, name: str) -> str:
    """Where the page finds file `name` of one of the run's folders."""
    return "/".join(map(quote, (PREFIX, run.name, directory.name, name)))


def listing(run: Run, directory: Path, title: str) -> Listing:
    files = files_in(directory)
    return Listing(
        title,
        address(run, directory, zip_name(run, directory)),
        _size(sum(path.stat().st_size for path in files)),
        [(path.name, address(run, directory, path.name), _size(path.stat().st_size)) for path in files],
    )


def _size(count: int) -> str:
    return (
        f"{count / 1e9:.2f} GB"
        if count >= 1e9
        else f"{count / 1e6:.1f} MB"
        if count >= 1e5
        else say("take.bytes", count=count)
    )


def zip_name(run: Run, directory: Path) -> str:
    return f"{run.name}-{directory.name}.zip"


def _is_allowed(request: Request) -> bool:
    """Whether the caller has logged in, where the app asks for a password; the same test as in gradio/routes.py."""
    app = request.app
    if app.auth is None and app.auth_dependency is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(app.tokens.get(request.cookies.get(name)) is not None for name in names)


def _find(request: Request) -> tuple[Run, Path] | None:
    """The run and its folder that the address names."""
    visible = folder.runs_in(folder_of(request, folder.root_folder()))
    run = next((run for run in visible if run.name == request.path_params["run"]), None)
    if run is None:
        return None
    offered = (run.adapter_folder, run.merged_folder, run.merged_folder / GGUF_FOLDER, run.report_folder)
    directory = next((path for path in offered if path.name == request.path_params["folder"]), None)
    return None if directory is None else (run, directory)


def _send(request: Request) -> Response:
    if not _is_allowed(request):
        return PlainTextResponse("Log in first.", 401)
    found, name = _find(request), request.path_params["file"]
    if found is not None:
        run, directory = found
        files = files_in(directory)
        if files and name == zip_name(run, directory):
            return _zip(files, name)
        for path in files:
            if path.name == name:
                return FileResponse(path, filename=name, headers=SAFE)
    return PlainTextResponse("There is no such file; see the app's Take away page.", 404)


def _zip(files: list[Path], name: str) -> Response:
    stream = ZipStream(sized=True)
    for path in files:
        stream.add_path(path)
    # A header is Latin-1, so a name in other letters is percent-encoded (RFC 6266).
    attached = f"attachment; filename*=utf-8''{quote(name)}"
    headers = {"Content-Length": str(len(stream)), "Content-Disposition": attached, **SAFE}
    return StreamingResponse(stream, media_type="application/zip", headers=headers)


ROUTES = [Route("/" + PREFIX + "/{run}/{folder}/{file}", _send, methods=["GET", "HEAD"])]
