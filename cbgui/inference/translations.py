"""Questions in other languages, as the model itself translates them, checked by translating them back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from cbgui.config import ModelConfig
from cbgui.data.suggest import NAMES_OF_LANGUAGES, Suggestion, language_of
from cbgui.inference.batch_answers import Loaded, write_answers

ORDER = "Translate this question into {language}. Write the translation and nothing else.\n\n{question}"
QUOTES = "\"'“”„«»`* "
MAX_NEW_TOKENS = 60
FIRST = 12  # questions, some in each language
SAME = 0.6  # ratio of difflib's SequenceMatcher


def first_line(text: str) -> str:
    """The translation without quotes, and without what the model adds below it."""
    return next((line.strip(QUOTES) for line in text.splitlines() if line.strip(QUOTES)), "")


def order(language: str, question: str) -> str:
    return ORDER.format(language=language, question=question)


def says_the_same(question: str, back: str) -> bool:
    """Whether a question that was translated there and back reads nearly as it did."""
    return SequenceMatcher(None, question.lower(), back.lower(), autojunk=False).ratio() >= SAME


def translate_questions(
    loaded: Loaded, config: ModelConfig, questions: Sequence[Suggestion]
) -> Iterator[tuple[float, list[Suggestion]]]:
    """Yield the share of the work done, and the translations, which are empty until the end.

    Each question is translated once; the languages other than its own take turns. Only what says the same when the
    model has translated it back is returned. A model that translates none of the first FIRST is asked no more.
    """
    own = language_of([one.prompt for one in questions])
    others = [name for code, name in NAMES_OF_LANGUAGES.items() if code != own]
    named = [(one, others[index % len(others)]) for index, one in enumerate(questions)]
    first, rest = named[:FIRST], named[FIRST:]
    found: list[Suggestion] = []
    for part, done in ((first, 0), (rest, len(first))):
        if not part or (part is rest and not found):
            break
        kept: list[Suggestion] = []
        for share, kept in _there_and_back(loaded, config, part, NAMES_OF_LANGUAGES[own]):  # noqa: B007, the last is added
            yield (done + share * len(part)) / max(len(named), 1), []
        found += kept
    yield 1.0, found


def _there_and_back(
    loaded: Loaded, config: ModelConfig, named: Sequence[tuple[Suggestion, str]], own: str
) -> Iterator[tuple[float, list[Suggestion]]]:
    """`translate_questions` for questions with their languages."""
    there: dict[int, str] = {}
    for share, ended in _answers(loaded, config, [order(language, one.prompt) for one, language in named]):
        there |= ended
        yield share / 2, []
    new = [index for index, text in sorted(there.items()) if text and text != named[index][0].prompt]
    back: dict[int, str] = {}
    for share, ended in _answers(loaded, config, [order(own, there[index]) for index in new]):
        back |= {new[index]: text for index, text in ended.items()}
        yield 0.5 + share / 2, []
    yield (
        1.0,
        [
            Suggestion(there[index], one.kind, f"translated by the model into {language}")
            for index, (one, language) in enumerate(named)
            if index in back and says_the_same(one.prompt, back[index])
        ],
    )


def _answers(loaded: Loaded, config: ModelConfig, orders: list[str]) -> Iterator[tuple[float, dict[int, str]]]:
    prompts = [[{"role": "user", "content": text}] for text in orders]
    for share, ended in write_answers(config, prompts, max_new_tokens=MAX_NEW_TOKENS, loaded=loaded):
        yield share, {index: first_line(text) for index, text in ended.items()}
