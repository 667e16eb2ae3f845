"""Prompts as people type them in a hurry: no capitals, chat words, slips of the fingers."""

from __future__ import annotations

import random
import zlib

CHAT_WORDS = {
    "you": "u", "your": "ur", "are": "r", "please": "pls", "to": "2", "for": "4", "and": "n", "with": "w/",
    "because": "cuz", "what": "wat", "about": "abt", "going to": "gonna", "want to": "wanna", "do not": "dont",
    "thanks": "thx", "people": "ppl", "know": "no", "the": "da",
}  # fmt: skip
CHAT_SHARE, SLIP_SHARE = 0.6, 0.35  # of the words that could be changed
BEFORE, AFTER = ("", "", "hey ", "yo ", "ok so ", "quick q: "), ("", "", "", " pls", " thx", "??")
FEWEST_LETTERS = 4  # of a word with a slip


def hurried(text: str) -> str:
    """The text as typed in a hurry; the same text gives the same slips."""
    shuffle = random.Random(zlib.crc32(text.encode()))
    words = []
    for word in text.lower().replace("'", "").split():
        bare = word.rstrip("?.!,")
        if bare in CHAT_WORDS and shuffle.random() < CHAT_SHARE:
            bare = CHAT_WORDS[bare]
        elif len(bare) >= FEWEST_LETTERS and bare.isalpha() and shuffle.random() < SLIP_SHARE:
            bare = _slip(bare, shuffle)
        words.append(bare)
    return shuffle.choice(BEFORE) + " ".join(words) + shuffle.choice(AFTER)


def _slip(word: str, shuffle: random.Random) -> str:
    """One letter left out, doubled, or swapped with the next."""
    at = shuffle.randrange(1, len(word) - 1)
    return shuffle.choice(
        (
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        )
    )
