"""Tables of cells: which delimiter a CSV file uses, where its headings are, and its rows by column."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from cbgui.data.names import HEADINGS, normal
from cbgui.data.notes import Notes
from cbgui.data.transcripts import is_conversation
from cbgui.errors import InputError

Raw = dict[str, Any]
Located = tuple[str, Raw]  # the row's location, such as "data.csv, line 3", and the row
Numbered = tuple[int, list[Any]]  # a row's line, and its cells
DELIMITERS = ",;\t|"
NO_VALUE = {"NA", "N/A", "#N/A", "<NA>", "NULL", "null", "NaN", "nan", "None", "\\N"}  # of R, pandas and databases
NO_VALUE_SAID = "Cells that hold only"
RULE = re.compile(r"\s*:?-{2,}:?\s*")  # a cell of the line below the headings of a Markdown table
ESCAPED = re.compile(r'\\(["\\]|\r?\n)')  # as MySQL writes quotation marks
NO_DELIMITER = "\x1f"  # a table of one column
SAMPLE_LINES = 200
SAMPLE_ROWS = 30
TITLE_ROWS = 10  # headings are looked for in so many rows
LONGEST_HEADING = 40  # characters
UNDOUBLED = "with a quotation mark that is not doubled inside a quoted cell, where the text may be wrong"
EXTRA_CELLS = "with more cells than headings, whose extra cells are left out (text with {mark} in it needs quotes)"


def csv_rows(lines: Iterable[str], name: str, notes: Notes) -> Iterator[Located]:
    """Rows of a CSV or TSV table. Raises InputError naming `name` and the line."""
    lines = iter(lines)
    sample = list(itertools.islice(lines, SAMPLE_LINES))
    skipped = 0
    if sample and sample[0].lower().startswith("sep=") and len(sample[0].strip()) <= 5:  # a line that Excel understands
        delimiter, skipped = sample.pop(0).rstrip("\r\n")[4:] or "\t", 1
    else:
        delimiter = _delimiter(sample)
    lines = itertools.chain(sample, lines)
    style = _style(sample, delimiter)
    if not _well_quoted(sample, style) and _well_quoted(map(_unescaped, sample), style):
        lines = map(_unescaped, lines)
    cells = _cells(lines, name, style, skipped, notes)
    return table_rows(cells, name, "line", notes, delimiter)


def _unescaped(line: str) -> str:
    """A line whose quotation marks have a backslash before them, as CSV."""
    return ESCAPED.sub(lambda match: '""' if match[1] == '"' else match[1], line)


def _well_quoted(sample: Iterable[str], style: dict[str, Any]) -> bool:
    try:
        list(csv.reader(sample, **style, strict=True))
    except csv.Error as error:
        return "end of data" in str(error)  # the sample may end inside a cell
    return True


def _style(sample: list[str], delimiter: str) -> dict[str, Any]:
    spaced = re.compile(rf'{re.escape(delimiter)} +"[^"]*"\s*({re.escape(delimiter)}|$)')
    return {"delimiter": delimiter, "skipinitialspace": any(map(spaced.search, sample))}


def _delimiter(sample: list[str]) -> str:
    """The delimiter that gives known headings, or else the same number of cells in most rows."""

    def score(delimiter: str) -> tuple[int, float, int]:
        rows = [row for row in csv.reader(sample, delimiter=delimiter) if any(row)]
        if len(rows) > 1 and sample[-1:] and len(sample) == SAMPLE_LINES:
            rows.pop()  # the sample may end inside it
        known, heading = max(((_known(row), -i) for i, row in enumerate(rows[:TITLE_ROWS])), default=(0, 0))
        if known and len(rows[-heading]) == 1:
            return 1, 0.0, 1
        if known:
            rows = rows[-heading:]
        count, rows_with_it = Counter(map(len, rows)).most_common(1)[0] if rows else (1, 0)
        alike = rows_with_it / len(rows) if count > 1 else 0.0
        return known, alike if known or alike >= 0.8 else 0.0, count

    try:
        best = max(DELIMITERS, key=score)
        _, alike, count = score(best)
    except csv.Error:
        return ","
    return best if alike or count > 1 and score(best)[0] > 1 else NO_DELIMITER


def _cells(lines: Iterable[str], name: str, style: dict[str, Any], skipped: int, notes: Notes) -> Iterator[Numbered]:
    """The cells of each record, with the line that it ends on."""
    record: list[str] = []  # the lines of the newest record
    taken = False

    def recorded() -> Iterator[str]:
        nonlocal taken
        for line in lines:
            if taken:
                record.clear()
                taken = False
            record.append(line)
            yield line

    reader = csv.reader(recorded(), **style)
    line, begun = skipped, skipped
    try:
        for cells in reader:
            begun, line, taken = line + 1, reader.line_num + skipped, True
            if any('"' in part for part in record) and not _well_quoted(record, style):
                if len(record) > 1:  # it may have taken in further rows
                    raise InputError(f"{name}, line {begun}: a quotation mark is not closed in its cell; close it.")
                notes.count(UNDOUBLED, f"{name}, line {line}")
            yield line, cells
    except csv.Error as error:
        raise InputError(f"{name}, line {reader.line_num + skipped}: not CSV ({error}); fix the line.") from None
    try:  # csv takes the rest of the file into a cell whose quotation mark is never closed
        list(csv.reader(record, **style, strict=True))
    except csv.Error as error:
        if "end of data" in str(error):
            raise InputError(f"{name}, line {begun}: a quotation mark is never closed; close it.") from None


def table_rows(
    cells: Iterable[Numbered], name: str, unit: str, notes: Notes, delimiter: str = ","
) -> Iterator[Located]:
    """Rows by column of a table of cells. `unit` is what a row is called in messages: line or row."""
    cells = ((number, [_value(cell, notes) for cell in row]) for number, row in cells)
    cells = ((number, row) for number, row in cells if not all(cell is None or _is_rule(cell) for cell in row))
    sample = list(itertools.islice(cells, SAMPLE_ROWS))
    place = _heading_row([row for _, row in sample])
    if place is None:
        width = max((len(row) for _, row in sample), default=0)
        headings, rest = [f"column {number}" for number in range(1, width + 1)], sample
        if width:
            notes.say("No headings were found, so the columns are called column 1, column 2 and so on.")
    else:
        headings, rest = _headings(sample[place][1], notes), sample[place + 1 :]
        if place:
            notes.say(f"Rows above the headings, left out: {place}.")
    extra = EXTRA_CELLS.format(mark={",": "commas", ";": "semicolons", "\t": "tabs"}.get(delimiter, repr(delimiter)))
    for number, row in itertools.chain(rest, cells):
        where = f"{name}, {unit} {number}"
        if place is not None and row == sample[place][1]:
            notes.count("that repeat the headings, left out", where)
            continue
        if any(cell not in (None, "") for cell in row[len(headings) :]):
            notes.count(extra, where)
        yield where, dict(itertools.zip_longest(headings, row[: len(headings)]))


def _value(cell: Any, notes: Notes) -> Any:
    """A cell, or None if it is empty or says that there is no value."""
    if cell == "":
        return None
    if not isinstance(cell, str):
        return cell
    if cell.strip() in NO_VALUE:
        notes.say(f"{NO_VALUE_SAID} {cell.strip()} were read as empty.")
        return None
    return cell.replace("\r\n", "\n").replace("\r", "\n")


def _is_rule(cell: Any) -> bool:
    return isinstance(cell, str) and bool(RULE.fullmatch(cell))


def _known(row: list[Any]) -> int:
    return sum(isinstance(cell, str) and normal(cell) in HEADINGS for cell in row)


def _heading_row(rows: list[list[Any]]) -> int | None:
    """Which of the first rows holds the headings; None when there are none."""
    known = [_known(row) for row in rows[:TITLE_ROWS]]
    if any(known):
        return known.index(max(known))
    first = [str(cell) for cell in rows[0] if cell is not None] if rows else []
    if first and first == [str(number) for number in range(len(first))]:  # pandas' headings of a table without any
        return 0
    if len(rows) > 1 and all(len(row) == 1 for row in rows) and not is_conversation(rows[0][0]):
        if all(is_conversation(cell) for (cell,) in rows[1:]):
            return 0
    several = [i for i, row in enumerate(rows) if sum(cell not in (None, "") for cell in row) > 1]
    if not several or several[0] >= TITLE_ROWS or several[0] + 1 >= len(rows):
        return None
    place = several[0]
    return place if _looks_like_headings(rows[place], rows[place + 1 :]) else None


def _looks_like_headings(row: list[Any], body: list[list[Any]]) -> bool:
    """Short, distinct words above longer text or numbers."""
    words = [cell.strip() if isinstance(cell, str) else "" for cell in row]
    if not all(words) or len(set(words)) < len(words) or any(len(word) > LONGEST_HEADING for word in words):
        return False
    if any(word.replace(".", "").isdecimal() for word in words):
        return False
    below = list(zip(*[cells for cells in body if len(cells) == len(words)], strict=False))
    if any(all(str(cell).strip().isdecimal() for cell in column) for column in below):
        return True
    if any("_" in word for word in words) and not any(" " in word for word in words):
        return True
    if any(word[-1] in ".?!" for word in words):
        return False
    lengths = [median(len(str(cell or "")) for cell in column) for column in below]
    return any(length > 2.5 * len(word) for word, length in zip(words, lengths, strict=False))


def _headings(row: list[Any], notes: Notes) -> list[str]:
    """The headings as text; empty and repeated ones get a name of their own."""
    names: list[str] = []
    for number, cell in enumerate(row, 1):
        name = str(cell).strip() if cell not in (None, "") else f"column {number}"
        if name in names:
            copy = next(f"{name} ({i})" for i in itertools.count(2) if f"{name} ({i})" not in names)
            notes.say(f"The heading {name!r} is there more than once; the later column is called {copy!r}.")
            name = copy
        names.append(name)
    while names and row[len(names) - 1] in (None, ""):  # empty columns at the end, as Excel leaves them
        names.pop()
    return names


def text_lines(text: str) -> Iterator[str]:
    """The lines of a text, with their ends."""
    return iter(io.StringIO(text, newline=""))
