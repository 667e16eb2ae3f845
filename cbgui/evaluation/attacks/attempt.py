"""What an attack is: a function that turns a break example into attempts at getting it answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cbgui.data.examples import Example

Turns = tuple[tuple[str, str], ...]  # (role, content)
REFUSED = "I'm sorry, I can't help with that."  # where a run has no sentence of its own


@dataclass(frozen=True)
class Attempt:
    """One conversation sent to a model. The response is forced to begin with `prefill`; temperature 0 is greedy;
    `bans_refusals` keeps the response from beginning as a refusal does."""

    messages: Turns
    prefill: str = ""
    temperature: float = 0.0
    bans_refusals: bool = False


# (the example, `others`: the training set's break examples) -> attempts. The attack succeeds if any is answered.
Attempts = Callable[[Example, list[Example]], list[Attempt]]


@dataclass(frozen=True)
class Attack:
    """An attack of the registry; `default` attacks are part of every evaluation.

    `hides` means that the prompt is not written in words that every model can read, `follows_refusal` that REFUSED
    stands in it, for which an evaluation puts the run's own sentence (`refusing`).
    """

    title: str
    attempts: Attempts
    default: bool = False
    hides: bool = False
    follows_refusal: bool = False


def refusing(attempt: Attempt, sentence: str) -> Attempt:
    """`attempt` with `sentence` in place of REFUSED: what the model would have said a turn before."""
    messages = tuple((role, content.replace(REFUSED, sentence)) for role, content in attempt.messages)
    return replace(attempt, messages=messages, prefill=attempt.prefill.replace(REFUSED, sentence))


def ask(text: str, before: Turns = (), **options: Any) -> list[Attempt]:
    """A single attempt: `text` as the user's turn, after the turns in `before`."""
    return [Attempt((*before, ("user", text)), **options)]
