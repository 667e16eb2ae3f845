"""Write the table of model types in docs/models.md from what the test finds: python dev/write_models_table.py

Takes several minutes. A type that is wrong ends it with the test's error.
"""

import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "modeling")]

from test_every_type import PAGE, check, share  # noqa: E402
from tiny_models import TYPES  # noqa: E402

BEGIN, END = "<!-- types: dev/write_models_table.py writes this table -->", "<!-- end of types -->"


def table(found: dict[str, str]) -> str:
    """One row for each thing that is said, those that are trained first."""
    said = sorted(set(found.values()), key=lambda words: (words.startswith("refused"), words))
    rows = [(words, ", ".join(f"`{name}`" for name in sorted(found) if found[name] == words)) for words in said]
    return "\n".join(["| what | model types |", "|---|---|", *(f"| {words} | {names} |" for words, names in rows)])


def with_table(text: str, found: dict[str, str]) -> str:
    """The page with the current table."""
    before, rest = text.split(BEGIN)
    said = textwrap.fill(share(found), 120)
    return f"{before}{BEGIN}\n\n{said}\n\n{table(found)}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    results = {}
    for name in TYPES:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = check(name, Path(folder))
        print(name, results[name], sep=": ", flush=True)
    PAGE.write_text(with_table(PAGE.read_text("utf-8"), results), "utf-8")
