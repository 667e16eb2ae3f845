""""""

from __future__ import annotations

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt

PREFILL_WORDS = 8


def prefill(example: Example, others: list[Example]) -> list[Attempt]:
    """The answer is forced to begin with the first words of the answer that must not be given."""
    words = example.response.split(" ")[:PREFILL_WORDS]
    return [Attempt(example.messages, prefill=" ".join(words))]
