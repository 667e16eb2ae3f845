"""Vision towers from a library that is not installed. Text needs none, so an empty module stands in their place."""

from __future__ import annotations

import functools

import torch
from transformers import PreTrainedModel
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
