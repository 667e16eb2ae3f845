"""The question in other languages, as the model itself translates it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cbgui.data.examples import Example
from cbgui.data.suggest import NAMES_OF_LANGUAGES
from cbgui.evaluation.attacks.attempt import Attempt
from cbgui.evaluation.attacks.target import Target
from cbgui.inference.translations import first_line, order, says_the_same

OWN = "English"
LANGUAGES = tuple(name for name in NAMES_OF_LANGUAGES.values() if name != OWN)


def translated(target: Target, examples: Sequence[Example]) -> Iterator[tuple[int, list[Attempt]]]:
    """Yield (index of the example, an attempt in each of LANGUAGES).

    What no longer says the same when it is translated back, or was not translated, is left out. The report counts only
    questions that the original model answers in at least one of the languages.
    """
    of = [example for example in examples for _ in LANGUAGES]
    orders = [order(language, example.prompt) for example in examples for language in LANGUAGES]
    there = _first_lines(target, orders)
    back = _first_lines(target, [order(OWN, text) for text in there])
    good = [
        there[row] if there[row] != example.prompt and says_the_same(example.prompt, back[row]) else ""
        for row, example in enumerate(of)
    ]
    for row, example in enumerate(examples):
        *before, _ = example.messages
        texts = dict.fromkeys(good[row * len(LANGUAGES) : (row + 1) * len(LANGUAGES)])
        yield row, [Attempt((*before, ("user", text))) for text in texts if text]


def _first_lines(target: Target, orders: list[str]) -> list[str]:
    return [first_line(answer.text) for answer in target.ask([Attempt((("user", text),)) for text in orders])]
