"""One training at a time: who comes while another run trains waits in line. The line is files in the run folders, so a
closed app forgets nobody; the app starts the next (`start_next`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from cbgui.config import InputError
from cbgui.runs import WAITING, Run, write_whole

_lock = threading.Lock()


def _all_runs(root: Path) -> list[Run]:
    """Every visitor's runs; without visitors, all there are."""
    return [Run(path.parent) for pattern in ("*/run.yaml", "_visitors/*/*/run.yaml") for path in root.glob(pattern)]


def line(root: Path) -> list[Run]:
    """The runs that wait, first come first."""
    waiting = [run for run in _all_runs(root) if (run.path / WAITING).is_file()]
    return sorted(waiting, key=lambda run: (run.path / WAITING).stat().st_mtime)


def join(run: Run, root: Path) -> None:
    """Start `run`, now or when it is its turn. Raises InputError if it runs already."""
    if run.process() is not None:
        raise InputError(f"run {run.name!r} is running already; stop it first.")
    write_whole(run.path / WAITING, "")
    start_next(root)


def leave(run: Run) -> None:
    (run.path / WAITING).unlink(missing_ok=True)


def start_next(root: Path, make_room: Callable[[], None] = lambda: None) -> None:
    """Start the first in line if no run is training; `make_room` is called before."""
    with _lock:
        waiting = line(root)
        if waiting and not any(run.process() is not None for run in _all_runs(root)):
            make_room()
            waiting[0].start()


def keep_going(root: Path, make_room: Callable[[], None], every_seconds: float = 2.0) -> None:
    """Start whoever is next, as long as this process lives."""

    def loop() -> None:
        while True:
            time.sleep(every_seconds)
            try:
                start_next(root, make_room)
            except Exception as error:  # one run that cannot start must not stop the line
                print(f"waiting runs: {type(error).__name__}: {error}", flush=True)

    threading.Thread(target=loop, daemon=True).start()
