"""Files of rows: CSV, TSV, JSON, JSON Lines, Parquet; one row at a time, and where each of them stands."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from cbgui.errors import InputError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
LARGEST_JSON = 500 * 2**20  # bytes; a .json list is parsed whole, the other forms line by line
LARGEST_FILE = 4 * 2**30  # bytes
LONGEST_LINE = 16 * 2**20  # characters of one row: far more than any model reads
csv.field_size_limit(LONGEST_LINE)
Raw = dict[str, Any]
Placed = tuple[str, Raw]  # "data.csv, line 3", and the row


def read_rows(path: Path) -> Iterator[Raw]:
    """Rows of a CSV, TSV, JSON, JSONL or Parquet file, one at a time. Raises InputError naming file and line."""
    return (row for _, row in placed_rows(path))


def placed_rows(path: Path) -> Iterator[Placed]:
    """As `read_rows`, each row after the words for its place."""
    suffix, name = path.suffix.lower(), path.name
    if suffix not in SUFFIXES:
        raise InputError(f"{name}: {suffix or 'no'} ending is not known; use {', '.join(SUFFIXES)}.")
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise InputError(f"{name}: {size / 1e9:.1f} GB, over the {LARGEST_FILE / 1e9:.0f} GB this reads; split it.")
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        elif suffix == ".json":
            yield from _json_rows(path)
        else:
            with path.open(encoding="utf-8-sig", newline="") as file:
                lines = _lines(file, name)
                delimiter = "\t" if suffix == ".tsv" else ","
                yield from jsonl_rows(lines, name) if suffix == ".jsonl" else csv_rows(lines, name, delimiter)
    except UnicodeDecodeError:
        raise InputError(f"{name}: not UTF-8 text; save the file as UTF-8.") from None
    except FileNotFoundError:
        raise InputError(f"data file {str(path)!r} does not exist; check the path.") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); check the path.") from None


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """Lines of a file, none of which is let into memory beyond LONGEST_LINE."""
    for number in itertools.count(1):
        line = file.readline(LONGEST_LINE)
        if not line:
            return
        if len(line) >= LONGEST_LINE:
            raise InputError(f"{name}, line {number}: over {LONGEST_LINE / 1e6:.0f} million characters; shorten it.")
        yield line


def csv_rows(lines: Iterable[str], name: str, delimiter: str) -> Iterator[Placed]:
    """Rows by their headings. Raises InputError naming `name` and the line."""
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        for row in reader:
            row.pop(None, None)  # more cells than headings
            yield f"{name}, line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not CSV ({error}); mend the line.") from None


def jsonl_rows(lines: Iterable[str], name: str) -> Iterator[Placed]:
    """One JSON object a line; empty lines are passed over. Raises InputError naming `name` and the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise InputError(f"{where}: not JSON ({reason}); mend or delete the line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with columns, found {type(row).__name__}.")
        yield where, row


def _json_rows(path: Path) -> Iterator[Placed]:
    if path.stat().st_size > LARGEST_JSON:
        raise InputError(f"{path.name}: a .json file over 500 MB; save it as JSON Lines (.jsonl), which is streamed.")
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        # JSON Lines under a .json name
        with path.open(encoding="utf-8-sig") as file:
            yield from jsonl_rows(file, path.name)
        return
    if isinstance(content, dict):  # {"data": [rows]}, or one row, which may hold a conversation
        content = next((value for value in content.values() if _is_table(value)), [content])
    for number, row in enumerate(content, 1):
        where = f"{path.name}, entry {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, found {type(row).__name__}.")
        yield where, row


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _is_table(value: Any) -> bool:
    """Whether it is a list of rows, not of turns or words."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and not _is_turn(v) for v in value)


def _parquet_rows(path: Path) -> Iterator[Placed]:
    import pyarrow  # takes a third of a second, which bad settings need not wait for
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches), 1):
            yield f"{path.name}, row {number}", row
    except pyarrow.ArrowException as error:
        raise InputError(f"{path.name}: not a Parquet file ({str(error).splitlines()[0][:80]}).") from None
