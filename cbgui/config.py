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
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from cbgui.errors import InputError
from cbgui.parsing import mistake_sentence, read_yaml
from cbgui.settings import DataConfig, LoraConfig, ModelConfig, ObjectiveConfig, Part, TrainingConfig

PRESETS = Path(__file__).resolve().parent / "presets"
CACHE = Path(os.environ.get("CBGUI_CACHE", Path.home() / ".cache" / "cbgui"))  # the demo model, and errors.log


class RunConfig(Part):
    """All settings of a run. `to_yaml` and `parse_config` are each other's inverse."""

    description: str = Field("", description="what the preset is for")
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    @property
    def refusals(self) -> list[str]:
        """What the model says instead of a must-stop answer; [] where answers fall apart."""
        return self.objective.refusal if self.objective.reroute == "refusal" else []

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
    if Path(name).is_dir():
        raise InputError(f"data file {name!r} is a folder; give the data file in it.")
    raise InputError(f"data file {name!r} does not exist; give the path of a JSONL, JSON, CSV, TSV or Parquet file.")


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as text by their dotted names, as `--set` takes them."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        found |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return found
