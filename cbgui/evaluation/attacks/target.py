"""The model under attack, for attacks that depend on its own answers or are computed from its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cbgui.evaluation.answers import generate
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.budget import Budget
from cbgui.evaluation.metrics import Answer, ModelPair


@dataclass(frozen=True)
class Try:
    """An attempt as it was made in the end, and what the model answered.

    `plain` is the attempt without the model's own earlier words, where there are any. The answer is judged against it,
    since after gibberish more of it is likely.
    """

    attempt: Attempt
    answer: Answer
    plain: Attempt | None = None


@dataclass(frozen=True)
class Target:
    """One of the two models: the short-circuited one if `adapted`.

    `answered` says of each try whether it got a real answer. `on_progress` takes the share done, 0 to 1; it may raise
    to stop.
    """

    pair: ModelPair
    adapted: bool
    max_new_tokens: int
    answered: Callable[[Sequence[Try]], list[bool]]
    budget: Budget
    on_progress: Callable[[float], None]

    def ask(self, attempts: Sequence[Attempt], max_new_tokens: int | None = None) -> list[Answer]:
        """The model's answers, in the order of the attempts."""
        answers: dict[int, Answer] = {}
        for batch in generate(
            self.pair,
            attempts,
            [self.adapted] * len(attempts),
            [0] * len(attempts),
            max_new_tokens=max_new_tokens or self.max_new_tokens,
        ):
            answers |= dict(batch)
        return [answers[row] for row in range(len(attempts))]

    @contextmanager
    def gradients_of_inputs(self) -> Iterator[None]:
        """Inside this context the model is the one under attack, and its own weights get no gradients."""
        trainable = {name: weight.requires_grad for name, weight in self.pair.model.named_parameters()}
        self.pair.model.requires_grad_(False)
        try:
            with self.pair.using(self.adapted):
                yield
        finally:
            for name, weight in self.pair.model.named_parameters():
                weight.requires_grad_(trainable[name])
