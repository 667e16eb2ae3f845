"""A data set while it is edited: one SQLite file, so that hundreds of thousands of rows can be searched, paged, changed
and undone, and nothing is lost when the app is killed. On disk for others it is a folder of JSON Lines.

Nothing is overwritten: a change removes a row and adds its new form at the same position, both under one step number,
and undoing a step deletes what it added and brings back what it removed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from cbgui.data.examples import Example, Kind, read_examples
from cbgui.errors import InputError

Part = Literal["break", "retain", "held_out"]
SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    id INTEGER PRIMARY KEY, position REAL NOT NULL, held_out INTEGER NOT NULL, kind TEXT NOT NULL,
    messages TEXT NOT NULL, prompt TEXT NOT NULL, response TEXT NOT NULL, source TEXT NOT NULL,
    added INTEGER NOT NULL, removed INTEGER
);
CREATE INDEX IF NOT EXISTS by_place ON rows (removed, position);
CREATE INDEX IF NOT EXISTS by_added ON rows (added);
CREATE TABLE IF NOT EXISTS steps (id INTEGER PRIMARY KEY AUTOINCREMENT, words TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS flags (check_name TEXT NOT NULL, row INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_check ON flags (check_name, row);
"""
PARTS = {
    "break": "held_out = 0 AND kind = 'break'",
    "retain": "held_out = 0 AND kind != 'break'",
    "held_out": "held_out = 1",
}
FIELDS = "id, position, held_out, kind, messages, response, source"


@dataclass(frozen=True)
class Row:
    """One example in the data set, with where it stands."""

    id: int
    position: float
    held_out: bool
    example: Example


def _row(values: tuple) -> Row:
    identifier, position, held_out, kind, messages, response, source = values
    turns = tuple((role, content) for role, content in json.loads(messages))
    return Row(identifier, position, bool(held_out), Example(turns, response, kind, source))


class DatasetStore:
    """The rows of one data set. Every method opens the file anew, so any thread may call it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "examples.sqlite"

    @property
    def name(self) -> str:
        return self.folder.name

    def _connect(self) -> closing[sqlite3.Connection]:
        self.folder.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=30)
        connection.executescript(SCHEMA)
        return closing(connection)

    def _change(
        self,
        words: str,
        remove: Iterable[int] = (),
        add: Iterable[tuple[float | None, bool, Example]] = (),
        *,
        join: bool = False,
    ) -> tuple[int, int]:
        """One step: rows to remove by id, and (position, held_out, example) to add; position None is the end.

        With `join`, the newest step goes on when its words are the same. Returns how many were added and removed.
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
        """Append examples as one step; returns how many."""
        return self._change(words, add=((None, held_out, example) for example in examples))[0]

    def remove(self, ids: Iterable[int], words: str) -> int:
        return self._change(words, remove=ids)[1]

    def update(self, ids: Iterable[int], change: Callable[[Row], Row], words: str, *, join: bool = False) -> int:
        """Replace rows by `change` of them, as one step; ids that are gone and rows that stay equal are left alone."""
        old = self.get(ids)
        new = [changed for row in old if (changed := change(row)) != row]
        rows = ((row.position, row.held_out, row.example) for row in new)
        return self._change(words, remove=[row.id for row in new], add=rows, join=join)[0]

    def edit(self, identifier: int, *, prompt: str, response: str, kind: str) -> None:
        """Change one row's last request, its answer or its kind. Raises InputError."""
        if kind not in get_args(Kind):
            raise InputError(f"kind {kind!r} is unknown; use one of {', '.join(get_args(Kind))}.")
        if not prompt.strip():
            raise InputError("prompt is empty; write the request, or delete the row.")

        def change(row: Row) -> Row:
            *before, (role, _) = row.example.messages
            turns = (*before, (role, prompt))
            return replace(row, example=replace(row.example, messages=turns, response=response, kind=kind))

        self.update([identifier], change, "edit")

    def get(self, ids: Iterable[int]) -> list[Row]:
        """The rows of `ids` that are still there, in the data set's order."""
        with self._connect() as connection, connection:
            connection.execute("CREATE TEMP TABLE wanted (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT OR IGNORE INTO wanted VALUES (?)", ((int(one),) for one in ids))
            query = f"SELECT {FIELDS} FROM rows JOIN wanted USING (id) WHERE removed IS NULL ORDER BY position, id"
            return [_row(values) for values in connection.execute(query)]

    def undo(self) -> str | None:
        """Take back the newest step; its words, or None when there is none."""
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
        """What `undo` would take back, in words."""
        with self._connect() as connection:
            newest = connection.execute("SELECT words FROM steps ORDER BY id DESC LIMIT 1").fetchone()
        return newest[0] if newest else None

    def version(self) -> tuple[str, int, int]:
        """Names the data set and changes whenever its rows do."""
        with self._connect() as connection:
            return self.name, *connection.execute("SELECT count(*), coalesce(max(id), 0) FROM steps").fetchone()

    def counts(self) -> dict[str, int]:
        """Rows by part (break, keep, held_out) and, within the training ones, by kind."""
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

    def page(
        self,
        part: Part | None = None,
        *,
        search: str = "",
        kind: str | None = None,
        check: str | None = None,
        offset: int = 0,
        limit: int = 25,
    ) -> tuple[list[Row], int]:
        """Rows that pass the filters, from `offset` on, and how many pass in all."""
        where, values = ["removed IS NULL"], []
        if part is not None:
            where.append(PARTS[part])
        if kind:
            where.append("kind = ?")
            values.append(kind)
        if search.strip():
            where.append("(prompt LIKE ? ESCAPE '\\' OR response LIKE ? ESCAPE '\\')")
            plain = search.strip().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
            values += [f"%{plain}%"] * 2
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
        """All of them, in order."""
        with self._connect() as connection:
            query = f"SELECT {FIELDS} FROM rows WHERE removed IS NULL ORDER BY position, id"
            return [_row(values) for values in connection.execute(query)]

    def flag(self, found: dict[str, list[int]]) -> None:
        """Remember which rows each check found, for the filter."""
        with self._connect() as connection, connection:
            connection.execute("DELETE FROM flags")
            for name, ids in found.items():
                connection.executemany("INSERT INTO flags VALUES (?, ?)", ((name, one) for one in ids))

    def export(self, folder: Path) -> list[Path]:
        """Write break.jsonl, retain.jsonl and held_out.jsonl (those that have rows) into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for part in PARTS:
            path, count = folder / f"{part}.jsonl", 0
            part_file = path.with_name(path.name + ".part")
            with self._connect() as connection, part_file.open("w", encoding="utf-8") as file:
                query = f"SELECT {FIELDS} FROM rows WHERE removed IS NULL AND {PARTS[part]} ORDER BY position, id"
                for values in connection.execute(query):
                    file.write(json.dumps(_row(values).example.to_row(), ensure_ascii=False) + "\n")
                    count += 1
            if count:
                part_file.replace(path)
                written.append(path)
            else:
                part_file.unlink()
                path.unlink(missing_ok=True)
        return written

    def fill_from(self, break_file: Path | None, retain_file: Path | None, held_out_file: Path | None) -> None:
        """Read JSON Lines files into an empty data set. Raises InputError."""
        for path, kind, held_out in (
            (break_file, "break", False),
            (retain_file, "retain", False),
            (held_out_file, "retain", True),
        ):
            if path is not None:
                self.add(read_examples(path, kind), f"read {path.name}", held_out=held_out)
        with self._connect() as connection, connection:  # the file is as it was read: nothing to undo
            connection.execute("UPDATE rows SET added = 0")
            connection.execute("DELETE FROM steps")

    def table(self) -> pd.DataFrame:
        """All rows as columns id, held_out, kind, prompt, response: what checks and the split read, in order."""
        query = "SELECT id, held_out, kind, prompt, response FROM rows WHERE removed IS NULL ORDER BY position, id"
        with self._connect() as connection:
            columns = list(zip(*connection.execute(query), strict=True)) or [()] * 5
        names = ("id", "held_out", "kind", "prompt", "response")
        # Plain objects: pandas would copy all the text into Arrow and back.
        return pd.DataFrame(
            {
                name: pd.Series(column, dtype=None if name in names[:2] else object)
                for name, column in zip(names, columns, strict=True)
            }
        )
