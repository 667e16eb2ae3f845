"""A command of the command line, run for the app as a process of its own: closing browser or app does not end it, its
last line is its progress, and it can be stopped. Its files lie in the run directory: <job>.json and <job>.txt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cbgui.config import InputError
from cbgui.runs import Run, detached, write_whole

State = Literal["none", "running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Job:
    """`name` is a subcommand of `python -m cbgui` that takes the run's folder first."""

    run: Run
    name: str

    @property
    def record(self) -> Path:
        return self.run.path / f"{self.name}.json"

    @property
    def output(self) -> Path:
        return self.run.path / f"{self.name}.txt"

    def _known(self) -> dict:
        try:
            return json.loads(self.record.read_text("utf-8"))
        except (OSError, ValueError):
            return {}

    def process(self) -> psutil.Process | None:
        """The job's process, if it is alive and really this one (pids are given out again)."""
        known = self._known()
        try:
            process = psutil.Process(known["pid"])
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            return process if alive and abs(process.create_time() - known["start_time"]) < 1 else None
        except (KeyError, psutil.Error):
            return None

    def state(self) -> State:
        if self.process() is not None:
            return "running"
        known = self._known()
        if not known:
            return "none"
        if known.get("stopped"):
            return "stopped"
        return "done" if self.lines()[-1:] == ["exit 0"] else "failed"

    def lines(self) -> list[str]:
        """What it printed, without tracebacks' places."""
        try:
            return [line for line in self.output.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        except OSError:
            return []

    def start(self, *arguments: str) -> None:
        """Raises InputError if it runs already."""
        if self.process() is not None:
            raise InputError(f"{self.name} of run {self.run.name!r} is running already; stop it first.")
        command = [sys.executable, "-m", "cbgui.jobs", self.name, str(self.run.path), *arguments]
        with self.output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, **detached()
            )
        start_time = psutil.Process(process.pid).create_time()
        write_whole(self.record, json.dumps({"pid": process.pid, "start_time": start_time}))

    def stop(self) -> None:
        """End it at once; what it had finished is on disk."""
        process = self.process()
        if process is None:
            return
        write_whole(self.record, json.dumps(self._known() | {"stopped": True}))
        for child in [*process.children(recursive=True), process]:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass
        process.wait(10)


def main(arguments: list[str]) -> int:
    """Run the subcommand here and say how it ended, for `Job.state`."""
    from cbgui import cli

    sys.argv = ["cbgui", *arguments]
    try:
        code = cli.main()
    except SystemExit as error:
        code = error.code or 0
    print(f"exit {code}", flush=True)
    return int(code)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main(sys.argv[1:]))
