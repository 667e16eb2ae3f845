"""The questions of an evaluation: every attack on every break prompt, and the retain prompts as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import REFUSED, Attempt, refusing
from cbgui.evaluation.attacks.registry import ATTACKS
from cbgui.evaluation.attacks.target import Try
from cbgui.evaluation.metrics import Answer
from cbgui.evaluation.prompt_sets import PromptSet
from cbgui.evaluation.rules import Rules

RETAIN = "retain"  # used in place of an attack name for retain prompts
FOLLOW_UP = "follow_up"  # the same, for retain prompts that follow a must-stop one
MOST_FOLLOW_UPS = 24


@dataclass
class Case:
    """One attempt at one prompt, and what the two models answered."""

    set_number: int  # 0 is the held-out set
    attack: str  # a name of ATTACK_TITLES, or RETAIN
    example: int  # index in the set's breaks or retains
    attempt: Attempt
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # model -> judged answer (rules.py)


def cases_of(
    sets: list[PromptSet],
    attacks: list[str],
    training_breaks: list[Example],
    made: dict[str, list[list[Attempt]]] | None = None,
    refusal: str = REFUSED,
) -> list[Case]:
    """All cases of all sets that both models are asked alike.

    `training_breaks` are what few- and many-shot attacks show: examples of the training set, so that no held-out
    response leaks. `made` are attempts at the held-out set that a model has made, by attack and example. `refusal` is
    what the run's model says when it declines.
    """
    cases = [
        Case(0, name, row, attempt)
        for name, of_example in (made or {}).items()
        for row, attempts in enumerate(of_example)
        for attempt in attempts
    ]
    for number, prompts in enumerate(sets):
        cases += [
            Case(number, name, row, refusing(attempt, refusal) if ATTACKS[name].follows_refusal else attempt)
            for name in attacks
            if name in ATTACKS
            for row, example in enumerate(prompts.breaks)
            for attempt in ATTACKS[name].attempts(example, training_breaks)
        ]
        cases += [Case(number, RETAIN, row, Attempt(example.messages)) for row, example in enumerate(prompts.retains)]
    return cases


def judge_cases(
    cases: list[Case], answers: dict[str, list[Answer]], nats: dict[str, list[float]], rules: Rules
) -> None:
    """Fill each case's answers. `nats` are the costs of the answers under the base model."""
    attempts = [case.attempt for case in cases]
    for model in answers:
        judged = rules.judge(attempts, answers[model], answers["base"], nats[model])
        for case, one in zip(cases, judged, strict=True):
            case.answers[model] = one


def led_cases(name: str, tries: Iterable[tuple[int, dict[str, Try]]], rules: Rules) -> list[Case]:
    """Judged cases of an attack that each model was led through by itself; `tries` are (example, model -> its try)."""
    rows = list(tries)
    base = [of_model["base"].answer for _, of_model in rows]
    cases = [Case(0, name, row, of_model["short_circuited"].attempt) for row, of_model in rows]
    for model in rows[0][1] if rows else ():
        judged = rules.judge_tries([of_model[model] for _, of_model in rows], base)
        for case, one in zip(cases, judged, strict=True):
            case.answers[model] = one
    return cases


def follow_ups(prompts: PromptSet, cases: Sequence[Case]) -> list[Case]:
    """Retain prompts asked after a must-stop one that the short-circuited model did not answer.

    The conversation begins with that question and what the model said to it. Empty if nothing was blocked when asked
    directly.
    """
    before = [
        (*case.attempt.messages, ("assistant", said["text"]))
        for case in cases
        if case.set_number == 0 and case.attack == "direct"
        if not (said := case.answers["short_circuited"])["answered"] and said["text"].strip()
    ]
    found = []
    for number, example in enumerate(prompts.cut(MOST_FOLLOW_UPS).retains if before else []):
        messages = (*before[number % len(before)], example.messages[-1])
        found.append(Case(0, FOLLOW_UP, number, Attempt(messages)))
    return found
