"""The base model's answers to a list of prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from cbgui.config import ModelConfig
from cbgui.inference.streaming import in_model_thread, stream_tokens
from cbgui.modeling.batch import batches_by_length
from cbgui.modeling.chat_format import (
    Messages,
    load_tokenizer,
    prompt_ids,
    tokenize_prompts,
)
from cbgui.modeling.decoder import reads_padding
from cbgui.modeling.full import batch_token_budget, end_tokens, load_full_model
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.thinking import EndThoughts, readable, split_answer, thought_tokens

Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]


def load_for_answers(config: ModelConfig) -> Loaded:
    """The base model in full, and its tokenizer. Raises InputError when it cannot be found or does not fit."""
    source = resolve_model(config.name)
    return in_model_thread(load_full_model, source, config), load_tokenizer(source, config)


def write_answers(
    config: ModelConfig,
    prompts: Sequence[Messages],
    *,
    prefill: str = "",
    max_new_tokens: int = 200,
    with_thoughts: bool = False,
    loaded: Loaded | None = None,
) -> Iterator[tuple[float, dict[int, str]]]:
    """Yield, after each token, the share of the work done (0 to 1) and the answers that ended with it.

    Answers are keyed by the index of their prompt; short prompts come first. Each answer includes `prefill`, and with
    `with_thoughts` begins with what the model thought. Closing the iterator stops. `loaded` is the model of `config` if
    it is in memory already. Raises InputError when the model cannot be found or does not fit.
    """
    model, tokenizer = loaded or load_for_answers(config)
    ends, limit = end_tokens(model), max_new_tokens + thought_tokens(tokenizer)
    asked = [prompt_ids(tokenizer, messages, prefill) for messages in prompts]
    lengths = [len(prompt) + limit for prompt in asked]

    def answer(index: int, row: list[int]) -> str:
        thought, own = split_answer(tokenizer, asked[index], row, max_new_tokens)
        if with_thoughts and own:
            return (prefill + readable(tokenizer, asked[index], thought + own)).strip()
        return (prefill + tokenizer.decode(own, skip_special_tokens=True)).strip()

    finished = 0
    for batch in batches_by_length(lengths, batch_token_budget(model), equal=reads_padding(model.config)):
        unfinished = dict(enumerate(batch))  # row of the batch -> index of the prompt
        rows: list[list[int]] = []
        inputs = tokenize_prompts(tokenizer, [prompts[index] for index in batch], prefill)
        end_thoughts = EndThoughts(tokenizer, inputs["input_ids"].shape[1])
        stream = stream_tokens(
            model,
            inputs,
            max_new_tokens=limit,
            pad_token_id=tokenizer.pad_token_id,
            processors=[end_thoughts],
            on_shrink=end_thoughts.keep,
        )
        for step, rows in enumerate(stream, 1):
            ended = [row for row in unfinished if rows[row][-1] in ends]
            share = (finished + len(batch) * step / limit) / len(prompts)
            yield share, {unfinished[row]: answer(unfinished.pop(row), rows[row]) for row in ended}
        finished += len(batch)
        yield finished / len(prompts), {index: answer(index, rows[row]) for row, index in unfinished.items()}
