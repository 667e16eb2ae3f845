"""YAML that a user wrote, and what pydantic found wrong in it, in sentences."""

from __future__ import annotations

from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cbgui.errors import InputError

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, which is ten times as fast
LONGEST_SHOWN = 80  # characters of a refused value


def _field(location: tuple[str | int, ...], root: type[BaseModel]) -> str:
    """The setting's dotted name; pydantic also names the types that it tried, such as "constrained-int"."""
    part: Any = root
    names = []
    for name in location:
        fields = getattr(part, "model_fields", {})
        if isinstance(name, int) or name in fields:
            names.append(str(name))
        if name in fields:
            types = (fields[name].annotation, *get_args(fields[name].annotation))
            part = next((one for one in types if hasattr(one, "model_fields")), None)
    return ".".join(names)


def _reason(mistake: ErrorDetails) -> str:
    """Why a value is refused, in words without pydantic's names of types."""
    if mistake["type"] in ("model_type", "model_attributes_type"):
        return "it should hold settings, each with its name"
    return mistake["msg"].removeprefix("Value error, ").lower()


def mistake_sentence(error: ValidationError, origin: str, root: type[BaseModel]) -> str:
    """The first mistake that pydantic found in the values of `root` as one sentence."""
    mistakes = error.errors()
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        key = ".".join(str(part) for part in first["loc"])
        return f"{origin}: unknown key {key!r}; remove it or check its spelling."
    field = _field(first["loc"], root)
    # A setting that may be of several types has a mistake for each.
    reasons = dict.fromkeys(_reason(mistake) for mistake in mistakes if _field(mistake["loc"], root) == field)
    try:
        value = repr(first.get("input"))
    except RecursionError:
        value = "..."
    value = value if len(value) <= LONGEST_SHOWN else f"{value[:LONGEST_SHOWN]}..."
    return f"{origin}: {field or 'the file'} = {value} is not accepted: {', or '.join(reasons)}."


def read_yaml(text: str, origin: str) -> Any:
    """Plain values from YAML. Raises InputError with the line and column of a mistake."""
    try:
        return yaml.load(text, YAML_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(f"{origin}: {where}not YAML ({error.problem or error.context}); correct it.") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2026-99-99
        first = next(iter(str(error).splitlines()), "")[:LONGEST_SHOWN]
        raise InputError(f"{origin}: not YAML ({first}); correct it.") from None
