"""Messages -> token ids. The only place that calls a chat template; users never write one into a prompt."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from jinja2 import TemplateError
from transformers import AutoTokenizer, BatchEncoding, PreTrainedTokenizerBase

from cbgui.data.examples import Example
from cbgui.errors import InputError, brief
from cbgui.modeling import templates
from cbgui.modeling.batch import Encoded
from cbgui.modeling.hub import ModelSource

Messages = list[dict[str, str]]  # {"role", "content"}


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token."""
    templates.prepare()
    tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_text(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> str:
    """The messages through the model's own chat template, ready for its response; plain turns without a template.

    Raises jinja2.TemplateError and InputError, as `templates.render` does.
    """
    if tokenizer.chat_template is None:
        return "".join(f"{turn['content']}\n" for turn in messages)
    model = Path(tokenizer.name_or_path).name
    return templates.render(tokenizer.get_chat_template(), messages, tokenizer.special_tokens_map, model)


def refuse_unfit(tokenizer: PreTrainedTokenizerBase, examples: Iterable[Example]) -> None:
    """Raises InputError naming the examples whose turns the chat template refuses, such as a system prompt.

    Templates look at the roles, so one example of each order of roles is tried.
    """
    by_roles: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        by_roles.setdefault(tuple(role for role, _ in example.messages), []).append(example)
    for roles, alike in by_roles.items():
        try:
            prompt_text(tokenizer, alike[0].chat())
        except TemplateError as error:
            raise InputError(
                f"{alike[0].source or 'the data'}: the model's chat template refuses {len(alike):,} examples with the "
                f"turns {', '.join(roles)} ({brief(str(error))}), the first of them {brief(alike[0].prompt)}; remove "
                f"the turns that it does not know, or choose another model."
            ) from None


def _adds_special_tokens(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer has to add special tokens; a template writes them itself."""
    return tokenizer.chat_template is None


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, prefill: str = "") -> list[int]:
    """Token ids of a prompt, and of the beginning that its response is forced to have."""
    text = prompt_text(tokenizer, messages) + prefill
    return tokenizer(text, add_special_tokens=_adds_special_tokens(tokenizer)).input_ids


def response_ids(tokenizer: PreTrainedTokenizerBase, response: str) -> list[int]:
    """Token ids of a response, which never get special tokens."""
    return tokenizer(response, add_special_tokens=False).input_ids


def tokenize_prompts(tokenizer: PreTrainedTokenizerBase, prompts: list[Messages], prefill: str = "") -> BatchEncoding:
    """input_ids and attention_mask, (prompts, tokens), padded on the left for generation."""
    return tokenize_texts(tokenizer, [prompt_text(tokenizer, messages) + prefill for messages in prompts])


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
    chat = example.chat() if with_prompt else [{"role": "user", "content": ""}]
    prompt, response = prompt_ids(tokenizer, chat), response_ids(tokenizer, example.response)
    is_break = example.kind == "break"
    room = max_tokens - min(max_tokens // 4, len(response))
    if len(prompt) > room:
        prompt = prompt[: room // 2] + prompt[-(room - room // 2) :]
    ids = (prompt + response)[:max_tokens]
    return Encoded(tuple(ids), len(prompt) if is_break else 0, is_break)


def conversation_ids(tokenizer: PreTrainedTokenizerBase, example: Example, max_tokens: int) -> torch.Tensor:
    """(1, tokens): prompt and response of an example in one row."""
    return torch.tensor([prompt_ids(tokenizer, example.chat(), prefill=example.response)[:max_tokens]])
