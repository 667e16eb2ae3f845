"""Training as the worker runs it: with sample answers and trials of the full model on the way."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from peft.tuners.lora.layer import LoraLayer

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.data.examples import Example
from cbgui.evaluation.metrics import ModelPair
from cbgui.evaluation.trial import try_out
from cbgui.inference.general_keep import add_general_keep
from cbgui.inference.previews import MEMORY_FACTOR, preview
from cbgui.modeling.adapter_io import save_adapter
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.chat_format import load_tokenizer
from cbgui.modeling.full import full_model_bytes, load_with_adapter
from cbgui.modeling.hub import ModelSource
from cbgui.modeling.lora import ADAPTER, adapt_rows
from cbgui.modeling.truncated import TruncatedModel
from cbgui.runs.run import Run
from cbgui.training.session import Watch, run_training
from cbgui.training.trials import Next, Trial


def train_watched(run: Run) -> int:
    """Train `run` in this process; returns the exit code."""
    return run_training(run, Watch(add_general_keep, preview, try_strengths))


def try_strengths(
    truncated: TruncatedModel,
    source: ModelSource,
    config: RunConfig,
    examples: list[Example],
    next_strength: Next,
) -> dict[float, Trial] | None:
    """Trials by the strength that the adapter is multiplied by; None when the full model does not fit.

    Leaves PyTorch's random state as it was.
    """
    if MEMORY_FACTOR * full_model_bytes(read_model_config(source), config.model) > hardware.free_memory():
        return None
    with torch.random.fork_rng(), tempfile.TemporaryDirectory() as scratch:
        save_adapter(truncated, source, config.model.name, Path(scratch))
        model = load_with_adapter(source, config.model, Path(scratch))
        pair = ModelPair(model, load_tokenizer(source, config.model), adapt_rows(model))
        layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
        trained_for = [layer.scaling[ADAPTER] for layer in layers]
        trials: dict[float, Trial] = {}
        while (strength := next_strength(trials)) is not None:
            for layer, scaling in zip(layers, trained_for, strict=True):
                layer.scaling[ADAPTER] = strength * scaling
            trials[strength] = try_out(pair, examples, config.refusals)
    del model, pair, layers
    hardware.free_cached_memory()
    return trials
