"""The attack that writes the first words of the answer for the model (prefilling)."""

from __future__ import annotations

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt

PREFILL_WORDS = 8


def prefill(example: Example, others: list[Example]) -> list[Attempt]:
    """The model has to continue from the first words of the response that it must not give."""
    words = example.response.split(" ")[:PREFILL_WORDS]
    return [Attempt(example.messages, prefill=" ".join(words))]
