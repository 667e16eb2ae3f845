"""YAML from anyone: plain values, without what makes a few lines stand for gigabytes."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, which is ten times as fast


def load_yaml(text: str) -> Any:
    """The values in a YAML text. Raises yaml.YAMLError for everything that is wrong with it.

    Aliases are refused: with ten of them on each of ten lines, a list has ten billion entries.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"over {MOST_CHARACTERS:,} characters")
    try:
        if "*" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, LOADER)):
            raise yaml.YAMLError("aliases such as *name are not accepted; write the value out")
        return yaml.load(text, LOADER)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        if "nesting depth" in str(error):  # libyaml's limit
            raise yaml.YAMLError("nested too deeply") from None
        raise
    except (ValueError, OverflowError) as error:  # a date or a number that does not exist
        raise yaml.YAMLError(str(error)) from None
