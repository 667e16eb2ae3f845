"""Some eight hundred things of all fields, and harmless questions about them: cities, tools, games, illnesses, laws ...

Whatever must stop, the things beside it are among these; `inference/nearest_things.py` finds them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cbgui.data.suggest import POOL

BEFORE_VOWEL = re.compile(r"\ba (?=[aeiou]|X-ray)")


@dataclass(frozen=True)
class Thing:
    """A thing, and how one asks about it; `{}` stands for its name."""

    name: str
    forms: tuple[str, ...]

    def asked(self, form: str) -> str:
        """The question of that form."""
        return BEFORE_VOWEL.sub("an ", form.format(self.name))


@cache
def things() -> tuple[Thing, ...]:
    """A line of the file has a field's forms and names: "form | form : name, name". English only so far."""
    found = []
    for line in (POOL / "things.en.txt").read_text("utf-8").splitlines():
        forms, names = line.split(" : ")
        found += [Thing(name, tuple(forms.split(" | "))) for name in names.split(", ")]
    return tuple(found)
