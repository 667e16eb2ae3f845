"""Two visitors of a public Space (its environment, faked): neither sees or touches what the other has."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from pathlib import Path

import httpx
import pytest
from helpers import SMALL, fill_settings, open_tab
from playwright.sync_api import expect

pytestmark = pytest.mark.slow
SECRET = "the-first-visitors-secret-topic"


@pytest.fixture
def app_environment():
    return {"SPACE_ID": "owner/cbgui", "SPACE_HOST": "owner-cbgui.hf.space", "HF_TOKEN": "hf_of_the_owner"}


def contents(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def folder_of(app, context) -> Path:
    cookie = next(one["value"] for one in context.cookies(app.url) if one["name"] == "cbgui_visitor")
    return app.runs / "_visitors" / hashlib.sha256(f"cookie {cookie}".encode()).hexdigest()[:32]


def told(client: httpx.Client, session: str) -> str:
    """All that Gradio says of this session's events, until the last of them has ended."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}, timeout=120) as stream:
        return "".join(stream.iter_text())


def test_two_visitors(app, browser, trained):
    first, second = browser.new_context(), browser.new_context()
    page = first.new_page()
    page.goto(app.url)
    open_tab(page, "Runs")
    mine = folder_of(app, first)
    expect(page.get_by_text("No run yet. Start one on the Train page.")).to_be_visible(timeout=60_000)

    # The first visitor has a finished, merged, evaluated run, a data set and a preset of their own.
    shutil.copytree(trained.path, mine / "private")
    for folder, name in (("merged", "model.safetensors"), ("report", "report.json"), ("merged", "README.md")):
        (mine / "private" / folder).mkdir(exist_ok=True)
        (mine / "private" / folder / name).write_text(SECRET)
    (mine / "private" / "log.txt").write_text(SECRET)
    (mine / "private" / "merged" / "link.json").symlink_to("/etc/passwd")
    page.reload()
    expect(page.locator("#run input")).to_have_value("private", timeout=60_000)
    open_tab(page, "Export")
    expect(page.locator("#downloads")).to_contain_text("model.safetensors")
    assert "link.json" not in page.locator("#downloads").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors", exact=True).click()
    assert Path(download.value.path()).read_text() == SECRET

    # The second one sees none of it.
    other = second.new_page()
    other.goto(app.url)
    for tab in ("Data", "Train", "Runs", "Chat", "Report", "Export"):
        open_tab(other, tab)
        other.wait_for_timeout(1500)
        assert "private" not in other.locator("body").inner_text() and SECRET not in other.content()
    assert folder_of(app, second) != mine

    before = contents(mine)
    cookies = {cookie["name"]: cookie["value"] for cookie in second.cookies(app.url)}
    with httpx.Client(base_url=app.url, cookies=cookies, timeout=60) as client:
        _file_urls(client, mine)
        _every_handler(client)
        _uploads(client)
    assert contents(mine) == before
    assert SECRET not in app.log and "hf_of_the_owner" not in app.log
    # What the first one had is still theirs.
    page.reload()
    expect(page.locator("#run input")).to_have_value("private", timeout=60_000)
    first.close()
    second.close()


def _file_urls(client: httpx.Client, mine: Path) -> None:
    """Each path to the first visitor's files, and some to the machine's."""
    private = [mine / "private" / name for name in ("merged/model.safetensors", "log.txt", "run.yaml")]
    absolute = [*private, Path("/etc/passwd"), Path("/proc/self/environ")]
    visitor = mine.name
    paths = [f"/gradio_api/file={path}" for path in absolute]
    paths += [f"/file={path}" for path in absolute]
    paths += [f"/gradio_api/file/{path}" for path in absolute]
    paths += [
        "/cbgui/files/private/merged/model.safetensors",
        "/cbgui/files/private/merged/private-merged.zip",
        "/cbgui/files/private/report/report.json",
        "/cbgui/files/private/adapter/adapter_model.safetensors",
        f"/cbgui/files/_visitors/{visitor}/private",
        f"/cbgui/files/..%2f{visitor}%2fprivate/merged/model.safetensors",
        f"/cbgui/files/../{visitor}/private/merged/model.safetensors",
        "/cbgui/files/private/merged/..%2f..%2frun.yaml",
        "/cbgui/files/private/data/break.jsonl",
        "/cbgui/files/private/./log.txt",
        "/cbgui/files/%2e%2e/%2e%2e/etc%2fpasswd",
        "/cbgui/files//etc/passwd",
        "/cbgui/files/private/merged/link.json",
        "/gradio_api/file=runs/private/log.txt",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/gradio_api/file=/dev/fd/0",
        "/static/../../etc/passwd",
        "/assets/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/theme.css/..%2f..%2fetc%2fpasswd",
    ]
    for path in paths:
        answer = client.get(path)
        assert SECRET not in answer.text and "root:x" not in answer.text and "hf_of_the_owner" not in answer.text, path


def _every_handler(client: httpx.Client) -> None:
    """Each event of the page, called by hand with the first visitor's run as the one that is chosen."""
    config = client.get("/config").json()
    values = {component["id"]: component["props"].get("value") for component in config["components"]}
    run = next(c["id"] for c in config["components"] if c["props"].get("elem_id") == "run")
    names = {"compare-runs": ["private", "private"], "rename-to": "taken"}
    by_element = {c["id"]: names.get(c["props"].get("elem_id")) for c in config["components"]}
    session = secrets.token_hex(8)
    asked = 0
    for index, dependency in enumerate(config["dependencies"]):
        if not dependency["backend_fn"] or not dependency["inputs"]:
            continue
        data = [
            "private" if one == run else by_element.get(one) or values.get(one) or "private"
            for one in dependency["inputs"]
        ]
        body = {"data": data, "fn_index": dependency.get("id", index), "session_hash": session, "event_data": None}
        answer = client.post("/gradio_api/queue/join", json=body)
        assert answer.status_code in (200, 400, 422, 404, 503), answer.text
        asked += 1
    said = told(client, session)
    assert asked > 50 and said.count("process_completed") > asked // 2, said[-500:]
    assert SECRET not in said


def _uploads(client: httpx.Client) -> None:
    """Too large and too many are refused."""
    large = client.post("/gradio_api/upload", files={"files": ("x.csv", b"a" * (51 * 2**20))})
    assert large.status_code in (400, 413), large.status_code
    small = {"files": ("x.csv", b"a,b\n1,2\n")}
    codes = {client.post("/gradio_api/upload", files=small).status_code for _ in range(65)}
    assert codes == {200, 429}


def test_runs_wait_in_line_whoever_started_them(app, browser):
    """The second visitor's run starts when the first one's has ended, and both are told so."""
    pages = []
    for steps in ("90", "2"):
        page = browser.new_context().new_page()
        page.goto(app.url)
        open_tab(page, "Train")
        fill_settings(page, SMALL | {"training-sample_every": 0, "training-steps": steps})
        page.locator("#start").click()
        pages.append(page)
        if steps == "90":
            expect(page.locator("#run-line")).to_contain_text("step", timeout=120_000)
    line = pages[1].locator("#run-line")
    expect(line).to_contain_text("waiting for its turn", timeout=60_000)
    pages[0].locator("#stop").click()
    expect(pages[0].locator("#run-line")).to_contain_text("stopped, adapter kept", timeout=120_000)
    expect(line).to_contain_text("done, step 2 of 2", timeout=180_000)
    for page in pages:  # open ones go on asking the app, which other tests share
        page.context.close()
    states = [json.loads(path.read_text().splitlines()[-1])["state"] for path in app.runs.rglob("events.jsonl")]
    assert sorted(states) == ["done", "stopped"]
