"""The named data sets in one folder, and which of them is chosen. All of it is on disk, so a reload shows the same."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

from cbgui.config import DataConfig, find_data_file
from cbgui.data.dataset_store import FILE_NAME, PARTS, DatasetStore, part_file
from cbgui.data.split import hold_out
from cbgui.errors import InputError
from cbgui.naming import cleaned_name
from cbgui.space import KEPT_TRASH, MAX_DATASETS, on_space, refuse_folder, refuse_over

DEMO = "demo"
CHOSEN = "chosen.txt"
TRASH = "_trash"  # emptied with that of the runs


class Library:
    """The data sets under `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The names of the data sets, sorted. Creates the demo if the folder is empty."""
        found = sorted(path.parent.name for path in self.folder.glob(f"*/{FILE_NAME}"))
        return found or [self._make_demo().name]

    def open(self, name: str) -> DatasetStore:
        """Open a data set by name; names come from the browser and are not trusted.

        Raises InputError, also when its file is damaged.
        """
        if name not in self.names():
            raise InputError(f"topic {name!r} does not exist; choose one from the list.")
        data = DatasetStore(self.folder / name)
        try:
            data.version()
        except sqlite3.Error as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL):
                raise
            raise InputError(
                f"topic {name!r}: its file {str(data.path)!r} cannot be read ({error}); choose another topic, "
                "bring this one back from a backup, or delete its folder."
            ) from None
        return data

    def readable(self) -> list[str]:
        """The names of the data sets whose files are not damaged, sorted."""
        return [name for name in self.names() if self._is_readable(name)]

    def _is_readable(self, name: str) -> bool:
        try:
            self.open(name)
        except InputError:
            return False
        return True

    def current(self) -> DatasetStore:
        """The chosen data set, or else the demo's, or else the first; a damaged one only where there is no other."""
        names = self.names()
        try:
            chosen = (self.folder / CHOSEN).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError):
            chosen = ""
        wanted = [name for name in dict.fromkeys((chosen, DEMO, *names)) if name in names]
        return DatasetStore(self.folder / next(filter(self._is_readable, wanted), wanted[0]))

    def choose(self, name: str) -> DatasetStore:
        """Make `name` the current data set. Raises InputError."""
        data = self.open(name)
        (self.folder / CHOSEN).write_text(name, "utf-8")
        return data

    def need_free(self, wanted: str) -> str:
        """The name that a new data set called `wanted` gets. Raises InputError when it cannot have it."""
        return self._new_folder(wanted).name

    def _new_folder(self, wanted: str) -> Path:
        name = cleaned_name(wanted or "")
        if not name:
            raise InputError(f"name of the topic = {wanted!r}: it has no letters or digits; choose another.")
        refuse_over("topics", len(self.names()) + 1, MAX_DATASETS)
        if (self.folder / name).exists():
            raise InputError(f"topic {name!r} exists already; choose another name.")
        return self.folder / name

    def create(self, name: str) -> DatasetStore:
        """Make and choose an empty data set. Raises InputError."""
        return self.choose(DatasetStore.make(self._new_folder(name)).name)

    def duplicate(self, data: DatasetStore, name: str) -> DatasetStore:
        """Copy a data set and choose the copy. Raises InputError."""
        folder = self._new_folder(name)
        folder.mkdir(parents=True)
        shutil.copyfile(data.path, folder / data.path.name)
        return self.choose(folder.name)

    def load(self, source: Path, name: str) -> DatasetStore:
        """Read a folder of break.jsonl, retain.jsonl and held_out.jsonl into a new data set. Raises InputError."""
        refuse_folder("folder", str(source))
        files = {part: part_file(source, part) for part in PARTS}
        if not source.is_dir() or not any(path.is_file() for path in files.values()):
            raise InputError(
                f"folder {str(source)!r} holds no break.jsonl or retain.jsonl; choose the folder of a topic."
            )
        data = DatasetStore.make(self._new_folder(name or source.name))
        try:
            data.fill_from({part: path for part, path in files.items() if path.is_file()})
        except InputError:
            shutil.rmtree(data.folder, ignore_errors=True)
            raise
        return self.choose(data.name)

    def restore_demo(self) -> DatasetStore:
        """Put the demo's data back as shipped; changes to it are lost."""
        shutil.rmtree(self.folder / DEMO, ignore_errors=True)
        return self._make_demo()

    def delete(self, data: DatasetStore) -> None:
        """Move a data set to the trash; `restore` brings it back until the app closes."""
        trash = self.folder / TRASH
        trash.mkdir(parents=True, exist_ok=True)
        data.folder.rename(trash / f"{time.time_ns()}-{data.name}")
        for old in self._trashed()[:-KEPT_TRASH] if on_space() else []:
            shutil.rmtree(old, ignore_errors=True)

    def _trashed(self) -> list[Path]:
        return sorted(path for path in (self.folder / TRASH).glob("*") if (path / FILE_NAME).is_file())

    def deleted(self) -> list[str]:
        """The names of the deleted data sets, oldest first."""
        return [path.name.split("-", 1)[1] for path in self._trashed()]

    def restore(self) -> DatasetStore:
        """Bring back what was deleted last; under another name where its own is taken. Raises InputError."""
        trash = self._trashed()
        if not trash:
            raise InputError("no topic was deleted since the app was opened.")
        number, name = 2, trash[-1].name.split("-", 1)[1]
        place = self.folder / name
        while place.exists():
            place, number = self.folder / f"{name}-{number}", number + 1
        trash[-1].rename(place)
        return DatasetStore(place)

    def _make_demo(self) -> DatasetStore:
        """Build the demo's data set in a scratch folder and rename it, as several threads may ask for it at once."""
        config = DataConfig()
        files = {"break": config.break_file, "retain": config.retain_file, "held_out": config.held_out_file}
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=self.folder) as scratch:
            made = DatasetStore.make(Path(scratch) / DEMO)
            made.fill_from({part: find_data_file(name) for part, name in files.items()})
            try:
                made.folder.rename(self.folder / DEMO)
            except OSError:  # another thread was first
                if not (self.folder / DEMO / FILE_NAME).is_file():
                    raise
        return DatasetStore(self.folder / DEMO)

    def for_training(self, data: DatasetStore) -> DataConfig:
        """Write the data set as JSON Lines and return their paths. Holds out a tenth first if nothing is held out.

        Raises InputError.
        """
        counts = data.counts()
        for part, words in (("break", "must-stop"), ("retain", "must-keep")):
            if not counts[part]:
                raise InputError(f"topic {data.name!r} has no {words} rows; add some on the Topic page.")
        if empty := data.without_answer():
            rows = "row" if empty == 1 else "rows"
            raise InputError(
                f"topic {data.name!r} has {empty:,} {rows} without an answer; on the Topic page, press 'Write the "
                "answers', or delete them with 'Check the data'."
            )
        if not counts["held_out"]:
            hold_out(data)
        written = {path.stem: str(path) for path in data.export(data.folder)}
        return DataConfig(
            break_file=written["break"], retain_file=written["retain"], held_out_file=written.get("held_out")
        )
