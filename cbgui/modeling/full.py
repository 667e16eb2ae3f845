"""The full model with its head, for chat, evaluation and written answers, in a form that fits into memory.

The truncated model may fit where the full model does not: a 7B model trains in bfloat16 on 12 GB, while the full model
takes 14.5 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT, GIB
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.loading import NF4_BYTES, compute_dtype, load_options

SLACK = 1.05  # times the weights: adapter, keys and values, the work on one token
# Padded tokens in one batch of answers; stopping loses such a batch. Twice as many were not faster.
BATCH_TOKENS, MIN_BATCH_TOKENS = 12_288, 1024


def full_model_bytes(model_config: PretrainedConfig, config: ModelConfig) -> int:
    """Bytes of the full model's weights. With `nf4`, the matrices of the decoder layers take 4 bits a weight; embedding
    and head stay as they are."""
    dtype = compute_dtype(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(model_config, dtype=dtype)
    total = sum(parameter.numel() for parameter in model.parameters())  # tied weights count once
    in_layers = sum(m.weight.numel() for m in model.base_model.layers.modules() if isinstance(m, torch.nn.Linear))
    packed = in_layers if config.quantization == "nf4" else 0
    return int((total - packed) * dtype.itemsize + packed * NF4_BYTES)


@dataclass(frozen=True)
class Form:
    """How the full model is held in memory."""

    config: ModelConfig
    device: str  # "cpu" or "cuda"
    beside_gpu: bool  # in ordinary memory because the GPU is too small
    bytes: int

    @property
    def words(self) -> str:
        return in_words(self.config.quantization == "nf4", self.beside_gpu)


def in_words(four_bits: bool, beside_gpu: bool) -> str:
    """The form in words, such as "in 4 bits"."""
    precision = "in 4 bits" if four_bits else "in full precision"
    return precision + " in ordinary memory, which is slow" * beside_gpu


def forms(model_config: PretrainedConfig, config: ModelConfig, device: str) -> Iterator[Form]:
    """The possible forms, best first: as `config` says, in 4 bits, and in 4 bits in ordinary memory where a GPU is too
    small. `device` is "cpu" or "cuda"."""
    for quantization, place in [("none", device), ("nf4", device), ("nf4", "cpu")][: 3 if device == "cuda" else 2]:
        if quantization == "none" and config.quantization == "nf4":
            continue
        form = config.model_copy(update={"quantization": quantization})
        if place != device and config.dtype == "auto":
            form.dtype = str(hardware.fast_dtype("cpu")).removeprefix("torch.")
        needed = int(SLACK * full_model_bytes(model_config, form))
        if place == "cuda" and not torch.cuda.max_memory_reserved():  # CUDA's own memory is not taken yet
            needed += CONTEXT["cuda"]
        yield Form(form, place, place != device, needed)


def fitting(model_config: PretrainedConfig, config: ModelConfig, memory: int, device: str) -> Form:
    """The first of `forms` that fits into `memory` bytes on `device`, or into free ordinary memory.

    Raises InputError when none fits.
    """
    tried = list(forms(model_config, config, device))
    for form in tried:
        if form.bytes <= (hardware.free_ordinary_memory() if form.beside_gpu else memory):
            return form
    raise InputError(
        f"model {config.name!r}: answers need the full model, {tried[-1].bytes / GIB:.1f} GiB in 4 bits, which is "
        "not free; close other programs, or export the model and try it on a larger machine."
    )


def fit_in_words(model_config: PretrainedConfig, config: ModelConfig, memory: int, device: str) -> str:
    """Whether and how chat and reports will hold the full model after training, in a sentence or two."""
    try:
        form = fitting(model_config, config, memory, device)
    except InputError:
        *_, smallest = forms(model_config, config, device)
        needed = f"{smallest.bytes / GIB:.1f} GiB in 4 bits"
        return f"Chat and reports will not fit: they need the full model, {needed}. Training and export do not."
    return f"Chat and reports will hold the full model {form.words}, {form.bytes / GIB:.1f} GiB."


def load_full_model(source: ModelSource, config: ModelConfig) -> PreTrainedModel:
    """The full model in the best form that fits into free memory. Raises InputError when none fits."""
    form = fitting(read_model_config(source), config, hardware.free_memory(), hardware.kind())
    options = load_options(form.config)
    if form.beside_gpu:
        options["device_map"] = {"": torch.device(form.device)}
    return AutoModelForCausalLM.from_pretrained(source.path, **options).eval()


def load_with_adapter(source: ModelSource, config: ModelConfig, adapter: Path) -> PeftModel:
    """The full model with an adapter; `disable_adapter()` gives the base model again. Raises InputError as above."""
    model = load_full_model(source, config)
    # PEFT would load the adapter onto the GPU wherever the model is, where there may be no room.
    return PeftModel.from_pretrained(model, adapter, torch_device=str(model.device)).eval()


def form_in_words(model: PreTrainedModel | PeftModel) -> str:
    """How a loaded model is held, in words."""
    beside_gpu = model.device.type == "cpu" and hardware.kind() == "cuda"
    return in_words(getattr(model, "is_loaded_in_4bit", False), beside_gpu)


def answer_tokens(model: PreTrainedModel | PeftModel) -> int:
    """How many padded tokens, prompts and answers together, one batch may have: as many as memory allows for their keys
    and values."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    free = hardware.free_ordinary_memory() if model.device.type == "cpu" else hardware.free_memory()
    # A third of the free memory; a cache that grows is there twice while it is copied.
    return max(MIN_BATCH_TOKENS, min(BATCH_TOKENS, free // 6 // token))
