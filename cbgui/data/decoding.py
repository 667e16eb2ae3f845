"""The encoding of a text file: UTF-8, UTF-16, UTF-32, or the Windows encoding that Excel saves CSV in."""

from __future__ import annotations

import codecs
from pathlib import Path

from cbgui.data.notes import Notes
from cbgui.errors import InputError

BYTE_ORDER_MARKS = (  # UTF-32's first, as it begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WINDOWS = "cp1252"
CHUNK = 2**20
SAVE_AS_UTF8 = "save the file as UTF-8 (in Excel: Save as, CSV UTF-8)"


def text_encoding(path: Path, notes: Notes) -> str:
    """The encoding to open `path` with. Reads the whole file once. Raises InputError when it is not text."""
    with path.open("rb") as file:
        start = file.read(4096)
    for mark, encoding in BYTE_ORDER_MARKS:
        if start.startswith(mark):
            if not _is_text(path, encoding):
                raise InputError(f"{path.name}: not the {encoding.upper()} text that it begins as; {SAVE_AS_UTF8}.")
            return encoding
    if start.count(0) > len(start) // 4:  # UTF-16 without its mark: every second byte of Latin text is zero
        encoding = "utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be"
        if _is_text(path, encoding):
            return encoding
    problem = _not_utf8(path)
    if problem is None:
        return "utf-8"
    line, in_utf8 = problem
    if in_utf8 or not _is_text(path, WINDOWS):
        raise InputError(f"{path.name}, line {line}: not UTF-8 text; {SAVE_AS_UTF8}.")
    notes.say("The file is not UTF-8 and was read as Windows text; check that accents and quotation marks are right.")
    return WINDOWS


def _is_text(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    with path.open("rb") as file:
        try:
            while chunk := file.read(CHUNK):
                if "\0" in decoder.decode(chunk):
                    return False
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _not_utf8(path: Path) -> tuple[int, bool] | None:
    """The line of the first byte that is not UTF-8 and whether UTF-8 letters come before it; None for UTF-8 text.

    Raises InputError when there are NUL bytes.
    """
    decoder, line, in_utf8 = codecs.getincrementaldecoder("utf-8")(), 1, False
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                before = error.object[: error.start]
                return line + before.count(b"\n"), in_utf8 or not before.isascii()
            if "\0" in text:
                raise InputError(f"{path.name}: holds NUL bytes, so it is not text; {SAVE_AS_UTF8}.")
            if not chunk:
                return None
            line, in_utf8 = line + text.count("\n"), in_utf8 or not text.isascii()
