"""Text from users, models and data sets on the page, always shown as it is.

In HTML, Jinja2 templates escape it; in Markdown, `plain` does, in toasts and chats, which take HTML, `as_html`.
"""

from __future__ import annotations

import html
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cbgui.ui.words import say

_templates = Environment(
    loader=PackageLoader("cbgui.ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_templates.globals["say"] = say


def render(name: str, **values: Any) -> str:
    """The template templates/NAME.html, filled in."""
    return _templates.get_template(f"{name}.html").render(values)


def plain(text: object) -> str:
    """Text for the middle of a Markdown line: no HTML, no emphasis, no link and no image comes out of it."""
    one_line = " ".join(str(text).split())
    return re.sub(r"[^\w\s,;'\"]|_", lambda found: f"&#{ord(found[0])};", one_line)


def as_html(text: str) -> str:
    """Text for a place that takes HTML. `as_text` is its inverse."""
    return html.escape(text, quote=False)


def as_text(shown: str) -> str:
    """What `as_html` was given."""
    return shown.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
