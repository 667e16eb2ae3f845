"""A run's processes: one at a time, told alive by their lock, started with training's memory settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from cli_process import ROOT
from waiting import wait_until

from cbgui.errors import InputError
from cbgui.runs.folder import create_run
from cbgui.runs.process import hold
from cbgui.runs.run import TRAIN, Run


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
