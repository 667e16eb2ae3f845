"""Names that the user gives to runs, topics and presets, as names of files and folders."""

from __future__ import annotations

import re
import unicodedata

LONGEST_NAME = 100  # bytes; file systems take 255, and the trash puts a number before it


def cleaned_name(name: str) -> str:
    """The name without what no file name can hold: letters of any alphabet, digits, "-", "_" and single spaces stay.

    It may be empty. Names that begin with "_" are special folders'.
    """
    plain = unicodedata.normalize("NFC", name)
    cleaned = " ".join(re.sub(r"[^\w\s-]+", "-", plain).split()).strip("- ").lstrip("_- ")
    cleaned = cleaned.encode()[:LONGEST_NAME].decode(errors="ignore").rstrip("- ")
    return f"{cleaned}-run" if is_reserved(cleaned) else cleaned


def is_reserved(name: str) -> bool:
    """Whether Windows takes the name for a device, whatever its ending."""
    return re.fullmatch(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9\u00b9\u00b2\u00b3])(\..*)?", name, re.IGNORECASE) is not None
