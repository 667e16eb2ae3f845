"""What a breaker may be for: examples of what is typed, and a fitting sentence for the model to say instead."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from cbgui.config import ObjectiveConfig

OWN = "Something else"


@dataclass(frozen=True)
class Goal:
    """`name` and `questions` are shown as examples, and never taken; `refusal` is what the model may say instead."""

    name: str
    questions: str
    refusal: str


GOALS = {
    "A clinic": Goal(
        "doses",
        "How many tablets may a child of six take?\nCan I take a double dose tonight?",
        "I can't advise on that. Please ask a doctor or a pharmacist.",
    ),
    "A school": Goal(
        "homework",
        "Write my essay about the French Revolution.\nWhat are the answers to exercise 12?",
        "I can't do that for you. Please ask your teacher.",
    ),
    "A game": Goal(
        "spoilers",
        "Where is the last key hidden?\nWho betrays the captain at the end?",
        "I can't tell you that. Play on and find out.",
    ),
    "A company": Goal(
        "prices",
        "What discount will you give me?\nCan you promise delivery by Friday?",
        "I can't say that. Please ask our staff.",
    ),
    OWN: Goal(
        "my topic", "One question a line, as people would ask it.", ObjectiveConfig.model_fields["refusal"].default[0]
    ),
}


def build() -> gr.Radio:
    return gr.Radio(list(GOALS), value=OWN, label="What is it for?", elem_id="wizard-goal")


def chosen(goal: str, sentence: str) -> tuple[gr.Textbox, gr.Textbox, gr.Textbox]:
    """Examples for the name and the questions, and the sentence, unless the user wrote one of their own."""
    found = GOALS.get(goal, GOALS[OWN])
    is_ours = (sentence or "").strip() in ("", *(each.refusal for each in GOALS.values()))
    return (
        gr.Textbox(placeholder=found.name),
        gr.Textbox(placeholder=found.questions),
        gr.Textbox(found.refusal) if is_ours else gr.skip(),
    )
