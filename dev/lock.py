"""Write requirements.lock: python dev/lock.py

Asks pip what requirements.txt resolves to on this machine, wheels only, and writes each version with its checksum.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
HEAD = """\
Made by dev/lock.py for Python {python} on {system} {machine}, torch {torch}. Install exactly these files, on such a
machine, with: pip install --require-hashes --only-binary :all: -r requirements.lock
Elsewhere (another system, or a GPU, whose torch is another file) use requirements.txt, or run dev/lock.py there.
"""


def resolve() -> list[dict]:
    """What pip would install, as its report says (https://pip.pypa.io/en/stable/reference/installation-report/)."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        options = ["--dry-run", "--ignore-installed", "--quiet", "--only-binary", ":all:", "--report", str(report)]
        subprocess.run(
            [sys.executable, "-m", "pip", "install", *options, "-r", "requirements.txt"], cwd=ROOT, check=True
        )
        return json.loads(report.read_text("utf-8"))["install"]


def main() -> None:
    lines = {}
    for item in resolve():
        name, version = item["metadata"]["name"].lower().replace("_", "-"), item["metadata"]["version"]
        lines[name] = f"{name}=={version} --hash=sha256:{item['download_info']['archive_info']['hashes']['sha256']}\n"
    torch = lines["torch"].split()[0].partition("==")[2]
    head = HEAD.format(
        python=platform.python_version(), system=platform.system(), machine=platform.machine(), torch=torch
    )
    LOCK.write_text(textwrap.indent(head, "# ") + "".join(line for _, line in sorted(lines.items())), "utf-8")


if __name__ == "__main__":
    main()
