"""Some eight hundred things of all fields, and harmless questions about them: cities, tools, games, illnesses, laws ...

Some of them lie near whatever must stop; `inference/nearest_things.py` finds which.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cbgui.data.suggest import POOL

BEFORE_VOWEL = re.compile(r"\ba (?=(?!uni|use|eu|one)[aeiou]|X-ray|hour)")


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
    """All things of the file, in English only so far. Each line has forms and names: "form | form : name, name"."""
    found = []
    for line in (POOL / "things.en.txt").read_text("utf-8").splitlines():
        forms, names = line.split(" : ")
        found += [Thing(name, tuple(forms.split(" | "))) for name in names.split(", ")]
    return tuple(found)
