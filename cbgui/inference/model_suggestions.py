"""What the model adds to the suggestions that are made without it: drafts, near things, and translations."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from cbgui.config import ModelConfig
from cbgui.data.near_duplicates import normalised
from cbgui.data.split import differ_in_one_word
from cbgui.data.suggest import Suggestion, language_of, pool
from cbgui.inference.batch_answers import Loaded
from cbgui.inference.drafts import COUNT, as_suggestions, draft_questions
from cbgui.inference.translations import translate_questions

Work = Literal["drafting", "translating"]
FEWEST = 8  # questions of each side that the model needs to go by
MOST = 500  # of each side that it goes by: further ones would take minutes and say little new


def suggest_with_model(
    loaded: Loaded,
    config: ModelConfig,
    breaks: Sequence[str],
    keeps: Sequence[str],
    found: Sequence[Suggestion] = (),
    *,
    known: Sequence[str] = (),
    held_out: Sequence[str] = (),
    drafts: int = COUNT,
    translations: int = MOST,
) -> Iterator[tuple[Work, float, list[Suggestion]]]:
    """Yield what the model does, the share of that work done, and all that it has added so far.

    It goes by the must-stop questions `breaks`, the questions to keep `keeps`, and the suggestions `found`. At most
    `drafts` of each kind are drafted, and so many must-stop questions and look-alikes translated; 0 leaves that out.
    None of `known` is suggested, nor what differs from a `held_out` question in one word: it would tell the answer to
    the test. Closing the iterator stops.
    """
    sample = random.Random(0).sample
    breaks, keeps = (list(side) if len(side) <= MOST else sample(list(side), MOST) for side in (breaks, keeps))
    taken = set(normalised([*breaks, *keeps, *known, *(one.prompt for one in found)]))
    made: list[Suggestion] = []

    def new(suggestions: Sequence[Suggestion]) -> list[Suggestion]:
        texts = normalised([one.prompt for one in suggestions])
        near = differ_in_one_word([one.prompt for one in suggestions], held_out)
        return [
            one
            for one, text, is_near in zip(suggestions, texts, near, strict=True)
            if not is_near and text not in taken
        ]

    if drafts and len(breaks) >= FEWEST:
        outside = [*keeps, *(one.prompt for one in found if one.kind != "break")]
        if len(outside) < FEWEST:
            outside += pool(language_of(breaks))
        drafting = draft_questions(*loaded, breaks, outside, known=known, count=drafts)
        for share, drafted in drafting:
            made = new(as_suggestions(drafted))
            yield "drafting", share, made
    if translations:
        stop = [Suggestion(text, "break", "") for text in breaks[:translations]]
        # As many to keep, so that a language is no sign of either side.
        keep = [one for one in [*found, *made] if one.kind == "near_miss"][: len(stop)]
        for share, translated in translate_questions(loaded, config, stop + keep):
            yield "translating", share, made + new(translated)
