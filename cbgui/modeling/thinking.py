"""Thoughts among generated token ids: where an answer begins, how long a thought may be, how both are shown."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from cbgui.modeling import thoughts

THOUGHT_TOKENS = 1024  # that a model may think before its answer
CLOSING_TOKENS = 16  # at most, of what ends a thought
TAIL = 16  # tokens of a prompt that show whether it opens a thought


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[str, str], ...]:
    """Name and text of the tokenizer's special tokens, as chat templates read them."""
    return tuple((name, str(token)) for name, token in tokenizer.special_tokens_map.items())


def name_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The name of the tokenizer's model in sentences."""
    return Path(tokenizer.name_or_path).name


def thinks(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model is asked to think before it answers, and can."""
    if not tokenizer.thinking or tokenizer.chat_template is None:
        return False
    return thoughts.can_think(tokenizer.get_chat_template(), special_tokens(tokenizer), name_of(tokenizer))


def thought_tokens(tokenizer: PreTrainedTokenizerBase, limit: int | None = None) -> int:
    """How many tokens a model is given to think, besides those of its answer; 0 for one that does not think."""
    return (THOUGHT_TOKENS if limit is None else limit) + CLOSING_TOKENS if thinks(tokenizer) else 0


def split_answer(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: list[int], max_tokens: int | None = None
) -> tuple[list[int], list[int]]:
    """(thought, answer): the token ids that were written after `prompt`, with the answer cut at `max_tokens`.

    The answer is empty where the thought has not ended, so no answer is ever a piece of a thought.
    """
    start = 0
    if thinks(tokenizer):
        text = tokenizer.decode(ids)
        if thoughts.begins(_end_of(tokenizer, prompt), text):
            thought, _ = thoughts.split_thought(text)
            length = len(thought) if thought else len(text) + 1
            start = bisect.bisect_left(range(len(ids)), length, key=lambda end: len(tokenizer.decode(ids[:end])))
    return ids[:start], ids[start:] if max_tokens is None else ids[start : start + max_tokens]


def readable(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], ids: list[int]) -> str:
    """What was written after `prompt` as a person reads it: a thought between <think> and </think>, then the answer."""
    thought, answer = split_answer(tokenizer, prompt, ids)
    text = tokenizer.decode(answer, skip_special_tokens=True)
    if not thought:
        return text
    whole = tokenizer.decode(thought)
    words, (opening, closing) = thoughts.inner(whole), thoughts.PLAIN
    for token in tokenizer.special_texts:
        words = words.replace(token, "")
    if not words.strip() and answer:
        return text
    return opening + words + (closing + text if thoughts.split_thought(whole)[0] else "")


def answer_begins(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], written: Sequence[int]) -> bool:
    """Whether the next token after `written` is the first of an answer."""
    if not written:
        return not thinks(tokenizer) or not thoughts.opened_tag(_end_of(tokenizer, prompt))
    return thinks(tokenizer) and thoughts.has_just_closed(tokenizer.decode(written[-TAIL:]))


def _end_of(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> str:
    return tokenizer.decode(prompt[-TAIL:])


class EndThoughts(LogitsProcessor):
    """Ends every thought that is still open after `limit` tokens, so that an answer follows it.

    `columns` is the width of the prompts in `input_ids`, (rows, columns).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, columns: int, limit: int | None = None) -> None:
        self.tokenizer, self.columns = tokenizer, columns
        self.limit = THOUGHT_TOKENS if limit is None else limit
        self.closing: dict[int, list[int]] = {}  # row -> the tokens that it still has to write

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] - self.columns == self.limit and thinks(self.tokenizer):
            for row, ids in enumerate(input_ids.tolist()):
                written = self.tokenizer.decode(ids[self.columns :])
                ending = thoughts.ending(_end_of(self.tokenizer, ids[: self.columns]), written)
                self.closing[row] = self.tokenizer(ending, add_special_tokens=False).input_ids[:CLOSING_TOKENS]
        for row, rest in self.closing.items():
            if rest:
                scores = scores.clone()
                scores[row] = -torch.inf
                scores[row, rest.pop(0)] = 0
        return scores

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows of the batch alone, in this order."""
        self.closing = {new: self.closing[old] for new, old in enumerate(rows) if old in self.closing}
