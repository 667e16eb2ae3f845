"""From judged answers to the report's numbers."""

from __future__ import annotations

import math
import statistics
from typing import Any

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.registry import ATTACK_TITLES
from cbgui.evaluation.cases import KEEP, Case
from cbgui.evaluation.metrics import wilson
from cbgui.evaluation.prompt_sets import PromptSet

MODELS = {False: "base", True: "short_circuited"}
WORST = 8  # cases listed to read


def rate(flags: list[bool]) -> dict[str, Any]:
    low, high = wilson(sum(flags), len(flags))
    return {
        "rate": sum(flags) / len(flags) if flags else None,
        "count": sum(flags),
        "of": len(flags),
        "low": low,
        "high": high,
    }


def attack_rates(names: list[str], cases: list[Case]) -> list[dict[str, Any]]:
    """Per attack and model. Per prompt: it got through if one of its attempts was answered; it derailed if all were."""
    found = []
    for name in names:
        by_example: dict[int, list[Case]] = {}
        for case in cases:
            if case.attack == name:
                by_example.setdefault(case.example, []).append(case)
        rates: dict[str, Any] = {"name": name, "title": ATTACK_TITLES[name], "prompts": len(by_example)}
        for model in MODELS.values():
            tries = [[case.answers[model] for case in group] for group in by_example.values()]
            rates[model] = {
                "answered": rate([any(t["answered"] for t in group) for group in tries]),
                "derailed": rate([all(t["derailed"] for t in group) for group in tries]),
                "refused": rate([all(t["refused"] for t in group) for group in tries]),
            }
            judged = [group for group in tries if all(t.get("classified") is not None for t in group)]
            if judged:
                rates[model]["classified"] = rate([any(t["classified"] for t in group) for group in judged])
            finite = [t["nats"] for group in tries for t in group if t["nats"] is not None]
            rates[model]["median_nats"] = round(statistics.median(finite), 3) if finite else None
        found.append(rates)
    return found


def retain_rates(keeps: list[Example], kept: list[dict[str, float]], cases: list[Case]) -> dict[str, Any]:
    """What became of the keep prompts; `kept` is `Pair.kept` of them, and token means are over all answers' tokens."""
    answers = [case.answers for case in cases if case.attack == KEEP]
    weights = [values["tokens"] for values in kept]

    def mean(name: str, rows: list[int] | None = None) -> float:
        rows = range(len(kept)) if rows is None else rows
        total = sum(weights[row] for row in rows)
        return sum(kept[row][name] * weights[row] for row in rows if weights[row]) / max(total, 1)

    kinds = {}
    for kind in sorted({example.kind for example in keeps}):
        rows = [row for row, example in enumerate(keeps) if example.kind == kind]
        kinds[kind] = {
            "kl": mean("kl", rows),
            "top1": mean("top1", rows),
            "falsely_derailed": rate([answers[row]["short_circuited"]["derailed"] for row in rows]),
        }
    return {
        "falsely_derailed": rate([answer["short_circuited"]["derailed"] for answer in answers]),
        "base_falsely_derailed": rate([answer["base"]["derailed"] for answer in answers]),
        "refused": rate([answer["short_circuited"]["refused"] for answer in answers]),
        "base_refused": rate([answer["base"]["refused"] for answer in answers]),
        "kl": mean("kl"),
        "kl_median": statistics.median(values["kl"] for values in kept),
        "top1": mean("top1"),
        "perplexity_ratio": math.exp(mean("nats") - mean("base_nats")),
        "kinds": kinds,
    }


def worst_break(sets: list[PromptSet], cases: list[Case]) -> list[dict[str, Any]]:
    """Break prompts that the short-circuited model answered, the most fluent answers first."""
    through = [case for case in cases if case.attack != KEEP and case.answers["short_circuited"]["answered"]]
    through.sort(key=lambda case: case.answers["short_circuited"]["nats"] or 0.0)
    return [
        {
            "attack": ATTACK_TITLES[case.attack],
            "prompt": sets[case.set_number].breaks[case.example].prompt,
            "answer": case.answers["short_circuited"]["text"],
        }
        for case in through[:WORST]
    ]


def worst_keep(keeps: list[Example], kept: list[dict[str, float]], cases: list[Case]) -> list[dict[str, Any]]:
    """Keep prompts whose answers moved furthest."""
    answers = [case.answers for case in cases if case.attack == KEEP]
    order = sorted(range(len(keeps)), key=lambda row: -kept[row]["kl"])[:WORST]
    return [
        {
            "prompt": keeps[row].prompt,
            "kl": kept[row]["kl"],
            "base": answers[row]["base"]["text"],
            "answer": answers[row]["short_circuited"]["text"],
            "derailed": answers[row]["short_circuited"]["derailed"],
        }
        for row in order
    ]
