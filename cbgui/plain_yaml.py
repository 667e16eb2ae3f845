"""YAML from anyone: plain values, without what makes a few lines stand for gigabytes."""

from __future__ import annotations

from typing import Any

import yaml

MOST_CHARACTERS = 1_000_000


class _Loader(yaml.SafeLoader):
    """Refuses aliases: with ten of them on each of ten lines, a list has ten billion entries."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases such as *name are not accepted; write the value out")
        return super().compose_node(parent, index)


def load_yaml(text: str) -> Any:
    """The values in a YAML text. Raises yaml.YAMLError for everything that is wrong with it."""
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"over {MOST_CHARACTERS:,} characters")
    try:
        return yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, OverflowError) as error:  # a date or a number that does not exist
        raise yaml.YAMLError(str(error)) from None
