"""Rows of pasted text."""

from __future__ import annotations

import io
import json

from cbgui.data.columns import COLUMN_NAMES
from cbgui.data.files import Raw, csv_rows, jsonl_rows
from cbgui.errors import InputError


def paste_rows(text: str) -> list[Raw]:
    """Rows of pasted text: JSON, JSON Lines, a table with headings (commas or tabs), or one question a line.

    Raises InputError.
    """
    text = text.strip()
    if not text:
        raise InputError("the pasted text is empty; paste JSON Lines, CSV with headings, or one question a line.")
    if text.startswith("{"):
        return [row for _, row in jsonl_rows(text.splitlines(), "pasted text")]
    if text.startswith("["):
        try:
            rows = json.loads(text)
        except ValueError as error:
            raise InputError(f"pasted text: not JSON ({error}); fix it and paste again.") from None
        return [row for row in rows if isinstance(row, dict)]
    heading = text.splitlines()[0].lower()
    delimiter = "\t" if "\t" in heading else ","
    columns = [cell.strip().strip('"') for cell in heading.split(delimiter)]
    if any(column in names for column in columns for names in COLUMN_NAMES.values()):
        return [row for _, row in csv_rows(io.StringIO(text), "pasted text", delimiter)]
    return [{"prompt": line.strip()} for line in text.splitlines() if line.strip()]
