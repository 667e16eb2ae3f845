"""The form of a run: one line a setting, with what was published beside it. A new setting is a line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr
import yaml

from cbgui.config import RunConfig, parse_config


@dataclass(frozen=True)
class Setting:
    """`path` in RunConfig; `choices` are (words, value) pairs."""

    path: str
    label: str
    info: str
    kind: str = "number"  # number | text | choice
    choices: tuple[tuple[str, Any], ...] = ()


AUTO = ("automatic", "auto")
SETTINGS: dict[str, list[Setting]] = {
    "Length and pace": [
        Setting("training.steps", "Steps", "each sees Break and Keep examples; published: 150"),
        Setting("training.learning_rate", "Learning rate", "too high breaks everything; published: 1e-4"),
        Setting("training.warmup_steps", "Warm-up steps", "rise of the learning rate; published: 0"),
        Setting(
            "training.lr_scheduler",
            "Learning rate over time",
            "published: constant",
            "choice",
            (("falls as a cosine", "cosine"), ("constant", "constant"), ("falls in a line", "linear"),
             ("warm-up, then constant", "constant_with_warmup")),
        ),
        Setting("training.break_batch_size", "Break examples a step", "published: 16"),
        Setting("training.retain_batch_size", "Keep examples a step", "published: 16"),
        Setting("data.max_tokens", "Tokens at most", "of request and answer; published: 1024"),
        Setting("training.seed", "Seed", "the same seed repeats the run"),
    ],
    "What turns away and what stays": [
        Setting("objective.target_layers", "Target layers", "numbers, or parts of the depth; published: 10, 20 of 32",
                "text"),
        Setting(
            "objective.reroute",
            "Break loss",
            "published: cosine alone",
            "choice",
            (("cosine, tokens kept apart", "spread"), ("cosine", "cosine")),
        ),
        Setting(
            "objective.retain",
            "Keep loss",
            "published: L2 distance as it is",
            "choice",
            (("relative, squared when small", "huber"), ("relative distance", "relative"),
             ("L2 distance", "absolute")),
        ),
        Setting("objective.reroute_coefficient", "Weight of the break loss", "published: 10"),
        Setting("objective.retain_coefficient", "Weight of the keep loss",
                "higher keeps more and breaks less; published: 10"),
        Setting(
            "objective.schedule",
            "Weights over time",
            "published: half exchange",
            "choice",
            (("keep rises early", "rise"), ("keep rises late", "late"), ("half exchange", "linear"),
             ("full exchange", "full"), ("constant", "constant")),
        ),
        Setting("objective.without_prompt", "Break examples without request", "share, so that the answer trips; "
                "published: 0.5"),
    ],
    "LoRA": [
        Setting("lora.r", "Rank (r)", "published: 16"),
        Setting("lora.lora_alpha", "lora_alpha", "published: 16"),
        Setting("lora.lora_dropout", "Dropout", "published: 0.05"),
        Setting("lora.init_std", "Start of B", "standard deviation; published: 0, where nothing moves at first"),
    ],
    "Memory": [
        Setting(
            "model.quantization",
            "Weights",
            "automatic: 4 bits only where full precision does not fit",
            "choice",
            (AUTO, ("full precision", "none"), ("4 bits (NF4)", "nf4")),
        ),
        Setting(
            "training.micro_batch_size",
            "Examples in a pass",
            "does not change the result",
            "choice",
            (AUTO, *((str(size), size) for size in (1, 2, 4, 8, 16, 32))),
        ),
        Setting(
            "training.gradient_checkpointing",
            "Compute activations twice",
            "slower, much less memory",
            "choice",
            (AUTO, ("no", False), ("yes", True)),
        ),
        Setting(
            "training.optim",
            "Optimizer",
            "automatic: 8 bits only where nothing else fits",
            "choice",
            (AUTO, ("AdamW", "adamw_torch"), ("AdamW, 8 bits", "adamw_8bit")),
        ),
        Setting("training.checkpoint_every", "Checkpoint every", "steps; a killed run goes on from there"),
        Setting("training.sample_every", "Sample answers every", "steps; 0: never"),
    ],
}  # fmt: skip
ALL = [setting for group in SETTINGS.values() for setting in group]


def _get(config: RunConfig, path: str) -> Any:
    part, name = path.split(".")
    value = getattr(getattr(config, part), name)
    return ", ".join(f"{x:g}" for x in value) if isinstance(value, list) else value


def values_of(config: RunConfig) -> list[Any]:
    return [_get(config, setting.path) for setting in ALL]


def apply(config: RunConfig, values: list[Any]) -> RunConfig:
    """`config` with the form's values. Raises InputError that names the field."""
    plain = config.model_dump()
    for setting, value in zip(ALL, values, strict=True):
        part, name = setting.path.split(".")
        if setting.path == "objective.target_layers":
            value = yaml.safe_load(f"[{value}]") if value else []
        elif setting.kind == "number" and value is not None and float(value).is_integer():
            value = int(value)
        plain[part][name] = value
    return parse_config(plain, "the form")


def build() -> list[gr.components.Component]:
    """The components, in the order of ALL."""
    built = []
    for title, group in SETTINGS.items():
        gr.Markdown(f"**{title}**")
        with gr.Row(elem_classes="settings"):
            for setting in group:
                common = {"label": setting.label, "info": setting.info, "min_width": 150,
                          "elem_id": setting.path.replace(".", "-")}  # fmt: skip
                if setting.kind == "choice":
                    built.append(gr.Dropdown(list(setting.choices), **common))
                elif setting.kind == "text":
                    built.append(gr.Textbox(**common))
                else:
                    built.append(gr.Number(**common))
    return built
