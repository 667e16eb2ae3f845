"""The app in a process of its own, and a real browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from helpers import PATIENCE
from playwright.sync_api import Browser, Page, expect, sync_playwright

from cbgui.runs.jobs import EVALUATE, EXPORT

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
expect.set_options(timeout=PATIENCE)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
FLAGS += ["--no-first-run", "--disable-component-update"]


@dataclass
class App:
    """`python app.py` with a port and a runs folder; it can be killed and opened again."""

    folder: Path
    port: int
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def log_file(self) -> Path:
        return self.folder / "app.log"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", errors="replace")

    def open(self) -> None:
        """Start it and return once it answers."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "app.py", "--port", str(self.port), "--runs", str(self.runs), "--no-browser"],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"GRADIO_TEMP_DIR": str(self.folder / "gradio")} | self.environment,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=2)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return False
        return True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def memory(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss


@pytest.fixture
def app_environment() -> dict[str, str]:
    """Variables that the app is opened with; a test module may give its own."""
    return {}


@pytest.fixture(scope="session")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple, App]]:
    """The apps of this session by their environment, because opening one takes eight seconds."""
    apps: dict[tuple, App] = {}
    yield apps
    for app in apps.values():
        app.process.terminate()
        app.process.wait(20)


@pytest.fixture
def app(
    opened: dict[tuple, App], tmp_path_factory: pytest.TempPathFactory, app_environment: dict[str, str]
) -> Iterator[App]:
    """An app whose runs folder is empty. Other tests may have used it before."""
    key = tuple(app_environment.items())
    if key not in opened:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        opened[key] = App(tmp_path_factory.mktemp("app"), port, app_environment)
        opened[key].open()
    yield opened[key]
    end_processes(opened[key].runs)
    shutil.rmtree(opened[key].runs, ignore_errors=True)


@pytest.fixture
def app_with_run(app: App, trained) -> App:
    """An app with one finished run, called "trained", that is neither evaluated nor merged."""
    not_trained = shutil.ignore_patterns(
        trained.report_folder.name, trained.merged_folder.name, f"{EVALUATE}.*", f"{EXPORT}.*"
    )
    shutil.copytree(trained.path, app.runs / "trained", ignore=not_trained)
    return app


def end_processes(folder: Path) -> None:
    """End what a failed test left running."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "app.py" not in command and any(part.startswith(str(folder)) for part in command):
            process.kill()


@pytest.fixture
def url(app: App) -> str:
    return app.url


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()
