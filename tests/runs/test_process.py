"""A run's processes: one at a time, told alive by their lock, started with training's memory settings."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from cli_process import ROOT
from made_runs import step_event
from waiting import wait_until

from cbgui.errors import InputError, error_sentence
from cbgui.runs import folder, process
from cbgui.runs.folder import create_run
from cbgui.runs.jobs import alone
from cbgui.runs.process import hold
from cbgui.runs.run import EXPORT, TRAIN, Run
from cbgui.ui.pages import train as train_page
from cbgui.ui.panels import run_status


@pytest.fixture
def run(tmp_path, short_config) -> Run:
    return create_run(tmp_path / "run", short_config)


def start(run: Run) -> bool:
    try:
        run.start()
    except InputError as error:
        assert "running already" in str(error)
        return False
    return True


def test_of_many_starts_at_once_only_one_trains(run):
    with ThreadPoolExecutor(8) as threads:
        started = list(threads.map(start, [run] * 8))
    try:
        assert started.count(True) == 1 and run.state() == "running"
        command = [sys.executable, "-m", "cbgui", "train", "--resume", "--output", str(run.path)]
        other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert other.returncode == 2 and "running already" in other.stderr
    finally:
        assert run.training.kill()
    assert not run.training.is_running() and run.training.pid() is None


def test_a_killed_process_is_noticed_at_once_whatever_its_pid(run):
    """The lock file keeps the dead process's pid, which another process may have by now."""
    run.start()
    os.kill(run.training.pid(), signal.SIGKILL)
    wait_until(lambda: not run.training.is_running())
    assert run.state() == "interrupted"
    run.lock_file(TRAIN).write_text(f" {os.getpid()}")
    assert run.state() == "interrupted" and not run.training.kill()


def test_a_held_lock_names_its_process(run):
    with hold(run.lock_file(TRAIN)) as held:
        assert held and run.state() == "running" and run.training.pid() == os.getpid()
    assert run.state() == "interrupted"  # it was started once, and left no event


def test_a_copied_run_is_not_taken_for_the_running_one(run, tmp_path):
    with hold(run.lock_file(TRAIN)):
        copy = tmp_path / "copy"
        copy.mkdir()
        for path in (run.config_file, run.lock_file(TRAIN)):
            (copy / path.name).write_bytes(path.read_bytes())
        assert not Run(copy).training.is_running()


def test_a_run_in_a_read_only_folder_is_looked_at(run, monkeypatch):
    """Simulated, because root may write everywhere. What has to write says why it cannot."""
    real = os.open

    def read_only(path, flags, *mode):
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *mode)

    with hold(run.lock_file(TRAIN)):
        monkeypatch.setattr(process.os, "open", read_only)
        assert run.state() == "running" and run.training.pid() == os.getpid()
    assert run.state() == "interrupted" and run.running_task() is None
    with alone(run, EXPORT):  # into another folder
        pass
    with pytest.raises(PermissionError) as refusal:
        run.start()
    assert "could not be read or written (Permission denied)" in error_sentence(refusal.value)


HOLDER = """
import pathlib, sys
from cbgui.runs.process import hold
with hold(pathlib.Path(sys.argv[1])) as held:
    print(held, flush=True)
    input()
"""


@pytest.fixture
def busy(run):
    """A process that holds the run's lock as training does."""
    command = [sys.executable, "-c", HOLDER, str(run.lock_file(TRAIN))]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("seconds", [2, -2, 10**6])
def test_a_clock_that_is_set_changes_nothing(run, busy, monkeypatch, seconds):
    """A process's start, by which it used to be known, is counted from the clock too."""
    real, now = psutil.Process.create_time, time.time
    monkeypatch.setattr(psutil.Process, "create_time", lambda one: real(one) + seconds)
    monkeypatch.setattr(time, "time", lambda: now() + seconds)
    os.utime(run.lock_file(TRAIN), (now() - seconds,) * 2)
    assert run.state() == "running" and run.training.pid() == busy.pid
    assert not start(run)
    with pytest.raises(InputError, match="is busy"):
        folder.rename(run, "other")


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
def test_a_suspended_or_silent_run_is_told(run, busy, monkeypatch):
    def line() -> str:
        return train_page._refresh(run.name, None)[0]

    monkeypatch.setenv("CBGUI_RUNS", str(run.path.parent))
    for step in (1, 2, 3):
        event = step_event(step, 6)
        run.append_event(**{key: value for key, value in event.items() if key != "time"})
    assert "running, step 3 of 6, about 6 s left" in line()
    busy.send_signal(signal.SIGSTOP)
    wait_until(run.training.is_suspended)
    assert f"it has written nothing for 0 s: its process ({busy.pid}) is suspended" in line() and "left" not in line()
    busy.send_signal(signal.SIGCONT)
    wait_until(lambda: not run.training.is_suspended())
    assert "about 6 s left" in line()
    now = time.time()
    monkeypatch.setattr(run_status.time, "time", lambda: now + 600)
    assert "it has written nothing for 10 min" in line() and "may be stuck" in line() and "left" not in line()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc reads its settings from the environment")
def test_training_starts_with_large_pages_and_few_kernels(run, monkeypatch):
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")  # the user's own choice stays
    run.start()
    process = psutil.Process(run.training.pid())
    try:
        environment = process.environ()
        raw = Path(f"/proc/{process.pid}/environ").read_bytes()  # glibc splits the list where it is stored
    finally:
        run.training.kill()
    assert all(f"glibc.malloc.{one}".encode() in raw for one in ("hugetlb=1", "mxfast=0", "tcache_count=0"))
    assert environment["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "7"
