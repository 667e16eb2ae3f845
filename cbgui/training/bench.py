"""How fast and how large training is here: seconds a step, tokens a second, peak memory, share of the matmul rate.

A model folder or hub id is loaded as training loads it; a named architecture gets random weights, made (and quantized)
one layer at a time, so that the full-precision model never exists. The examples are random tokens.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import psutil
import torch
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, set_seed

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.hardware import CONTEXT, GIB
from cbgui.modeling.architecture import read_model_config, target_layers
from cbgui.modeling.batch import Encoded
from cbgui.modeling.cpu import allocator
from cbgui.modeling.cpu.onednn import product
from cbgui.modeling.hub import resolve_model
from cbgui.modeling.loading import compute_dtype
from cbgui.modeling.lora import add_lora
from cbgui.modeling.truncated import TruncatedModel, empty_truncated_model, load_truncated_model
from cbgui.runs.run import Run
from cbgui.training.memory import estimate_memory
from cbgui.training.trainer import make_trainer


def _architecture(
    model_type: str, hidden: int, intermediate: int, layers: int, heads: int, kv: int, vocab: int, **more
):
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        **more,
    }


# Sizes as published in the models' config.json.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "smollm2-135m": _architecture("llama", 576, 1536, 30, 9, 3, 49152),
    "llama-3.2-1b": _architecture("llama", 2048, 8192, 16, 32, 8, 128256, head_dim=64),
    "llama-3.2-3b": _architecture("llama", 3072, 8192, 28, 24, 8, 128256, head_dim=128),
    "llama-3-8b": _architecture("llama", 4096, 14336, 32, 32, 8, 128256),
    "llama-3-70b": _architecture("llama", 8192, 28672, 80, 64, 8, 128256),
    "mistral-7b": _architecture("mistral", 4096, 14336, 32, 32, 8, 32768, sliding_window=None),
    "qwen2.5-7b": _architecture("qwen2", 3584, 18944, 28, 28, 4, 152064),
    "gemma-2-9b": _architecture("gemma2", 3584, 14336, 42, 16, 8, 256000, head_dim=256),
}


def architecture(name: str, layers: int | None = None) -> PretrainedConfig:
    """The config of a named architecture, cut to `layers` layers where given."""
    settings = dict(ARCHITECTURES[name])
    config = AutoConfig.for_model(settings.pop("model_type"), pad_token_id=0, **settings)
    return config if layers is None else AutoConfig.for_model(
        config.model_type, pad_token_id=0, **{**ARCHITECTURES[name], "num_hidden_layers": layers}
    )  # fmt: skip


@torch.no_grad()
def _fill(module: torch.nn.Module, config: RunConfig, device: torch.device) -> None:
    """Random weights for one module's own parameters and those below it, quantized as `config` says, on `device`."""
    dtype = compute_dtype(config.model)
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and config.model.quantization == "nf4":
            packed = bnb.nn.Linear4bit(
                child.in_features,
                child.out_features,
                bias=child.bias is not None,
                compute_dtype=dtype,
                quant_type="nf4",
                device="meta",
            )
            values = torch.randn(child.out_features, child.in_features, dtype=dtype, device=device)
            values *= child.in_features**-0.5
            packed.weight = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4").to(device)
            if child.bias is not None:
                packed.bias = torch.nn.Parameter(torch.zeros(child.out_features, dtype=dtype, device=device))
            setattr(module, name, packed)
        else:
            _fill(child, config, device)
    for name, parameter in list(module.named_parameters(recurse=False)):
        if parameter.is_meta:
            scale = parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.0
            values = torch.empty(parameter.shape, dtype=dtype, device=device).normal_(1.0 - (scale > 0), scale)
            setattr(module, name, torch.nn.Parameter(values, requires_grad=False))


@torch.no_grad()
def _compute_buffers(model: PreTrainedModel, device: torch.device) -> None:
    """Rotary frequencies, embedding scales and the like are not random: as transformers initializes them."""
    for module in model.modules():
        missing = [name for name, buffer in module.named_buffers(recurse=False) if buffer.is_meta]
        for name in missing:
            setattr(module, name, torch.empty_like(getattr(module, name), device=device))
        if missing:
            for parameter in module.parameters():
                parameter._is_hf_initialized = True  # keeps what `_fill` gave it (transformers.initialization)
            model._init_weights(module)


def random_truncated_model(model_config: PretrainedConfig, config: RunConfig) -> TruncatedModel:
    """A truncated model with random weights, one layer after the other."""
    truncated = empty_truncated_model(
        model_config, config, target_layers(config.objective, model_config.num_hidden_layers)
    )
    device, model = hardware.device(), truncated.model
    for layer in model.layers:
        _fill(layer, config, device)
    on_cpu = config.model.embedding_on_cpu is True
    _fill(model.get_input_embeddings(), config, torch.device("cpu") if on_cpu else device)
    _fill(model, config, device)
    model.is_loaded_in_4bit = config.model.quantization == "nf4"
    for norm in truncated.norms.values():
        _fill(norm, config, device)
    _compute_buffers(model, device)
    if on_cpu and device.type != "cpu":
        truncated.keep_embedding_on_cpu()
    return truncated


@torch.no_grad()
def matmul_rate(dtype: torch.dtype, rows: int, inner: int, columns: int) -> float:
    """FLOP/s of the best of several products of the shapes that training uses, PyTorch's and training's own."""
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


def step_flops(truncated: TruncatedModel, lengths: list[int], frozen_pass: bool) -> float:
    """FLOP of a step on real tokens: frozen pass, adapted pass, gradients of its inputs (frozen weights have none).

    Two a weight and token and pass; attention's two products of queries with keys and values, over the causal half.
    """
    model = truncated.model.get_base_model()
    layers = model.layers
    weights = sum(
        m.in_features * m.out_features
        for name, m in layers.named_modules()
        if isinstance(m, torch.nn.Linear) and "lora_" not in name
    )
    width = model.config.num_attention_heads * getattr(
        model.config, "head_dim", model.config.hidden_size // model.config.num_attention_heads
    )
    attention = sum(2 * length * length * width * len(layers) for length in lengths)
    forward = 2 * weights * sum(lengths) + attention
    # Backward: gradients of the inputs only for linear layers; both operands' for attention's products.
    return forward * (2 if frozen_pass else 1) + 2 * weights * sum(lengths) + 2 * attention


def bench(
    model: str,
    config: RunConfig,
    *,
    layers: int | None = None,
    memory: int | None = None,
    steps: int = 4,
    lengths: list[int] | None = None,
) -> dict[str, Any]:
    """Train `steps` steps on random tokens; every example is new, so nothing frozen is found again.

    `memory` caps what PyTorch may take, in bytes. Raises InputError.
    """
    named = model in ARCHITECTURES
    source = None if named else resolve_model(model)
    model_config = architecture(model, layers) if named else read_model_config(source)
    device = hardware.kind()
    room = memory or hardware.memory_for_training()
    choice = estimate_memory(model_config, config, room, device, with_data=False)
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
    loaded = hardware.memory_in_use()
    lengths = lengths or [config.data.max_tokens] * config.training.batch_size
    vocabulary = truncated.model.get_base_model().config.vocab_size
    plan = []
    for _ in range(steps):
        rows = [tuple(torch.randint(1, vocabulary, (length,)).tolist()) for length in lengths]
        plan.append(
            [
                Encoded(ids, len(ids) // 4 if row < config.training.break_batch_size else 0,
                        row < config.training.break_batch_size)
                for row, ids in enumerate(rows)
            ]
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        run = Run(Path(scratch))
        make_trainer(run, config, truncated, plan, [], 0).train()
        events = [event for event in run.events()[0] if event["kind"] == "step"]
    seconds = statistics.median(event["seconds"] for event in events[1:] or events)
    dtype = compute_dtype(config.model)
    rate = matmul_rate(dtype, sum(lengths), model_config.hidden_size, model_config.intermediate_size)
    return {
        "model": model,
        "layers_run": len(truncated.model.get_base_model().layers),
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
    """Make PyTorch fail where a device of `memory` bytes would."""
    if memory is None:
        return
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        if memory > total:
            raise InputError(f"--memory {memory / GIB:.1f} GiB: the GPU has {total / GIB:.1f} GiB; give less.")
        torch.cuda.set_per_process_memory_fraction((memory - CONTEXT["cuda"]) / total)  # the cap is on its own blocks
        return
    try:
        import resource
    except ImportError:
        raise InputError("--memory needs Linux or macOS without a GPU; leave it out.") from None
    resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))


def machine() -> str:
    if torch.cuda.is_available():
        return hardware.describe()
    return f"{platform.machine()} {hardware.describe()}, {psutil.cpu_count(logical=False)} physical cores"
