"""The two choices that need no knowledge of training: how long to train, and which side to favour."""

from __future__ import annotations

from typing import Any

import gradio as gr

from cbgui.config import RunConfig
from cbgui.ui.panels.settings import SHOWN
from cbgui.ui.words import on_page

STEPS, KEEP_WEIGHT = "training.steps", "objective.retain_coefficient"
NORMAL = "normal"
EFFORTS = {"quick": 0.5, NORMAL: 1.0, "thorough": 2.0}  # times the preset's steps
FAVOURS = 2  # places of the slider on each side; each doubles or halves the preset's weight of the keep loss
PLACES = SHOWN.index(STEPS), SHOWN.index(KEEP_WEIGHT)  # in the form


def build() -> tuple[gr.Radio, gr.Slider]:
    effort = build_effort("effort")
    favour = gr.Slider(
        -FAVOURS,
        FAVOURS,
        value=0,
        step=1,
        label=on_page("effort.favour"),
        info=on_page("effort.favour_info"),
        elem_id="favour",
        buttons=[],
    )
    return effort, favour


def build_effort(elem_id: str, *, info: bool = True) -> gr.Radio:
    return gr.Radio(
        [(on_page(f"effort.{name}"), name) for name in EFFORTS],
        value=NORMAL,
        label=on_page("effort.how_long"),
        info=on_page("effort.how_long_info") if info else None,
        elem_id=elem_id,
    )


def values(preset: RunConfig, effort: str, favour: float) -> list[Any]:
    """The form's values of STEPS and KEEP_WEIGHT."""
    steps = max(1, round(preset.training.steps * EFFORTS.get(effort, 1.0)))
    return [steps, preset.objective.retain_coefficient * 2.0 ** round(favour or 0)]
