"""What is different on a Hugging Face Space, where visitors share a machine that is not theirs.

Every Space sets the variable SPACE_ID. Without it, nothing here changes anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from cbgui.errors import InputError

STORAGE = Path("/data")  # where a Space's persistent storage is mounted, if it has any
MAX_UPLOAD = 50 * 2**20  # bytes of a file
MAX_IMPORT = 500 * 2**20  # bytes of the rows in one
UPLOADS_PER_HOUR = 60
# What one visitor may have.
MAX_RUNS = 10
MAX_DATASETS = 10
MAX_ROWS = 50_000
MAX_STEPS = 1000


def on_space() -> bool:
    """Whether this process runs on a Space."""
    return "SPACE_ID" in os.environ


def default_runs() -> str:
    """The runs folder: on persistent storage where it is mounted, else "runs" in the current folder."""
    return str(STORAGE / "runs") if on_space() and os.access(STORAGE, os.W_OK) else "runs"


def forget_owner_token() -> None:
    """On a Space, remove the owner's hub token from this process and those that it starts: visitors use their own."""
    if not on_space():
        return
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        os.environ.pop(name, None)
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"


def refuse_folder(field: str, value: str) -> None:
    """Raises InputError on a Space: folders there are the machine's, not the visitor's."""
    if on_space():
        raise InputError(f"{field} {value!r}: folders cannot be used on this Space; give a hub id, or upload files.")


def refuse_over(field: str, value: int, most: int) -> None:
    """Raises InputError on a Space when a visitor would have more than `most`."""
    if on_space() and value > most:
        raise InputError(
            f"{field} = {value:,}: this Space allows at most {most:,}; use fewer, or run cbgui on your own machine."
        )
