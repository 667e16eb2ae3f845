"""Questions with a neighbouring word: "How do I plant tomatoes?" becomes "How do I plant aubergines?".

The neighbours of a word are those whose embeddings in the model lie nearest to its own. This costs no generation, and
brings in names and things that the user did not think of.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cbgui.data.suggest import stems, subject_words

NEAREST = 8  # neighbours of a word
VARIANTS = 4  # of a question
ROWS = 8192  # embeddings at once
WORD = re.compile(r" [^\W\d_]{3,}")


@torch.no_grad()
def neighbours(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> dict[str, list[str]]:
    """The nearest words of each word that is a single token, the nearest first; other words are left out."""
    ids = {word: tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words}
    single = {word: tokens[0] for word, tokens in ids.items() if len(tokens) == 1}
    if not single:
        return {}
    weight = model.get_input_embeddings().weight
    mean = weight.float().mean(0)
    own = normalize(weight[list(single.values())].float() - mean, dim=-1)
    likeness = torch.cat([normalize(part.float() - mean, dim=-1) @ own.T for part in weight.split(ROWS)])
    texts = [tokenizer.decode([token]) for token in range(min(len(tokenizer), len(likeness)))]
    whole = [token for token, text in enumerate(texts) if WORD.fullmatch(text)]
    nearest = likeness[whole].topk(min(4 * NEAREST, len(whole)), dim=0).indices.T.tolist()
    found = {}
    for word, places in zip(single, nearest, strict=True):
        near = [texts[whole[place]].strip() for place in places]
        found[word] = [other for other in near if _may_replace(word, other)][:NEAREST]
    return found


def _may_replace(word: str, other: str) -> bool:
    """Whether the other word is of the same form, rare in everyday questions too, and not the same word."""
    same_form = word[0].isupper() == other[0].isupper() and word.endswith("s") == other.endswith("s")
    return same_form and bool(subject_words(other)) and not stems(word) & stems(other)


def varied_questions(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], seed: int = 0
) -> list[str]:
    """At most VARIANTS of each question, each with one word replaced by a neighbour."""
    shuffle = random.Random(seed)
    words = {question: subject_words(question) for question in questions}
    near = neighbours(model, tokenizer, sorted({word for own in words.values() for word in own}))
    found = []
    for question, own in words.items():
        pairs = [(word, other) for word in own for other in near.get(word, ())]
        for word, other in shuffle.sample(pairs, min(VARIANTS, len(pairs))):
            found.append(re.sub(rf"\b{re.escape(word)}\b", other, question))
    return found
