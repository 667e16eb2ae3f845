"""Will it fit: the memory that training takes, part by part, from the model's config alone; and what to choose so that
it does.

No weights are read: the model's form comes from its config on PyTorch's meta device. Bytes per token are counted from
what autograd keeps of a decoder layer (see `_activation_bytes`) and checked against measured peaks
(docs/performance.md).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT, CUBLAS, CUDA_BUILD, GIB
from cbgui.modeling.architecture import target_layers
from cbgui.modeling.batch import (
    MICRO_BATCH_OVERHEAD,
    longest_micro_batch,
    micro_batch_tokens,
    padded,
    plan_micro_batches,
)
from cbgui.modeling.cpu import onednn, query_blocks
from cbgui.modeling.loading import NF4_BYTES, compute_dtype
from cbgui.modeling.truncated import TruncatedModel, empty_truncated_model

ONEDNN = {2: 80 * 2**20, 4: 68 * 2**20}  # its kernels on a CPU and their scratch memory, by bytes of a number
ADAM_8BIT = (1 + 4 / 256) / 4  # of float32's bytes: 8 bits a moment and a float32 scale each 256 of these
DATA = 130 * 2**20  # tokenizer, examples and what writes events and checkpoints; the bench has none of it
# Float32 copies of both models' states and what the losses keep of them, for each kept layer (measured).
LOSS_COPIES = {"cpu": 8, "cuda": 4}
# Allocator rounding and fragments on a GPU, by whether gradient checkpointing is on (measured).
CUDA_SLACK = {False: 1.06, True: 1.15}
# On a CPU without gradient checkpointing freed blocks are kept, and do not fit the next pass (measured), by the bytes
# of a number and whether a step has more than one pass.
KEPT_SLACK = {(2, False): 1.08, (2, True): 1.45, (4, False): 1.05, (4, True): 1.5}
RETURNED_SLACK = 1.3  # with gradient checkpointing they go back to the system, but for small ones (measured)
Steps = list[list[int]] | None
MICRO_BATCHES = (64, 32, 16, 8, 4, 2, 1)
# Time, in that of a token without gradient checkpointing: what a token takes with it, and what a pass takes besides its
# tokens, on a GPU above all the unpacking of 4-bit weights and the launching of kernels (docs/performance.md).
CHECKPOINTED_TOKEN = {"cpu": 1.75, "cuda": 1.33}
OVERHEAD = {"cpu": MICRO_BATCH_OVERHEAD, "cuda": 512}


@dataclass(frozen=True)
class Part:
    """One line of the estimate."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Estimate:
    """Parts that add up to the peak, and the settings they hold for."""

    parts: list[Part]
    config: RunConfig
    device: str
    reasons: list[str]  # what was chosen, and why

    @property
    def total(self) -> int:
        return sum(part.bytes for part in self.parts)


@dataclass(frozen=True)
class _Shape:
    """What the sums need to know of a truncated model."""

    layers: int
    hidden_size: int
    linears: list[tuple[int, int]]  # (in_features, out_features) of one decoder layer
    other_weights: int  # of all layers: norms and biases
    embedding: int  # weights
    attention_width: int  # heads x head size
    key_width: int  # key heads x head size
    intermediate_size: int
    norms: int  # norms of one layer that work on the hidden state
    heads: int


def _shape(truncated: TruncatedModel) -> _Shape:
    model, layers = truncated.model, truncated.model.layers
    config, first = model.config, layers[0]
    heads = config.num_attention_heads
    linears = [(m.in_features, m.out_features) for m in first.modules() if isinstance(m, torch.nn.Linear)]
    in_linears = sum(i * o for i, o in linears) * len(layers)
    hidden = config.hidden_size
    attention_width = max((i for name, m in first.named_modules() if "attn" in name or "attention" in name
                     for i in [getattr(m, "in_features", 0)]), default=hidden)  # fmt: skip
    norms = sum("norm" in name and "." not in name for name, _ in first.named_modules())
    return _Shape(
        layers=len(layers),
        hidden_size=hidden,
        linears=linears,
        other_weights=sum(p.numel() for p in layers.parameters()) - in_linears,
        embedding=model.get_input_embeddings().weight.numel(),
        attention_width=attention_width,
        key_width=attention_width * (getattr(config, "num_key_value_heads", None) or heads) // heads,
        intermediate_size=getattr(config, "intermediate_size", None) or 4 * hidden,
        norms=norms or 2,
        heads=heads,
    )


def _activation_bytes(shape: _Shape, width: int, length: int, r: int, attention_form: str) -> float:
    """Bytes that autograd keeps of one token in one layer; `width` is the bytes of a number, `length` the row's.

    Inputs of the linear layers (q, k and v share theirs, gate and up too), the float32 copies that norms work on,
    attention's own, three intermediate products of the MLP, and LoRA's inner products. Within 3% of what
    torch.autograd.graph.saved_tensors_hooks sees of Llama, Qwen2 and Gemma 2 in bfloat16.
    """
    h, q, i = shape.hidden_size, shape.attention_width, shape.intermediate_size
    kept = width * (2 * h + q + i) + 4 * h * shape.norms + width * 3 * i + width * r * len(shape.linears)
    if attention_form == "eager":  # rotated q, repeated k and v; scores after the cap, softmax in float32 and rounded
        return kept + width * 3 * q + (2 * width + 4) * shape.heads * length
    kept += width * (2 * q + 2 * shape.key_width)  # rotated q and k, v, the output
    if attention_form == "blocks":  # attention weights, of the keys up to the end of each query's block
        kept += width * shape.heads * min(length, (length + query_blocks.BLOCK) / 2)
    return kept


def _micro_batches(
    truncated: TruncatedModel, config: RunConfig, device: str, steps: Steps, shared: int
) -> list[list[int]]:
    """Of each step the tokens of its passes."""
    training = config.training
    packed = truncated.model.config._attn_implementation == "sdpa"
    how, limit = {"packed": packed, "shared": shared}, longest_micro_batch(device)
    return [
        [
            micro_batch_tokens([lengths[place] for place in part], **how)
            for part in plan_micro_batches(lengths, training.micro_batch_size, max_tokens=limit, **how)
        ]
        for lengths in steps
    ]


def _cost(micro_batches_of_steps: list[list[int]], config: RunConfig, device: str) -> float:
    """Time of all steps, in that of a token without gradient checkpointing."""
    token = CHECKPOINTED_TOKEN[device] if config.training.gradient_checkpointing else 1
    return sum(token * tokens + OVERHEAD[device] for step in micro_batches_of_steps for tokens in step)


def parts_of(
    truncated: TruncatedModel,
    config: RunConfig,
    device: str,
    steps: Steps,
    micro_batches_of_steps: list[list[int]],
    with_data: bool,
) -> list[Part]:
    """The parts for concrete settings; `steps` and `with_data` as for `estimate`, `micro_batches_of_steps` of `_passes`."""
    training, shape = config.training, _shape(truncated)
    width = torch.finfo(compute_dtype(config.model)).bits // 8
    length = padded(max(max(lengths) for lengths in steps))
    tokens = max(max(step) for step in micro_batches_of_steps)
    in_linears = shape.layers * sum(i * o for i, o in shape.linears)
    linear_bytes = in_linears * (NF4_BYTES if config.model.quantization == "nf4" else width)
    adapter = 4 * config.lora.r * shape.layers * sum(i + o for i, o in shape.linears)
    form = truncated.model.config._attn_implementation
    if form == "sdpa" and device == "cpu" and length <= query_blocks.LONGEST:
        form = "blocks"
    layer = _activation_bytes(shape, width, length, config.lora.r, form)
    hidden_layers = len({*truncated.target_layers, *truncated.retain_layers})
    losses = tokens * hidden_layers * LOSS_COPIES[device] * 4 * shape.hidden_size
    products = tokens * 3 * width * shape.intermediate_size  # the widest products of a layer in flight
    if training.gradient_checkpointing:  # a layer is computed again when the losses have gone
        activations = tokens * shape.layers * shape.hidden_size * width + max(tokens * layer, losses)
        workspace = products
        # Scores, softmax and its gradient of one block in flight; without checkpointing the losses outweigh them.
        if form == "blocks":
            workspace += 3 * width * tokens * shape.heads * min(length, query_blocks.BLOCK)
    else:
        activations = tokens * shape.layers * layer
        workspace = max(losses, products) + adapter // 2  # LoRA's weights as the passes have them
    if config.model.quantization == "nf4":  # one layer's widest weight, unpacked
        workspace += width * max(i * o for i, o in shape.linears)
    if device == "cuda":
        slack = CUDA_SLACK[training.gradient_checkpointing]
        workspace += CUBLAS
    elif training.gradient_checkpointing:
        slack = RETURNED_SLACK
    else:
        slack = KEPT_SLACK[width, max(len(step) for step in micro_batches_of_steps) > 1]
    context = CONTEXT[device]
    if device == "cpu":
        context += ONEDNN[width] if onednn.uses_onednn(compute_dtype(config.model)) else 0
        context += CUDA_BUILD if torch.version.cuda else 0
    return [
        Part("context", context),
        Part("data", DATA if with_data and device == "cpu" else 0),
        Part("truncated model", int(linear_bytes + shape.other_weights * width)),
        Part("embedding", 0 if config.model.embedding_on_cpu and device != "cpu" else shape.embedding * width),
        Part("adapter", adapter),
        Part("gradients", adapter),
        Part("optimizer", int(2 * adapter * ADAM_8BIT) if training.optim == "adamw_8bit" else 2 * adapter),
        Part("activations", int(slack * activations)),
        Part("workspace", int(slack * workspace)),
    ]


def estimate_memory(
    model_config: PretrainedConfig,
    config: RunConfig,
    memory: int,
    device: str,
    *,
    steps: Steps = None,
    shared: int = 0,
    with_data: bool = True,
) -> Estimate:
    """Choose what is left open (`auto`) so that the peak stays within `memory` bytes on `device` ("cpu" or "cuda").

    `steps` are the tokens of each step's examples; by default one step, of examples of `data.max_tokens`.
    All of them begin with the same `shared` tokens.

    Raises InputError when nothing fits, naming the nearest settings that would.
    """
    targets = target_layers(config.objective, model_config.num_hidden_layers)
    if device == "cuda" and hardware.kind() == "cpu" and config.model.dtype == "auto":  # a card that is not here
        config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    truncated = empty_truncated_model(model_config, config, targets)
    steps = steps or [[config.data.max_tokens] * config.training.batch_size]
    cut = functools.cache(lambda size: _micro_batches(truncated, _with_size(config, size), device, steps, shared))
    nearest: Estimate | None = None
    for candidates in _candidates(config, device):
        fitting = []
        for candidate in candidates:
            micro_batches_of_steps = cut(candidate.training.micro_batch_size)
            parts = parts_of(truncated, candidate, device, steps, micro_batches_of_steps, with_data)
            result = Estimate(parts, candidate, device, _reasons(config, candidate))
            if result.total <= memory:
                fitting.append((_cost(micro_batches_of_steps, candidate, device), result))
            if nearest is None or result.total < nearest.total:
                nearest = result
        if fitting:
            return min(fitting, key=lambda pair: pair[0])[1]
    remedies = ["a smaller model"]
    if (layer := _highest_target(model_config, nearest, memory)) is not None:
        remedies.append(f"objective.target_layers up to {layer} (now {targets[-1]})")
    if (length := _longest_that_fits(truncated, nearest, memory)) is not None:
        remedies.append(f"data.max_tokens {length} (now {config.data.max_tokens})")
    raise InputError(
        f"memory {memory / GIB:.1f} GiB: training needs {nearest.total / GIB:.1f} GiB even with "
        f"{_words(nearest.config)}; the nearest that fits is {' or '.join(remedies)}."
    )


def _with_size(config: RunConfig, size: int) -> RunConfig:
    training = config.training.model_copy(update={"micro_batch_size": size})
    return config.model_copy(update={"training": training})


def _candidates(config: RunConfig, device: str) -> Iterator[list[RunConfig]]:
    """Concrete settings, in groups: those with the most precise weights and optimizer first, of which any that fits is
    preferred to all later ones."""
    model, training = config.model, config.training
    optimizers = ["adamw_torch", "adamw_8bit"] if training.optim == "auto" else [training.optim]
    quantizations = ["none", "nf4"] if model.quantization == "auto" else [model.quantization]
    checkpointings = [False, True] if training.gradient_checkpointing == "auto" else [training.gradient_checkpointing]
    if training.micro_batch_size == "auto":
        sizes = sorted({min(size, training.batch_size) for size in MICRO_BATCHES}, reverse=True)
    else:
        sizes = [training.micro_batch_size]
    offloads = [model.embedding_on_cpu] if model.embedding_on_cpu != "auto" else [False, True][: 1 + (device != "cpu")]
    for optim, quantization in itertools.product(optimizers, quantizations):
        group = []
        for checkpointing, size, offload in itertools.product(checkpointings, sizes, offloads):
            chosen = {
                "model": {"quantization": quantization, "embedding_on_cpu": offload},
                "training": {"optim": optim, "micro_batch_size": size, "gradient_checkpointing": checkpointing},
            }
            parts = {part: getattr(config, part).model_copy(update=settings) for part, settings in chosen.items()}
            group.append(config.model_copy(update=parts))
        yield group


def _reasons(asked: RunConfig, chosen: RunConfig) -> list[str]:
    reasons = []
    if asked.model.quantization == "auto":
        why = {"none": "the weights fit in full precision", "nf4": "the weights do not fit in full precision"}
        reasons.append(f"model.quantization {chosen.model.quantization}: {why[chosen.model.quantization]}")
    if asked.training.micro_batch_size == "auto":
        whole = chosen.training.micro_batch_size >= asked.training.batch_size
        why = "a whole step fits" if whole else "more examples in a pass would not fit"
        reasons.append(f"training.micro_batch_size {chosen.training.micro_batch_size}: {why}")
    if asked.training.gradient_checkpointing == "auto":
        on = chosen.training.gradient_checkpointing
        why = "activations are computed twice to save memory" if on else "activations fit, so nothing is computed twice"
        reasons.append(f"training.gradient_checkpointing {str(on).lower()}: {why}")
    if asked.training.optim == "auto" and chosen.training.optim == "adamw_8bit":
        reasons.append("training.optim adamw_8bit: the optimizer's moments do not fit in full precision")
    if asked.model.embedding_on_cpu == "auto" and chosen.model.embedding_on_cpu:
        reasons.append("model.embedding_on_cpu true: a look-up does not need the GPU, its memory does")
    return reasons


def _words(config: RunConfig) -> str:
    checkpointing = "with" if config.training.gradient_checkpointing else "without"
    return (
        f"quantization {config.model.quantization}, micro_batch_size {config.training.micro_batch_size}, "
        f"{checkpointing} gradient checkpointing" + (", optim adamw_8bit" * (config.training.optim == "adamw_8bit"))
    )


def _smallest(truncated: TruncatedModel, config: RunConfig, device: str) -> int:
    """Bytes for one step of examples of `data.max_tokens`."""
    steps = [[config.data.max_tokens] * config.training.batch_size]
    return sum(
        p.bytes
        for p in parts_of(truncated, config, device, steps, _micro_batches(truncated, config, device, steps, 0), True)
    )


def _longest_that_fits(truncated: TruncatedModel, nearest: Estimate, memory: int) -> int | None:
    """The most tokens an example may have; None when the weights alone are too many."""
    length = nearest.config.data.max_tokens // 2
    while length >= 16:
        data = nearest.config.data.model_copy(update={"max_tokens": length})
        if _smallest(truncated, nearest.config.model_copy(update={"data": data}), nearest.device) <= memory:
            return length
        length //= 2
    return None


def _highest_target(model_config: PretrainedConfig, nearest: Estimate, memory: int) -> int | None:
    """The highest target layer, not below a third of the depth, with which the smallest settings fit."""
    depth = model_config.num_hidden_layers
    for layer in range(max(target_layers(nearest.config.objective, depth)) - 1, depth // 3, -1):
        if (
            _smallest(empty_truncated_model(model_config, nearest.config, [layer]), nearest.config, nearest.device)
            <= memory
        ):
            return layer
    return None
