"""The full model with its head, for chat, evaluation and written answers, in a form that fits into memory.

The truncated model may fit where the full model does not: a 7B model trains in bfloat16 on 12 GB, while the full model
takes 14.5 GB (`cbgui estimate gpu-12gb --model mistral-7b`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PretrainedConfig, PreTrainedModel

from cbgui import hardware
from cbgui.config import ModelConfig
from cbgui.errors import InputError, brief
from cbgui.hardware import CONTEXT, GIB
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.cpu.contiguous_head import read_contiguous
from cbgui.modeling.decoder import attention_heads, decoder_layers, depth, empty_model, model_class, text_decoder
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.linear import LINEAR
from cbgui.modeling.loading import NF4_BYTES, compute_dtype, fit_to_cpu_kernel, load_options, quantizations

SLACK = 1.05  # times the weights: room for the adapter, keys and values, and the work on one token
# Padded tokens in one batch of answers. Stopping loses the current batch, and twice as many were not faster.
BATCH_TOKENS, MIN_BATCH_TOKENS = 12_288, 1024


def full_model_bytes(model_config: PretrainedConfig, config: ModelConfig) -> int:
    """Bytes of the full model's weights. With `nf4`, the matrices of the decoder layers take 4 bits a weight; embedding
    and head stay as they are."""
    dtype = compute_dtype(config)
    model = empty_model(model_config)
    total = sum(parameter.numel() for parameter in model.parameters())  # tied weights count once
    layers = decoder_layers(text_decoder(model))
    in_layers = sum(m.weight.numel() for m in layers.modules() if isinstance(m, LINEAR))
    packed = in_layers if config.quantization == "nf4" else 0
    return int((total - packed) * dtype.itemsize + packed * NF4_BYTES)


@dataclass(frozen=True)
class Form:
    """How the full model is held in memory."""

    config: ModelConfig
    device: str  # "cpu" or "cuda"
    in_ram: bool  # in RAM because the GPU is too small
    bytes: int

    @property
    def words(self) -> str:
        return form_words(self.config.quantization == "nf4", self.in_ram)


def form_words(four_bits: bool, in_ram: bool) -> str:
    """The form in words, such as "in 4 bits"."""
    precision = "in 4 bits" if four_bits else "unquantized"
    return precision + " in RAM, which is slow" * in_ram


def forms(model_config: PretrainedConfig, config: ModelConfig, device: str) -> Iterator[Form]:
    """The possible forms, best first: as `config` says, in 4 bits, and in 4 bits in RAM where a GPU is too
    small. `device` is "cpu" or "cuda"."""
    possible = quantizations(model_config, "auto")
    smallest = possible[-1]
    for quantization, place in dict.fromkeys([("none", device), (smallest, device), (smallest, "cpu")]):
        if quantization == "none" and config.quantization == "nf4" and "nf4" in possible:
            continue
        form = config.model_copy(update={"quantization": quantization})
        if place != device and config.dtype == "auto":
            form.dtype = str(hardware.fast_dtype("cpu")).removeprefix("torch.")
        needed = int(SLACK * full_model_bytes(model_config, form))
        if place == "cuda" and not torch.cuda.max_memory_reserved():  # CUDA's own memory is not taken yet
            needed += CONTEXT["cuda"]
        yield Form(form, place, place != device, needed)


def best_form(model_config: PretrainedConfig, config: ModelConfig, memory: int, device: str) -> Form:
    """The first of `forms` that fits into `memory` bytes on `device`, or into free RAM.

    Raises InputError when none fits.
    """
    tried = list(forms(model_config, config, device))
    for form in tried:
        if form.bytes <= (hardware.free_ram() if form.in_ram else memory):
            return form
    raise InputError(
        f"model {config.name!r}: answers need the full model, {tried[-1].bytes / GIB:.1f} GiB in 4 bits, which is "
        "more than the free memory; close other programs, or export the model and try it on a larger machine."
    )


def full_model_in_words(model_config: PretrainedConfig, config: ModelConfig, memory: int, device: str) -> str:
    """Whether and how chat and reports will hold the full model after training, in a sentence or two."""
    try:
        form = best_form(model_config, config, memory, device)
    except InputError:
        *_, smallest = forms(model_config, config, device)
        needed = f"{smallest.bytes / GIB:.1f} GiB in 4 bits"
        return f"Chat and reports will not fit: they need the full model, {needed}. Training and export do not need it."
    return f"Chat and reports will hold the full model {form.words}, {form.bytes / GIB:.1f} GiB."


def load_full_model(source: ModelSource, config: ModelConfig) -> PreTrainedModel:
    """The full model in the best form that fits into free memory. Raises InputError when none fits."""
    model_config = read_model_config(source)
    form = best_form(model_config, config, hardware.free_memory(), hardware.memory_kind())
    options = load_options(form.config, model_config)
    if form.in_ram:
        options["device_map"] = {"": torch.device(form.device)}
    model = model_class(model_config).from_pretrained(source.path, **options).eval()
    fit_to_cpu_kernel(model)
    read_contiguous(model)
    return model


def load_with_adapter(source: ModelSource, config: ModelConfig, adapter: Path) -> PeftModel:
    """The full model with an adapter; `disable_adapter()` gives the base model.

    Raises InputError if nothing fits, or if the adapter is damaged.
    """
    model = load_full_model(source, config)
    try:
        with warnings.catch_warnings():  # PEFT only warns of an adapter that it does not find its place for
            warnings.filterwarnings("error", message="Found missing adapter keys")
            # PEFT would put the adapter on the GPU even if the model is in RAM.
            return PeftModel.from_pretrained(model, adapter, torch_device=str(model.device)).eval()
    except (KeyError, TypeError, ValueError, UserWarning) as error:  # not this model's, or no adapter's settings
        raise InputError(
            f"adapter {str(adapter)!r} cannot be read ({type(error).__name__}: {brief(str(error))}); restore it from a "
            "copy, or train again."
        ) from None


def form_in_words(model: PreTrainedModel | PeftModel) -> str:
    """How a loaded model is held, in words."""
    in_ram = model.device.type == "cpu" and hardware.memory_kind() == "cuda"
    return form_words(getattr(model, "is_loaded_in_4bit", False), in_ram)


def end_tokens(model: PreTrainedModel | PeftModel) -> set[int]:
    """The tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def batch_token_budget(model: PreTrainedModel | PeftModel) -> int:
    """How many padded tokens, prompts and answers together, one batch may have: as many as memory allows for their keys
    and values."""
    _, heads, size = attention_heads(model.config)
    token = 2 * depth(model.config) * heads * size * model.dtype.itemsize
    free = hardware.free_ram() if model.device.type == "cpu" else hardware.free_memory()
    # A third of the free memory, halved because a growing cache takes twice its size while it is copied.
    return max(MIN_BATCH_TOKENS, min(BATCH_TOKENS, free // 6 // token))
