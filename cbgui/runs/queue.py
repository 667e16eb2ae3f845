"""The app's runs train one at a time: a run that is started while another trains waits for its turn.

The queue is files in the run folders, so waiting runs are kept when the app closes. The app starts the next run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from cbgui.errors import InputError
from cbgui.runs.disk import version, write_whole
from cbgui.runs.folder import all_runs
from cbgui.runs.run import Run

_lock = threading.Lock()


def waiting_runs(root: Path) -> list[Run]:
    """The runs that wait, in the order in which they came."""
    since = {run: version(run.waiting_file) for run in all_runs(root)}
    return sorted((run for run in since if since[run] is not None), key=since.__getitem__)


def is_busy(root: Path) -> bool:
    """Whether a run that is started now would have to wait."""
    return bool(waiting_runs(root)) or any(run.training.is_running() for run in all_runs(root))


def join(run: Run, root: Path) -> None:
    """Start `run` now, or when it is its turn. Raises InputError if it is running already."""
    if run.training.is_running():
        raise InputError(f"run {run.name!r} is running already; stop it first.")
    write_whole(run.waiting_file, "")
    start_next(root)


def leave(run: Run) -> None:
    """Take the run out of the queue."""
    run.waiting_file.unlink(missing_ok=True)


def start_next(root: Path, make_room: Callable[[], None] = lambda: None) -> None:
    """Start the first run in the queue if no run is training; `make_room` is called before, to free memory."""
    with _lock:
        waiting = waiting_runs(root)
        if waiting and not any(run.training.is_running() for run in all_runs(root)):
            make_room()
            try:
                waiting[0].start()
            except Exception:  # one run that cannot start must not hold up the others
                leave(waiting[0])
                raise


def keep_going(root: Path, make_room: Callable[[], None], every_seconds: float = 2.0) -> None:
    """Start whichever run is next, as long as this process lives."""

    def loop() -> None:
        while True:
            time.sleep(every_seconds)
            try:
                start_next(root, make_room)
            except Exception as error:
                print(f"queue: {type(error).__name__}: {error}", flush=True)

    threading.Thread(target=loop, daemon=True).start()
