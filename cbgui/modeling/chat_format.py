"""Messages -> token ids. The only place that calls a chat template; users never write one into a prompt."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, BatchEncoding, PretrainedConfig, PreTrainedTokenizerBase

from cbgui.config import ModelConfig
from cbgui.data.examples import Example
from cbgui.errors import InputError, brief
from cbgui.modeling import templates, thoughts
from cbgui.modeling.batch import Encoded
from cbgui.modeling.decoder import text_config
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.thinking import name_of, special_tokens, split_answer

Messages = list[dict[str, str]]  # {"role", "content"}
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
    _fit_padding(tokenizer, source)
    tokenizer.thinking, tokenizer.system_turn = config.thinking, config.system_turn
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    tokenizer.special_texts = sorted(special, key=len, reverse=True)
    return tokenizer


def _fit_padding(tokenizer: PreTrainedTokenizerBase, source: ModelSource) -> None:
    """Give the tokenizer a padding token that the model's embedding has, as some have one beyond it."""
    try:
        size = text_config(AutoConfig.from_pretrained(source.path, trust_remote_code=False)).vocab_size
    except (OSError, ValueError, AttributeError):  # told where the model itself is read
        return
    if tokenizer.pad_token_id >= size:
        # What is padded is masked, so any token that the model knows will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)


def refuse_unknown_tokens(
    tokenizer: PreTrainedTokenizerBase, model_config: PretrainedConfig, examples: Iterable[Encoded]
) -> None:
    """Raises InputError when an example has a token that the model's embedding does not have."""
    size = text_config(model_config).vocab_size
    highest = max((max(example.ids) for example in examples), default=0)
    if max(highest, tokenizer.pad_token_id) >= size:
        token = tokenizer.convert_ids_to_tokens(max(highest, tokenizer.pad_token_id))
        raise InputError(
            f"model {name_of(tokenizer)!r}: its tokenizer has the token {brief(token)} with the number "
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
    messages = [_without_thought(turn) for turn in _with_system_turn(messages, tokenizer.system_turn)]
    if tokenizer.chat_template is None:
        return "".join(f"{turn['content']}\n" for turn in messages)
    settings = tokenizer.special_tokens_map | thoughts.switches(tokenizer.thinking)
    return templates.render(tokenizer.get_chat_template(), messages, settings, name_of(tokenizer))


def _without_thought(turn: dict[str, str]) -> dict[str, str]:
    """An earlier answer without its thought, as the templates of models that think give it."""
    return turn | {"content": thoughts.split_thought(turn["content"])[1]} if turn["role"] == "assistant" else turn


def _adds_special_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has to add special tokens; a template writes them itself."""
    return tokenizer.chat_template is None


def _lead(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """What the template writes between prompt and answer; see `thoughts.lead`."""
    if tokenizer.chat_template is None:
        return ""
    roles = tuple(turn["role"] for turn in _with_system_turn(messages, tokenizer.system_turn))
    return thoughts.lead(
        tokenizer.get_chat_template(), roles, tokenizer.thinking, special_tokens(tokenizer), name_of(tokenizer)
    )


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
    """Token ids of a prompt, and of the beginning that its answer is forced to have.

    A forced beginning stands where an answer does, after an empty thought where the model would think.
    """
    lead = _lead(tokenizer, messages) if prefill else ""
    given = lead.strip() and not tokenizer.thinking  # `prompt_text` has it already
    return _ids_after(tokenizer, messages, prefill if given else lead + prefill)


def _ids_after(tokenizer: PreTrainedTokenizerBase, messages: Messages, text: str) -> list[int]:
    """Token ids of a prompt with `text` right after it."""
    messages = [_without_thought(turn) for turn in messages]
    replaced = _in_text(tokenizer, messages)
    if replaced:
        messages = [turn | {"content": _replace(turn["content"], replaced)} for turn in messages]
    return _ids_of_prompt(tokenizer, prompt_text(tokenizer, messages) + text, replaced)


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
    if thought and tokenizer.thinking and tokenizer.chat_template is not None:
        opened = thoughts.opened_tag(_rendered(tokenizer, messages))
        response = thoughts.in_form_of(tokenizer.get_chat_template(), response).removeprefix(opened)
        return prompt_ids(tokenizer, messages), response_ids(tokenizer, response.lstrip("\n"))
    lead = _lead(tokenizer, messages)
    if lead.strip():
        prompt = _ids_after(tokenizer, messages, lead if tokenizer.thinking else "")
        return prompt, response_ids(tokenizer, answer)
    prompt = prompt_ids(tokenizer, messages)
    if lead:
        whole = _ids_after(tokenizer, messages, lead + answer)
        if whole[: len(prompt)] == prompt:
            return prompt, whole[len(prompt) :]
    return prompt, response_ids(tokenizer, answer)


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
    tokenizer: PreTrainedTokenizerBase,
    example: Example,
    max_tokens: int,
    *,
    with_prompt: bool = True,
    answer_only: bool = False,
) -> Encoded:
    """Token ids of prompt and response, cut at `max_tokens`.

    In break examples the response tokens count for the loss, in retain examples all tokens. Without its prompt, a break
    example is shown with an empty user turn, so that the response alone has to derail. `answer_only` counts a thought
    as a part of the prompt. At least a quarter of the tokens is left to the response; a prompt too long for the rest
    loses its middle, because what a sequence begins with (BOS) matters to all of it.
    """
    chat = example.chat() if with_prompt else _empty_turn(tokenizer)
    prompt, response = example_ids(tokenizer, chat, example.response)
    is_break = example.kind == "break"
    if answer_only:
        thought, response = split_answer(tokenizer, prompt, response)
        prompt = prompt + thought
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


def refusal_ids(tokenizer: PreTrainedTokenizerBase, sentence: str) -> list[int]:
    """Token ids of a refusal as the model's whole answer, without what ends its turn."""
    return example_ids(tokenizer, [{"role": "user", "content": "x"}], sentence)[1]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends the model's turn: what its template writes after an answer, else its end token."""
    if tokenizer.chat_template is not None:
        chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": thoughts.MARK}]
        settings = tokenizer.special_tokens_map | thoughts.switches(tokenizer.thinking)
        try:
            text = templates.render(tokenizer.get_chat_template(), chat, settings, name_of(tokenizer), prompt=False)
        except TemplateError:
            text = ""
        first = next(iter(_ids(tokenizer, text.rpartition(thoughts.MARK)[2].lstrip())), None) if text else None
        if first in tokenizer.added_tokens_decoder and tokenizer.added_tokens_decoder[first].special:
            return first
    return tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.pad_token_id


def conversation_ids(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> torch.Tensor:
    """(1, tokens): prompt and response of an example in one row."""
    prompt, response = example_ids(tokenizer, example.chat(), example.response)
    return torch.tensor([(prompt + response)[:max_tokens]])
