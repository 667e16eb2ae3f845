"""RunConfig: all settings of a run, as one YAML file. A preset is a RunConfig on disk.

The description of each field is the one source of what a setting means: the form on the Train page, the comments of
run.yaml and the table in docs/cli.md all show it.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from cbgui.errors import InputError
from cbgui.parsing import mistake_sentence, read_yaml

PRESETS = Path(__file__).resolve().parent / "presets"
CACHE = Path(os.environ.get("CBGUI_CACHE", Path.home() / ".cache" / "cbgui"))  # the demo model, and errors.log
# The most that a setting may be, far above what is of use: a form and a file may come from anyone.
MOST_STEPS, MOST_EXAMPLES, MOST_TOKENS, MOST_LAYERS = 1_000_000, 4096, 1_048_576, 1000
# Names of settings in run directories of earlier versions.
FORMER_NAMES = {"without_request": "without_prompt", "probe_every": "validate_every", "probes": "validations"}


def _setting(default: Any, title: str, description: str, published: str | None = None, **limits: Any) -> Any:
    """A field; `published` is the value of the paper's recipe."""
    return Field(default, title=title, description=description, json_schema_extra={"published": published}, **limits)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {FORMER_NAMES.get(name, name) if name not in cls.model_fields else name: v for name, v in values.items()}


class ModelConfig(_Part):
    name: str = _setting("demo", "Model", 'a hub id, a folder, or "demo" for SmolLM2-135M-Instruct', max_length=4096)
    version: str | None = _setting(
        None, "Version", "NAME@COMMIT, or NAME@CHECKSUM of a folder; written when training starts", max_length=8192
    )
    quantization: Literal["none", "nf4", "auto"] = _setting(
        "auto",
        "Weights",
        "nf4 stores the layers' weights in 4 bits; auto does so only if unquantized weights do not fit",
    )
    embedding_on_cpu: bool | Literal["auto"] = _setting(
        "auto", "Embedding in RAM", "leaves more GPU memory for the layers; auto does so only if it is needed"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = _setting(
        "auto", "Precision", "auto is bfloat16 if the device computes in it, otherwise float32"
    )
    thinking: bool = _setting(
        False, "Thinks", "a model that can write a thought before its answer does so; otherwise it answers at once"
    )
    system_turn: Literal["keep", "merge", "leave_out"] = _setting(
        "keep",
        "System turn",
        "merge puts it before the first question, leave_out drops it: for chat templates that refuse one",
    )


class DataConfig(_Part):
    break_file: str = _setting(
        "demo/break.jsonl", "Must stop", "file of break examples; looked up among the presets if it is not found here"
    )
    retain_file: str = _setting("demo/retain.jsonl", "Must keep", "file of retain examples")
    held_out_file: str | None = _setting(
        "demo/held_out.jsonl", "Held out", "file of examples that are never trained on; validation and reports use them"
    )
    break_answer: Literal["chosen", "rejected"] | None = _setting(
        None, "Answer that must stop", "for a break file of preference pairs: which of the two answers must stop"
    )
    general_keep: int = _setting(
        100,
        "Everyday questions",
        "how many of cbgui's own everyday questions, with the model's answers, are kept in addition; 0: none",
        "0",
        ge=0,
        le=2000,
    )
    hurried: float = _setting(
        0.0,
        "Typed in a hurry",
        "share of all examples whose prompt is shown without capitals, with chat words and slips of the fingers",
        ge=0,
        le=1,
    )
    max_tokens: int = _setting(
        512,
        "Longest example",
        "in tokens, prompt and response together; longer examples are cut",
        "1024",
        ge=16,
        le=MOST_TOKENS,
    )


class ObjectiveConfig(_Part):
    """The losses and their weights (docs/architecture.md, "Objective"; section 3 of the paper)."""

    reroute: Literal["cosine", "spread"] = _setting(
        "spread",
        "Break loss",
        "spread also keeps the derailed states of a response apart; cosine alone may end in one repeated word",
        "cosine",
    )
    retain: Literal["relative", "absolute", "huber"] = _setting(
        "huber",
        "Keep loss",
        "distance between hidden states: absolute, relative to their length, or huber (relative; squared if small)",
        "absolute",
    )
    target_layers: list[float] = _setting(
        [0.3125, 0.625],
        "Target layers",
        "where the hidden states of break examples are turned away: layer numbers, or fractions of the depth below 1",
        "10, 20 of 32",
        min_length=1,
        max_length=MOST_LAYERS,
    )
    retain_layers: Literal["targets", "all"] = _setting(
        "targets",
        "Keep layers",
        "whose states the keep loss compares: the target layers, or all layers up to one above the highest target",
        "all",
    )
    read: Literal["residual", "normed"] = _setting(
        "residual",
        "Reading",
        "residual: hidden states as they are; normed: after the next layer's input norm",
        "residual",
    )
    reroute_coefficient: float = _setting(
        10.0, "Weight of the break loss", "its maximum during the run", "10", ge=0, le=1e6
    )
    retain_coefficient: float = _setting(
        200.0,
        "Weight of the keep loss",
        "its maximum during the run; a higher one preserves more and derails less",
        "10",
        ge=0,
        le=1e6,
    )
    schedule: Literal["linear", "full", "constant", "rise", "late"] = _setting(
        "rise",
        "Weights over time",
        "linear: break 1 to 1/2, keep 0 to 1/2; full: break 1 to 0, keep 0 to 1; constant: both 1; rise: break 1, keep "
        "1/4 to 1 over the first half of the run; late: break 1, keep 1/25 to 1 over the first 60%",
        "linear",
    )
    adapt_retain: bool = _setting(
        True,
        "Adapt the keep weight",
        "lower it to a quarter if it stops break examples from turning away, and raise it again later",
        "false",
    )
    without_prompt: float = _setting(
        0.5,
        "Break examples without prompt",
        "share that is trained without its prompt, so that the response alone derails",
        "0.5",
        ge=0,
        le=1,
    )


class LoraConfig(_Part):
    r: int = _setting(16, "Rank (r)", "rank of the LoRA matrices", "16", ge=1, le=4096)
    lora_alpha: int = _setting(16, "lora_alpha", "the adapter's scale is lora_alpha / r", "16", ge=1, le=65_536)
    lora_dropout: float = _setting(0.0, "Dropout", "dropout on the adapter's input", "0.05", ge=0, lt=1)
    init_std: float = _setting(
        0.04,
        "Initial spread of B",
        "standard deviation of LoRA's B at the start; with 0 the break loss has no gradient at first",
        "0",
        ge=0,
        le=10,
    )


class StopWhen(_Part):
    """Finish early once several validations in a row have met both limits."""

    cosine: float = _setting(0.0, "Break cosine", "at most this on every target layer", ge=-1, le=1)
    drift: float = _setting(
        0.03, "Drift", "the states of retain examples have moved by at most this share of their length", ge=0, le=1e6
    )
    validations: int = _setting(3, "Validations", "how many in a row", ge=1, le=MOST_STEPS)


class TrainingConfig(_Part):
    steps: int = _setting(
        150, "Steps", "training steps; each uses break and retain examples", "150", ge=1, le=MOST_STEPS
    )
    break_batch_size: int = _setting(
        8, "Break examples in a step", "more are slower but steadier", "16", ge=1, le=MOST_EXAMPLES
    )
    retain_batch_size: int = _setting(
        8, "Keep examples in a step", "more are slower but preserve more", "16", ge=1, le=MOST_EXAMPLES
    )
    micro_batch_size: Annotated[int, Field(ge=1, le=MOST_EXAMPLES)] | Literal["auto"] = _setting(
        "auto",
        "Examples at once",
        "examples computed at once; does not change the result; auto: the fastest number that fits",
    )
    learning_rate: float = _setting(3e-3, "Learning rate", "too high derails everything", "1e-4", gt=0, le=100)
    warmup_steps: int = _setting(
        2, "Warm-up steps", "steps over which the learning rate rises", "0", ge=0, le=MOST_STEPS
    )
    lr_scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = _setting(
        "cosine", "Learning rate over time", "how the learning rate changes after the warm-up", "constant"
    )
    gradient_checkpointing: bool | Literal["auto"] = _setting(
        "auto", "Compute activations twice", "slower, with much less memory; auto: only if memory requires it"
    )
    optim: Literal["adamw_torch", "adamw_8bit", "auto"] = _setting(
        "auto", "Optimizer", "adamw_8bit is bitsandbytes' 8-bit AdamW; auto: only if nothing else fits"
    )
    checkpoint_every: int = _setting(
        20, "Checkpoint every", "number of steps; a killed run continues from its last checkpoint", ge=1, le=MOST_STEPS
    )
    validate_every: int = _setting(10, "Validate every", "number of steps between two validations", ge=1, le=MOST_STEPS)
    sample_every: int = _setting(
        50, "Sample answers every", "number of steps between two sets of sample answers; 0: never", ge=0, le=MOST_STEPS
    )
    trials: bool = _setting(
        True,
        "Try it out on the way",
        "at half, three quarters and the end of the run, count the held-out questions that are blocked and harmed",
    )
    calibrate: bool = _setting(
        True,
        "Choose the strength",
        "at the end, try the adapter weaker and stronger, and keep what blocks most without harming more",
    )
    restart_if_stuck: bool = _setting(
        True,
        "Start again if stuck",
        "with stronger settings, at most twice, if a target layer has not turned after a third of the steps",
    )
    stop_when: StopWhen | None = _setting(
        None,
        "Finish early",
        "stop once the held-out cosine and the drift (how far must-keep states have moved, as a share of their length) "
        "are at or below `cosine` and `drift` in `validations` validations in a row; null: never",
    )
    seed: int = _setting(0, "Seed", "the same seed repeats the run", ge=0, lt=2**32)

    @property
    def batch_size(self) -> int:
        """Examples in one step, break and retain together."""
        return self.break_batch_size + self.retain_batch_size


class RunConfig(_Part):
    """All settings of a run. `to_yaml` and `parse_config` are each other's inverse."""

    description: str = Field("", description="what the preset is for")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    def to_yaml(self) -> str:
        """The settings as YAML, each with its description as a comment."""
        return "".join(_yaml_lines(self, ""))


def _yaml_lines(part: BaseModel, indent: str) -> Iterator[str]:
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if field.title and field.description:
            yield from (f"{indent}# {line}\n" for line in textwrap.wrap(f"{field.title}: {_comment(field)}", 100))
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:\n"
            yield from _yaml_lines(value, indent + "  ")
        else:
            text = yaml.safe_dump({name: value}, allow_unicode=True, width=10**6)
            yield "".join(f"{indent}{line}\n" for line in text.splitlines())


def _comment(field: FieldInfo) -> str:
    published = (field.json_schema_extra or {}).get("published")
    return field.description + (f"; published: {published}" if published else "")


@dataclass(frozen=True)
class SettingInfo:
    """What the form and the docs show of one setting."""

    path: str  # "training.steps"
    title: str
    description: str  # with the published value
    default: Any


def settings() -> list[SettingInfo]:
    """All settings that a user may change, in the order of the YAML file."""
    found = []
    for part, outer in RunConfig.model_fields.items():
        if not (isinstance(outer.annotation, type) and issubclass(outer.annotation, BaseModel)):
            continue
        for name, field in outer.annotation.model_fields.items():
            found.append(SettingInfo(f"{part}.{name}", field.title, _comment(field), field.get_default()))
    return found


def parse_config(values: Any, origin: str = "the settings") -> RunConfig:
    """Validate plain values (as read from YAML). Raises InputError with one sentence."""
    if not isinstance(values, dict):
        raise InputError(
            f"{origin}: expected a mapping of settings such as 'training:', found {type(values).__name__}."
        )
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(mistake_sentence(error, origin, RunConfig)) from None


def preset_names() -> list[str]:
    """The presets that come with cbgui."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(preset_or_yaml: str) -> RunConfig:
    """A RunConfig from a preset's name or a YAML file. Raises InputError."""
    path = PRESETS / f"{preset_or_yaml}.yaml" if preset_or_yaml in preset_names() else Path(preset_or_yaml)
    if not path.is_file():
        raise InputError(
            f"preset {preset_or_yaml!r} is neither a YAML file nor one of the presets {', '.join(preset_names())}; "
            "choose one of these."
        )
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: not YAML in UTF-8; save the file as UTF-8.") from None
    values = read_yaml(text, str(path))
    config = parse_config(values or {}, str(path))
    for field in (
        "break_file",
        "retain_file",
        "held_out_file",
    ):  # paths relative to the YAML file, as in a run directory
        name = getattr(config.data, field)
        if name and not Path(name).is_file() and (path.parent / name).is_file():
            setattr(config.data, field, str(path.parent / name))
    return config


def override(config: RunConfig, assignments: list[str]) -> RunConfig:
    """Apply `--set training.steps=30` style assignments. Raises InputError."""
    values = config.model_dump()
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise InputError(f"--set {assignment!r} has no '='; write it as training.steps=30.")
        node = values
        *parents, leaf = key.strip().split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise InputError(f"--set: unknown key {key.strip()!r}; remove it or check its spelling.")
        node[leaf] = read_yaml(text, f"--set {key.strip()}")
    return parse_config(values, "--set")


def find_data_file(name: str) -> Path:
    """A data file as given, else among the presets. Raises InputError when it is neither."""
    for path in (Path(name), PRESETS / name):
        if path.is_file():
            return path
    raise InputError(f"data file {name!r} does not exist; give the path of a JSONL, JSON, CSV, TSV or Parquet file.")


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as text by their dotted names, as `--set` takes them."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return found
