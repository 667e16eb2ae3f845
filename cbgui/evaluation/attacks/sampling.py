"""The attack that asks the same prompt again and again, in the hope of one lucky answer."""

from __future__ import annotations

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt

TRIES = 4  # the attack's title in registry.py names the number


def sampling(example: Example, others: list[Example]) -> list[Attempt]:
    """Several tries at temperature 1; one answer is enough."""
    return [Attempt(example.messages, temperature=1.0) for _ in range(TRIES)]
