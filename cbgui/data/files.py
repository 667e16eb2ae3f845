"""Rows of CSV, TSV, JSON, JSON Lines and Parquet files, read one at a time with the location of each in its file."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from cbgui.errors import InputError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
MAX_JSON_BYTES = 500 * 2**20  # a .json list is parsed at once; the other forms are read row by row
MAX_FILE_BYTES = 4 * 2**30
MAX_LINE = 16 * 2**20  # characters of one row; far more than any model reads
csv.field_size_limit(MAX_LINE)
Raw = dict[str, Any]
Located = tuple[str, Raw]  # the row's location, such as "data.csv, line 3", and the row


def read_rows(path: Path) -> Iterator[Raw]:
    """Yield the rows of a CSV, TSV, JSON, JSONL or Parquet file. Raises InputError naming the file and the line."""
    return (row for _, row in located_rows(path))


def located_rows(path: Path) -> Iterator[Located]:
    """Like `read_rows`, but yield each row together with its location in the file."""
    suffix, name = path.suffix.lower(), path.name
    if suffix not in SUFFIXES:
        problem = f"the ending {suffix} is not supported" if suffix else "the file name has no ending"
        raise InputError(f"{name}: {problem}; use {', '.join(SUFFIXES)}.")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{name}: {size / 1e9:.1f} GB is more than the limit of {MAX_FILE_BYTES / 1e9:.0f} GB; split the file."
            )
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
    """Lines of a file. A line over MAX_LINE is refused before it fills the memory."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
        if len(line) >= MAX_LINE:
            raise InputError(f"{name}, line {number}: over {MAX_LINE / 1e6:.0f} million characters; shorten it.")
        yield line


def csv_rows(lines: Iterable[str], name: str, delimiter: str) -> Iterator[Located]:
    """Rows of a table whose first line holds the headings. Raises InputError naming `name` and the line."""
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        for row in reader:
            row.pop(None, None)  # more cells than headings
            yield f"{name}, line {reader.line_num}", row
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num}: not CSV ({error}); fix the line.") from None


def jsonl_rows(lines: Iterable[str], name: str) -> Iterator[Located]:
    """One JSON object a line; empty lines are skipped. Raises InputError naming `name` and the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "nested too deeply")
            raise InputError(f"{where}: not JSON ({reason}); fix or delete the line.") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object with columns, found {type(row).__name__}.")
        yield where, row


def _json_rows(path: Path) -> Iterator[Located]:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(
            f"{path.name}: a .json file over {MAX_JSON_BYTES / 2**20:.0f} MB is too large to parse at once; save it as "
            "JSON Lines (.jsonl)."
        )
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        with path.open(encoding="utf-8-sig") as file:  # perhaps JSON Lines under a .json name
            yield from jsonl_rows(file, path.name)
        return
    if isinstance(content, dict):  # {"data": [rows]}, or a single row
        content = next((value for value in content.values() if _is_table(value)), [content])
    for number, row in enumerate(content, 1):
        where = f"{path.name}, entry {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object, found {type(row).__name__}.")
        yield where, row


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _is_table(value: Any) -> bool:
    """Whether `value` is a list of rows, and not a conversation or a list of words."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and not _is_turn(v) for v in value)


def _parquet_rows(path: Path) -> Iterator[Located]:
    import pyarrow  # takes a third of a second to import
    import pyarrow.parquet

    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1000)
        for number, row in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches), 1):
            yield f"{path.name}, row {number}", row
    except pyarrow.ArrowException as error:
        raise InputError(f"{path.name}: not a Parquet file ({str(error).splitlines()[0][:80]}).") from None
