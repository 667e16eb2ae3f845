"""What is asked of the two models: each attack on each break prompt, and the keep prompts as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.registry import ATTACKS, SOFT_PROMPT
from cbgui.evaluation.prompt_sets import PromptSet

KEEP = "keep"  # in place of an attack's name


@dataclass
class Case:
    """One attempt at one prompt of one set, and what the two models said; `attack` may be KEEP."""

    set_number: int
    attack: str
    example: int
    attempt: Attempt
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)


def cases_of(sets: list[PromptSet], attacks: list[str], others: list[Example]) -> list[Case]:
    """`others` give the shots of few- and many-shot attacks: training prompts, so that no held-out answer leaks."""
    cases = []
    for number, prompts in enumerate(sets):
        cases += [
            Case(number, name, row, attempt)
            for name in attacks
            if name != SOFT_PROMPT
            for row, example in enumerate(prompts.breaks)
            for attempt in ATTACKS[name].attempts(example, others)
        ]
        cases += [Case(number, KEEP, row, Attempt(example.messages)) for row, example in enumerate(prompts.retains)]
    return cases
