"""Rows of the files that people bring, read one at a time with the location of each in its file.

CSV, TSV, JSON, JSON Lines, Parquet, Excel and plain text. What a file is, its first bytes say before its ending does.
"""

from __future__ import annotations

import csv
import itertools
import json
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from cbgui.data.decoding import text_encoding
from cbgui.data.limits import parquet_rows
from cbgui.data.names import HEADINGS, normal
from cbgui.data.notes import Notes
from cbgui.data.tables import Located, Raw, csv_rows, table_rows, text_lines
from cbgui.errors import InputError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".txt")
MAX_JSON_BYTES = 500 * 2**20  # a .json list is parsed at once; the other forms are read row by row
MAX_JSON_VALUES = 10_000_000  # an empty object takes three bytes in a file, and over sixty in memory
MAX_SHEET_BYTES = 100 * 2**20  # of an Excel file's contents once unpacked
MAX_FILE_BYTES = 4 * 2**30
MAX_LINE = 16 * 2**20  # characters of one row; far more than any model reads
SPLITS = ("train", "training", "train_sft")  # which part of a file in parts is read
csv.field_size_limit(MAX_LINE)
SIGNATURES = {  # the first bytes of files that are not text
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as .xlsx or CSV",
    b"%PDF": "a PDF file; save its questions as CSV or JSON Lines",
    b"SQLite format 3": "a database; save its questions as CSV or JSON Lines",
}


@dataclass
class Table:
    """The rows of a file or of pasted text. Reading the rows adds to the notes."""

    name: str
    rows: Iterator[Located]
    notes: Notes = field(default_factory=Notes)


def open_table(path: Path) -> Table:
    """Open a data file. Nothing is read before the first row is asked for; then InputError names the file and line."""
    table = Table(path.name, iter(()))
    table.rows = _rows(path, table.notes)
    return table


def read_rows(path: Path) -> Iterator[Raw]:
    """The rows of a data file without their places. Raises InputError."""
    return (row for _, row in open_table(path).rows)


def open_text(text: str, name: str = "pasted text") -> Table:
    """Text that the user pasted: JSON, JSON Lines, a table, or one question a line. Raises InputError."""
    text = text.strip()
    if not text:
        raise InputError(f"the {name} is empty; paste JSON Lines, CSV with headings, or one question a line.")
    notes = Notes()
    return Table(name, _text_rows(text_lines(text), name, notes, lambda: text), notes)


def _rows(path: Path, notes: Notes) -> Iterator[Located]:
    name = path.name
    try:
        kind = _file_kind(path)
        if kind == ".parquet":
            for number, row in enumerate(parquet_rows(path, name), 1):
                yield f"{name}, row {number}", row
        elif kind == ".xlsx":
            yield from _excel_rows(path, notes)
        else:
            encoding = text_encoding(path, notes)
            if kind == ".json":  # often one long line
                text = _whole(path, encoding)
                yield from _text_rows(text_lines(text), name, notes, lambda: text, kind)
                return
            with path.open(encoding=encoding, newline="") as file:
                yield from _text_rows(_lines(file, name), name, notes, lambda: _whole(path, encoding), kind)
    except UnicodeError:
        raise InputError(f"{name}: not UTF-8 text; save the file as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}); check the path.") from None


def _file_kind(path: Path) -> str:
    """Its ending, unless its first bytes say otherwise. Raises InputError for what cannot be read."""
    suffix, name = path.suffix.lower(), path.name
    if path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give the data file in it.")
    if not path.exists():
        raise InputError(f"data file {str(path)!r} does not exist; check the path.")
    if suffix not in SUFFIXES:
        problem = f"the ending {suffix} is not supported" if suffix else "the file name has no ending"
        raise InputError(f"{name}: {problem}; use {', '.join(SUFFIXES)}.")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(
            f"{name}: {size / 1e9:.1f} GB is more than the limit of {MAX_FILE_BYTES / 1e9:.0f} GB; split the file."
        )
    if not size:
        raise InputError(f"{name}: the file is empty; add rows with a question and an answer.")
    with path.open("rb") as file:
        start = file.read(16)
    for signature, problem in SIGNATURES.items():
        if start.startswith(signature):
            raise InputError(f"{name}: it is {problem}.")
    if start.startswith(b"PAR1"):
        return ".parquet"
    if start.startswith(b"PK\x03\x04"):
        return ".xlsx"
    if suffix in (".parquet", ".xlsx"):
        raise InputError(f"{name}: not {'a Parquet' if suffix == '.parquet' else 'an Excel'} file; check its ending.")
    return suffix


def _lines(file: TextIO, name: str) -> Iterator[str]:
    """Lines of a file. A line over MAX_LINE is refused before it fills the memory."""
    for number in itertools.count(1):
        line = file.readline(MAX_LINE)
        if not line:
            return
        if len(line) >= MAX_LINE:
            raise InputError(f"{name}, line {number}: over {MAX_LINE / 1e6:.0f} million characters; shorten it.")
        yield line


def _whole(path: Path, encoding: str) -> str:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(
            f"{path.name}: a .json file over {MAX_JSON_BYTES / 2**20:.0f} MB is too large to parse at once; save it as "
            "JSON Lines (.jsonl)."
        )
    return path.read_text(encoding)


def _text_rows(
    lines: Iterator[str], name: str, notes: Notes, whole: Callable[[], str], ending: str | None = None
) -> Iterator[Located]:
    """Rows of a text. `ending` is that of its file, None for pasted text; `whole` gives all of it at once."""
    read: list[str] = []
    filled: list[str] = []  # the first two lines that are not blank
    while len(filled) < 2 and (line := next(lines, None)) is not None:
        read.append(line)
        if line.strip():
            filled.append(line.strip())
    lines, first, several = itertools.chain(read, lines), (filled or [""])[0], len(filled) > 1
    is_json = ending in (".json", ".jsonl")
    if first.startswith("{") and (is_json or ending in (None, ".txt") or _parses(first)):
        pretty = several and (ending == ".json" or first == "{") and not _parses(first)
        one_a_line = ending == ".jsonl" or several
        return jsonl_rows(lines, name, notes) if one_a_line and not pretty else _json_rows(whole(), name, notes)
    if first.startswith("[") and (is_json or ending in (None, ".txt")):
        each_line = several and filled[1].startswith("[") and _parses(first)  # a conversation on each line
        return jsonl_rows(lines, name, notes) if each_line else _json_rows(whole(), name, notes)
    if is_json:
        return jsonl_rows(lines, name, notes)
    if ending in (None, ".txt") and not _has_headings(first):
        return _one_question_a_line(lines, name)
    return csv_rows(lines, name, notes)


def _has_headings(line: str) -> bool:
    return any(normal(cell) in HEADINGS for delimiter in ",;\t|" for cell in line.split(delimiter))


def _one_question_a_line(lines: Iterable[str], name: str) -> Iterator[Located]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"{name}, line {number}", {"prompt": line.strip()}


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _load(text: str, notes: Notes) -> Any:
    """JSON with NaN as an empty cell, and halves of characters (as cut emoji leave them) replaced."""
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\ud" in text.lower():
        return _without_halves(value, notes)
    return value


def _without_halves(value: Any, notes: Notes) -> Any:
    if isinstance(value, str):
        whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if whole != value:
            notes.say("Halves of characters (such as a cut emoji) were replaced by \ufffd.")
        return whole
    if isinstance(value, list):
        return [_without_halves(one, notes) for one in value]
    if isinstance(value, dict):
        return {_without_halves(key, notes): _without_halves(one, notes) for key, one in value.items()}
    return value


def jsonl_rows(lines: Iterable[str], name: str, notes: Notes) -> Iterator[Located]:
    """One JSON object a line; empty lines are skipped. Raises InputError naming `name` and the line."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = _load(line, notes)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: not JSON ({_reason(error)}); fix or delete the line.") from None
        yield where, _row(row, where)


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))


def _row(row: Any, where: str) -> Raw:
    if isinstance(row, str):
        return {"prompt": row}
    if _is_conversation(row):
        return {"messages": row}
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with columns, found {type(row).__name__}.")
    return row


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and bool({"role", "from"} & value[0].keys())
    )


def _json_rows(text: str, name: str, notes: Notes) -> Iterator[Located]:
    """Rows of a JSON text: a list, or one of the objects in which tables are stored."""
    if text.count(",") + text.count("[") + text.count("{") > MAX_JSON_VALUES:
        raise InputError(
            f"{name}: over {MAX_JSON_VALUES:,} values, too many to parse at once; save it as JSON Lines (.jsonl)."
        )
    try:
        content = _load(text, notes)
    except (ValueError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{name}{line}: not JSON ({_reason(error)}); fix it.") from None
    rows = _list_of_rows(content, notes)
    if rows and all(isinstance(row, list) for row in rows) and not _is_conversation(rows[0]):
        yield from table_rows(enumerate(rows, 1), name, "entry", notes)
        return
    for number, row in enumerate(rows, 1):
        where = f"{name}, entry {number}"
        yield where, _row(row, where)


def _list_of_rows(content: Any, notes: Notes) -> list[Any]:
    if _is_conversation(content) or not isinstance(content, (list, dict)):
        return [content]
    if isinstance(content, list):
        return content
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):  # pandas' "split" form
        return [dict(zip(content["columns"], row, strict=False)) for row in content["data"] if isinstance(row, list)]
    tables = {key: value for key, value in content.items() if _is_table(value)}
    if tables:  # {"train": [rows], "test": [rows]}, or {"version": 1, "data": [rows]}
        chosen = next((key for key in tables if key.lower() in SPLITS), next(iter(tables)))
        for key, rows in tables.items():
            if key != chosen:
                notes.say(f"Only {chosen!r} was read; {key!r} was left out (rows: {len(rows):,}).")
        return tables[chosen]
    values = list(content.values())
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        if len({tuple(value) for value in values}) == 1 and all(key.isdecimal() for key in values[0]) and values[0]:
            return [dict(zip(content, row, strict=True)) for row in zip(*(v.values() for v in values), strict=True)]
        if all(key.isdecimal() for key in content):  # pandas' "index" form
            return values
    if len(values) > 1 and all(isinstance(value, list) and not _is_conversation(value) for value in values):
        if len({len(value) for value in values}) == 1 and len(values[0]) > 0:  # a list for each column
            return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    return [content]


def _is_table(value: Any) -> bool:
    """Whether `value` is a list of rows, and not a conversation or a list of words."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, dict) for v in value)
        and (not _is_conversation(value))
    )


def _excel_rows(path: Path, notes: Notes) -> Iterator[Located]:
    """Rows of the first sheet that holds any, read by pandas and openpyxl."""
    import pandas as pd

    name = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_SHEET_BYTES:
                raise InputError(f"{name}: over {MAX_SHEET_BYTES / 2**20:.0f} MB once unpacked; save it as CSV.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's, on formatting that it does not know
            sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=object, engine="openpyxl")
    except InputError:
        raise
    except Exception as error:  # openpyxl raises whatever it stumbles over
        raise InputError(
            f"{name}: not an Excel file that can be read ({type(error).__name__}); save it as CSV."
        ) from None
    filled = {sheet: frame for sheet, frame in sheets.items() if not frame.empty}
    if not filled:
        raise InputError(f"{name}: its sheets are empty; add rows with a question and an answer.")
    chosen, *others = filled
    if others:
        notes.say(f"Only the sheet {chosen!r} was read; left out: {', '.join(map(repr, others))}.")
    frame = filled[chosen]
    cells = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    yield from table_rows(enumerate(cells, 1), name, "row", notes)
