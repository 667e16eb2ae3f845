"""Will it fit: the estimate as a stacked bar against this machine's memory, and what was chosen."""

from __future__ import annotations

import html

from cbgui import hardware
from cbgui.config import RunConfig
from cbgui.errors import InputError
from cbgui.hardware import GIB
from cbgui.modeling.architecture import read_model_config
from cbgui.modeling.full import fit_in_words
from cbgui.modeling.hub import resolve_model
from cbgui.training.memory import Estimate, estimate_memory

COLOURS = ["#94a3b8", "#64748b", "#0d9488", "#2dd4bf", "#f59e0b", "#f97316", "#eab308", "#3b82f6", "#8b5cf6", "#a78bfa"]


def estimate_for(config: RunConfig) -> tuple[Estimate, int, str]:
    """The estimate, this machine's bytes, and whether the whole model fits afterwards, in words.

    Raises InputError when training cannot fit or the model is unknown.
    """
    memory, device = hardware.memory_for_training(), hardware.kind()
    model_config = read_model_config(resolve_model(config.model.name, weights=False))
    result = estimate_memory(model_config, config, memory, device)
    return result, memory, fit_in_words(model_config, result.config.model, memory, device)


def bar(config: RunConfig) -> str:
    """HTML; a sentence where nothing fits."""
    try:
        result, memory, afterwards = estimate_for(config)
    except InputError as error:
        return f'<div class="fit"><span class="no">{html.escape(str(error))}</span></div>'
    where = "GPU memory" if hardware.kind() == "cuda" else "memory"
    whole = max(memory, result.total)
    parts = [part for part in result.parts if part.bytes]
    cells, legend = "", ""
    for number, part in enumerate(parts):
        colour, size = COLOURS[number % len(COLOURS)], f"{part.bytes / GIB:.2f} GiB"
        cells += f'<i style="width:{100 * part.bytes / whole:.2f}%;background:{colour}" title="{part.name} {size}"></i>'
        legend += f'<span><i style="background:{colour}"></i>{part.name} {size}</span>'
    words = f"<b>It fits.</b> About {result.total / GIB:.1f} GiB of {memory / GIB:.1f} GiB free {where}."
    label = f"Memory estimate: {result.total / GIB:.1f} of {memory / GIB:.1f} GiB"
    reasons = html.escape("; ".join(result.reasons) + f". {afterwards}")
    return (
        f'<div class="fit">{words}<div class="bar" role="img" aria-label="{label}">{cells}</div>'
        f'<div class="legend">{legend}</div><small>{reasons}</small></div>'
    )
