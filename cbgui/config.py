"""RunConfig: everything that decides a run, as one YAML file. A preset is a RunConfig on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

PRESETS = Path(__file__).resolve().parent.parent / "presets"


class InputError(ValueError):
    """Bad input, told in one sentence that names the field, the value and the remedy."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ModelConfig(_Part):
    name: str = "demo"  # hub id, folder, or "demo" for SmolLM2-135M-Instruct
    quantization: Literal["none", "nf4", "auto"] = "auto"  # "auto": nf4 only where full precision does not fit
    embedding_on_cpu: bool | Literal["auto"] = "auto"  # on a GPU: the input embedding stays in ordinary memory
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class DataConfig(_Part):
    break_file: str = "demo/break.jsonl"  # relative paths are looked up in presets/ when not found here
    retain_file: str = "demo/retain.jsonl"
    held_out_file: str | None = "demo/held_out.jsonl"
    max_tokens: int = Field(512, ge=16)  # request and response together; longer responses are cut


class ObjectiveConfig(_Part):
    """DESIGN.md, "Objective"; section 3 of the paper."""

    reroute: Literal["cosine", "spread"] = "spread"  # "cosine" is the published form
    retain: Literal["relative", "absolute", "huber"] = "huber"  # "absolute" is the published form
    # The paper's layers 10 and 20 of 32, as fractions of the depth; whole numbers are layer numbers.
    target_layers: list[float] = Field([0.3125, 0.625], min_length=1)
    # "targets": the retain loss on the target layers. "all": on every hidden state up to one layer past the highest
    # target, that one after the final norm, as the published code does.
    retain_layers: Literal["targets", "all"] = "targets"
    # "residual": hidden states as they are (published). "normed": as the next layer reads them, through its input norm.
    read: Literal["residual", "normed"] = "residual"
    reroute_coefficient: float = Field(10.0, ge=0)
    retain_coefficient: float = Field(200.0, ge=0)
    # "linear": reroute falls from 1 to 1/2 and retain rises from 0 to 1/2 of their coefficients (published).
    # "full": all the way, from 1 to 0 and 0 to 1. "constant": neither moves. "rise": reroute stays, retain goes from a
    # quarter of its coefficient to all of it by half the run. "late": from a 25th, with the cube of the time, to
    # all of it at 60%; it breaks sooner, and bears a higher retain_coefficient.
    schedule: Literal["linear", "full", "constant", "rise", "late"] = "rise"
    without_request: float = Field(0.5, ge=0, le=1)  # share of break examples shown without their request (published)


class LoraConfig(_Part):
    r: int = Field(16, ge=1)
    lora_alpha: int = Field(16, ge=1)
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    init_std: float = Field(0.04, ge=0)  # standard deviation of B at the start; 0 is the published form


class StopWhen(_Part):
    """Finish early once so many held-out probes in a row have met both marks."""

    cosine: float = Field(0.0, ge=-1, le=1)  # break cosine at most this on every target layer
    drift: float = Field(0.03, ge=0)  # kept hidden states moved by at most this share of their length
    probes: int = Field(3, ge=1)


class TrainingConfig(_Part):
    steps: int = Field(150, ge=1)
    break_batch_size: int = Field(8, ge=1)
    retain_batch_size: int = Field(8, ge=1)
    # Examples in one pass, break and retain together; the losses do not change. "auto": as many as fit.
    micro_batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    learning_rate: float = Field(3e-3, gt=0)
    warmup_steps: int = Field(2, ge=0)
    lr_scheduler: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "cosine"
    gradient_checkpointing: bool | Literal["auto"] = "auto"  # "auto": only when memory asks for it
    # transformers' names; "adamw_8bit" is bitsandbytes'. "auto": that one only where nothing else fits.
    optim: Literal["adamw_torch", "adamw_8bit", "auto"] = "auto"
    checkpoint_every: int = Field(20, ge=1)
    probe_every: int = Field(10, ge=1)
    sample_every: int = Field(50, ge=0)  # held-out answers of both models every so many steps; 0: never
    stop_when: StopWhen | None = None
    seed: int = 0

    @property
    def batch_size(self) -> int:
        """Examples in one step, break and retain together."""
        return self.break_batch_size + self.retain_batch_size


class RunConfig(_Part):
    description: str = ""
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    lora: LoraConfig = Field(default_factory=LoraConfig)
    training: TrainingConfig = Field(default_factory=TrainingConfig)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(), sort_keys=False, allow_unicode=True)


def _sentence(error: ValidationError, origin: str) -> str:
    """The first mistake of a pydantic error as one sentence."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        return f"{origin}: unknown key {field!r}; remove it or check its spelling."
    value = first.get("input")
    return f"{origin}: {field} = {value!r} is not accepted: {first['msg'].lower()}."


def parse_config(values: Any, origin: str = "the settings") -> RunConfig:
    """Validate plain values (as read from YAML). Raises InputError with one sentence."""
    if not isinstance(values, dict):
        raise InputError(
            f"{origin}: expected a mapping of settings such as 'training:', found {type(values).__name__}."
        )
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(_sentence(error, origin)) from None


def preset_names() -> list[str]:
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_config(preset_or_yaml: str) -> RunConfig:
    """A RunConfig from a preset's name or a YAML file. Raises InputError."""
    path = PRESETS / f"{preset_or_yaml}.yaml" if preset_or_yaml in preset_names() else Path(preset_or_yaml)
    if not path.is_file():
        raise InputError(
            f"preset {preset_or_yaml!r} is neither a preset ({', '.join(preset_names())}) nor a YAML file; choose one."
        )
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as YAML ({str(error).splitlines()[0]}); mend the file.") from None
    return parse_config(values or {}, str(path))


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
        try:
            node[leaf] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"--set {key.strip()}: {text!r} is not a value YAML can read; quote it.") from None
    return parse_config(values, "--set")


def parse_size(text: str, option: str) -> int:
    """ "5GB" -> bytes (decimal, as the hub counts; GiB is binary). Raises InputError."""
    match = re.match(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*(KB|MB|GB|MIB|GIB)\s*$", text, re.IGNORECASE)
    if match is None:
        raise InputError(f"{option} {text!r} is not a size; write it as 5GB or 500MB.")
    unit = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}[match[2].upper()]
    return int(float(match[1]) * unit)


def find_data_file(name: str) -> Path:
    """A data file as given, else inside presets/. Raises InputError when it is neither."""
    for path in (Path(name), PRESETS / name):
        if path.is_file():
            return path
    raise InputError(f"data file {name!r} does not exist; give the path of a JSONL, JSON, CSV, TSV or Parquet file.")


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as text by their dotted names, as `--set` takes them."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return found
