"""Writing so that a reader never sees half a file, renaming while others read, and full disks."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

PART = ".part"  # ending of a file or folder that is still being written
RETRY_SECONDS, POLL_SECONDS = 5.0, 0.05
NO_ROOM = 2**20  # free bytes below which a disk counts as full
OPEN_FILES_STAY = os.name == "nt"  # Windows refuses to rename or replace a file or folder that a process has open


def move(source: Path, target: Path) -> None:
    """Rename a file or folder, replacing a file at `target`. On Windows it waits until no other process has it open.

    Raises PermissionError if that takes longer than RETRY_SECONDS.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not OPEN_FILES_STAY or time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def write_whole(path: Path, text: str) -> None:
    """Write to a temporary file (*.part) and rename it, so that a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=PART, dir=path.parent)
    part = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        part.chmod(0o644)  # mkstemp's files are private
        move(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def disk_is_full(path: Path) -> bool:
    """Whether the disk of `path` has no room left; a process that ended there may have been unable to say so."""
    try:
        return shutil.disk_usage(path).free < NO_ROOM
    except OSError:
        return False


def version(path: Path) -> tuple[int, int, int] | None:
    """Changes whenever the file does; None without a file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
