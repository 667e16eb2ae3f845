""""""

from __future__ import annotations

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt


def sampling(example: Example, others: list[Example]) -> list[Attempt]:
    """Four tries at temperature 1; one that gets through is enough."""
    return [Attempt(example.messages, temperature=1.0) for _ in range(4)]
