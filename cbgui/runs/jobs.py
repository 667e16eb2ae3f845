"""Evaluation, export and upload as background processes: start, progress, result, stop.

A job is a command of the command line. The last line that it printed is its progress.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cbgui.errors import InputError
from cbgui.runs.folder import all_runs
from cbgui.runs.process import BackgroundProcess, hold, is_held
from cbgui.runs.run import EVALUATE, EXPORT, LOG_VARIABLE, UPLOAD, Run

JOBS = (EVALUATE, EXPORT, UPLOAD)
ENDED = "exit"  # the last line of a job that ended by itself, followed by its exit code
STOPPED = "stopped"  # the last line of a job that the user stopped
State = Literal["none", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """One job of one run; `name` is one of JOBS."""

    run: Run
    name: str

    @property
    def process(self) -> BackgroundProcess:
        return BackgroundProcess(self.run.path, self.name, self.run.lock_file(self.name), self.output)

    @property
    def output(self) -> Path:
        return self.run.job_output(self.name)

    def state(self) -> State:
        """Whether it runs, or how it ended: read from the lock and from the last line that it printed."""
        if self.process.is_running():
            return "running"
        if not self.output.exists():  # the command line, which prints elsewhere, may have left the lock file
            return "none"
        last = (self.lines() or [""])[-1]
        return {f"{ENDED} 0": "done", STOPPED: "stopped"}.get(last, "failed")

    def lines(self) -> list[str]:
        """What it printed, without empty lines."""
        try:
            return [line for line in self.output.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        except OSError:
            return []

    def start(self, *arguments: str, secrets: dict[str, str] | None = None) -> None:
        """`secrets` go into the process's environment, never into a file. Raises InputError if it is running."""
        # Off, because a bar is drawn again at exit and would hide the last sentence, which says why the job failed.
        self.process.start(*arguments, environment={"HF_HUB_DISABLE_PROGRESS_BARS": "1", **(secrets or {})})

    def stop(self) -> None:
        """End it at once. What it had finished stays on disk."""
        if self.process.kill():
            with self.output.open("a", encoding="utf-8") as file:
                file.write(f"\n{STOPPED}\n")


def running_jobs(root: Path) -> Iterator[Job]:
    """Everybody's jobs that are running now."""
    for run in all_runs(root):
        yield from (job for name in JOBS if (job := Job(run, name)).process.is_running())


@contextmanager
def alone(run: Run, task: str) -> Iterator[None]:
    """Hold the task's lock, as a job that the app starts does. Raises InputError when it is running already."""
    if LOG_VARIABLE in os.environ:  # this is such a job, whose process holds it
        yield
        return
    with ExitStack() as stack:
        try:
            held = not is_held(run.lock_file(task)) and stack.enter_context(hold(run.lock_file(task)))
        except OSError:  # a read-only run can be exported elsewhere; what has to be written in it is checked there
            held = True
        if not held:
            raise InputError(f"run {run.name!r}: {task} is running already; stop it first, or wait for it.")
        yield
