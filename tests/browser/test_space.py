"""Two visitors of a public Space, in a faked Space environment: neither sees or changes what the other has."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from pathlib import Path

import httpx
import pytest
from helpers import LONG, PAGES, new_page, open_tab, start_training
from playwright.sync_api import expect

from cbgui.runs.folder import VISITORS, all_runs
from cbgui.runs.run import Run
from cbgui.ui.server.downloads import PREFIX
from cbgui.ui.server.visitors import COOKIE

pytestmark = pytest.mark.slow
SECRET = "the-first-visitors-secret-topic"
# What each page says to a visitor who has no run.
NOTHING_YET = {
    "Home": "no run yet",
    "1 Topic": "look-alikes:",
    "2 Train": "No run yet",
    "History": "No run yet",
    "3 Try": "Train a run first",
    "4 Test": "No run yet",
    "5 Take away": "No run yet",
}


@pytest.fixture
def app_environment():
    return {"SPACE_ID": "owner/cbgui", "SPACE_HOST": "owner-cbgui.hf.space", "HF_TOKEN": "hf_of_the_owner"}


def digest_of(folder: Path) -> str:
    """Of the names and contents of all files."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


def folder_of(app, context) -> Path:
    cookie = next(one["value"] for one in context.cookies(app.url) if one["name"] == COOKIE)
    return app.runs / VISITORS / hashlib.sha256(f"cookie {cookie}".encode()).hexdigest()[:32]


def answers_of(client: httpx.Client, session: str) -> str:
    """All that Gradio answers to this session's events, until the last of them has ended."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}, timeout=120) as stream:
        return "".join(stream.iter_text())


def test_visitors_do_not_see_each_other(app, browser, trained):
    first, second = browser.new_context(), browser.new_context()
    page = new_page(first)
    page.goto(app.url)
    open_tab(page, "History")
    mine = folder_of(app, first)
    expect(page.get_by_text("No run yet. Start one on the Train page.")).to_be_visible()

    # The first visitor has a finished run with a report and a merged model.
    shutil.copytree(trained.path, mine / "private")
    run = Run(mine / "private")
    for path in (run.merged_folder / "model.safetensors", run.merged_folder / "README.md", run.report_file):
        path.parent.mkdir(exist_ok=True)
        path.write_text(SECRET)
    run.log_file.write_text(SECRET)
    (run.merged_folder / "link.json").symlink_to("/etc/passwd")
    page.reload()
    expect(page.locator("#run input")).to_have_value("private")
    open_tab(page, "5 Take away")
    expect(page.locator("#downloads")).to_contain_text("model.safetensors")
    assert "link.json" not in page.locator("#downloads").inner_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="model.safetensors", exact=True).click()
    assert Path(download.value.path()).read_text() == SECRET

    # The second visitor sees none of it.
    other = new_page(second)
    other.goto(app.url)
    for tab in PAGES:
        open_tab(other, tab)
        expect(other.get_by_text(NOTHING_YET[tab]).locator("visible=true").first).to_be_visible()
        assert "private" not in other.locator("body").inner_text() and SECRET not in other.content()
    assert folder_of(app, second) != mine

    assert b"hf_of_the_owner" not in Path(f"/proc/{app.process.pid}/environ").read_bytes()
    before = digest_of(mine)
    cookies = {cookie["name"]: cookie["value"] for cookie in second.cookies(app.url)}
    with httpx.Client(base_url=app.url, cookies=cookies, timeout=60) as client:
        check_file_addresses(client, mine)
        check_every_handler(client)
        check_other_sites(client)
        check_uploads(client)
    assert digest_of(mine) == before
    assert app.memory() < 2 * 10**9
    assert SECRET not in app.log and "hf_of_the_owner" not in app.log
    # The first visitor still has it.
    page.reload()
    expect(page.locator("#run input")).to_have_value("private")
    first.close()
    second.close()


def check_file_addresses(client: httpx.Client, mine: Path) -> None:
    """No address gives the first visitor's files or the machine's."""
    run = Run(mine / "private")
    private = [run.merged_folder / "model.safetensors", run.log_file, run.config_file]
    absolute = [*private, Path("/etc/passwd"), Path("/proc/self/environ")]
    visitor = mine.name
    paths = [f"/gradio_api/file={path}" for path in absolute]
    paths += [f"/file={path}" for path in absolute]
    paths += [f"/gradio_api/file/{path}" for path in absolute]
    paths += [
        f"/{PREFIX}/private/merged/model.safetensors",
        f"/{PREFIX}/private/merged/private-merged.zip",
        f"/{PREFIX}/private/report/report.json",
        f"/{PREFIX}/private/adapter/adapter_model.safetensors",
        f"/{PREFIX}/_visitors/{visitor}/private",
        f"/{PREFIX}/..%2f{visitor}%2fprivate/merged/model.safetensors",
        f"/{PREFIX}/../{visitor}/private/merged/model.safetensors",
        f"/{PREFIX}/private/merged/..%2f..%2frun.yaml",
        f"/{PREFIX}/private/data/break.jsonl",
        f"/{PREFIX}/private/./log.txt",
        f"/{PREFIX}/%2e%2e/%2e%2e/etc%2fpasswd",
        f"/{PREFIX}//etc/passwd",
        f"/{PREFIX}/private/merged/link.json",
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


def check_every_handler(client: httpx.Client) -> None:
    """No event of the page gives anything away when it is called by hand with the first visitor's run."""
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
    answers = answers_of(client, session)
    assert asked > 50 and answers.count("process_completed") > asked // 2, answers[-500:]
    assert SECRET not in answers


def check_other_sites(client: httpx.Client) -> None:
    """A page of another site gets no answer, although the browser would send the visitor's cookie along."""
    body = {"data": [], "fn_index": 0, "session_hash": "x"}
    for origin in ("https://evil.example", "https://evil.hf.space", "null"):
        answer = client.post("/gradio_api/queue/join", json=body, headers={"origin": origin})
        assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers
    own = client.get("/config", headers={"origin": "https://owner-cbgui.hf.space"})
    assert own.status_code == 200
    assert httpx.post(client.base_url.join("/gradio_api/queue/join"), json=body).status_code == 403  # without a cookie


def check_uploads(client: httpx.Client) -> None:
    """Uploads that are too large or too many are refused."""
    large = client.post("/gradio_api/upload", files={"files": ("x.csv", b"a" * (51 * 2**20))})
    assert large.status_code in (400, 413), large.status_code
    event = {"data": ["a" * (52 * 2**20)], "fn_index": 0, "session_hash": "x"}
    assert client.post("/gradio_api/queue/join", json=event).status_code == 413
    small = {"files": ("x.csv", b"a,b\n1,2\n")}
    codes = {client.post("/gradio_api/upload", files=small).status_code for _ in range(65)}
    assert codes == {200, 429}


def test_runs_of_all_visitors_take_turns(app, browser):
    """The second visitor's run starts when the first visitor's has ended, and both pages say so."""
    pages = []
    for steps in (90, 2):
        page = new_page(browser.new_context())
        page.set_default_timeout(LONG)
        start_training(page, app.url, {"training-steps": steps})
        pages.append(page)
        if steps == 90:
            expect(page.locator("#run-line")).to_contain_text("step", timeout=LONG)
    first, second = (page.locator("#run-line") for page in pages)
    expect(second).to_contain_text("waiting for its turn")
    pages[0].locator("#stop").click()
    expect(first).to_contain_text("stopped, adapter kept")
    expect(second).to_contain_text("done, step 2 of 2", timeout=LONG)
    for page in pages:  # an open page goes on asking the app, which other tests share
        page.context.close()
    assert sorted(run.state() for run in all_runs(app.runs)) == ["done", "stopped"]
