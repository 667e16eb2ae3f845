"""Messages -> token ids. The only place that calls a chat template; users never write one into a prompt."""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from pathlib import Path

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

from cbgui.config import ModelConfig
from cbgui.data.examples import Example
from cbgui.errors import InputError, brief
from cbgui.modeling import templates, thoughts
from cbgui.modeling.batch import Encoded
from cbgui.modeling.decoder import text_config
from cbgui.modeling.hub import ModelSource

Messages = list[dict[str, str]]  # {"role", "content"}
THOUGHT_TOKENS = 1024  # that a model may think before its answer
FIRST_PLACEHOLDER = 0xE100  # private characters that stand for special tokens in somebody's text


def load_tokenizer(source: ModelSource, config: ModelConfig | None = None) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token, asked as `config` says (`thinking`, `system_turn`).

    Raises InputError for a tokenizer that transformers cannot read, or that has no token to end an answer with.
    """
    templates.prepare()
    config = config or ModelConfig()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False)
    except Exception as error:  # damaged files, missing libraries, code of its own
        raise InputError(
            f"model {source.label!r}: its tokenizer cannot be read ({type(error).__name__}: {brief(str(error))}); "
            "choose a model with a tokenizer.json."
        ) from None
    if tokenizer.eos_token is None and tokenizer.pad_token is None:
        raise InputError(
            f"model {source.label!r}: its tokenizer has neither an end token nor a padding token; set eos_token in its "
            "tokenizer_config.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.thinking, tokenizer.system_turn = config.thinking, config.system_turn
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokenizer.special_texts = sorted(special, key=len, reverse=True)
    return tokenizer


def fit_to_model(tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig) -> None:
    """Give the tokenizer a padding token that the model's embedding has, as some have one beyond it."""
    if tokenizer.pad_token_id >= text_config(model_config).vocab_size:
        tokenizer.pad_token = tokenizer.eos_token


def refuse_unknown_tokens(
    tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig, examples: Iterable[Encoded]
) -> None:
    """Raises InputError when an example has a token that the model's embedding does not have."""
    size = text_config(model_config).vocab_size
    highest = max((max(example.ids) for example in examples), default=0)
    if max(highest, tokenizer.pad_token_id) >= size:
        token = tokenizer.convert_ids_to_tokens(max(highest, tokenizer.pad_token_id))
        raise InputError(
            f"model {_name(tokenizer)!r}: its tokenizer has the token {brief(token)} with the number "
            f"{max(highest, tokenizer.pad_token_id):,}, but the model knows {size:,} tokens; the two do not belong "
            "together, so download the model again or choose another."
        )


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """The messages through the model's own chat template, ready for its answer; plain turns without a template.

    A model that thinks is asked for an answer without a thought unless `tokenizer.thinking`: the thought is given, and
    empty. Raises jinja2.TemplateError and InputError, as `templates.render` does.
    """
    text, lead = _rendered(tokenizer, messages), _lead(tokenizer, messages)
    return text + lead if lead.strip() and not tokenizer.thinking else text


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    messages = _with_system_turn(messages, tokenizer.system_turn)
    if tokenizer.chat_template is None:
        return "".join(f"{turn['content']}\n" for turn in messages)
    settings = tokenizer.special_tokens_map | thoughts.switches(tokenizer.thinking)
    return templates.render(tokenizer.get_chat_template(), messages, settings, _name(tokenizer))


def _adds_special_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has to add special tokens; a template writes them itself."""
    return tokenizer.chat_template is None


def _lead(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """What the template writes between prompt and answer; see `thoughts.lead`."""
    if tokenizer.chat_template is None:
        return ""
    roles = tuple(turn["role"] for turn in _with_system_turn(messages, tokenizer.system_turn))
    tokens = tuple((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    return thoughts.lead(tokenizer.get_chat_template(), roles, tokenizer.thinking, tokens, _name(tokenizer))


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return Path(tokenizer.name_or_path).name


def _with_system_turn(messages: Messages, system_turn: str) -> Messages:
    """The messages with their system turn kept, merged into the first user turn, or left out."""
    if system_turn == "keep" or not messages or messages[0]["role"] != "system":
        return messages
    system, *rest = messages
    if system_turn == "merge" and rest:
        return [{**rest[0], "content": f"{system['content']}\n\n{rest[0]['content']}"}, *rest[1:]]
    return rest


def refuse_unfit(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]) -> None:
    """Render every example. Raises InputError naming those that the chat template refuses, and what to do."""
    refused: dict[tuple[str, ...], list[tuple[Example, str]]] = {}
    for example in examples:
        try:
            prompt_text(tokenizer, example.chat())
        except TemplateError as error:
            refused.setdefault(tuple(role for role, _ in example.messages), []).append((example, str(error)))
    for roles, alike in refused.items():
        first, why = alike[0]
        remedy = "remove the turns that it does not know, or choose another model"
        if roles[0] == "system" and tokenizer.system_turn == "keep" and _fits_without_system(tokenizer, first):
            remedy = (
                "set model.system_turn to merge, which puts the system turn before the first question, or to leave_out"
            )
        raise InputError(
            f"{first.source or 'the data'}: the model's chat template refuses {len(alike):,} examples with the "
            f"turns {', '.join(roles)} ({brief(why)}), the first of them {brief(first.prompt)}; {remedy}."
        )


def _fits_without_system(tokenizer: PreTrainedTokenizerBase, example: Example) -> bool:
    try:
        _rendered(tokenizer, _with_system_turn(example.chat(), "merge"))
    except TemplateError:
        return False
    return True


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    ids = tokenizer(text, add_special_tokens=special).input_ids
    if special and ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text with it
        ids = ids[:-1]
    return ids


def _in_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> dict[str, str]:
    """Special tokens that stand in somebody's text -> placeholders: they are text there."""
    contents = "\n".join(turn["content"] for turn in messages)
    found = [token for token in tokenizer.special_texts if token in contents]
    return {token: chr(FIRST_PLACEHOLDER + number) for number, token in enumerate(found)}


def _ids_of_prompt(tokenizer: PreTrainedTokenizerBase, text: str, replaced: dict[str, str]) -> list[int]:
    special = _adds_special_tokens(tokenizer)
    if not replaced:
        return _ids(tokenizer, text, special=special)
    tokens, ids, start = {mark: token for token, mark in replaced.items()}, [], 0
    for end, character in enumerate(text + "\0"):
        if character not in tokens and end < len(text):
            continue
        ids += _ids(tokenizer, text[start:end], special=special and not start) if end > start else []
        if character in tokens:
            ids += tokenizer(tokens[character], add_special_tokens=False, split_special_tokens=True).input_ids
        start = end + 1
    return ids


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, prefill: str = "") -> list[int]:
    """Token ids of a prompt, and of the beginning that its answer is forced to have."""
    replaced = _in_text(tokenizer, messages)
    if replaced:
        messages = [turn | {"content": _replace(turn["content"], replaced)} for turn in messages]
    return _ids_of_prompt(tokenizer, prompt_text(tokenizer, messages) + prefill, replaced)


def _replace(text: str, replaced: dict[str, str]) -> str:
    for token, mark in replaced.items():
        text = text.replace(token, mark)
    return text


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Token ids of a response, which never get special tokens."""
    return tokenizer(response, add_special_tokens=False).input_ids


def example_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, response: str) -> tuple[list[int], list[int]]:
    """Token ids of a prompt and of the response, which stands where the model itself would write it.

    A thought in the response is part of it where the model thinks, and left out where it does not. Where the template
    puts white space before an answer, this is part of the answer's first token.
    """
    thought, answer = thoughts.split_thought(response)
    if thought and tokenizer.thinking:
        opened = thoughts.opened_tag(_rendered(tokenizer, messages))
        return prompt_ids(tokenizer, messages), response_ids(tokenizer, response.removeprefix(opened).lstrip("\n"))
    lead = _lead(tokenizer, messages)
    if lead.strip():
        prompt = prompt_ids(tokenizer, messages, lead if tokenizer.thinking else "")
        return prompt, response_ids(tokenizer, answer)
    prompt = prompt_ids(tokenizer, messages)
    if lead:
        whole = prompt_ids(tokenizer, messages, lead + answer)
        if whole[: len(prompt)] == prompt:
            return prompt, whole[len(prompt) :]
    return prompt, response_ids(tokenizer, answer)


def thought_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens a model is given to think, besides those of its answer; 0 for one that does not think."""
    thinks = tokenizer.thinking and _lead(tokenizer, [{"role": "user", "content": ""}]).strip()
    return THOUGHT_TOKENS if thinks else 0


def cut_answer(tokenizer: PreTrainedTokenizerBase, ids: list[int], max_tokens: int) -> tuple[list[int], list[int]]:
    """(thought and answer, answer): generated token ids with the answer cut at `max_tokens`.

    The answer is empty where the thought has not ended, so no answer is ever a piece of a thought.
    """
    if not thought_tokens(tokenizer):
        return ids[:max_tokens], ids[:max_tokens]
    thought, _ = thoughts.split_thought(tokenizer.decode(ids))
    if not thought:
        return ids, []
    start = bisect.bisect_left(range(len(ids) + 1), len(thought), key=lambda end: len(tokenizer.decode(ids[:end])))
    return ids[: start + max_tokens], ids[start : start + max_tokens]


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[Messages], prefill: str = "") -> BatchEncoding:
    """input_ids and attention_mask, (prompts, tokens), padded on the left for generation."""
    rows = [prompt_ids(tokenizer, messages, prefill) for messages in prompts]
    return tokenizer.pad({"input_ids": rows}, padding_side="left", return_tensors="pt")


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    max_tokens: int | None = None,
    *,
    add_special_tokens: bool | None = None,
) -> BatchEncoding:
    """As `tokenize_prompts`, for finished texts; those over `max_tokens` lose their beginning.

    `add_special_tokens` is True for text that was not made by `prompt_text`; None suits text that was. Leaves the
    tokenizer padding and truncating on the left.
    """
    if add_special_tokens is None:
        add_special_tokens = _adds_special_tokens(tokenizer)
    tokenizer.padding_side = tokenizer.truncation_side = "left"
    return tokenizer(
        texts,
        return_tensors="pt",
        padding=True,
        truncation=max_tokens is not None,
        max_length=max_tokens,
        add_special_tokens=add_special_tokens,
    )


def encode(
    tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int, *, with_prompt: bool = True
) -> Encoded:
    """Token ids of prompt and response, cut at `max_tokens`.

    In break examples the response tokens count for the loss, in retain examples all tokens. Without its prompt, a break
    example is shown with an empty user turn, so that the response alone has to derail. At least a quarter of the tokens
    is left to the response; a prompt too long for the rest loses its middle, because what a sequence begins with (BOS)
    matters to all of it.
    """
    chat = example.chat() if with_prompt else _empty_turn(tokenizer)
    prompt, response = example_ids(tokenizer, chat, example.response)
    is_break = example.kind == "break"
    room = max_tokens - min(max_tokens // 4, len(response))
    if len(prompt) > room:
        prompt = prompt[: room // 2] + prompt[-(room - room // 2) :]
    ids = (prompt + response)[:max_tokens]
    return Encoded(tuple(ids), len(prompt) if is_break else 0, is_break)


def _empty_turn(tokenizer: PreTrainedTokenizerBase) -> Messages:
    """A user turn without text; with a full stop where the chat template refuses an empty one."""
    empty = [{"role": "user", "content": ""}]
    try:
        prompt_text(tokenizer, empty)
    except TemplateError:
        return [{"role": "user", "content": "."}]
    return empty


def conversation_ids(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> torch.Tensor:
    """(1, tokens): prompt and response of an example in one row."""
    prompt, response = example_ids(tokenizer, example.chat(), example.response)
    return torch.tensor([(prompt + response)[:max_tokens]])
