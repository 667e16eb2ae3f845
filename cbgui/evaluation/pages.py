"""Load the Jinja2 templates of the report and the comparison: self-contained pages that run and fetch nothing."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cbgui.data.examples import KIND_PLURALS


def printable(value: Any) -> Any:
    """Remove control characters other than line feeds and tabs, so that hostile names and answers are harmless."""
    if not isinstance(value, str):
        return value
    text = "".join(c for c in value if c in "\n\t" or ord(c) >= 32)
    return Markup(text) if isinstance(value, Markup) else text


# `finalize` applies to every expression of every template, so that none can forget it.
_TEMPLATES = Environment(
    loader=PackageLoader("cbgui.evaluation"),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=printable,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals["kind_plurals"] = KIND_PLURALS


def render_page(template: str, **values: Any) -> str:
    """A whole HTML page from `template` in the templates folder. Raises jinja2.UndefinedError if a value is missing."""
    return _TEMPLATES.get_template(template).render(values)
