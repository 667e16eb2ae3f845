"""Attacks that write the first words of the answer for the model (prefilling)."""

from __future__ import annotations

import functools

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt

PREFILL_WORDS = 8
LONGER, LONGEST = 20, 40  # words: some 25 and 50 tokens of English


def prefill(example: Example, others: list[Example], words: int = PREFILL_WORDS) -> list[Attempt]:
    """The model has to continue from the first words of the response that it must not give."""
    return [Attempt(example.messages, prefill=" ".join(example.response.split(" ")[:words]))]


longer_prefill = functools.partial(prefill, words=LONGER)
longest_prefill = functools.partial(prefill, words=LONGEST)
