"""Background processes of a run: training, evaluation, export, upload.

Each one outlives the program that started it and holds a lock file for its whole life, with its pid inside. The
operating system drops the lock when the process ends, however it ends, so a lock that is held always names a live
process: no comparison of pids or clocks is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, lock_descriptor

from cbgui.errors import InputError
from cbgui.space import child_environment

ACQUIRE_SECONDS = 10.0  # how long a new process tries to take the lock; a status check holds it for microseconds
START_SECONDS = 60.0  # how long a start waits for the new process to take the lock
POLL_SECONDS = 0.02
PID_OFFSET = 1  # Windows does not let others read the locked first byte


@contextmanager
def hold(lock_file: Path) -> Iterator[bool]:
    """Hold `lock_file` with this process's pid inside. Yields False when another process holds it."""
    fd = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + ACQUIRE_SECONDS
        while not (held := lock_descriptor(fd, blocking=False)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if held:
            os.truncate(fd, 0)
            os.write(fd, f" {os.getpid()}\n".encode())
        yield held
    finally:
        os.close(fd)


def is_held(lock_file: Path) -> bool:
    """Whether a live process holds the lock."""
    for flags in (os.O_RDWR, os.O_RDONLY):  # the folder may be read-only
        try:
            fd = os.open(lock_file, flags)
        except PermissionError:
            continue
        except OSError:
            return False
        try:
            return not lock_descriptor(fd, blocking=False)
        finally:
            os.close(fd)
    return False


def _environment() -> dict[str, str]:
    """Lets the child import this package wherever it was started from."""
    package = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class BackgroundProcess:
    """`python -m cbgui.worker RUN_FOLDER TASK ...`, which holds `lock_file` and prints into `output`."""

    run_folder: Path
    task: str  # "train", or a command of the command line that takes the run's folder first
    lock_file: Path
    output: Path

    def is_running(self) -> bool:
        """Whether a live process holds the lock."""
        return is_held(self.lock_file)

    def was_started(self) -> bool:
        """Whether it ran at any time."""
        return self.lock_file.exists()

    def pid(self) -> int | None:
        """The pid of the live process; None when there is none."""
        if not self.is_running():
            return None
        try:
            with self.lock_file.open("rb") as file:
                file.seek(PID_OFFSET)
                return int(file.read())
        except (OSError, ValueError):  # it took the lock a moment ago and has not written yet
            return None

    def is_suspended(self) -> bool:
        """Whether the live process was stopped (SIGSTOP, Ctrl-Z) and does nothing."""
        pid = self.pid()
        try:
            return pid is not None and psutil.Process(pid).status() == psutil.STATUS_STOPPED
        except psutil.Error:
            return False

    def start(
        self,
        *arguments: str,
        append: bool = False,
        environment: dict[str, str] | None = None,
        prepare: Callable[[], None] = lambda: None,
    ) -> None:
        """Start it and return once it holds the lock, or has ended.

        `prepare` is called just before, when it is certain that no other one is running. `environment` is added to the
        child's and goes into no file. Raises InputError if it is running already.
        """
        with FileLock(self.lock_file.with_name(f"{self.lock_file.name}.starting")):
            if self.is_running():
                raise InputError(
                    f"run {self.run_folder.name!r}: {self.task} is running already; stop it first, or wait for it."
                )
            prepare()
            command = [sys.executable, "-m", "cbgui.worker", str(self.run_folder), self.task, *arguments]
            with self.output.open("ab" if append else "wb") as output:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=child_environment() | _environment() | (environment or {}),
                    **_detached(),
                )
            threading.Thread(target=process.wait, daemon=True).start()  # or it stays as a zombie when it has ended
            deadline = time.monotonic() + START_SECONDS
            while process.poll() is None and self.pid() is None and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)

    def kill(self) -> bool:
        """End the process and its children at once. Returns False when it was not running."""
        pid = self.pid()
        if pid is None:
            return False
        try:
            process = psutil.Process(pid)
            family = [*process.children(recursive=True), process]
        except psutil.NoSuchProcess:
            return False
        for member in family:
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(family, timeout=10)
        return True


def _detached() -> dict[str, object]:
    """What subprocess.Popen needs so that the child outlives this process."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS}
    return {"start_new_session": True}
