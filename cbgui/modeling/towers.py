"""Vision forms that cannot read text as they are: towers of a library that is not installed, and a fault of a class."""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import Llama4ForConditionalGeneration, PreTrainedModel
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperModel
from transformers.utils import is_timm_available


@functools.cache
def build_without_timm() -> None:
    """Let models whose tower is one of timm's (Gemma 3n) be built without timm.

    The tower's weights are copied from file to file at export, whether it is built or not.
    """
    if not is_timm_available():
        TimmWrapperModel.__init__ = _empty


def _empty(self: PreTrainedModel, config: object) -> None:
    PreTrainedModel.__init__(self, config)
    self.timm_model = torch.nn.Identity()
    self.post_init()


class Llama4ForText(Llama4ForConditionalGeneration):
    """Llama 4 reading text alone, with which transformers 5.24's own class fails after it has computed the logits."""

    def forward(self, pixel_values: None = None, **inputs: Any) -> Any:
        return self.language_model(**inputs)


READ_TEXT: dict[type[PreTrainedModel], type[PreTrainedModel]] = {Llama4ForConditionalGeneration: Llama4ForText}
