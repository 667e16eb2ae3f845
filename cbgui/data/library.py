"""Named data sets in one folder, and which of them the next run trains on. All on disk, so a reload shows the same."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path

from cbgui.config import DataConfig, find_data_file
from cbgui.data.dataset_store import DatasetStore
from cbgui.data.split import hold_out
from cbgui.errors import InputError
from cbgui.space import MAX_DATA_SETS, limit, refuse_folder

DEMO = "demo"


class Library:
    """The data sets under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        found = sorted(path.parent.name for path in self.folder.glob("*/examples.sqlite"))
        return found or [self._demo().name]

    def open(self, name: str) -> DatasetStore:
        """Raises InputError when there is none of that name (names come from the browser, so they are not trusted)."""
        if name not in self.names():
            raise InputError(f"data set {name!r} does not exist; choose one of the list.")
        return DatasetStore(self.folder / name)

    def current(self) -> DatasetStore:
        """The chosen data set; the demo's when none is."""
        names = self.names()
        try:
            chosen = (self.folder / "chosen.txt").read_text("utf-8").strip()
        except OSError:
            chosen = ""
        return DatasetStore(self.folder / (chosen if chosen in names else DEMO if DEMO in names else names[0]))

    def choose(self, name: str) -> DatasetStore:
        data = self.open(name)
        (self.folder / "chosen.txt").write_text(name, "utf-8")
        return data

    def _free(self, wanted: str) -> Path:
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted or "").strip("-")[:60]
        if not name:
            raise InputError(f"name of the data set = {wanted!r}: use letters, digits, '-' or '_'.")
        limit("data sets", len(self.names()) + 1, MAX_DATA_SETS)
        if (self.folder / name).exists():
            raise InputError(f"data set {name!r} exists already; choose another name.")
        return self.folder / name

    def create(self, name: str) -> DatasetStore:
        """A new, empty one. Raises InputError."""
        data = DatasetStore(self._free(name))
        data.counts()  # makes the file
        return self.choose(data.name)

    def duplicate(self, data: DatasetStore, name: str) -> DatasetStore:
        """Raises InputError."""
        folder = self._free(name)
        folder.mkdir(parents=True)
        shutil.copyfile(data.path, folder / data.path.name)
        return self.choose(folder.name)

    def load(self, source: Path, name: str) -> DatasetStore:
        """A folder of break.jsonl, retain.jsonl and held_out.jsonl as a new data set. Raises InputError."""
        refuse_folder("folder", str(source))
        files = [source / f"{part}.jsonl" for part in ("break", "retain", "held_out")]
        if not source.is_dir() or not any(path.is_file() for path in files):
            raise InputError(f"folder {str(source)!r} holds no break.jsonl or retain.jsonl; give a data set's folder.")
        data = DatasetStore(self._free(name or source.name))
        try:
            data.fill_from(*(path if path.is_file() else None for path in files))
        except InputError:
            shutil.rmtree(data.folder, ignore_errors=True)
            raise
        return self.choose(data.name)

    def restore_demo(self) -> DatasetStore:
        """The demo's data as shipped; what was changed in it is gone."""
        shutil.rmtree(self.folder / DEMO, ignore_errors=True)
        return self._demo()

    def _demo(self) -> DatasetStore:
        """Made elsewhere and moved, whole: the parts of a page ask for it at once when it loads for the first time."""
        files = DataConfig()
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=self.folder) as scratch:
            made = DatasetStore(Path(scratch) / DEMO)
            made.fill_from(*map(find_data_file, (files.break_file, files.retain_file, files.held_out_file)))
            try:
                made.folder.rename(self.folder / DEMO)
            except OSError:  # another thread was first
                if not (self.folder / DEMO / made.path.name).is_file():
                    raise
        return DatasetStore(self.folder / DEMO)

    def for_training(self, data: DatasetStore) -> DataConfig:
        """Write the data set's JSON Lines and name them; holds out a tenth first when nothing is. Raises InputError."""
        counts = data.counts()
        for part, words in (("break", "Break"), ("retain", "Keep")):
            if not counts[part]:
                raise InputError(f"data set {data.name!r} has no {words} rows; add some on the Data page.")
        if not counts["held_out"]:
            hold_out(data)
        written = {path.stem: str(path) for path in data.export(data.folder)}
        return DataConfig(
            break_file=written["break"], retain_file=written["retain"], held_out_file=written.get("held_out")
        )
