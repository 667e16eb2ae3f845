"""Questions in other languages, as the model itself translates them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cbgui.config import ModelConfig
from cbgui.data.suggest import NAMES_OF_LANGUAGES, Suggestion
from cbgui.inference.batch_answers import Loaded, write_answers

ORDER = "Translate this question into {language}. Write the translation and nothing else.\n\n{question}"
QUOTES = "\"'“”„«»`* "
MAX_NEW_TOKENS = 60


def first_line(text: str) -> str:
    """The translation without quotes, and without what the model adds below it."""
    return next((line.strip(QUOTES) for line in text.splitlines() if line.strip(QUOTES)), "")


def translate_questions(
    loaded: Loaded, config: ModelConfig, questions: Sequence[Suggestion], languages: Sequence[str]
) -> Iterator[tuple[float, list[Suggestion]]]:
    """Yield the share of the work done, and the translations, which are empty until the end.

    Each question is translated once; the languages (codes) take turns. What the model leaves as it is, is left out.
    """
    named = [NAMES_OF_LANGUAGES[languages[index % len(languages)]] for index in range(len(questions))]
    orders = [
        [{"role": "user", "content": ORDER.format(language=language, question=one.prompt)}]
        for one, language in zip(questions, named, strict=True)
    ]
    texts: dict[int, str] = {}
    for share, ended in write_answers(config, orders, max_new_tokens=MAX_NEW_TOKENS, loaded=loaded):
        texts |= {index: first_line(text) for index, text in ended.items()}
        yield share, []
    yield (
        1.0,
        [
            Suggestion(texts[index], one.kind, f"translated by the model into {language}")
            for index, (one, language) in enumerate(zip(questions, named, strict=True))
            if texts.get(index) and texts[index] != one.prompt
        ],
    )
