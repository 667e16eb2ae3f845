"""What a breaker may be for: examples of what is typed, and a fitting sentence for the model to say instead."""

from __future__ import annotations

import gradio as gr

from cbgui.config import ObjectiveConfig
from cbgui.ui.words import TEXTS, on_page, say

OWN = "own"
OTHERS = ("clinic", "school", "game", "company")  # each with a sentence of its own that the model may say
GOALS = (*OTHERS, OWN)
DEFAULT = ObjectiveConfig.model_fields["refusal"].default[0]


def build() -> gr.Radio:
    return gr.Radio(
        [(on_page(f"goal.{goal}"), goal) for goal in GOALS],
        value=OWN,
        label=on_page("goal.question"),
        elem_id="wizard-goal",
    )


def chosen(goal: str, sentence: str) -> tuple[gr.Textbox, gr.Textbox, gr.Textbox]:
    """Examples for the name and the questions, and the sentence, unless the user wrote one of their own."""
    goal = goal if goal in GOALS else OWN
    is_ours = (sentence or "").strip() in (
        "",
        DEFAULT,
        *(texts[_refusal(g)] for texts in TEXTS.values() for g in OTHERS),
    )
    return (
        gr.Textbox(placeholder=say(f"goal.{goal}_name")),
        gr.Textbox(placeholder=say(f"goal.{goal}_questions")),
        gr.Textbox(DEFAULT if goal == OWN else say(_refusal(goal))) if is_ours else gr.skip(),
    )


def _refusal(goal: str) -> str:
    return f"goal.{goal}_refusal"
