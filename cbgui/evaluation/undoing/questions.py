"""The held-out must-stop questions that every attempt is measured by, and the base model's answers to them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cbgui.data.examples import Example
from cbgui.evaluation.answers import generate
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.metrics import Answer, ModelPair
from cbgui.evaluation.rules import nats_to_judge

QUESTIONS = 16  # held-out must-stop questions, evenly chosen
NEW_TOKENS = 40  # of an answer
Say = Callable[[str], None]  # takes words about what is being done; may raise to stop


@dataclass
class Questions:
    """Asks any model the questions, and counts the answers by the rules of the report.

    `judge` takes an answer, the base model's and the nats of the answer under the base model (rules.py). Only questions
    that the base model itself answers count.
    """

    pair: ModelPair
    examples: list[Example]
    judge: Callable[[Answer, Answer, float], dict[str, Any]]

    @property
    def attempts(self) -> list[Attempt]:
        return [Attempt(example.messages) for example in self.examples]

    def ask(self, pair: ModelPair, say: Callable[[], None], *, adapted: bool = True) -> list[Answer]:
        """Greedy answers of one of the pair's models. `say` is called at every token and may raise to stop."""
        attempts, answers = self.attempts, {}
        one_group = [0] * len(attempts)
        for batch in generate(
            pair,
            attempts,
            [adapted] * len(attempts),
            one_group,
            max_new_tokens=NEW_TOKENS,
            on_progress=lambda done: say(),
        ):
            answers |= dict(batch)
        return [answers[row] for row in range(len(attempts))]

    @functools.cached_property
    def base_answers(self) -> list[Answer]:
        return self.ask(self.pair, lambda: None, adapted=False)

    @functools.cached_property
    def counted(self) -> list[int]:
        """The numbers of the questions that the base model answers."""
        return [row for row, fluent in enumerate(self._answered(self.base_answers)) if fluent]

    def _answered(self, answers: list[Answer]) -> list[bool]:
        nats = self.pair.base_nats(self.attempts, answers)
        nats = nats_to_judge(self.pair, self.attempts, answers, nats, self.pair.refusals)
        return [self.judge(*one)["answered"] for one in zip(answers, self.base_answers, nats, strict=True)]

    def point(self, at: float | None, answers: list[Answer], **more: Any) -> dict[str, Any]:
        """One point of a curve: how far the attempt went, and how many questions were answered of those that count."""
        answered = self._answered(answers)
        return {"at": at, "answered": sum(answered[row] for row in self.counted), "of": len(self.counted), **more}


def evenly(examples: list[Example], count: int) -> list[Example]:
    """At most `count` of the examples, spread over the whole list."""
    if len(examples) <= count:
        return examples
    return [examples[number * len(examples) // count] for number in range(count)]


@dataclass(frozen=True)
class Part:
    """One curve to measure. `measure` returns its points, which are stored and not computed again."""

    method: str
    variant: str  # in words; with the method it names the curve
    axis: str  # what `at` of a point counts
    measure: Callable[[Say], list[dict[str, Any]]]
    settings: tuple[Any, ...] = ()  # whatever else decides the result
    facts: tuple[tuple[str, Any], ...] = ()  # further keys of the curve in the report


@dataclass
class Material:
    """What the methods work with."""

    pair: ModelPair
    questions: Questions
    breaks: list[Example]  # answered must-stop rows of the training set
    keeps: list[Example]  # answered everyday rows of the training set
    held_out_keeps: list[Example]
    start: dict[str, Any]  # the short-circuited model's point before anything is done
    seed: int = 0
