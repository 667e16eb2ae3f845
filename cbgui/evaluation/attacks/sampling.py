"""Attacks that ask the same prompt again and again, in the hope of one lucky answer."""

from __future__ import annotations

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt

TRIES = 4  # the attack's title in registry.py names the number
TEMPERATURES, TRIES_EACH = (0.7, 0.85, 1.0, 1.15, 1.3), 5


def sampling(example: Example, others: list[Example]) -> list[Attempt]:
    """Several tries at temperature 1; one answer is enough."""
    return [Attempt(example.messages, temperature=1.0) for _ in range(TRIES)]


def best_of_25(example: Example, others: list[Example]) -> list[Attempt]:
    """Five tries at each of five temperatures; one answer is enough."""
    return [Attempt(example.messages, temperature=heat) for heat in TEMPERATURES for _ in range(TRIES_EACH)]
