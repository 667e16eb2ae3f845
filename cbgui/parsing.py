"""What a user wrote, YAML or arguments, and what is wrong with it in sentences."""

from __future__ import annotations

import re
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cbgui.errors import InputError, brief
from cbgui.plain_yaml import load_yaml


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
    return f"{origin}: {field or 'the file'} = {brief(first.get('input'))} is not accepted: {', or '.join(reasons)}."


def read_yaml(text: str, origin: str) -> Any:
    """Plain values from YAML. Raises InputError with the line and column of a mistake."""
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        why = getattr(error, "problem", None) or next(iter(str(error).splitlines()), "")
        raise InputError(f"{origin}: {where}not valid YAML ({why}); correct it.") from None


def refuse_broken_text(arguments: list[str]) -> None:
    """Raises InputError for an argument that is not text: it could be neither tokenized nor stored."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            shown = argument.encode("utf-8", "backslashreplace").decode()[:200]
            raise InputError(f"argument {shown!r} is not UTF-8 text; write or rename it in UTF-8.") from None


def parse_size(text: str, option: str) -> int:
    """A size such as "5GB" or "512MiB" in bytes; KB, MB and GB are decimal. Raises InputError."""
    match = re.match(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(KB|MB|GB|MIB|GIB)\s*$", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{option} {text!r} is not a size; write it as 5GB or 500MB.")
    unit = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}[match[2].upper()]
    size = int(float(match[1]) * unit)
    if not size:
        raise InputError(f"{option} {text!r} is nothing; give a size above zero, such as 5GB.")
    return size
