"""The code of a background process: `python -m cbgui.worker RUN_FOLDER TASK [ARGUMENTS]`.

TASK is "train", or a command of the command line (evaluate, export, upload). The process holds the task's lock as long
as it lives; runs/process.py starts it and checks the lock to see whether it is alive.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from cbgui.modeling.cpu.allocator import restart_with_settings
from cbgui.runs.jobs import ENDED
from cbgui.runs.process import hold
from cbgui.runs.run import LOG_VARIABLE, TRAIN, Run

ALREADY_RUNNING = 3  # exit code


def _job(run: Run, command: list[str]) -> int:
    """Run a command and print its exit code last, which `Job.state` reads. Tracebacks go to the run's log."""
    from cbgui import cli

    os.environ[LOG_VARIABLE] = str(run.log_file)
    try:
        code = cli.main(command)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    with suppress(OSError):  # the disk is full
        print(f"{ENDED} {code}", flush=True)
    return code


def main() -> int:
    """Hold the task's lock and run it; returns the exit code."""
    folder, task, *arguments = sys.argv[1:]
    if task == TRAIN:
        restart_with_settings("cbgui.worker")
    run = Run(Path(folder))
    with hold(run.lock_file(task)) as held:
        if not held:
            print(f"{task} of run {run.name!r} is running already.", flush=True)
            return ALREADY_RUNNING
        if task == TRAIN:
            run.waiting_file.unlink(missing_ok=True)  # also when the app that started this process has been killed
            from cbgui.evaluation.watched_training import train_watched  # imports torch, so only here

            return train_watched(run)
        return _job(run, [task, folder, *arguments])


if __name__ == "__main__":
    sys.exit(main())
