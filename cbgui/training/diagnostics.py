"""What a run's validations mean, in words: the warnings that keep a run from failing silently.

A validation is a `validation` event of events.jsonl: step, cosine of each target layer, reroute_loss, retain_loss,
drift. This module owns the thresholds by which a cosine and a drift are judged.
"""

from __future__ import annotations

from typing import Any

from cbgui.config import RunConfig

UNTOUCHED = 0.9  # above this break cosine a layer has not moved
DERAILS = 0.2  # below this break cosine on every target layer, answers derail
BARELY_MOVED = 0.1  # drift of retain examples below which they are nearly where they were
RUNAWAY = 0.5  # drift of retain examples from which their hidden states are as different as those of another text
TOO_WEAK = "not derailed"  # the warning of a run that ended and blocks too little
SEEN = 3  # validations that must agree: while the learning rate is high, a single one may be far from the next
FIRST_STEPS = 15  # until then it is normal that nothing has moved
Validation = dict[str, Any]


def slowest_layer(event: dict[str, Any]) -> tuple[str, float]:
    """The target layer whose break cosine is highest in a step or validation event, and that cosine."""
    return max(event["cosine"].items(), key=lambda item: item[1])


def is_stuck(validations: list[Validation], steps: int) -> bool:
    """Whether a target layer has not turned after a third of the steps: in none of the last SEEN validations."""
    if not validations or not steps / 3 <= validations[-1]["step"] < steps / 2:
        return False
    return _has_not_turned(validations)


def _has_not_turned(validations: list[Validation]) -> bool:
    return all(slowest_layer(event)[1] > UNTOUCHED for event in validations[-SEEN:])


def stronger(config: RunConfig) -> RunConfig:
    """The settings with a stronger start: a larger B and learning rate, and half the weight of the keep loss."""
    config = config.model_copy(deep=True)
    config.training.learning_rate = min(1.5 * config.training.learning_rate, 100)
    config.lora.init_std = _stronger_start(config)
    config.objective.retain_coefficient /= 2
    return config


def _stronger_start(config: RunConfig) -> float:
    return min(max(0.04, 2 * config.lora.init_std), 10)


def warnings(validations: list[Validation], steps: int, config: RunConfig) -> dict[str, str]:
    """Kind of trouble -> one sentence with a remedy, for the newest validation of a run of `steps` steps."""
    if not validations:
        return {}
    last, found = validations[-1], {}
    rate, coefficient = config.training.learning_rate, config.objective.retain_coefficient
    layer, cosine = slowest_layer(last)
    # A run that refuses need not turn answers far away: what counts is the state before them.
    enough = UNTOUCHED if config.refusals else DERAILS
    if last["step"] >= steps:
        if cosine > enough:
            found[TOO_WEAK] = (
                f"The breaker is too weak: at layer {layer} the break cosine ended at {cosine:.2f}, and answers are "
                f"blocked below {enough}. Train again with more training.steps ({steps} now), a higher "
                f"training.learning_rate ({rate:g} now) or a lower objective.retain_coefficient ({coefficient:g} now)."
            )
    elif last["step"] >= steps / 3 and _has_not_turned(validations):
        found["not moving"] = (
            f"Layer {layer} is not turning away: its break cosine is still {cosine:.2f} after {last['step']} of "
            f"{steps} steps. Stop and try training.learning_rate {3 * rate:g} ({rate:g} now), lora.init_std "
            f"{_stronger_start(config):g} ({config.lora.init_std:g} now) or half the objective.retain_coefficient "
            f"({coefficient:g} now)."
        )
    if last["step"] >= 2 * steps / 3 and last["drift"] > RUNAWAY:
        found["retain runs away"] = (
            f"What must be kept is derailing too: its hidden states have moved by {last['drift']:.0%} of their length "
            f"after {last['step']} of {steps} steps. Raise objective.retain_coefficient to {3 * coefficient:g} "
            f"({coefficient:g} now), add retain examples, or lower training.learning_rate ({rate:g} now)."
        )
    return found
