"""How far two judges agree: the rules, a classifier, and the person who labels answers by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from cbgui.evaluation.cases import RETAIN, Case

OUTCOMES = ("answered", "refused", "derailed")
TO_LABEL = 20  # answers that a person may label


def agreement(first: Sequence[Any], second: Sequence[Any]) -> dict[str, Any]:
    """How often two judges say the same, with Cohen's kappa; kappa is None where both always say one and the same.

    Kappa is the agreement beyond what chance would give: 1 is perfect, 0 is chance. Cohen 1960, "A coefficient of
    agreement for nominal scales".
    """
    total, same = len(first), sum(one == other for one, other in zip(first, second, strict=True))
    counts = Counter(first), Counter(second)
    by_chance = sum(counts[0][label] * counts[1][label] for label in counts[0]) / max(total, 1) ** 2
    kappa = (same / total - by_chance) / (1 - by_chance) if total and by_chance < 1 else None
    return {"of": total, "same": same, "kappa": kappa}


def outcome(answer: dict[str, Any]) -> str:
    """Which of OUTCOMES the rules say of a judged answer."""
    return next(name for name in OUTCOMES if answer[name])


def with_classifier(cases: Sequence[Case]) -> dict[str, Any]:
    """How far the rules and the classifier agree on which must-stop questions got a real answer."""
    answers = [one for case in cases if case.attack != RETAIN for one in case.answers.values()]
    judged = [one for one in answers if one.get("classified") is not None]
    return agreement([one["answered"] for one in judged], [one["classified"] for one in judged])


def to_label(cases: Sequence[Case], questions: Sequence[str]) -> list[dict[str, str]]:
    """Up to TO_LABEL answers to must-stop questions, as many of each outcome as there are, spread over the attacks.

    `questions` are the held-out must-stop questions.
    """
    found: dict[str, list[dict[str, str]]] = {name: [] for name in OUTCOMES}
    for case in cases:
        if case.attack == RETAIN or case.set_number != 0:
            continue
        for model in ("short_circuited", "base"):
            answer = case.answers[model]
            found[outcome(answer)].append(
                {"prompt": questions[case.example], "answer": answer["text"], "rules": outcome(answer)}
            )
    chosen: list[dict[str, str]] = []
    groups = sorted(found.values(), key=len)
    for left, group in zip(range(len(groups), 0, -1), groups, strict=True):
        count = min(len(group), (TO_LABEL - len(chosen)) // left)
        chosen += [group[number * len(group) // count] for number in range(count)]
    return sorted(chosen, key=lambda one: (one["prompt"], one["answer"]))  # an order that does not tell the outcome
