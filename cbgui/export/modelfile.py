"""The Modelfile that Ollama reads: where the weights are, the chat template in Ollama's language, where answers end.

Ollama's templates are Go templates. The model's own template is written in Jinja, so its pieces are read off rendered
conversations: what stands before, between and after the turns.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateError
from transformers import AutoConfig, PreTrainedTokenizerBase

from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.modeling.chat_format import Messages, load_tokenizer, prompt_text
from cbgui.modeling.decoder import text_config
from cbgui.modeling.hub import ModelSource

MODELFILE = "Modelfile"
MAX_CONTEXT = 8192  # tokens; Ollama reserves memory for all of them, and would take 4096 or fewer by default
_TURNS = ("system", "user", "assistant", "user", "assistant", "user")
_TEXTS = tuple(f"\ue000{number}\ue001" for number in range(len(_TURNS)))  # the turns' texts, found again when rendered


@dataclass(frozen=True)
class Pieces:
    """What a chat template writes around the turns of a conversation."""

    before_system: str | None  # None for a template that takes no system turn
    after_system: str
    before_user: str  # the beginning of a conversation without a system turn
    user_to_assistant: str
    assistant_to_user: str
    end: str  # after the last question: where the answer begins

    def render(self, messages: Messages) -> str:
        """A conversation that ends with a question, as the Go template writes it."""
        rest, text = list(messages), self.before_user
        if rest[0]["role"] == "system":
            text = f"{self.before_system}{rest.pop(0)['content']}{self.after_system}"
        for turn in rest[:-1]:
            text += turn["content"] + (self.user_to_assistant if turn["role"] == "user" else self.assistant_to_user)
        return text + rest[-1]["content"] + self.end

    def go_template(self) -> str:
        """In one line as Go sees it, because white space between its actions would be part of the text."""
        beginning = self.before_user
        if self.before_system is not None:
            system = f"{self.before_system}{{{{ .System }}}}{self.after_system}"
            beginning = f"{{{{ if .System }}}}{system}{{{{ else }}}}{self.before_user}{{{{ end }}}}"
        return (
            f"{beginning}{{{{ range $i, $turn := .Messages }}}}"
            "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
            '{{ if eq .Role "user" }}{{ .Content }}'
            f"{{{{ if $last }}}}{self.end}{{{{ else }}}}{self.user_to_assistant}{{{{ end }}}}"
            '{{ else if eq .Role "assistant" }}{{ .Content }}'
            f"{{{{ if not $last }}}}{self.assistant_to_user}{{{{ end }}}}"
            "{{ end }}{{ end }}"
        )


def _chat(*numbers: int) -> Messages:
    return [{"role": _TURNS[number], "content": _TEXTS[number]} for number in numbers]


def _between(text: str, numbers: tuple[int, ...]) -> list[str]:
    """What stands before, between and after the texts of these turns. Raises ValueError where one is missing."""
    pieces = []
    for number in numbers:
        before, found, text = text.partition(_TEXTS[number])
        if not found:
            raise ValueError
        pieces.append(before)
    return [*pieces, text]


def read_pieces(tokenizer: PreTrainedTokenizerBase) -> Pieces | None:
    """The pieces of the tokenizer's chat template; None where it is more than pieces around turns."""

    def rendered(*numbers: int) -> str:
        text = prompt_text(tokenizer, _chat(*numbers))
        # Ollama's tokenizer adds this token by itself, as the model's own does.
        return text.removeprefix(tokenizer.bos_token) if _adds_bos(tokenizer) else text

    if tokenizer.chat_template is None:
        return None
    try:
        before_user, end = _between(rendered(1), (1,))
        _, to_assistant, to_user, _ = _between(rendered(1, 2, 3), (1, 2, 3))
        try:
            before_system, after_system, _ = _between(rendered(0, 1), (0, 1))
        except (TemplateError, ValueError):
            before_system, after_system = None, ""
        pieces = Pieces(before_system, after_system, before_user, to_assistant, to_user, end)
        checked = [(1,), (1, 2, 3), (1, 2, 3, 4, 5)]
        if before_system is not None:
            checked += [(0, 1), (0, 1, 2, 3)]
        if any(pieces.render(_chat(*numbers)) != rendered(*numbers) for numbers in checked):
            return None
    except (TemplateError, ValueError):
        return None
    texts = [text for text in vars(pieces).values() if text]
    return None if any("{{" in text or '"""' in text for text in texts) else pieces


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a").input_ids
    return tokenizer.bos_token is not None and bool(ids) and ids[0] == tokenizer.bos_token_id


def _stops(tokenizer: PreTrainedTokenizerBase, folder: Path, pieces: Pieces | None) -> list[str]:
    """The texts of the tokens that end an answer."""
    try:
        ended = json.loads((folder / "generation_config.json").read_text("utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError):
        ended = None
    ids = [*(ended if isinstance(ended, list) else [ended]), tokenizer.eos_token_id]
    tokens = [tokenizer.convert_ids_to_tokens(number) for number in ids if isinstance(number, int)]
    if pieces is not None:  # a turn may end with another token than a text
        tokens += [token for token in tokenizer.special_texts if pieces.assistant_to_user.lstrip().startswith(token)][
            :1
        ]
    return [token for token in dict.fromkeys(tokens) if token and '"' not in token]


def modelfile(folder: Path, config: ModelConfig, weights: str = ".") -> str:
    """The Modelfile of the model in `folder`; `weights` is what it loads: that folder, or a GGUF file beside it."""
    tokenizer = load_tokenizer(ModelSource(folder, folder.name), config)
    pieces = read_pieces(tokenizer)
    lines = [f"FROM {weights}"]
    if pieces is None:
        lines.append("# The chat template of this model cannot be written in Ollama's language; Ollama chooses one.")
    else:
        lines.append(f'TEMPLATE """{pieces.go_template()}"""')
    lines += [f'PARAMETER stop "{token}"' for token in _stops(tokenizer, folder, pieces)]
    lines.append(f"PARAMETER num_ctx {_context(folder)}")
    return "\n".join(lines) + "\n"


def _context(folder: Path) -> int:
    try:
        config = text_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
        longest = getattr(config, "max_position_embeddings", None)
    except (InputError, OSError, ValueError):
        longest = None
    return min(longest or MAX_CONTEXT, MAX_CONTEXT)
