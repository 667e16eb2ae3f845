"""Will it fit: the estimate as a stacked bar against this machine's memory, and what was chosen."""

from __future__ import annotations

import html

from cbgui import hardware
from cbgui.config import InputError, RunConfig
from cbgui.estimate import GIB, Estimate, estimate
from cbgui.models import read_model_config, resolve_model

COLOURS = ["#94a3b8", "#64748b", "#0d9488", "#2dd4bf", "#f59e0b", "#f97316", "#eab308", "#3b82f6", "#8b5cf6", "#a78bfa"]


def estimate_for(config: RunConfig) -> tuple[Estimate, int]:
    """The estimate and this machine's bytes. Raises InputError when it cannot fit or the model is unknown."""
    memory = hardware.memory_for_training()
    return estimate(
        read_model_config(resolve_model(config.model.name, weights=False)), config, memory, hardware.kind()
    ), memory


def bar(config: RunConfig) -> str:
    """HTML; a sentence where nothing fits."""
    try:
        result, memory = estimate_for(config)
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
    reasons = html.escape("; ".join(result.reasons))
    return (
        f'<div class="fit">{words}<div class="bar" role="img" aria-label="{label}">{cells}</div>'
        f'<div class="legend">{legend}</div><small>{reasons}</small></div>'
    )
