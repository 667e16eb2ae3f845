"""Time and memory of training steps on this machine.

A model folder or hub id is loaded as training loads it; a named architecture gets random weights. The examples are
random tokens.
"""

from __future__ import annotations

import math
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import set_seed

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT, GIB
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.batch import Encoded
from cbgui.modeling.cpu import allocator
from cbgui.modeling.cpu.onednn import product
from cbgui.modeling.decoder import attention_heads, text_config
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.linear import LINEAR, sizes
from cbgui.modeling.loading import compute_dtype
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import TruncatedModel, load_truncated_model
from cbgui.runs.run import Run
from cbgui.training.memory import estimate_memory
from cbgui.training.named_architectures import ARCHITECTURES, architecture, random_truncated_model
from cbgui.training.trainer import make_trainer


@torch.no_grad()
def matmul_rate(dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    """FLOP/s of the fastest of several products of the given shape, by PyTorch and by training's own product."""
    device = hardware.device()
    a, b = (torch.randn(shape, dtype=dtype, device=device) for shape in ((rows, inner), (columns, inner)))
    best = 0.0
    for attempt in range(24):
        multiply = (torch.nn.functional.linear, product)[attempt % 2]
        started = time.perf_counter()
        for _ in range(4):
            multiply(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 4 * 2 * rows * inner * columns / (time.perf_counter() - started))
    return best


def step_flops(truncated: TruncatedModel, lengths: list[int], reference_pass: bool) -> float:
    """FLOP of one step on examples of these lengths: the pass with the adapter, the gradients of its inputs, and the
    reference pass where it is not cached. Frozen weights have no gradients.

    Each weight costs two FLOP for each token. Attention adds its two products over the causal half.
    """
    model = truncated.model.get_base_model()
    layers, (heads, _, size) = truncated.layers, attention_heads(model.config)
    weights = sum(
        math.prod(sizes(module))
        for name, module in layers.named_modules()
        if isinstance(module, LINEAR) and "lora_" not in name
    )
    attention = sum(2 * length * length * heads * size * len(layers) for length in lengths)
    forward = 2 * weights * sum(lengths) + attention
    # Backward: linear layers need the gradients of their inputs only, attention's products those of both operands.
    return forward * (2 if reference_pass else 1) + 2 * weights * sum(lengths) + 2 * attention


def _random_steps(config: RunConfig, lengths: list[int], vocabulary: int) -> list[list[Encoded]]:
    """Steps of new examples, so that no reference states are read from the cache."""
    steps = []
    for _ in range(config.training.steps):
        step = []
        for row, length in enumerate(lengths):
            ids = tuple(torch.randint(1, vocabulary, (length,)).tolist())
            is_break = row < config.training.break_batch_size
            step.append(Encoded(ids, len(ids) // 4 if is_break else 0, is_break))
        steps.append(step)
    return steps


def bench(
    model: str,
    config: RunConfig,
    *,
    layers: int | None = None,
    memory: int | None = None,
    steps: int = 4,
    lengths: list[int] | None = None,
) -> dict[str, Any]:
    """Train `steps` steps on random tokens and measure them.

    `memory` limits what this process may take from now on, in bytes; `lengths` are the tokens of a step's examples.
    Raises InputError.
    """
    named = model in ARCHITECTURES
    source = None if named else resolve_model(model)
    model_config = architecture(model, layers) if named else read_model_config(source)
    room = memory or hardware.memory_for_training()
    choice = estimate_memory(model_config, config, room, hardware.memory_kind(), with_data=False)
    if choice.config.training.gradient_checkpointing:
        allocator.return_freed_memory()
    else:
        allocator.keep_freed_memory()
    limit_memory(memory)
    config = choice.config.model_copy(deep=True)
    config.training.steps = steps
    set_seed(config.training.seed)
    truncated = random_truncated_model(model_config, config) if named else load_truncated_model(source, config)
    add_lora(truncated, config.lora, config.training.seed)
    loaded = hardware.step_memory()
    lengths = lengths or [config.data.max_tokens] * config.training.batch_size
    plan = _random_steps(config, lengths, truncated.model.get_base_model().config.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        make_trainer(run, config, truncated, plan, [], 0).train()
        events = [event for event in run.events()[0] if event["kind"] == "step"]
    seconds = statistics.median(event["seconds"] for event in events[1:] or events)
    dtype = compute_dtype(config.model)
    text = text_config(model_config)
    inner = getattr(text, "intermediate_size", None)
    rate = matmul_rate(dtype, sum(lengths), text.hidden_size, inner if isinstance(inner, int) else 4 * text.hidden_size)
    return {
        "model": model,
        "layers_run": len(truncated.layers),
        "machine": machine(),
        "quantization": config.model.quantization,
        "dtype": str(dtype).removeprefix("torch."),
        "micro_batch_size": config.training.micro_batch_size,
        "gradient_checkpointing": config.training.gradient_checkpointing,
        "tokens_per_step": sum(lengths),
        "seconds_per_step": round(seconds, 3),
        "tokens_per_second": round(sum(lengths) / seconds, 1),
        "peak_mib": round(hardware.peak_memory() / 2**20),
        "loaded_mib": round(loaded / 2**20),
        "estimate_mib": round(choice.total / 2**20),
        "matmul_gflops": round(rate / 1e9, 1),
        "share_of_matmul_rate": round(step_flops(truncated, lengths, True) / seconds / rate, 3),
    }


def limit_memory(memory: int | None) -> None:
    """Make PyTorch run out of memory where a device of `memory` bytes would. Raises InputError where that cannot be."""
    if memory is None:
        return
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        if memory > total:
            raise InputError(f"--memory {memory / GIB:.1f} GiB: the GPU has {total / GIB:.1f} GiB; give less.")
        # The limit applies to PyTorch's own blocks, not to CUDA's context.
        torch.cuda.set_per_process_memory_fraction((memory - CONTEXT["cuda"]) / total)
        return
    try:
        import resource
    except ImportError:
        raise InputError("without a GPU, --memory works only on Linux and macOS; leave it out.") from None
    resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))


def machine() -> str:
    """The machine that a figure was measured on."""
    if torch.cuda.is_available():
        return hardware.describe()
    return f"{platform.machine()} {hardware.describe()}, {psutil.cpu_count(logical=False)} physical cores"
