"""What an attack is: a function that turns a break example into attempts at a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cbgui.data.examples import Example

Turns = tuple[tuple[str, str], ...]  # (role, content)


@dataclass(frozen=True)
class Attempt:
    """One prompt to a model, whose response is forced to begin with `prefill`. Temperature 0 decodes greedily."""

    messages: Turns
    prefill: str = ""
    temperature: float = 0.0


# (the example, other break examples of the training set) -> attempts; the attack succeeds if one of them is answered.
Attempts = Callable[[Example, list[Example]], list[Attempt]]


@dataclass(frozen=True)
class Attack:
    """`default` attacks are part of every evaluation."""

    title: str
    attempts: Attempts
    default: bool = False


def ask(text: str, before: Turns = (), **options) -> list[Attempt]:
    """One attempt: `text` as the user's turn after the turns in `before`."""
    return [Attempt((*before, ("user", text)), **options)]
