"""Write a model's settings also where older programs look for them: transformers 4, and converters made for it.

transformers 5 renamed some settings and moved others. It reads the old ones too, so a folder that holds both loads in
either. Only what is missing is added; tensors are not touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoConfig

CONFIG, TOKENIZER, TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
OLDER_ROPE_TYPES = ("linear", "dynamic", "yarn", "longrope", "llama3")  # that transformers 4 computes
# Class of a tokenizer.json whose reader is not known by name: transformers 5's name for it, and the one both know.
NEW_CLASS, KNOWN_CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"


def suit_older_readers(folder: Path) -> None:
    """Complete config.json and tokenizer_config.json of the model in `folder`."""
    read, text_before = _read_config(folder), (folder / CONFIG).read_text("utf-8")
    _rewrite(folder / CONFIG, _complete_config)
    if read is not None and not _reads_as(folder, read):
        (folder / CONFIG).write_text(text_before, "utf-8")  # a family that transformers 4 does not know anyway
    template = folder / TEMPLATE
    text = template.read_text("utf-8") if template.is_file() else None
    _rewrite(folder / TOKENIZER, lambda settings: _complete_tokenizer(settings, text))


def _read_config(folder: Path) -> dict[str, Any] | None:
    """What transformers makes of config.json; None when it refuses it."""
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False).to_dict()
    except Exception:  # its checks of values raise errors of many kinds
        return None


def _reads_as(folder: Path, before: dict[str, Any]) -> bool:
    """Whether every setting is read as it was before."""
    after = _read_config(folder)
    return after is not None and all(after.get(name) == value for name, value in before.items())


def _rewrite(path: Path, complete: Callable[[dict[str, Any]], None]) -> None:
    if not path.is_file():
        return
    before = path.read_text("utf-8")
    settings = json.loads(before)
    complete(settings)
    if settings != json.loads(before):
        path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _complete_config(config: dict[str, Any]) -> None:
    for part in [config, *(value for value in config.values() if isinstance(value, dict))]:
        if "dtype" in part and "torch_dtype" not in part:
            part["torch_dtype"] = part["dtype"]
        rope = part.get("rope_parameters")
        if isinstance(rope, dict):
            _complete_rope(part, rope)


def _complete_rope(part: dict[str, Any], rope: dict[str, Any]) -> None:
    """Positions: one set of parameters for all layers, or one each for those of full and of sliding attention."""
    whole, sliding = rope.get("full_attention", rope), rope.get("sliding_attention")
    if not isinstance(whole, dict):
        return
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in whole:
            part.setdefault(name, whole[name])
    if isinstance(sliding, dict) and "rope_theta" in sliding:
        part.setdefault("rope_local_base_freq", sliding["rope_theta"])
    scaling = {name: value for name, value in whole.items() if name not in ("rope_theta", "partial_rotary_factor")}
    if scaling.get("rope_type") in OLDER_ROPE_TYPES:
        part.setdefault("rope_scaling", scaling)


def _complete_tokenizer(settings: dict[str, Any], template: str | None) -> None:
    if settings.get("tokenizer_class") == NEW_CLASS:
        settings["tokenizer_class"] = KNOWN_CLASS
    # A list of tokens without names, which transformers 4 expects under another name; 5 reads that one as well.
    if isinstance(settings.get("extra_special_tokens"), list):
        extra = settings.pop("extra_special_tokens")
        settings.setdefault("additional_special_tokens", extra)
    if template is not None:
        settings.setdefault("chat_template", template)
