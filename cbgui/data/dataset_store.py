"""A data set that is being edited: one SQLite file, in which hundreds of thousands of rows can be searched and changed.

Every change is on disk at once, so nothing is lost when the app is killed. Nothing is overwritten: a change marks a row
as removed and adds its new form at the same position, both under one step number. Undoing a step deletes the rows that
it added and restores those that it removed. `export` writes the data set as JSON Lines for the rest of the program.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from cbgui.data.examples import Example, Kind
from cbgui.data.reading import read_examples
from cbgui.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Part = Literal["break", "retain", "held_out"]
FILE_NAME = "examples.sqlite"
MODEL_FILE = "model.txt"
UNFINISHED = ".part"  # ending of a file that is still being written
SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY, position REAL NOT NULL, held_out INTEGER NOT NULL, kind TEXT NOT NULL,
    messages TEXT NOT NULL, prompt TEXT NOT NULL, response TEXT NOT NULL, source TEXT NOT NULL,
    added INTEGER NOT NULL, removed INTEGER
);
CREATE INDEX IF NOT EXISTS by_position ON rows (removed, position);
CREATE INDEX IF NOT EXISTS by_added ON rows (added);
CREATE TABLE IF NOT EXISTS steps (id INTEGER PRIMARY KEY AUTOINCREMENT, words TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS flags (check_name TEXT NOT NULL, row INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_check ON flags (check_name, row);
"""
LAST_IN_SCHEMA = "by_check"  # a file that has it is complete
PARTS: dict[Part, str] = {
    "break": "held_out = 0 AND kind = 'break'",
    "retain": "held_out = 0 AND kind != 'break'",
    "held_out": "held_out = 1",
}
# What a page may show besides the parts: the retain rows in two halves.
VIEWS = PARTS | {
    "near_miss": "held_out = 0 AND kind = 'near_miss'",
    "not_near_miss": "held_out = 0 AND kind NOT IN ('break', 'near_miss')",
}
FIELDS = "id, position, held_out, kind, messages, response, source"


@dataclass(frozen=True)
class Row:
    """One example in the data set, with its position and whether it is held out."""

    id: int
    position: float
    held_out: bool
    example: Example

    @property
    def number(self) -> int:
        """What the page calls the row; it stays when the row is edited."""
        return round(self.position)


def part_file(folder: Path, part: Part) -> Path:
    """Where an exported data set keeps break, retain or held_out."""
    return folder / f"{part}.jsonl"


def _row(values: tuple) -> Row:
    identifier, position, held_out, kind, messages, response, source = values
    turns = tuple((role, content) for role, content in json.loads(messages))
    return Row(identifier, position, bool(held_out), Example(turns, response, kind, source))


class DatasetStore:
    """The rows of one data set that `make` has made. Every method opens the file itself, so any thread may call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME

    @classmethod
    def make(cls, folder: Path) -> DatasetStore:
        """An empty data set in `folder`. One that is there stays."""
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder)
        made.path.touch()
        return made

    @property
    def name(self) -> str:
        return self.folder.name

    def model(self) -> str:
        """The model that the data set was made for, as `remember_model` was told; "demo" where nobody has."""
        try:
            return (self.folder / MODEL_FILE).read_text("utf-8").strip() or "demo"
        except OSError:
            return "demo"

    def remember_model(self, name: str) -> None:
        """`name` is a hub id, a folder or "demo"."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MODEL_FILE).write_text(name, "utf-8")

    def _connect(self) -> closing[sqlite3.Connection]:
        """Raises InputError when the file is gone: an empty one in its place would hide that."""
        if not self.path.exists():
            raise InputError(f"topic {self.name!r} does not exist any more; choose another one from the list.")
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=rw", uri=True, timeout=30)
        if not connection.execute(f"SELECT 1 FROM sqlite_master WHERE name = '{LAST_IN_SCHEMA}'").fetchone():
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")  # several threads may get here at once
        return closing(connection)

    def _change(
        self,
        words: str,
        remove: Iterable[int] = (),
        add: Iterable[tuple[float | None, bool, Example]] = (),
        *,
        join: bool = False,
    ) -> tuple[int, int]:
        """Remove these ids and add these (position, held_out, example), as one undo step. Position None is the end.

        With `join`, the change becomes part of the newest step if that has the same words. Returns how many rows were
        added and removed.
        """
        with self._connect() as connection, connection:
            newest = connection.execute("SELECT id, words FROM steps ORDER BY id DESC LIMIT 1").fetchone()
            if join and newest and newest[1] == words:
                step, join = newest[0], True
            else:
                step, join = connection.execute("INSERT INTO steps (words) VALUES (?)", (words,)).lastrowid, False
            removed = connection.executemany(
                "UPDATE rows SET removed = ? WHERE id = ? AND removed IS NULL", ((step, one) for one in remove)
            ).rowcount
            (last,) = connection.execute("SELECT coalesce(max(position), 0) FROM rows").fetchone()

            def values() -> Iterator[tuple]:
                end = last
                for position, held_out, example in add:
                    if position is None:
                        end += 1
                        position = end
                    yield (
                        position,
                        int(held_out),
                        example.kind,
                        json.dumps(example.messages, ensure_ascii=False),
                        example.prompt,
                        example.response,
                        example.source,
                        step,
                    )

            added = connection.executemany(
                "INSERT INTO rows (position, held_out, kind, messages, prompt, response, source, added) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values(),
            ).rowcount
            if removed <= 0 and added <= 0 and not join:
                connection.execute("DELETE FROM steps WHERE id = ?", (step,))
            return max(added, 0), max(removed, 0)

    def add(self, examples: Iterable[Example], words: str, *, held_out: bool = False) -> int:
        """Append examples as one step and return how many. `words` name the step for the undo button."""
        return self._change(words, add=((None, held_out, example) for example in examples))[0]

    def remove(self, ids: Iterable[int], words: str) -> int:
        """Remove rows as one step and return how many."""
        return self._change(words, remove=ids)[1]

    def update(self, ids: Iterable[int], change: Callable[[Row], Row], words: str, *, join: bool = False) -> int:
        """Replace each row by `change(row)`, as one step, and return how many changed. Unknown ids are ignored."""
        old = self.get(ids)
        new = [changed for row in old if (changed := change(row)) != row]
        rows = ((row.position, row.held_out, row.example) for row in new)
        return self._change(words, remove=[row.id for row in new], add=rows, join=join)[0]

    def edit(self, identifier: int, *, prompt: str, response: str, kind: str) -> None:
        """Change one row's prompt, response or kind. Raises InputError."""
        if kind not in get_args(Kind):
            raise InputError(f"kind {kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
        if not prompt.strip():
            raise InputError("prompt is empty; write the question, or delete the row.")

        def change(row: Row) -> Row:
            *before, (role, _) = row.example.messages
            turns = (*before, (role, prompt))
            return replace(row, example=replace(row.example, messages=turns, response=response, kind=kind))

        self.update([identifier], change, "edit")

    def get(self, ids: Iterable[int]) -> list[Row]:
        """The rows of `ids` that still exist, in the data set's order."""
        with self._connect() as connection, connection:
            connection.execute("CREATE TEMP TABLE wanted (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((int(one),) for one in ids))
            query = f"SELECT {FIELDS} FROM rows JOIN wanted USING (id) WHERE removed IS NULL ORDER BY position, id"
            return [_row(values) for values in connection.execute(query)]

    def undo(self) -> str | None:
        """Undo the newest step and return its words, or None if there is nothing to undo."""
        with self._connect() as connection, connection:
            newest = connection.execute("SELECT id, words FROM steps ORDER BY id DESC LIMIT 1").fetchone()
            if newest is None:
                return None
            step, words = newest
            connection.execute("UPDATE rows SET removed = NULL WHERE removed = ?", (step,))
            connection.execute("DELETE FROM rows WHERE added = ?", (step,))
            connection.execute("DELETE FROM steps WHERE id = ?", (step,))
            return words

    def last_step(self) -> str | None:
        """The words of the step that `undo` would undo."""
        with self._connect() as connection:
            newest = connection.execute("SELECT words FROM steps ORDER BY id DESC LIMIT 1").fetchone()
        return newest[0] if newest else None

    def version(self) -> tuple[str, int, int]:
        """The data set's name and two numbers that change whenever its rows do."""
        with self._connect() as connection:
            return self.name, *connection.execute("SELECT count(*), coalesce(max(id), 0) FROM steps").fetchone()

    def counts(self) -> dict[str, int]:
        """Count the rows of each part; also near_miss and refusal among the training rows, and held_out_break."""
        counts = dict.fromkeys((*PARTS, "near_miss", "refusal", "held_out_break"), 0)
        query = "SELECT held_out, kind, count(*) FROM rows WHERE removed IS NULL GROUP BY held_out, kind"
        with self._connect() as connection:
            for held_out, kind, count in connection.execute(query):
                if held_out:
                    counts["held_out"] += count
                    counts["held_out_break"] += count if kind == "break" else 0
                    continue
                counts["break" if kind == "break" else "retain"] += count
                if kind in ("near_miss", "refusal"):
                    counts[kind] += count
        return counts

    def without_answer(self) -> int:
        """How many rows have no answer."""
        with self._connect() as connection:
            query = "SELECT count(*) FROM rows WHERE removed IS NULL AND trim(response, ' \t\r\n') = ''"
            return connection.execute(query).fetchone()[0]

    def page(
        self,
        view: str | None = None,
        *,
        search: str = "",
        kind: str | None = None,
        check: str | None = None,
        offset: int = 0,
        limit: int = 25,
    ) -> tuple[list[Row], int]:
        """At most `limit` rows that pass the filters, from `offset` on, and how many rows pass in total.

        `view` is a key of VIEWS. `search` looks in prompt and response; `check` names a finding whose rows were stored
        with `flag`.
        """
        where, values = ["removed IS NULL"], []
        if view is not None:
            where.append(VIEWS[view])
        if kind:
            where.append("kind = ?")
            values.append(kind)
        if search.strip():
            where.append("(prompt LIKE ? ESCAPE '\\' OR response LIKE ? ESCAPE '\\')")
            escaped = search.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            values += [f"%{escaped}%"] * 2
        if check:
            where.append("id IN (SELECT row FROM flags WHERE check_name = ?)")
            values.append(check)
        condition = " AND ".join(where)
        with self._connect() as connection:
            (total,) = connection.execute(f"SELECT count(*) FROM rows WHERE {condition}", values).fetchone()
            query = f"SELECT {FIELDS} FROM rows WHERE {condition} ORDER BY position, id LIMIT ? OFFSET ?"
            rows = [_row(found) for found in connection.execute(query, [*values, limit, offset])]
        return rows, total

    def rows(self) -> list[Row]:
        """All rows, in order."""
        with self._connect() as connection:
            query = f"SELECT {FIELDS} FROM rows WHERE removed IS NULL ORDER BY position, id"
            return [_row(values) for values in connection.execute(query)]

    def flag(self, found: dict[str, list[int]]) -> None:
        """Store which rows each check found, for the filter of `page`."""
        with self._connect() as connection, connection:
            connection.execute("DELETE FROM flags")
            for name, ids in found.items():
                connection.executemany("INSERT INTO flags VALUES (?, ?)", ((name, one) for one in ids))

    def export(self, folder: Path) -> list[Path]:
        """Write break.jsonl, retain.jsonl and held_out.jsonl into `folder`; a part without rows gets no file."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for part in PARTS:
            path, count = part_file(folder, part), 0
            unfinished = path.with_name(path.name + UNFINISHED)
            with self._connect() as connection, unfinished.open("w", encoding="utf-8") as file:
                query = f"SELECT {FIELDS} FROM rows WHERE removed IS NULL AND {PARTS[part]} ORDER BY position, id"
                for values in connection.execute(query):
                    file.write(json.dumps(_row(values).example.to_row(), ensure_ascii=False) + "\n")
                    count += 1
            if count:
                unfinished.replace(path)
                written.append(path)
            else:
                unfinished.unlink()
                path.unlink(missing_ok=True)
        return written

    def fill_from(self, files: dict[Part, Path]) -> None:
        """Read the data file of each part into this empty data set. Raises InputError."""
        for part, path in files.items():
            kind = "break" if part == "break" else "retain"
            self.add(read_examples(path, kind), f"read {path.name}", held_out=part == "held_out")
        with self._connect() as connection, connection:  # reading is not a step to undo
            connection.execute("UPDATE rows SET added = 0")
            connection.execute("DELETE FROM steps")

    def table(self) -> pd.DataFrame:
        """All rows in order, as columns id, held_out (0 or 1), kind, prompt and response."""
        import pandas as pd  # takes 50 MiB and a fifth of a second, which the command line and the trainer need not pay

        query = "SELECT id, held_out, kind, prompt, response FROM rows WHERE removed IS NULL ORDER BY position, id"
        with self._connect() as connection:
            columns = list(zip(*connection.execute(query), strict=True)) or [()] * 5
        names = ("id", "held_out", "kind", "prompt", "response")
        # dtype object, as pandas would otherwise copy all text into Arrow and back.
        return pd.DataFrame(
            {
                name: pd.Series(column, dtype=None if name in names[:2] else object)
                for name, column in zip(names, columns, strict=True)
            }
        )
