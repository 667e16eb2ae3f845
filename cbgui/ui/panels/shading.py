"""The tokens of an answer, coloured by how far the two models' hidden states are apart."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cbgui.data.refusals import is_refusal, only_refuses
from cbgui.ui.fragments import render
from cbgui.ui.words import say

Tokens = list[tuple[str, float]]  # text and cosine
TEAL, AMBER, RED = (13, 148, 136), (245, 158, 11), (220, 38, 38)
LEGEND = (("#0d9488", "shading.like"), ("#f59e0b", "shading.turning"), ("#dc2626", "shading.rerouted"))
DERAILED_BELOW, DERAILED_TOKENS = 0.5, 3  # an answer derails where so many tokens in a row are below this cosine
COLUMNS = ["token", "cosine", "answer"]


def shaded(short_circuited: Tokens, original: Tokens, later_turn: bool, refusals: Sequence[str] = ()) -> str:
    """HTML: whether the short-circuited answer refused or where it derailed, and both answers.

    `later_turn`: others were asked before it. `refusals` are the sentences that the model was trained to say.
    """
    text = "".join(text for text, _ in short_circuited)
    declined = is_refusal(text) or any(sentence.lower() in text.lower() for sentence in refusals)
    answers = {"shading.short_circuited_answer": short_circuited, "shading.original_answer": original}
    return render(
        "shaded",
        place=derailed_at(short_circuited),
        refused=only_refuses(text, refusals),
        declined=declined,
        meant=not refusals,
        later_turn=later_turn,
        legend=[(colour, say(key)) for colour, key in LEGEND],
        answers=[
            (
                say(title),
                sum(cosine for _, cosine in tokens) / max(len(tokens), 1),
                [(text.replace("\n", "⏎ "), cosine, _colour(cosine)) for text, cosine in tokens],
            )
            for title, tokens in answers.items()
        ],
    )


def table(short_circuited: Tokens, original: Tokens) -> pd.DataFrame:
    """The cosine of each token, for a chart."""
    rows = [
        (number, cosine, title)
        for title, tokens in (
            (say("common.short_circuited"), short_circuited),
            (say("common.original"), original),
        )
        for number, (_, cosine) in enumerate(tokens, 1)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def derailed_at(tokens: Tokens) -> str:
    """Where an answer derails, in words; empty when it does not."""
    for start in range(len(tokens) - DERAILED_TOKENS + 1):
        if all(cosine < DERAILED_BELOW for _, cosine in tokens[start : start + DERAILED_TOKENS]):
            before = "".join(text for text, _ in tokens[:start])[-40:].strip()
            return say("shading.at_token", number=start + 1, before=before) if start else say("shading.from_first")
    return ""


def _colour(cosine: float) -> str:
    """Teal at 1, amber at a half, red at 0 and below; transparent enough for text in either theme."""
    share = min(max(cosine, 0.0), 1.0)
    low, high, part = (RED, AMBER, share * 2) if share < 0.5 else (AMBER, TEAL, share * 2 - 1)
    red, green, blue = (round(a + (b - a) * part) for a, b in zip(low, high, strict=True))
    return f"rgba({red},{green},{blue},0.35)"
