"""What may lie on disk: a visitor's share of a Space, and files that were made for one download."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from cbgui.runs import folder
from cbgui.space import KEPT_DAYS, KEPT_TRASH, MAX_DISK, on_space, refuse_over

DAY = 86400
DOWNLOADS = "cbgui-downloads"  # below the system's folder of temporary files
DOWNLOAD_AGE = 3600  # seconds that a file made for one download is kept


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def _facts(directory: Path) -> list[tuple[int, float]]:
    """Size and time of each file; of those that vanish while they are counted, none."""
    found = []
    for path in _files(directory):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((stat.st_size, stat.st_mtime))
    return found


def refuse_full() -> None:
    """Raises InputError on a Space when the visitor's runs, topics and trash take more than MAX_DISK."""
    if on_space():
        megabytes = sum(size for size, _ in _facts(folder.runs_folder())) // 10**6
        refuse_over("disk space of your runs and topics in MB; delete runs on the History page", megabytes, MAX_DISK)


def trim_trash() -> None:
    """On a Space, delete for good all but the newest few of what the visitor has deleted."""
    if on_space():
        for path in folder.trashed()[:-KEPT_TRASH]:
            shutil.rmtree(path, ignore_errors=True)


def forget_old_visitors(root: Path) -> None:
    """Delete the folders of visitors who have not been here for KEPT_DAYS, unless something of theirs is running."""
    for visitor in (root / folder.VISITORS).glob("*/"):
        newest = max((moment for _, moment in _facts(visitor)), default=visitor.stat().st_mtime)
        is_busy = any(run.running_task() for run in folder.runs_in(visitor))
        if time.time() - newest > KEPT_DAYS * DAY and not is_busy:
            shutil.rmtree(visitor, ignore_errors=True)


def keep_tidy(root: Path) -> None:
    """On a Space, forget old visitors once a day as long as this process lives."""

    def loop() -> None:
        while True:
            forget_old_visitors(root)
            time.sleep(DAY)

    if on_space():
        threading.Thread(target=loop, daemon=True).start()


def download_folder() -> Path:
    """A new folder for a file that is downloaded once: Gradio serves a copy. Older ones are deleted first."""
    place = Path(tempfile.gettempdir(), DOWNLOADS)
    place.mkdir(parents=True, exist_ok=True)
    for old in place.iterdir():
        if time.time() - old.stat().st_mtime > DOWNLOAD_AGE:
            shutil.rmtree(old, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=place))
