"""An adapter's and a checkpoint's files: whether they are whole. Nothing here loads weights."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

ADAPTER_WEIGHTS = "adapter_model.safetensors"  # PEFT's names
ADAPTER_CONFIG = "adapter_config.json"
COMPLETE = "complete"  # marks a whole checkpoint, and holds the sizes of its files
# The Trainer's names.
CHECKPOINT_FILES = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, "optimizer.pt", "scheduler.pt", "trainer_state.json")


def read_lora_settings(adapter: Path) -> dict[str, Any]:
    """Rank and scale of an adapter in PEFT's form. Raises OSError, or ValueError when its settings are damaged."""
    try:
        settings = json.loads((adapter / ADAPTER_CONFIG).read_text("utf-8"))
        return {"r": int(settings["r"]), "lora_alpha": int(settings["lora_alpha"])}
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{ADAPTER_CONFIG} is damaged") from error


def check_adapter(adapter: Path) -> dict[str, Any]:
    """`read_lora_settings`. Raises ValueError when the weights or the settings are damaged or missing."""
    try:
        with safe_open(adapter / ADAPTER_WEIGHTS, "numpy") as file:  # compares the header with the file's size
            file.keys()
        return read_lora_settings(adapter)
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from error


@functools.lru_cache(64)
def sha256(path: Path, version: object) -> str:
    """A file's checksum; `version` changes whenever the file does."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(mark: Path) -> bool:
    """Whether all files of a checkpoint are there, in the sizes that `mark` holds."""
    try:
        sizes = json.loads(mark.read_text("utf-8"))
        there = {name: (mark.parent / name).stat().st_size == size for name, size in sizes.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False
    random_state = any(name.startswith("rng_state") for name in there)
    return random_state and all(there.values()) and all(name in there for name in CHECKPOINT_FILES)
