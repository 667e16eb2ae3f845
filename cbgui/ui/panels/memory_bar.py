"""The memory estimate: a stacked bar against this machine's memory, and what was chosen so that training fits."""

from __future__ import annotations

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.full import full_model_in_words
from cbgui.modeling.hub import resolve_model
from cbgui.training.memory import Estimate, estimate_memory
from cbgui.ui.fragments import render
from cbgui.ui.words import say

COLOURS = ["#94a3b8", "#64748b", "#0d9488", "#2dd4bf", "#f59e0b", "#f97316", "#eab308", "#3b82f6", "#8b5cf6", "#a78bfa"]


def estimate_for(config: RunConfig) -> tuple[Estimate, int, str]:
    """The estimate, this machine's memory in bytes, and whether the full model fits after training, in words.

    Raises InputError when training does not fit or the model is unknown.
    """
    memory, device = hardware.memory_for_training(), hardware.memory_kind()
    model_config = read_model_config(resolve_model(config.model.name, weights=False))
    estimate = estimate_memory(model_config, config, memory, device)
    return estimate, memory, full_model_in_words(model_config, estimate.config.model, memory, device)


def bar(config: RunConfig) -> str:
    """HTML: the bar, or a sentence when training does not fit."""
    try:
        estimate, memory, afterwards = estimate_for(config)
    except InputError as error:
        return render("problem", text=str(error))
    parts = [part for part in estimate.parts if part.bytes]
    return render(
        "memory",
        parts=[(part, COLOURS[number % len(COLOURS)]) for number, part in enumerate(parts)],
        total=estimate.total,
        memory=memory,
        where=say("memory.gpu") if hardware.memory_kind() == "cuda" else say("memory.memory"),
        reasons=estimate.reasons,
        afterwards=afterwards,
    )
