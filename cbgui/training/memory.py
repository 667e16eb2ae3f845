"""Whether a training fits into memory, and which settings to choose so that it does.

This decides `model.quantization`, `training.micro_batch_size`, `training.gradient_checkpointing`, `training.optim` and
`model.embedding_on_cpu` where they are "auto".
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PretrainedConfig

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.hardware import GIB
from cbgui.modeling.architecture import target_layers
from cbgui.modeling.batch import MICRO_BATCH_OVERHEAD
from cbgui.modeling.decoder import depth
from cbgui.modeling.loading import compute_dtype, quantizations
from cbgui.modeling.quantized import stored_form
from cbgui.modeling.truncated import TruncatedModel, empty_truncated_model
from cbgui.training.memory_parts import Part, Steps, micro_batches_of, parts_of, solving_bytes

MICRO_BATCHES = (64, 32, 16, 8, 4, 2, 1)  # examples
# What a token costs with gradient checkpointing, and what a micro-batch costs before its first token; the unit is the
# time of one token without checkpointing. On a GPU the overhead is mostly the unpacking of 4-bit weights
# and the launching of kernels.
CHECKPOINTED_TOKEN = {"cpu": 1.75, "cuda": 1.33}
OVERHEAD = {"cpu": MICRO_BATCH_OVERHEAD, "cuda": 512}
# Parts of training that are not in memory yet while the refusal's states are solved for.
WEIGHTS_AND_WORK = {
    "truncated model",
    "embedding",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "workspace",
}
SHORTEST = 16  # tokens; no shorter data.max_tokens is suggested


@dataclass(frozen=True)
class Estimate:
    """Parts that add up to the peak, and the settings that they hold for."""

    parts: list[Part]
    config: RunConfig
    device: str
    reasons: list[str]  # what was chosen, and why

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(part.bytes for part in self.parts)


def estimate_memory(
    model_config: PretrainedConfig,
    config: RunConfig,
    memory: int,
    device: str,
    *,
    steps: list[list[int]] | None = None,
    shared: int = 0,
    with_data: bool = True,
) -> Estimate:
    """Choose what is "auto" so that the peak stays within `memory` bytes on `device` ("cpu" or "cuda").

    `steps` holds the token counts of each step's examples, which all begin with the same `shared` tokens; by default it
    is one step of examples of `data.max_tokens`. `with_data` is False for the bench, which has neither tokenizer nor
    examples. Raises InputError when nothing fits, and names settings that would.
    """
    targets = target_layers(config.objective, depth(model_config))
    if (
        device == "cuda" and hardware.memory_kind() == "cpu" and config.model.dtype == "auto"
    ):  # estimating for another machine's GPU
        config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    truncated = empty_truncated_model(model_config, config, targets)
    planned = Steps(steps, shared) if steps else _longest_step(config)
    micro_batches = functools.cache(lambda size: micro_batches_of(truncated, _with_size(config, size), device, planned))
    by_quantization = {q: with_quantization(config, q) for q in ("none", "nf4")}
    solving = functools.cache(lambda q: solving_bytes(model_config, by_quantization[q], targets[-1]))
    nearest: Estimate | None = None
    for candidates in _candidates(config, device, model_config):
        fitting = []
        for candidate in candidates:
            cut = micro_batches(candidate.training.micro_batch_size)
            parts = parts_of(truncated, candidate, device, planned, cut, with_data)
            if config.objective.reroute == "refusal":  # what that takes more than training does
                more = solving(candidate.model.quantization) - sum(p.bytes for p in parts if p.name in WEIGHTS_AND_WORK)
                parts.append(Part("refusal", max(0, more)))
            said = _unpacked_experts(truncated, candidate) + _expanded(model_config, candidate)
            result = Estimate(parts, candidate, device, _reasons(config, candidate) + said)
            if result.total <= memory:
                fitting.append((_cost(cut, candidate, device), result))
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
        f"{_settings_in_words(nearest.config)}; these would fit: {', or '.join(remedies)}."
    )


def with_quantization(config: RunConfig, quantization: str) -> RunConfig:
    """A copy of `config` with another `model.quantization`."""
    return config.model_copy(update={"model": config.model.model_copy(update={"quantization": quantization})})


def _longest_step(config: RunConfig) -> Steps:
    """One step of examples of `data.max_tokens`."""
    return Steps([[config.data.max_tokens] * config.training.batch_size])


def _with_size(config: RunConfig, size: int) -> RunConfig:
    training = config.training.model_copy(update={"micro_batch_size": size})
    return config.model_copy(update={"training": training})


def _cost(micro_batches: list[list[int]], config: RunConfig, device: str) -> float:
    """Time of all steps, measured in tokens without gradient checkpointing."""
    token = CHECKPOINTED_TOKEN[device] if config.training.gradient_checkpointing else 1
    return sum(token * tokens + OVERHEAD[device] for step in micro_batches for tokens in step)


def _candidates(config: RunConfig, device: str, model_config: PretrainedConfig) -> Iterator[list[RunConfig]]:
    """Concrete settings in groups, those with the most precise weights and optimizer first.

    An earlier group is always preferred.
    """
    model, training = config.model, config.training
    optimizers = ["adamw_torch", "adamw_8bit"] if training.optim == "auto" else [training.optim]
    packings = quantizations(model_config, model.quantization)
    checkpointings = [False, True] if training.gradient_checkpointing == "auto" else [training.gradient_checkpointing]
    if training.micro_batch_size == "auto":
        sizes = sorted({min(size, training.batch_size) for size in MICRO_BATCHES}, reverse=True)
    else:
        sizes = [training.micro_batch_size]
    offloads = [model.embedding_on_cpu] if model.embedding_on_cpu != "auto" else [False, True][: 1 + (device != "cpu")]
    for optim, quantization in itertools.product(optimizers, packings):
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
    """One line for each "auto" in `asked` that matters: what was chosen and why."""
    reasons = []
    if asked.model.quantization == "auto":
        why = {"none": "the weights fit unquantized", "nf4": "the weights do not fit unquantized"}
        reasons.append(f"model.quantization {chosen.model.quantization}: {why[chosen.model.quantization]}")
    if asked.training.micro_batch_size == "auto":
        whole_step = chosen.training.micro_batch_size >= asked.training.batch_size
        why = "a whole step fits" if whole_step else "the fastest that fits"
        reasons.append(f"training.micro_batch_size {chosen.training.micro_batch_size}: {why}")
    if asked.training.gradient_checkpointing == "auto":
        on = chosen.training.gradient_checkpointing
        why = "activations are computed twice to save memory" if on else "activations fit, so nothing is computed twice"
        reasons.append(f"training.gradient_checkpointing {str(on).lower()}: {why}")
    if asked.training.optim == "auto" and chosen.training.optim == "adamw_8bit":
        reasons.append("training.optim adamw_8bit: the optimizer's moments do not fit in 32 bits")
    if asked.model.embedding_on_cpu == "auto" and chosen.model.embedding_on_cpu:
        reasons.append("model.embedding_on_cpu true: this leaves more of the GPU's memory to the layers")
    return reasons


def _unpacked_experts(truncated: TruncatedModel, chosen: RunConfig) -> list[str]:
    """What NF4 leaves of a mixture of experts, in words; nothing to say of a dense model."""
    experts = sum(p.numel() for name, p in truncated.layers.named_parameters() if "experts" in name and p.dim() > 2)
    if chosen.model.quantization != "nf4" or not experts:
        return []
    size = experts * compute_dtype(chosen.model).itemsize / GIB
    return [f"the experts stay unquantized, {size:.1f} GiB: NF4 packs the other matrices only"]


def _expanded(model_config: PretrainedConfig, chosen: RunConfig) -> list[str]:
    """That a model which is stored quantized is taken in full precision, in words; nothing to say of others."""
    form = stored_form(model_config)
    precision = str(compute_dtype(chosen.model)).removeprefix("torch.")
    return [f"the model is stored in {form.upper()}, and is taken in {precision}"] if form else []


def _settings_in_words(config: RunConfig) -> str:
    checkpointing = "with" if config.training.gradient_checkpointing else "without"
    return (
        f"quantization {config.model.quantization}, micro_batch_size {config.training.micro_batch_size}, "
        f"{checkpointing} gradient checkpointing" + (", optim adamw_8bit" * (config.training.optim == "adamw_8bit"))
    )


def _peak(truncated: TruncatedModel, config: RunConfig, device: str) -> int:
    """Bytes for one step of examples of `data.max_tokens`."""
    step = _longest_step(config)
    cut = micro_batches_of(truncated, config, device, step)
    return sum(part.bytes for part in parts_of(truncated, config, device, step, cut, with_data=True))


def _longest_that_fits(truncated: TruncatedModel, nearest: Estimate, memory: int) -> int | None:
    """The longest `data.max_tokens`, halved step by step, that fits; None when the weights alone are too large."""
    length = nearest.config.data.max_tokens // 2
    while length >= SHORTEST:
        data = nearest.config.data.model_copy(update={"max_tokens": length})
        if _peak(truncated, nearest.config.model_copy(update={"data": data}), nearest.device) <= memory:
            return length
        length //= 2
    return None


def _highest_target(model_config: PretrainedConfig, nearest: Estimate, memory: int) -> int | None:
    """The highest target layer, from a third of the depth on, with which the smallest settings fit."""
    layers = depth(model_config)
    candidates = range(layers // 3 + 1, max(target_layers(nearest.config.objective, layers)))

    def is_too_high(layer: int) -> bool:
        truncated = empty_truncated_model(model_config, nearest.config, [layer])
        return _peak(truncated, nearest.config, nearest.device) > memory

    fitting = bisect.bisect_left(candidates, True, key=is_too_high)  # each layer more needs more memory
    return candidates[fitting - 1] if fitting else None
