"""The questions of an evaluation: every attack on every break prompt, and the retain prompts as they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.registry import ATTACKS, SOFT_PROMPT
from cbgui.evaluation.prompt_sets import PromptSet

RETAIN = "retain"  # used in place of an attack name for retain prompts


@dataclass
class Case:
    """One attempt at one prompt, and what the two models answered."""

    set_number: int  # 0 is the held-out set
    attack: str  # a name of ATTACK_TITLES, or RETAIN
    example: int  # index in the set's breaks or retains
    attempt: Attempt
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # model -> judged answer (rules.py)


def cases_of(sets: list[PromptSet], attacks: list[str], training_breaks: list[Example]) -> list[Case]:
    """All cases of all sets; SOFT_PROMPT is left out.

    `training_breaks` are what few- and many-shot attacks show: examples of the training set, so that no held-out
    response leaks.
    """
    cases = []
    for number, prompts in enumerate(sets):
        cases += [
            Case(number, name, row, attempt)
            for name in attacks
            if name != SOFT_PROMPT
            for row, example in enumerate(prompts.breaks)
            for attempt in ATTACKS[name].attempts(example, training_breaks)
        ]
        cases += [Case(number, RETAIN, row, Attempt(example.messages)) for row, example in enumerate(prompts.retains)]
    return cases
