"""One known wheel from PyPI: pinned to its version and checksum, and never built or installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cbgui.errors import InputError


def fetch_wheel(requirement: str, folder: Path) -> Path:
    """Download the wheel of `requirement`, "name==version --hash=sha256:...", into `folder`.

    Raises InputError when PyPI does not answer or has another file under that name.
    """
    listed = folder / "requirement.txt"
    listed.write_text(requirement, "utf-8")
    options = ["--no-deps", "--only-binary", ":all:", "-q", "-d", str(folder), "-r", str(listed)]
    done = subprocess.run([sys.executable, "-m", "pip", "download", *options], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise InputError(f"package {requirement.split()[0]!r} could not be fetched from PyPI; go online and try again.")
    return wheels[0]
