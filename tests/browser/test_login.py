"""An app with a password gives its files only to those who have logged in."""

from __future__ import annotations

import httpx
import pytest

from cbgui.runs.run import Run
from cbgui.ui.server.downloads import PREFIX, address, zip_name

pytestmark = pytest.mark.slow


@pytest.fixture
def app_environment():
    return {"CBGUI_AUTH": "name:password"}


def test_downloads_need_the_password(app_with_run):
    run = Run(app_with_run.runs / "trained")
    file = address(run, run.adapter_folder, run.adapter_file.name)
    whole = address(run, run.adapter_folder, zip_name(run, run.adapter_folder))
    assert file.startswith(PREFIX)
    with httpx.Client(base_url=app_with_run.url, timeout=60) as client:
        assert client.get(file).status_code == client.get(whole).status_code == 401
        assert client.post("/login", data={"username": "name", "password": "wrong"}).status_code == 400
        assert client.get(file).status_code == 401
        assert client.post("/login", data={"username": "name", "password": "password"}).status_code == 200
        assert client.get(file).content == run.adapter_file.read_bytes()
        assert client.get(whole).headers["content-type"] == "application/zip"
        client.cookies.clear()
        assert client.get(file).status_code == 401
