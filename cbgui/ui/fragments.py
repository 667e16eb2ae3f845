"""HTML fragments: Jinja2 templates, which escape all text from users and models."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

_templates = Environment(
    loader=PackageLoader("cbgui.ui"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)


def render(name: str, **values: Any) -> str:
    """The template templates/NAME.html, filled in."""
    return _templates.get_template(f"{name}.html").render(values)
