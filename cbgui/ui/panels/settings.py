"""The form of a run's settings: which are shown, in which group, and the words of their choices.

Titles and descriptions come from cbgui.config. A new setting is a line in GROUPS, and in
CHOICES unless it is a number or text.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import yaml
from gradio.i18n import I18nData

from cbgui.config import RunConfig, parse_config
from cbgui.config import settings as all_settings
from cbgui.errors import InputError, brief
from cbgui.plain_yaml import load_yaml
from cbgui.ui.words import on_page, say

# What every user decides; the other groups stand behind an accordion.
ANSWER = ["objective.reroute", "objective.refusal"]
GROUPS = {
    "length": [
        "training.steps",
        "training.learning_rate",
        "training.warmup_steps",
        "training.lr_scheduler",
        "training.break_batch_size",
        "training.retain_batch_size",
        "data.max_tokens",
        "training.seed",
    ],
    "losses": [
        "objective.target_layers",
        "objective.retain",
        "objective.reroute_coefficient",
        "objective.retain_coefficient",
        "objective.schedule",
        "objective.adapt_retain",
        "objective.without_prompt",
    ],
    "precision": [
        "data.general_keep",
        "data.rephrased",
        "training.trials",
        "training.calibrate",
        "training.restart_if_stuck",
    ],
    "turn": ["model.thinking", "model.system_turn"],
    "lora": ["lora.r", "lora.lora_alpha", "lora.lora_dropout", "lora.init_std", "lora.first_layer"],
    "memory": [
        "model.quantization",
        "training.micro_batch_size",
        "training.gradient_checkpointing",
        "training.optim",
        "training.checkpoint_every",
        "training.sample_every",
    ],
}
AUTO = (on_page("settings.automatic"), "auto")
YES, NO = on_page("common.yes"), on_page("common.no")
YES_OR_NO = [(YES, True), (NO, False)]
# What the form says for each value. The names that the descriptions explain stay as they are.
CHOICES: dict[str, list[tuple[str | I18nData, Any]]] = {
    "training.lr_scheduler": [
        (on_page("settings.cosine"), "cosine"),
        (on_page("settings.constant"), "constant"),
        (on_page("settings.linear"), "linear"),
        (on_page("settings.warmup"), "constant_with_warmup"),
    ],
    "objective.reroute": [
        (on_page("settings.refuse"), "refusal"),
        (on_page("settings.fall_apart"), "spread"),
        (on_page("settings.fall_apart_published"), "cosine"),
    ],
    "objective.retain": [(name, name) for name in ("huber", "relative", "absolute")],
    "objective.schedule": [(name, name) for name in ("rise", "late", "linear", "full", "constant")],
    "objective.adapt_retain": YES_OR_NO,
    "training.trials": YES_OR_NO,
    "training.calibrate": YES_OR_NO,
    "training.restart_if_stuck": YES_OR_NO,
    "model.thinking": [(on_page("settings.at_once"), False), (YES, True)],
    "model.system_turn": [
        (on_page("settings.kept"), "keep"),
        (on_page("settings.before_first"), "merge"),
        (on_page("settings.left_out"), "leave_out"),
    ],
    "model.quantization": [AUTO, (on_page("settings.unquantized"), "none"), (on_page("settings.four_bits"), "nf4")],
    "lora.init_std": [AUTO, *((f"{spread:g}", spread) for spread in (0, 0.01, 0.02, 0.04, 0.08, 0.16))],
    "training.micro_batch_size": [AUTO, *((str(size), size) for size in (1, 2, 4, 8, 16, 32))],
    "training.gradient_checkpointing": [AUTO, (NO, False), (YES, True)],
    "training.optim": [AUTO, (on_page("settings.adamw"), "adamw_torch"), (on_page("settings.adamw8"), "adamw_8bit")],
}
SHARES = ("data.rephrased", "objective.without_prompt", "lora.lora_dropout", "lora.first_layer")  # from 0 to 1
TYPED = ("lora.init_std",)  # other values may be typed
INFO = {setting.path: setting for setting in all_settings()}
SHOWN = [*ANSWER, *(path for group in GROUPS.values() for path in group)]


def _is_list(path: str) -> bool:
    return isinstance(INFO[path].default, list) and not _is_lines(path)


def _is_lines(path: str) -> bool:
    """Whether the setting is a list of sentences, one on each line of the form."""
    default = INFO[path].default
    return isinstance(default, list) and isinstance(default[0], str)


def values_of(config: RunConfig) -> list[Any]:
    """The form's values for `config`, in the order of SHOWN."""
    values = []
    for path in SHOWN:
        part, name = path.split(".")
        value = getattr(getattr(config, part), name)
        if _is_lines(path):
            value = "\n".join(value)
        values.append(", ".join(f"{number:g}" for number in value) if _is_list(path) else value)
    return values


def shown_values(config: RunConfig) -> list[Any]:
    """`values_of` for the page, which offers the published formula only where a preset has it."""
    reroute, *others = values_of(config)
    return [gr.Radio(_answers(with_published=reroute == "cosine"), value=reroute), *others]


def _answers(*, with_published: bool) -> list[tuple[str | I18nData, Any]]:
    every = CHOICES["objective.reroute"]
    return every if with_published else [choice for choice in every if choice[1] != "cosine"]


def apply(config: RunConfig, values: list[Any]) -> RunConfig:
    """`config` with the form's values. Raises InputError naming the field."""
    plain = config.model_dump()
    for path, value in zip(SHOWN, values, strict=True):
        part, name = path.split(".")
        if _is_lines(path):
            value = [line.strip() for line in (value or "").splitlines() if line.strip()]
        elif _is_list(path):
            try:
                value = load_yaml(f"[{value or ''}]")
            except yaml.YAMLError:
                raise InputError(say("settings.not_numbers", path=path, value=brief(value))) from None
        elif isinstance(value, float) and value.is_integer():  # Gradio gives every number as a float
            value = int(value)
        plain[part][name] = value
    return parse_config(plain, "the form")


def with_answer(config: RunConfig, values: list[Any]) -> RunConfig:
    """`config` with the values of ANSWER. Raises InputError naming the field."""
    shown = dict(zip(SHOWN, values_of(config), strict=True)) | dict(zip(ANSWER, values, strict=True))
    return apply(config, list(shown.values()))


def build_answer(config: RunConfig, prefix: str = "") -> list[gr.components.Component]:
    """The components of ANSWER with the values of `config`, whose ids begin with `prefix`. The sentence is shown while
    it is used."""
    values = dict(zip(SHOWN, values_of(config), strict=True))
    reroute, sentences = (values[path] for path in ANSWER)
    what = gr.Radio(
        _answers(with_published=reroute == "cosine"),
        value=reroute,
        label=on_page("settings.instead"),
        info=on_page("settings.instead_info"),
        elem_id=f"{prefix}objective-reroute",
    )
    words = gr.Textbox(
        sentences,
        visible=reroute == "refusal",
        label=on_page("settings.say"),
        info=on_page("settings.say_info"),
        lines=2,
        max_lines=8,
        elem_id=f"{prefix}objective-refusal",
    )
    what.change(lambda what: gr.Textbox(visible=what == "refusal"), what, words, show_progress="hidden", queue=False)
    return [what, words]


def build(config: RunConfig) -> list[gr.components.Component]:
    """The components of GROUPS with the values of `config`, in the order of SHOWN."""
    built, values = [], dict(zip(SHOWN, values_of(config), strict=True))
    for group, paths in GROUPS.items():
        gr.Markdown(f"**{on_page(f'settings.{group}')}**")
        with gr.Row(elem_classes="settings"):
            built += [_component(path, values[path]) for path in paths]
    return built


def _component(path: str, value: Any) -> gr.components.Component:
    setting = INFO[path]
    common = {
        "value": value,
        "label": setting.title,
        "info": setting.description,
        "min_width": 150,
        "elem_id": path.replace(".", "-"),
    }
    if path in CHOICES:
        return gr.Dropdown(CHOICES[path], allow_custom_value=path in TYPED, **common)
    return gr.Textbox(**common) if _is_list(path) else gr.Number(step=0.05 if path in SHARES else 1, **common)
