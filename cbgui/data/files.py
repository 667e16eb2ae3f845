"""Rows of the files that people bring, read one at a time with the location of each in its file.

CSV, TSV, JSON, JSON Lines, Parquet, Excel and plain text. What a file is, its first bytes say before its ending does.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from cbgui.data.decoding import text_encoding
from cbgui.data.limits import parquet_rows
from cbgui.data.names import COLUMN_NAMES, HEADINGS, kind_of, normal
from cbgui.data.notes import Notes
from cbgui.data.tables import TITLE_ROWS, Located, Raw, csv_rows, table_rows, text_lines
from cbgui.data.transcripts import asks, questions_and_answers
from cbgui.errors import InputError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".xlsx", ".txt")
MAX_JSON_BYTES = 500 * 2**20  # a .json list is parsed at once; the other forms are read row by row
MAX_JSON_VALUES = 10_000_000  # an empty object takes three bytes in a file, and over sixty in memory
MAX_SHEET_BYTES = 100 * 2**20  # of an Excel file's contents once unpacked
MAX_FILE_BYTES = 4 * 2**30
MAX_LINE = 16 * 2**20  # characters of one row; far more than any model reads
JSON_START = re.compile(r"""[\[{]\s*($|["'\[{\]}])""")  # unlike a text that begins with a bracket
SPLITS = ("train", "training", "train_sft")  # which part of a file in parts is read
csv.field_size_limit(MAX_LINE)
SIGNATURES = {  # the first bytes, in small letters, of files that are not text or not data
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstd); unpack it first",
    b"\xfd7zxz": "compressed (xz); unpack it first",
    b"bzh91ay": "compressed (bzip2); unpack it first",
    b"7z\xbc\xaf": "compressed (7z); unpack it first",
    b"\x89png": "an image; type its questions into a CSV or text file",
    b"\xff\xd8\xff": "an image; type its questions into a CSV or text file",
    b"{\\rtf": "a rich text file; save it as plain text",
    b"<!doctype html": "a web page; download the data file itself",
    b"<html": "a web page; download the data file itself",
    b"version https://git-lfs": "a pointer of Git LFS; download the data file itself",
    b"\xd0\xcf\x11\xe0": "an old Excel file; save it as .xlsx or CSV",
    b"%pdf": "a PDF file; save its questions as CSV or JSON Lines",
    b"sqlite format 3": "a database; save its questions as CSV or JSON Lines",
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
        start = file.read(64)
    for signature, problem in SIGNATURES.items():
        if start.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(signature):
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
    may_be_json = is_json or ending in (None, ".txt") and bool(JSON_START.match(first))
    if first.startswith("{") and (may_be_json or _parses(first)):
        pretty = several and (ending == ".json" or first == "{") and not _parses(first)
        one_a_line = ending == ".jsonl" or several
        return jsonl_rows(lines, name, notes) if one_a_line and not pretty else _json_rows(whole(), name, notes)
    if first.startswith("[") and may_be_json:
        each_line = several and filled[1].startswith("[") and _parses(first)  # a conversation on each line
        return jsonl_rows(lines, name, notes) if each_line else _json_rows(whole(), name, notes)
    if is_json:
        return jsonl_rows(lines, name, notes)
    if ending in (None, ".txt") and any(map(asks, filled)):
        return questions_and_answers(lines, name, notes)
    if ending in (None, ".txt") and "\t" not in first and not _has_headings(first):
        return _one_question_a_line(lines, name)
    return csv_rows(lines, name, notes)


def _has_headings(line: str) -> bool:
    """Whether a known heading is in the line, and every cell is short enough for a heading."""
    rows = [line.split(delimiter) for delimiter in ",;\t|"]
    return any(
        any(normal(cell) in HEADINGS for cell in row) and all(len(cell.split()) < 4 for cell in row) for row in rows
    )


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
    value = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=lambda pairs: _object(pairs, notes))
    if "\\ud" in text.lower():
        return _without_halves(value, notes)
    return value


def _object(pairs: list[tuple[str, Any]], notes: Notes) -> Raw:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        notes.say(f"The key {twice!r} is there more than once in an object; its last value was taken.")
    return found


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
    return "nested too deeply" if isinstance(error, RecursionError) else getattr(error, "msg", "a number is too long")


def _row(row: Any, where: str) -> Raw:
    if isinstance(row, str):
        return {"prompt": row}
    if _is_conversation(row):
        return {"messages": row}
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected an object with columns such as prompt and response; correct or delete it.")
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
    if (
        tables
    ):  # {"train": [rows], "test": [rows]}, {"version": 1, "data": [rows]}, or {"break": [rows], "retain": [rows]}
        kinds = [key for key in tables if kind_of(key)]
        chosen = kinds or [next((key for key in tables if key.lower() in SPLITS), next(iter(tables)))]
        for key, rows in tables.items():
            if key not in chosen:
                notes.say(f"Only {_listed(chosen)} was read; {key!r} was left out (rows: {len(rows):,}).")
        return [{"kind": key, **row} if kinds else row for key in chosen for row in tables[key]]
    values = list(content.values())
    if len(values) > 1 and all(isinstance(value, dict) for value in values):
        if len({tuple(value) for value in values}) == 1 and all(key.isdecimal() for key in values[0]) and values[0]:
            return [dict(zip(content, row, strict=True)) for row in zip(*(v.values() for v in values), strict=True)]
        if all(key.isdecimal() for key in content):  # pandas' "index" form
            return values
    if len(values) > 1 and all(isinstance(value, list) and not _is_conversation(value) for value in values):
        named = any(normal(key) in HEADINGS for key in content)  # otherwise it may be a list for each subject
        if named and len({len(value) for value in values}) == 1 and len(values[0]) > 0:  # a list for each column
            return [dict(zip(content, row, strict=True)) for row in zip(*values, strict=True)]
    if all(isinstance(value, str) for value in values) and not any(normal(key) in HEADINGS for key in content):
        if sum(len(key.split()) > 2 for key in content) > len(content) / 2:  # {"a question": "its answer"}
            notes.say("Each key was read as a question, and its value as the answer.")
            return [{"prompt": key, "response": value} for key, value in content.items()]
    return [content]


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _is_table(value: Any) -> bool:
    """Whether `value` is a list of rows, and not a conversation or a list of words."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, dict) for v in value)
        and (not _is_conversation(value))
    )


def _excel_rows(path: Path, notes: Notes) -> Iterator[Located]:
    """Rows of the first sheet that asks something, or else that holds rows; hidden ones come last. Kinds: of all."""
    import pandas as pd

    name = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_SHEET_BYTES:
                raise InputError(f"{name}: over {MAX_SHEET_BYTES / 2**20:.0f} MB once unpacked; save it as CSV.")
            if not any(entry.filename.startswith("xl") for entry in archive.infolist()):
                raise InputError(f"{name}: it is an archive, and not of Excel; unpack it, or save it as .xlsx or CSV.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's, on formatting that it does not know
            with pd.ExcelFile(path, engine="openpyxl") as book:
                shown = sorted(book.book.worksheets, key=lambda sheet: sheet.sheet_state != "visible")
                names = [sheet.title for sheet in shown]
                sheets = book.parse(names, header=None, dtype=object, keep_default_na=False)
    except InputError:
        raise
    except Exception as error:  # openpyxl raises whatever it stumbles over
        raise InputError(
            f"{name}: not an Excel file that can be read ({type(error).__name__}); save it as CSV."
        ) from None
    filled = {sheet: frame for sheet, frame in sheets.items() if not frame.empty}
    if not filled:
        raise InputError(f"{name}: its sheets are empty; add rows with a question and an answer.")
    kinds = [sheet for sheet in filled if kind_of(sheet)]  # such as "must stop" and "must keep"
    chosen = kinds or [max(filled, key=lambda sheet: _asks(filled[sheet].head(TITLE_ROWS).to_numpy().tolist()))]
    if others := [sheet for sheet in filled if sheet not in chosen]:
        notes.say(f"Only the sheet {_listed(chosen)} was read; left out: {_listed(others)}.")
    for sheet in chosen:
        unit = "row" if len(chosen) == 1 else f"sheet {sheet!r} row"
        for where, row in _sheet_rows(filled[sheet], name, unit, notes):
            yield where, {"kind": sheet, **row} if kinds else row


def _sheet_rows(frame: Any, name: str, unit: str, notes: Notes) -> Iterator[Located]:
    from openpyxl.utils.escape import unescape

    cells = frame.astype(object).where(frame.notna(), None).to_numpy().tolist()
    texts = ([unescape(cell) if isinstance(cell, str) else cell for cell in row] for row in cells)  # _x000D_
    return table_rows(enumerate(texts, 1), name, unit, notes)


def _asks(rows: list[list[Any]]) -> bool:
    """Whether a known name of a column of questions or conversations is among the cells."""
    names = {*COLUMN_NAMES["prompt"], *COLUMN_NAMES["messages"]}
    return any(isinstance(cell, str) and normal(cell) in names for row in rows for cell in row)
