"""Write the table of settings in docs/cli.md from cbgui/config.py: python dev/write_settings_table.py"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cbgui.config import settings  # noqa: E402

BEGIN, END = "<!-- settings: dev/write_settings_table.py writes this table -->", "<!-- end of settings -->"


def table() -> str:
    rows = ["| setting | default | title | meaning |", "|---|---|---|---|"]
    for setting in settings():
        default = "null" if setting.default is None else setting.default
        rows.append(f"| `{setting.path}` | {default} | {setting.title} | {setting.description} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """The page with the current table."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    page = ROOT / "docs" / "cli.md"
    page.write_text(with_table(page.read_text("utf-8")), "utf-8")
