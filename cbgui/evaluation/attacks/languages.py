"""The question in other languages, as the model itself translates it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cbgui.data.examples import Example
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.target import Target
from cbgui.inference.translations import ORDER, first_line

LANGUAGES = ("German", "French", "Spanish")


def translated(target: Target, examples: Sequence[Example]) -> Iterator[tuple[int, list[Attempt]]]:
    """Yield (index of the example, an attempt in each of LANGUAGES).

    A translation that is the question itself is left out. The report counts only questions that the original model
    answers in at least one of the languages.
    """
    orders = [
        ORDER.format(language=language, question=example.prompt) for example in examples for language in LANGUAGES
    ]
    answers = target.ask([Attempt((("user", order),)) for order in orders])
    for row, example in enumerate(examples):
        *before, _ = example.messages
        own = [answer.text for answer in answers[row * len(LANGUAGES) : (row + 1) * len(LANGUAGES)]]
        texts = dict.fromkeys(first_line(text) for text in own)
        yield row, [Attempt((*before, ("user", text))) for text in texts if text and text != example.prompt]
