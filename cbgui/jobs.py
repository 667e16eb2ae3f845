"""A command of the command line, run for the app as a process of its own: closing browser or app does not end it, its
last line is its progress, and it can be stopped. Its files lie in the run directory: <job>.json and <job>.txt."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cbgui.config import InputError
from cbgui.runs import Run, detached, record_process, recorded_process

STOPPED = "stopped"  # the last line of a job that was stopped; one that ended says "exit" and its code
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

    def process(self) -> psutil.Process | None:
        """The job's process, if it is alive."""
        return recorded_process(self.record)

    def state(self) -> State:
        if self.process() is not None:
            return "running"
        if not self.record.is_file():
            return "none"
        last = (self.lines() or [""])[-1]
        return {"exit 0": "done", STOPPED: "stopped"}.get(last, "failed")

    def lines(self) -> list[str]:
        """What it printed, without tracebacks' places."""
        try:
            return [line for line in self.output.read_text("utf-8", errors="replace").splitlines() if line.strip()]
        except OSError:
            return []

    def start(self, *arguments: str, secrets: dict[str, str] | None = None) -> None:
        """`secrets` go into the process's environment, never into a file. Raises InputError if it runs already."""
        if self.process() is not None:
            raise InputError(f"{self.name} of run {self.run.name!r} is running already; stop it first.")
        command = [sys.executable, "-m", "cbgui.jobs", self.name, str(self.run.path), *arguments]
        options = detached()
        # A bar is drawn once more at the end, after the sentence that says why it failed.
        options["env"] = options["env"] | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"} | (secrets or {})
        with self.output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, **options
            )
        record_process(self.record, process.pid)

    def stop(self) -> None:
        """End it at once; what it had finished is on disk."""
        process = self.process()
        if process is None:
            return
        for child in [*process.children(recursive=True), process]:
            try:
                child.kill()
            except psutil.NoSuchProcess:
                pass
        process.wait(10)
        with self.output.open("a", encoding="utf-8") as file:
            file.write(f"\n{STOPPED}\n")


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
