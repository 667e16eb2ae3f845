"""What is different on a Hugging Face Space, where visitors share a machine that is not theirs.

Every Space sets the variable SPACE_ID. Without it, nothing here changes anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from cbgui.errors import InputError

STORAGE = Path("/data")  # where a Space's persistent storage is mounted, if it has any
MAX_UPLOAD = 50 * 2**20  # bytes of a file
MAX_BODY = MAX_UPLOAD + 2**20  # bytes of a request
MAX_IMPORT = 500 * 2**20  # bytes of the rows in one
UPLOADS_PER_HOUR = 60  # of one visitor; four times as many from one address
VISITORS_PER_ADDRESS = 100  # within an hour
# What one visitor may have.
MAX_RUNS = 10
MAX_DATASETS = 10
MAX_ROWS = 50_000
MAX_STEPS = 1000
MAX_BATCH = 64  # examples in a step
MAX_TOKENS = 2048  # of an example
MAX_DISK = 5_000  # MB
MAX_MODEL = 20_000  # MB of a model's weights
KEPT_TRASH = 3  # deleted runs that can be brought back
KEPT_DAYS = 30  # after a visitor's last visit


def on_space() -> bool:
    """Whether this process runs on a Space."""
    return "SPACE_ID" in os.environ


def default_runs() -> str:
    """The runs folder: on persistent storage where it is mounted, else "runs" in the current folder."""
    return str(STORAGE / "runs") if on_space() and os.access(STORAGE, os.W_OK) else "runs"


# Variables that a background process needs, by their beginnings; a Space's other variables may be its owner's secrets.
_FOR_CHILDREN = (
    "PATH HOME USER LANG LC_ TZ TMP TEMP SYSTEMROOT PYTHON VIRTUAL_ENV LD_ SSL_ REQUESTS_CA HTTP_PROXY HTTPS_PROXY "
    "NO_PROXY SPACE_ CBGUI_ GRADIO_TEMP_DIR HF_HOME HF_ENDPOINT HF_HUB_ HF_XET_ TRANSFORMERS_ TOKENIZERS_ XDG_ "
    "CUDA NVIDIA NCCL TORCH PYTORCH TRITON BNB_ OMP_ MKL_ KMP_ MALLOC_ ONEDNN_ DNNL_"
).split()
_SECRETS = ("CBGUI_AUTH", "HF_HUB_TOKEN")
_OWNER_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")


def child_environment() -> dict[str, str]:
    """The variables that background processes inherit: the app's password is not among them, and on a Space none of the
    owner's secrets."""
    kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    if on_space():
        kept = {name: value for name, value in kept.items() if name.upper().startswith(tuple(_FOR_CHILDREN))}
    return kept


def forget_owner_token() -> bool:
    """On a Space, remove the owner's hub token from this process's variables: visitors use their own.

    Returns whether there was one. It is then still in the memory that the system shows as /proc/self/environ, until the
    process is started again.
    """
    if not on_space():
        return False
    os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    return any([os.environ.pop(name, None) is not None for name in _OWNER_TOKENS])


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
