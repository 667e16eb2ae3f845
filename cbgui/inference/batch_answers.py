""""""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cbgui.config import ModelConfig
from cbgui.inference.streaming import Messages, _stream, in_model_thread
from cbgui.modeling.batch import neighbours
from cbgui.modeling.chat_format import load_tokenizer, prompt_text
from cbgui.modeling.full import answer_tokens, load_full_model
from cbgui.modeling.hub import resolve_model


def write_answers(
    config: ModelConfig, requests: Sequence[Messages], *, prefill: str = "", max_new_tokens: int = 200
) -> Iterator[tuple[float, dict[int, str]]]:
    """The base model's answers, short requests first: at each token, how much of the work is done (0 to 1), and by
    their request's number the answers that have come to their end with it.

    `prefill` begins every answer and is part of it. Closing the iterator stops. Raises InputError when the model cannot
    be found or does not fit.
    """
    source = resolve_model(config.name)
    model, tokenizer = in_model_thread(load_full_model, source, config), load_tokenizer(source)
    texts = [prompt_text(tokenizer, messages) + prefill for messages in requests]
    ends = set(np.atleast_1d(model.generation_config.eos_token_id).tolist())
    lengths = [len(ids) + max_new_tokens for ids in tokenizer(texts, add_special_tokens=False).input_ids]

    def said(row: list[int]) -> str:
        return (prefill + tokenizer.decode(row, skip_special_tokens=True)).strip()

    before = 0
    for chosen in neighbours(lengths, answer_tokens(model)):
        left = dict(enumerate(chosen))  # row of the batch -> number of the request
        rows: list[list[int]] = []
        stream = _stream(model, tokenizer, [texts[number] for number in chosen], max_new_tokens=max_new_tokens)
        for step, rows in enumerate(stream, 1):
            ended = [place for place in left if rows[place][-1] in ends]
            share = (before + len(chosen) * step / max_new_tokens) / len(texts)
            yield share, {left.pop(place): said(rows[place]) for place in ended}
        before += len(chosen)
        yield before / len(texts), {number: said(rows[place]) for place, number in left.items()}
